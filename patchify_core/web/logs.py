"""What the log says about strangers: few, short, printable lines, without a byte of theirs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Hashable
from pathlib import Path

NOTE_S = 60.0
"""Seconds between two lines in the log about the same fault."""

LONGEST = 2_000
"""Characters of a line."""

QUOTING = ("mcp", "python_multipart", "multipart", "starlette", "httpx", "httpcore")
"""Packages whose messages quote requests. mcp 1.x writes some of its own to the root logger."""


class Unforeseen(Exception):
    """Stands in a traceback for an error whose own words may quote a request."""


class Plain(logging.Formatter):
    """Lines that no stranger can forge: each message is one, printable and at most `LONGEST`.

    Of others' errors the traceback is shown and not their words.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        told = {"exc_info": None, "exc_text": None, "stack_info": None, "msg": record.getMessage(), "args": ()}
        lines = [super().format(logging.makeLogRecord(record.__dict__ | told))]
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            ours = record.name.startswith("patchify_core.")
            shown = record.exc_info if ours else (Unforeseen, Unforeseen(kind.__name__), trace)
            lines += self.formatException(shown).split("\n")
        return "\n".join(map(_printable, lines))


class Handler(logging.StreamHandler):
    """Writes to the standard error, as Python does where nothing else is said."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.WARNING)
        self.setFormatter(Plain("%(levelname)s %(name)s: %(message)s"))
        self.addFilter(unquoted)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes to what is the standard error now."""
        self.stream = sys.stderr
        super().emit(record)


def install() -> None:
    """Gives the root logger the handler; called before anything logs, which would make another."""
    root = logging.getLogger()
    if not any(isinstance(handler, Handler) for handler in root.handlers):
        root.addHandler(Handler())


def unquoted(record: logging.LogRecord) -> bool:
    """Whether a record is logged; one that may quote a request says in its place only where it comes from."""
    if not _quotes(record):
        return True
    where = f"{Path(record.pathname).name}:{record.lineno}"
    if "multipart" in record.name or not is_first((record.name, where)):
        return False
    record.msg, record.args = f"A request did not fit ({where})", ()
    record.exc_info = record.exc_text = record.stack_info = None
    return True


def is_first(fault: Hashable) -> bool:
    """Whether nothing was logged about a fault for a while; notes that something is now.

    Args:
        fault: names lines of the program, and nothing of a request: all of them are kept.
    """
    now = time.monotonic()
    if now - _noted.get(fault, -NOTE_S) < NOTE_S:
        return False
    _noted[fault] = now
    return True


def log_unforeseen(log: logging.Logger, what: str, error: BaseException) -> None:
    """Logs an error of ours with its traceback, without its own words."""
    stands_in = Unforeseen(type(error).__name__)
    log.error("%s failed", what, exc_info=(Unforeseen, stands_in, error.__traceback__))


def _quotes(record: logging.LogRecord) -> bool:
    packages = {record.name.partition(".")[0]}
    if record.name == "root":
        packages.update(Path(record.pathname).parts)
    return not packages.isdisjoint(QUOTING)


def _printable(text: str) -> str:
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:LONGEST])
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


_noted: dict[Hashable, float] = {}
"""When each fault was noted last."""
