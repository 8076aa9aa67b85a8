"""Logging that strangers can neither flood nor forge: few, short, printable lines that do not quote requests."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Hashable
from pathlib import Path

from patchify_core.imaging.filenames import printable

NOTE_S = 60.0
"""Seconds between two log lines about the same fault."""

LONGEST = 2_000
"""Characters of a line, at most."""

QUOTING = ("mcp", "python_multipart", "multipart", "starlette", "httpx", "httpcore")
"""Packages whose messages quote requests. mcp 1.x logs some of them to the root logger."""


class Unforeseen(Exception):
    """Replaces in a traceback an error whose message may quote a request."""


class Plain(logging.Formatter):
    """Formats each message as one printable line of at most `LONGEST` characters.

    Errors of other packages appear with their traceback, without their message.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        bare = {"exc_info": None, "exc_text": None, "stack_info": None, "msg": record.getMessage(), "args": ()}
        lines = [super().format(logging.makeLogRecord(record.__dict__ | bare))]
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            ours = record.name.startswith("patchify_core.")
            shown = record.exc_info if ours else (Unforeseen, Unforeseen(kind.__name__), trace)
            lines += self.formatException(shown).split("\n")
        return "\n".join(map(_printable, lines))


class Handler(logging.StreamHandler):
    """Writes to the standard error, as Python does by default."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.WARNING)
        self.setFormatter(Plain("%(levelname)s %(name)s: %(message)s"))
        self.addFilter(unquoted)

    def emit(self, record: logging.LogRecord) -> None:
        """Write to the current standard error."""
        self.stream = sys.stderr
        super().emit(record)


def install() -> None:
    """Add the handler to the root logger, before the first log call adds Python's own."""
    root = logging.getLogger()
    if not any(isinstance(handler, Handler) for handler in root.handlers):
        root.addHandler(Handler())


def unquoted(record: logging.LogRecord) -> bool:
    """Return whether a record is logged; the message of one that may quote a request is replaced by its origin."""
    if not _quotes(record):
        return True
    where = f"{Path(record.pathname).name}:{record.lineno}"
    if "multipart" in record.name or not is_first((record.name, where)):
        return False
    record.msg, record.args = f"A request did not fit ({where})", ()
    record.exc_info = record.exc_text = record.stack_info = None
    return True


def is_first(fault: Hashable) -> bool:
    """Return whether a fault was not logged for `NOTE_S`, and note that it is logged now.

    Args:
        fault: Names lines of the program and nothing from a request, because faults are never forgotten.
    """
    now = time.monotonic()
    if now - _noted.get(fault, -NOTE_S) < NOTE_S:
        return False
    _noted[fault] = now
    return True


def log_unforeseen(log: logging.Logger, what: str, error: BaseException) -> None:
    """Log an error in our code with its traceback, without its message."""
    stands_in = Unforeseen(type(error).__name__)
    log.error("%s failed", what, exc_info=(Unforeseen, stands_in, error.__traceback__))


def _quotes(record: logging.LogRecord) -> bool:
    packages = {record.name.partition(".")[0]}
    if record.name == "root":
        packages.update(Path(record.pathname).parts)
    return not packages.isdisjoint(QUOTING)


def _printable(text: str) -> str:
    shown = printable(text[:LONGEST])
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


_noted: dict[Hashable, float] = {}
"""When each fault was logged last."""
