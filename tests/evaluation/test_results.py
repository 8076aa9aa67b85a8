"""evaluation.results: files that earlier versions wrote are read as they are, anything else is one sentence."""

from __future__ import annotations

import json

import pytest

from patchify_core.evaluation.results import EvaluationFile, StudyFile, read_results
from patchify_core.evaluation.study.experiments import STUDIES
from patchify_core.files import ASSETS
from tests.study_files import row, study

SET = {"set": {"digest": "d" * 64, "pictures": 9, "queries": [4, 7], "instances": ["rug", "quilt"]}}


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_files_are_read_value_for_value(name):
    path = ASSETS / "study" / f"{name}.json"
    written, read = json.loads(path.read_text(encoding="utf-8")), read_results(path, StudyFile, path.name, "")
    later = {"features": "crop", "query": "", "refine": None}  # rows of earlier versions had one choice only
    assert read.rows == [later | row for row in written["rows"]]
    assert {type(row["bytes_per_image"]) for row in read.rows} == {int}  # it is shown with separators
    assert (read.datasets, read.refused) == (written["datasets"], written["refused"])
    assert (read.name, read.command, read.machine) == (name, written["command"], written["machine"])


def test_keys_of_a_later_version_are_no_obstacle(tmp_path):
    path = tmp_path / "later.json"
    path.write_text(json.dumps(study("encoders", SET, [row("set", 2, hue=3)], colour="red")))
    assert read_results(path, StudyFile, path.name, "").rows[0]["hue"] == 3


@pytest.mark.parametrize("kind", [EvaluationFile, StudyFile])
@pytest.mark.parametrize("version", [2, "1", None, {"a": ["\n" * 99]}])
def test_another_format_is_one_sentence_whatever_it_is(tmp_path, refused, kind, version):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"program": kind.program, "format": version}))
    assert "another format than this version reads (1)" in refused(read_results, path, kind, "It", "make it anew.")


@pytest.mark.parametrize(("kind", "other"), [(EvaluationFile, StudyFile), (StudyFile, EvaluationFile)])
def test_the_one_kind_is_not_the_other(tmp_path, refused, kind, other):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"program": other.program, "format": 1}))
    assert f"It was not written by {kind.made_by}" in refused(read_results, path, kind, "It", "make it anew.")


def test_no_file_is_for_the_caller_to_say(tmp_path):
    for path in (tmp_path / "none.json", tmp_path / "none" / "x.json"):
        with pytest.raises(FileNotFoundError):
            read_results(path, StudyFile, "It", "make it anew.")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "file" / "x.json", StudyFile, "It", "make it anew.")
