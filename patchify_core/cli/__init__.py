"""What each command does, one module a command: `run(arguments) -> exit code`.

Tables for people go to stdout, progress and warnings to stderr.
"""
