"""`study`: what it prints, draws and refuses."""

from __future__ import annotations

import json

import pytest

from patchify_core.evaluation import run as evaluation
from patchify_core.retrieval.localize import LocalizeSettings
from tests.cli import DONE, INTERRUPTED, REFUSED
from tests.tiny import write_dataset

pytestmark = pytest.mark.usefixtures("tiny_everywhere")


STUDY = ["--skip", "sift", "--skip", "xfeat", "--skip", "patch-qe+sift", "--skip", "patch-qe+xfeat", "--skip", "aliked"]


def test_study_prints_tables_and_goes_on_after_ctrl_c(run, dataset, tmp_path, monkeypatch):
    file = tmp_path / "study.json"
    command = ["study", "rerank", dataset, "--work", tmp_path / "work", "--json", file, *STUDY]
    real = evaluation.evaluate
    asked = []

    def stop(*args, **named):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(*args, **named)

    monkeypatch.setattr("patchify_core.evaluation.study.run.evaluate", stop)
    code, printed, said = run(*command)
    assert code == INTERRUPTED and printed == "" and "finished work is kept; run the same command again" in said
    assert not file.exists()
    code, printed, _ = run(*command)
    assert code == DONE and len(asked) == 4 and not list(tmp_path.glob("*.partial"))
    assert "| re-ranker on `pyramid:1` |" in printed and "| patch-qe |" in printed and "sift" not in printed
    numbers = json.loads(file.read_text(encoding="utf-8"))
    assert [(row["rerank"], row["level"]) for row in numbers["rows"]] == [
        (name, level) for name in (None, "qe", "patch-qe") for level in (1, 4)
    ]
    # The same numbers as the other command gives for the same question.
    assert run("evaluate", dataset, "--rerank", "patch-qe", "--json", tmp_path / "e.json")[0] == DONE
    there = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert there["map"] == pytest.approx(numbers["rows"][-1]["map"], abs=1e-12)
    assert there["locscore"] == pytest.approx(numbers["rows"][-1]["locscore"], abs=1e-12)


def test_study_draws_what_it_could_measure_and_says_the_rest(run, dataset, tmp_path):
    drawing = tmp_path / "chart.svg"
    code, printed, _ = run("study", "compression", dataset, "--work", tmp_path / "work", "--chart", drawing)
    assert code == DONE and "| `SQ8` | 24 | 720 |" in printed and "encoder gives 24: write PCAH24 at most" in printed
    assert drawing.read_text(encoding="utf-8").startswith("<svg ")


@pytest.mark.parametrize(
    ("what", "more", "said"),
    [
        ("rerank", ["--skip", "alikd"], "nothing called 'alikd' (did you mean aliked?)"),
        ("rerank", ["--chart", "c.svg"], "--chart draws the compression study, not rerank"),
        ("rerank", ["--json", "."], "cannot be written"),
        ("encoders", ["--skip", "effnet-lite0", "--skip", "effnet-lite1", "--skip", "effnet-lite2"], "skip less"),
        ("regions", ["--encoder", "effnet-lite9"], "effnet-lite9"),
        ("regions", ["--format", "instre"], "gnd_instre.mat"),
    ],
)
def test_study_refuses_before_the_work(run, dataset, tmp_path, monkeypatch, what, more, said):
    monkeypatch.chdir(tmp_path)
    code, printed, error = run("study", what, dataset, "--work", tmp_path / "work", *more)
    assert code == REFUSED and printed == "" and said in error.splitlines()[-1]
    assert not (tmp_path / "work").exists() and not (tmp_path / "c.svg").exists()


def test_study_needs_queries_and_names_that_differ(refusal, photos, dataset, tmp_path):
    work = ["--work", tmp_path / "work"]
    assert "so there is nothing to score" in refusal("study", "rerank", photos, *work)
    again = write_dataset(tmp_path / "other" / dataset.name)
    assert f"Two of the datasets are called {dataset.name}" in refusal("study", "rerank", dataset, again, *work)


def test_study_of_several_copies(run, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "patchify_core.evaluation.study.experiments.MAP_FACTORY", "Flat"
    )  # the tiny encoder has 24 numbers
    file = tmp_path / "several.json"
    command = ["study", "several", dataset, "--work", tmp_path / "work", "--json", file]
    code, printed, _ = run(*command)
    assert code == DONE and printed.startswith(f"| {dataset.name}: limit | second box in ")
    numbers = json.loads(file.read_text(encoding="utf-8"))[dataset.name]
    assert numbers["pictures"]["own once"] == 6
    assert numbers["shipped"]["limit"] == LocalizeSettings().another and 0 <= numbers["shipped"]["second"] <= 1
    assert [one["second"] for one in numbers["curve"]] == sorted(one["second"] for one in numbers["curve"])
    assert run(*command)[1] == printed  # the same pictures, the same numbers


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--skip", "sift"], "leave --skip out"), (["--chart", "c.svg"], "not several"), (["--json", "."], "be written")],
)
def test_study_of_several_copies_refuses_before_the_work(refusal, dataset, tmp_path, more, said):
    assert said in refusal("study", "several", dataset, "--work", tmp_path / "work", *more)
    assert not (tmp_path / "work").exists()
