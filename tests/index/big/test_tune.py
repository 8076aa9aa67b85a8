"""index.big.tune, and the command line of big indexes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchify_core.cli.main import REFUSED, main
from patchify_core.errors import PatchifyError
from patchify_core.index.big import build_big
from patchify_core.index.big.tune import _queries, tune
from patchify_core.index.patch_index import PatchIndex
from tests.big import SETTINGS, Clusters
from tests.shards import ShardWriter

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def big(tmp_path: Path) -> Path:
    build_big(Clusters(), tmp_path / "big", SETTINGS)
    return tmp_path / "big"


def shards(folder: Path, count: int = 450) -> Path:
    stream = Clusters(count)
    writer = ShardWriter(folder, stream.encoder, stream.regions)
    for start in range(0, count, 50):
        writer.add(*stream.batch(start, start + 50))
    writer.finish()
    return folder


def test_the_fewest_lists_that_reach_the_recall_are_kept(big: Path) -> None:
    found = tune(big, 0.8, 20)
    assert found.recall >= 0.8 and found.lists == 16
    index = PatchIndex.load(big)
    assert index.plan is not None and index.plan.probes == found.probes and index.plan.recall == round(found.recall, 4)
    asked = _queries(index, 20, 0)

    def recall(probes: int) -> float:  # the slow way: the first ten of all lists, and of so many
        shares = []
        for query in asked:
            rows = []
            for plan in (16, probes):
                index.plan = type(index.plan)(plan)  # type: ignore[misc,arg-type]
                rows.append({*index.search(query, 10).rows.tolist()})
            shares.append(len(rows[0] & rows[1]) / 10)
        return sum(shares) / len(shares)

    assert recall(found.probes) == pytest.approx(found.recall)
    if found.probes > 1:
        assert recall(found.probes // 2) < 0.8
    assert tune(big, 1.0, 20).probes >= found.probes


def test_what_cannot_be_tuned_says_so(big: Path) -> None:
    for recall, queries in ((0.0, 5), (1.1, 5), (0.9, 0)):
        with pytest.raises(PatchifyError, match="recall must be above 0"):
            tune(big, recall, queries)


def test_shards_to_index_to_tune_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "i")
    command = ["index", "--from-shards", str(shards(tmp_path / "s")), "--out", out]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 450 and report["factory"] == "IVF128,PQ24" and report["coded"] == 450
    assert main(["tune", out, "--recall", "0.7", "--queries", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lists"] == 128
    assert main(["verify", out]) == 0
    assert "whole (3 files" in capsys.readouterr().out
    for coded in (450, 0):
        assert main([*command, "--rescore", "SQ8", "--keep-codes"]) == 0
        assert f"450 pictures, {coded} of them coded now" in capsys.readouterr().out
    assert main([*command, "--rescore", "SQ8", "--keep-codes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["coded"] == 0
    assert main(["verify", out]) == 0 and "whole (3 files" in capsys.readouterr().out
    assert main([*command, "--regions", "pyramid:4", "--features", "pooled"]) == REFUSED
    assert "--from-shards takes all of it from" in capsys.readouterr().err


def test_commands_refuse_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(shards(tmp_path / "s", 100))
    for command, said in (
        (["index", "--out", "x"], "one of the two"),
        (["index", folder, "--from-shards", folder, "--out", "x"], "one of the two"),
        (["index", "--from-shards", str(tmp_path), "--out", "x"], "not a finished folder of shards"),
        (["index", "--from-shards", folder, "--out", str(tmp_path / "i"), "--memory", "0.1"], "smallest budget"),
        (["index", "--from-shards", folder, "--out", str(tmp_path / "i"), "--keep-codes"], "with --rescore"),
        (["index", folder, "--out", str(tmp_path / "i"), "--keep-codes"], "for big indexes"),
        (
            ["index", "--from-shards", folder, "--out", str(tmp_path / "i"), "--memory", "1", "--preset", "tiny"],
            "leave --preset and --factory out",
        ),
        (["tune", str(tmp_path)], "is not an index folder"),
    ):
        assert main(command) == REFUSED
        assert said in capsys.readouterr().err
