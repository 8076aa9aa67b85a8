"""demo.studies: files of the studies, good ones and anything else."""

from __future__ import annotations

import json
import os

import pytest

from patchify_core.demo.studies import Studies, read_studies, read_study
from patchify_core.evaluation.study.experiments import STUDIES
from tests.study_files import row, study, write

SET = {"set": {"digest": "d" * 64, "pictures": 9, "queries": [4, 7], "instances": ["rug", "quilt"]}}


def good(**changed) -> dict:
    return study("encoders", SET, [row("set", 2), row("set", 2, 1, encoder="other")]) | changed


def test_reads_what_a_study_writes(tmp_path) -> None:
    found = read_study(write(tmp_path, good()), "encoders")
    assert found.datasets["set"]["instances"] == ["rug", "quilt"]
    assert [r["encoder"] for r in found.rows] == ["effnet-lite0", "other"]
    assert "study encoders set" in found.command


def test_what_a_real_study_writes_is_read(tmp_path, monkeypatch) -> None:
    """Not only what these tests make up: a run over a tiny gallery."""
    from patchify_core.evaluation.study.experiments import Configuration
    from patchify_core.evaluation.study.run import Workbench, run_study
    from patchify_core.gallery import read_coco
    from tests.tiny import TinyEncoder, write_dataset

    gallery = read_coco(write_dataset(tmp_path / "set"))
    bench = Workbench(tmp_path / "work", lambda spec: TinyEncoder())
    configurations = [Configuration("tiny"), Configuration("tiny", factory="SQ8"), Configuration("tiny", factory="PQ6")]
    run_study("encoders", configurations, [gallery], bench, tmp_path / "encoders.json")
    found = read_study(tmp_path / "encoders.json", "encoders")
    assert len(found.rows) == 8
    assert len(found.refused) == 1 and "256" in found.refused[0]["why"]
    assert found.datasets["set"]["queries"] == [query.id for query in gallery.queries]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "not written by"),
        (b'"text"', "not written by"),
        (b'{"program": "patchify", "format": 1}', "not written by"),
        (json.dumps(good(format=99)).encode(), "another format"),
        (json.dumps(good(study="regions")).encode(), "another study"),
        (json.dumps(good(rows="none")).encode(), "is incomplete"),
        (json.dumps(good(rows=[{}])).encode(), "is incomplete"),
        (json.dumps(good(rows=[None])).encode(), "is incomplete"),
        (json.dumps(good(datasets={})).encode(), "is incomplete"),
        (json.dumps(good(datasets={"set": {}})).encode(), "is incomplete"),
        (json.dumps(good(refused=[{}])).encode(), "is incomplete"),
        (json.dumps(good(refused=[1])).encode(), "is incomplete"),
        (json.dumps({k: v for k, v in good().items() if k != "rows"}).encode(), "is incomplete"),
    ],
)
def test_another_file_is_one_sentence_with_the_command(tmp_path, refused, content, says) -> None:
    path = tmp_path / "encoders.json"
    path.write_bytes(content)
    message = refused(read_study, path, "encoders")
    assert says in message
    assert "`python -m patchify_core study encoders sample_db --json assets/study/encoders.json`" in message


@pytest.mark.parametrize("missing", sorted(set(row("set", 2)) - {"recall@1", "ms_per_query", "ms_per_rerank"}))
def test_row_that_lacks_a_key_is_refused(tmp_path, refused, missing) -> None:
    damaged = good()
    del damaged["rows"][1][missing]
    assert "is incomplete" in refused(read_study, write(tmp_path, damaged), "encoders")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("map", 1.5),
        ("map", "0.5"),
        ("map", True),
        ("locscore", float("nan")),
        ("ap", [0.5]),
        ("ap", [0.5, 2]),
        ("ap", None),
        ("best", [[1, 2, 3], None]),
        ("best", [["a", 1, 2, 3, 4], None]),
        ("first_hit", [0, 1]),
        ("dataset", "other"),
        ("encoder", None),
        ("rerank", 3),
        ("bytes_per_patch", -1),
        ("bytes_per_image", float("inf")),
    ],
)
def test_row_that_makes_no_sense_is_refused(tmp_path, refused, key, value) -> None:
    damaged = good()
    damaged["rows"][0][key] = value
    assert "is incomplete" in refused(read_study, write(tmp_path, damaged), "encoders")


def test_scores_that_are_not_there_are_allowed(tmp_path) -> None:
    """A dataset without boxes has no LocScore, a query without positives no AP."""
    numbers = good()
    numbers["rows"][0] |= {"locscore": None, "ls": [None, None], "ap": [None, 0.5], "first_hit": [None, 2]}
    assert read_study(write(tmp_path, numbers), "encoders").rows[0]["locscore"] is None


def test_every_file_is_found_or_its_problem_is_told(tmp_path) -> None:
    write(tmp_path, good())
    (tmp_path / "regions.json").write_text("{")
    studies = read_studies(tmp_path)
    assert list(studies.found) == ["encoders"]
    assert set(studies.problems) == set(STUDIES) - {"encoders"}
    assert "not valid JSON" in studies.problems["regions"]
    assert "are not here" in studies.problems["compression"]
    assert list(studies.datasets) == ["set"]


def test_no_folder_at_all(tmp_path) -> None:
    studies = read_studies(tmp_path / "none")
    assert studies.found == {} and set(studies.problems) == set(STUDIES)


def test_files_are_read_again_only_when_they_change(tmp_path) -> None:
    path = write(tmp_path, good())
    first = read_studies(tmp_path)
    assert read_studies(tmp_path) is first
    write(tmp_path, good(command="another"))
    os.utime(path, ns=(1, 1))
    assert read_studies(tmp_path).found["encoders"].command == "another"
    path.unlink()
    assert isinstance(read_studies(tmp_path), Studies) and not read_studies(tmp_path).found


def test_file_about_another_version_of_a_dataset_is_left_out(tmp_path) -> None:
    write(tmp_path, good())
    for name, changed in (("regions", {"digest": "e" * 64}), ("rerank", {"queries": [7, 4]})):
        write(tmp_path, study(name, {"set": SET["set"] | changed}, [row("set", 2)]))
    studies = read_studies(tmp_path)
    assert list(studies.found) == ["encoders"]
    assert "another version of set" in studies.problems["regions"]
    assert "another version of set" in studies.problems["rerank"]
