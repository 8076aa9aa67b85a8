"""The command line, one module per command: `HELP`, `add_options(parser)` and `run(arguments) -> exit code`.

A command may also have `interruption_note(arguments)`: what Ctrl-C leaves behind.

main     parses the command line, runs the command, and turns errors into one sentence and an exit code
options  options that several commands share, and their defaults
shared   work that several commands share: progress bars, reading galleries, building indexes, reports
check    the check behind `verify`

Tables go to stdout, progress and warnings to stderr. Nothing heavy is imported at module level, so that `--help`
answers at once.
"""
