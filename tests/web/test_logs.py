"""web.logs: what strangers can make of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.web import logs


@pytest.fixture
def written(monkeypatch, capsys) -> Iterator[Callable[[], str]]:
    monkeypatch.setattr(logs, "_noted", {})
    root, handler = logging.getLogger(), logs.Handler()
    level, disabled = root.level, logging.root.manager.disable
    root.setLevel(logging.WARNING)  # whatever a library that another test imported has made of it
    logging.disable(logging.NOTSET)
    root.addHandler(handler)
    yield lambda: capsys.readouterr().err
    root.removeHandler(handler)
    root.setLevel(level)
    logging.disable(disabled)


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text())
def test_whatever_is_logged_is_printable_lines_that_nobody_can_forge(said, words):
    for name in ("patchify_core.web.gate", "uvicorn.error", "x"):
        record = logging.makeLogRecord({"name": name, "msg": "%s", "args": (said * 50,), "levelname": "WARNING"})
        lines = logs.Plain("%(levelname)s %(name)s: %(message)s").format(record).split("\n")
        assert len(lines) == 1 and lines[0].isprintable() and len(lines[0]) <= 2000
    error = raised(ValueError(words + "strangers-own-bytes\nROOT LOGGED IN"))
    record = logging.makeLogRecord(
        {"name": "asyncio", "msg": "x", "exc_info": (type(error), error, error.__traceback__)}
    )
    text = logs.Plain().format(record)
    assert "in raised" in text and "Unforeseen: ValueError" in text and "strangers" not in text and "ROOT" not in text


@pytest.mark.parametrize("name", ["mcp.server.sse", "mcp.shared.session", "mcp.server.lowlevel.server"])
def test_libraries_that_quote_requests_say_where_and_once(written, name):
    for _ in range(3):
        logging.getLogger(name).warning("Could not find session for ID: %s", "x\nROOT LOGGED IN")
    logging.getLogger(name).exception("Failed to parse message", exc_info=raised(ValueError("x" * 4_000_000)))
    lines = written().splitlines()
    assert len(lines) == 2 and all("A request did not fit" in line and len(line) < 120 for line in lines)
    assert not any("ROOT" in line for line in lines)


def test_what_forms_look_like_is_not_logged(written):
    logging.getLogger("python_multipart.multipart").warning("Expected boundary character 45, got 122 at index 0")
    assert written() == ""


def test_other_lines_are_logged_as_they_are(written):
    logging.getLogger("patchify_core.web.launch").warning("The examples could not be prepared: %s", "a disk is full")
    assert written() == "WARNING patchify_core.web.launch: The examples could not be prepared: a disk is full\n"
