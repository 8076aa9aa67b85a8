"""files: whole or not there, whatever stops the writing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from patchify_core.files import atomic, read_json, write_json

CUT = """
import os, signal, sys
from pathlib import Path
from patchify_core.files import atomic
with atomic(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    for value in ({"first": 1}, ["second", "é"]):
        write_json(path, value, indent=1, sync=True)
        assert read_json(path) == value and os.listdir(tmp_path) == ["a.json"]
    with atomic(path) as file:
        file.write(b"not yet")
        assert read_json(path) == ["second", "é"]  # what readers find meanwhile
    assert path.read_bytes() == b"not yet"


@pytest.mark.parametrize("tag", ["", "mine"])
def test_what_fails_leaves_the_old_file_and_nothing_else(tag, tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ZeroDivisionError), atomic(path, tag) as file:
        file.write(b"half")
        raise ZeroDivisionError
    with pytest.raises(ValueError):
        write_json(path, float("nan"), tag=tag)
    with pytest.raises(KeyboardInterrupt), atomic(path, tag):
        raise KeyboardInterrupt
    assert read_json(path) == 1 and os.listdir(tmp_path) == ["a.json"]
    with pytest.raises(OSError):
        write_json(tmp_path / "no such folder" / "a.json", 1)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_kill_leaves_the_old_file_and_the_next_writer_clears_up(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, "old")
    subprocess.run([sys.executable, "-c", CUT, str(path)], cwd=os.getcwd(), check=False)
    assert read_json(path) == "old" and len(os.listdir(tmp_path)) == 2
    write_json(path, "new")
    assert read_json(path) == "new" and os.listdir(tmp_path) == ["a.json"]


def test_writers_of_their_own_tags_do_not_meet(tmp_path):
    path = tmp_path / "a.json"
    with atomic(path, "one") as one, atomic(path, "two") as two:
        one.write(b'"one"')
        two.write(b'"two"')
    assert read_json(path) == "one" and os.listdir(tmp_path) == ["a.json"]  # the last to end


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"a": 1'])
def test_damaged_json_is_none(content, tmp_path):
    path = tmp_path / "a.json"
    assert read_json(path) is None
    path.write_bytes(content)
    assert read_json(path) is read_json(content) is None
    path.write_text(json.dumps({"a": [1]}))
    assert read_json(path) == read_json(path.read_bytes()) == {"a": [1]}
    assert read_json(tmp_path) is None
