"""The command line, one module per command: `HELP`, `add_options(parser)` and `run(arguments) -> exit code`.

main     finds the command, runs it, and turns errors into one sentence and an exit code
options  options that several commands have, and what they mean where they are left out
shared   what several commands do: progress on stderr, reading pictures, building
check    the whole check behind `verify`

Tables for people go to stdout, progress and warnings to stderr. At module level nothing heavy is imported, so that
`--help` answers at once: what a command needs is imported where it is used.
"""
