"""Commands that are interrupted or killed, and go on where they were."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from patchify_core.patchify import Patchify
from tests.cli import DONE, INTERRUPTED, REFUSED, ROOT

pytestmark = pytest.mark.usefixtures("tiny_everywhere")


@pytest.mark.parametrize(("command", "kept"), [("index", True), ("evaluate", False)])
def test_ctrl_c_says_whether_work_is_kept(run, dataset, tmp_path, monkeypatch, command, kept):
    def stop(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("patchify_core.index.build.build_index", stop)
    out = ["--out", tmp_path / "idx"] if command == "index" else []
    code, printed, said = run(command, dataset, *out)
    assert code == INTERRUPTED and printed == ""
    assert "interrupted" in said and ("run the same command again" in said) == kept


@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(n): Ctrl-C comes while query n + 1 is described; None: it does not come."""
    real = Patchify.view

    def call(count):
        done = []

        def describe(self, *args, **named):
            done.append(1)
            if count is not None and len(done) > count:
                raise KeyboardInterrupt
            return real(self, *args, **named)

        monkeypatch.setattr(Patchify, "view", describe)
        return done

    return call


def numbers_of(path):
    """What an evaluation found, without what the clock said."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.sub(r'"(ms_per_\w+|images_per_s)": [^,\n]+', r'"\1": 0', text))


def test_evaluate_goes_on_after_ctrl_c(run, dataset, tmp_path, stop_after):
    file, kept = tmp_path / "scores.json", tmp_path / "idx"
    command = ["evaluate", dataset, "--regions", "pyramid:2", "--json", file, "--index", kept]
    assert run(*command)[0] == DONE
    whole = numbers_of(file)
    file.unlink()
    stop_after(1)
    code, printed, said = run(*command)
    assert code == INTERRUPTED and printed == "" and not file.exists()
    assert "finished work is kept; run the same command again" in said and (tmp_path / "scores.json.partial").exists()
    asked = stop_after(None)
    code, _, said = run(*command)
    assert code == DONE and "going on after 1 of 2 queries" in said and len(asked) == 1
    assert numbers_of(file) == whole and not (tmp_path / "scores.json.partial").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"idx", "scores.json", dataset.name}


def test_evaluate_with_other_options_begins_anew(run, dataset, tmp_path, stop_after):
    file = tmp_path / "scores.json"
    command = ["evaluate", dataset, "--regions", "pyramid:2", "--json", file, "--index", tmp_path / "idx"]
    stop_after(1)
    assert run(*command)[0] == INTERRUPTED
    asked = stop_after(None)
    code, _, said = run(*command, "--cutoff", 3)
    assert code == DONE and "with another cutoff: starting anew" in said and len(asked) == 2


def test_evaluate_goes_on_after_a_kill(dataset, tmp_path):
    # Nothing is closed or flushed on the way out: what is on disk is what the system had been told.
    program = (
        "import os, sys; from tests.tiny import tiny_encoder_everywhere; tiny_encoder_everywhere()\n"
        "from patchify_core.evaluation import run as evaluation; from patchify_core.cli.main import main\n"
        "real = evaluation._search_levels; done = []\n"
        "def ask(*args):\n"
        "    if done and os.environ.get('KILLED'): os._exit(9)\n"
        "    done.append(1); return real(*args)\n"
        "evaluation._search_levels = ask\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "evaluate", str(dataset), "--regions", "pyramid:2", "--factory", "Flat"]
    command += ["--json", str(tmp_path / "s.json"), "--index", str(tmp_path / "idx")]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ | {"KILLED": "1"}, capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr
    partial = tmp_path / "s.json.partial"
    assert len(partial.read_bytes().splitlines()) == 2
    with open(partial, "ab") as file:
        file.write(b'{"run": "torn')
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == DONE and "going on after 1 of 2 queries" in done.stderr, done.stderr
    assert json.loads((tmp_path / "s.json").read_text())["queries"] == 2 and not partial.exists()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ((), "nothing is kept (--index INDEX keeps the index, --json FILE the finished queries)"),
        (("--index",), "the index is kept, the finished queries are lost"),
        (("--json",), "finished queries are kept, the index is lost"),
    ],
)
def test_evaluate_says_what_an_interruption_costs(run, dataset, tmp_path, stop_after, options, kept):
    stop_after(1)
    more = [value for option in options for value in (option, tmp_path / option[2:])]
    code, _, said = run("evaluate", dataset, "--regions", "pyramid:1", *more)
    assert code == INTERRUPTED and kept in said


def test_evaluate_leaves_a_strangers_file_alone(run, dataset, tmp_path):
    (tmp_path / "s.json.partial").write_text("dear diary\n")
    code, _, said = run("evaluate", dataset, "--regions", "pyramid:1", "--json", tmp_path / "s.json")
    assert code == REFUSED and "is in the way and was not made by this program" in said
    assert (tmp_path / "s.json.partial").read_text() == "dear diary\n"
