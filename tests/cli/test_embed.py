"""`embed` and `index` of published benchmarks: the same pictures under the same ids as `evaluate` reads."""

from __future__ import annotations

import json

import pytest

from patchify_core.index.patch_index import PatchIndex
from tests.cli import DONE
from tests.cli.test_reproduce import write_sets

pytestmark = pytest.mark.usefixtures("tiny_everywhere")


@pytest.fixture
def data(tmp_path):
    return write_sets(tmp_path / "data")


def test_archives_are_embedded_where_they_are_and_known_again(run, data, tmp_path):
    command = [
        "embed",
        data / "ilias",
        "--format",
        "ilias",
        "--out",
        tmp_path / "shards",
        "--shard-images",
        4,
        "--json",
    ]
    before = sorted(data.rglob("*"))
    code, printed, said = run(*command)
    report = json.loads(printed)
    assert code == DONE and (report["images"], report["embedded"], report["reused"]) == (11, 11, 0)
    assert "taxonomy.json" in said and sorted(data.rglob("*")) == before  # nothing is unpacked
    again = json.loads(run(*command)[1])
    assert (again["images"], again["embedded"], again["reused"]) == (11, 0, 3)
    index = tmp_path / "big"
    assert run("index", "--from-shards", tmp_path / "shards", "--out", index)[0] == DONE
    big = ["evaluate", data / "ilias", "--index", index, "--json", tmp_path / "big.json"]
    assert run(*big)[0] == DONE
    small = ["evaluate", data / "ilias", "--json", tmp_path / "small.json"]
    assert run(*small)[0] == DONE
    scores = [json.loads((tmp_path / f"{name}.json").read_text())["run"] for name in ("big", "small")]
    assert scores[0]["dataset"] == scores[1]["dataset"] and scores[0]["pictures"] == 11


@pytest.mark.parametrize(("name", "more", "pictures"), [("instre", [], 5), ("ilias", ["--subset", "core"], 3)])
def test_a_benchmark_is_indexed_as_it_is_evaluated(run, data, tmp_path, name, more, pictures):
    made = ["index", data / name, "--format", name, *more, "--out", tmp_path / "idx"]
    assert run(*made)[0] == DONE
    assert len(PatchIndex.load(tmp_path / "idx").images) == pictures
    code, printed, _ = run("evaluate", data / name, *more, "--index", tmp_path / "idx")
    assert code == DONE and "indexed before" in printed


def test_what_does_not_go_together_is_refused(refusal, data, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert "add --format, or leave it out" in refusal("embed", data / "ilias", *out, "--subset", "core")
    ilias = ["embed", data / "ilias", "--format", "ilias", *out]
    assert "leave --exclude or --format out" in refusal(*ilias, "--exclude", "*.gif")
    assert "mini_ilias_yfcc100m_ids.txt" in refusal(*ilias, "--subset", "mini")
    assert "gnd_instre.mat" in refusal("embed", data / "ilias", "--format", "instre", *out)
    assert "leave --format out" in refusal("index", "--from-shards", tmp_path, "--format", "ilias", *out)
    assert not (tmp_path / "out").exists()
