"""bench.scale: what collections are made of, exact answers, and a whole run at a tiny size."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from patchify_core.bench import scale
from patchify_core.bench.scale.collection import ScaleSource, SyntheticPictures
from patchify_core.bench.scale.exact import exact_ranking, likeness, quality_of
from patchify_core.bench.scale.report import as_good_as
from patchify_core.cli.main import main
from patchify_core.errors import PatchifyError
from patchify_core.index.codec.projection import Projection
from patchify_core.regions import Pyramid
from tests.tiny import DIM, INFO

REFUSED, PICTURES, ANSWERS, QUERIES, D = 2, 40, 12, 6, 8


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def source() -> ScaleSource:
    rng = np.random.default_rng(3)
    pictures = _unit(rng.standard_normal((PICTURES, 5, D)))
    true = np.zeros((QUERIES, ANSWERS), bool)
    true[np.arange(QUERIES), np.arange(QUERIES)] = True
    queries = _unit(pictures[:QUERIES, 2] + 0.2 * rng.standard_normal((QUERIES, D)))
    projection = Projection(np.zeros(DIM, np.float32), np.eye(DIM, D, dtype=np.float32))
    return ScaleSource(INFO, Pyramid(2), projection, pictures, queries, pictures[:ANSWERS], true)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 5))
@hypothesis_settings(max_examples=30, deadline=None)
def test_any_run_of_pictures_is_the_same_each_time(source: ScaleSource, one: int, two: int, seed: int) -> None:
    start, stop = sorted((one, two))
    stream = SyntheticPictures(source, 300, seed)
    table, vectors = stream.batch(start, stop)
    again = SyntheticPictures(source, 300, seed)
    singly = [again.descriptors(at, at + 1) for at in range(start, stop)]
    assert vectors.shape == (stop - start, 5, D) and len(table) == stop - start
    np.testing.assert_allclose(vectors, np.concatenate([np.empty((0, 5, D), np.float32), *singly]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=2), 1, atol=1e-5)


def test_the_answers_are_there_whole_and_another_seed_is_another_collection(source: ScaleSource) -> None:
    stream = SyntheticPictures(source, 300)
    rows = stream.planted.rows
    assert len(set(rows.tolist())) == ANSWERS
    everything = stream.descriptors(0, 300)
    assert (everything[rows] == source.answers).all()
    others = np.setdiff1d(np.arange(300), rows)
    nearest = np.einsum("npd,apd->na", everything[others], source.answers) / 5
    assert nearest.max() < 0.999  # nothing else is one of them
    assert stream.digest != SyntheticPictures(source, 300, 1).digest != SyntheticPictures(source, 301, 1).digest
    with pytest.raises(PatchifyError, match="at least as many pictures"):
        SyntheticPictures(source, ANSWERS - 1)


@pytest.mark.parametrize("batch", [7, 64, 1000])
def test_the_exact_answer_is_the_slow_one(source: ScaleSource, batch: int, tmp_path: Path) -> None:
    stream = SyntheticPictures(source, 300)
    best = exact_ranking(stream, 10, tmp_path / "exact.npz", batch=batch)
    every = np.einsum("qd,npd->qnp", source.queries, stream.descriptors(0, 300))
    for query, scores in enumerate(every):
        rows = np.lexsort((np.arange(300), -scores.max(axis=1)))[:10]
        np.testing.assert_array_equal(best.rows[query], rows)
        np.testing.assert_array_equal(best.cells[query], scores[rows].argmax(axis=1))
        np.testing.assert_allclose(best.scores[query], scores[rows].max(axis=1), atol=1e-6)


def test_a_sweep_that_was_stopped_goes_on(source: ScaleSource, tmp_path: Path) -> None:
    stream, state = SyntheticPictures(source, 300), tmp_path / "exact.npz"
    whole = exact_ranking(stream, 10, batch=50)
    done: list[int] = []

    def stop(at: int, total: int) -> None:
        done.append(at)
        if at == 150:
            raise KeyboardInterrupt

    from patchify_core.bench.scale import exact

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "SAVE_EVERY_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            exact_ranking(stream, 10, state, stop, 50)
    rest: list[int] = []
    again = exact_ranking(stream, 10, state, lambda at, total: rest.append(at), 50)
    assert done == [50, 100, 150] and rest == [150, 200, 250, 300]  # the last one was not saved before it was told
    np.testing.assert_array_equal(again.rows, whole.rows)
    state.write_bytes(b"something else")
    with pytest.raises(PatchifyError, match="not what bench scale left"):
        exact_ranking(stream, 10, state)


def test_how_good_answers_are_counted(source: ScaleSource) -> None:
    stream = SyntheticPictures(source, 300)
    exact = exact_ranking(stream, 10)
    right = list(exact.rows * 5 + exact.cells)
    perfect = quality_of(right, exact, stream.planted, 5)
    assert perfect["overlap"] == perfect["cells"] == perfect["of_exact"] == 1
    assert perfect["recall@1"] > 0.5  # a query is its answer's patch, a little moved
    half = quality_of([patches[:5] for patches in right], exact, stream.planted, 5)
    assert half["overlap"] == 0.5 and half["pictures"] == 5
    other = quality_of([patches // 5 * 5 + (patches + 1) % 5 for patches in right], exact, stream.planted, 5)
    assert other["overlap"] == 1 and other["cells"] == 0


def test_synthetic_pictures_are_compared_with_real_ones(source: ScaleSource) -> None:
    said = likeness(source)
    assert said["pictures"] == PICTURES // 2 and set(said) == {"pictures", "real", "synthetic"}
    assert all(0 <= said[kind]["best"][1] <= 1 for kind in ("real", "synthetic"))


# A whole run ----------------------------------------------------------------------------------------------------


@pytest.fixture
def work(source: ScaleSource, tmp_path: Path) -> Path:
    """A work folder whose source is there already."""
    source.save(tmp_path / "source.npz")
    return tmp_path


def test_a_run_is_written_down_and_done_once(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scale.measure([200, 400], out=work, peers=False, least_s=0.05)
    said = capsys.readouterr().out
    record = json.loads((work / "scale.json").read_text(encoding="utf-8"))
    assert [row["images"] for row in record["rows"]] == [200, 400] and "      200 " in said
    for row in record["rows"]:
        assert row["build"]["report"]["patches"] == 5 * row["images"] and row["search"]["p50_ms"] > 0
        assert 0 <= row["search"]["overlap"] <= 1 and row["exact"]["overlap"] == 1
        assert row["flat"]["overlap"] == 1 and row["flat"]["ratio_to_plain"] > 0
        assert row["refined"]["overlap"] > 0.9 and row["finer"]["rescore"] == "SQ8"
        assert row["finer"]["disk_bytes"] > row["build"]["disk_bytes"]
    with open(work / "scale.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) >= 3
    assert (work / "scale.svg").read_text(encoding="utf-8").startswith("<svg")

    def never(stage: object, *others: object, **more: object) -> None:
        raise AssertionError("a stage that was done is done again")

    from patchify_core.bench.scale import stages

    monkeypatch.setattr(stages.subprocess, "run", never)
    command = ["bench", "scale", "--images", "200", "400", "--out", str(work), "--no-peers"]
    assert main(command) == 0
    assert json.loads((work / "scale.json").read_text(encoding="utf-8"))["rows"] == record["rows"]
    assert main([*command, "--rescore", "SQ6"]) == REFUSED
    assert "was measured with --rescore SQ8" in capsys.readouterr().err
    assert main([*command, "--rescore", "none"]) == 0
    rows = json.loads((work / "scale.json").read_text(encoding="utf-8"))["rows"]
    assert all("refined" not in row for row in rows)


def test_a_peer_is_compared_with_the_fastest_of_ours_that_finds_as_much() -> None:
    row = {
        "search": {"p50_ms": 2.0, "overlap": 0.7, "curve": [{"p50_ms": 1.0, "overlap": 0.6}]},
        "refined": {"p50_ms": 3.0, "overlap": 0.9, "curve": [{"p50_ms": 5.0, "overlap": 0.95}]},
        "flat": {"p50_ms": 9.0, "overlap": 1.0},
    }
    wanted = {0.5: 1.0, 0.65: 2.0, 0.8: 3.0, 0.93: 5.0, 1.0: 9.0}
    assert {overlap: as_good_as({"overlap": overlap}, row) for overlap in wanted} == wanted
    assert as_good_as({"overlap": 1.0}, {key: row[key] for key in ("search", "refined")}) is None


def test_others_do_the_same_work(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = scale.measure([200], out=work, least_s=0.05)
    peers = numbers["rows"][0]["peers"]
    said = capsys.readouterr().out
    for peer in peers.values():
        assert peer["name"] in said
        assert "requirements-bench" in peer["skipped"] if "skipped" in peer else peer["p50_ms"] > 0
    exact = [peer for peer in peers.values() if "skipped" not in peer and "xact" in peer["what"]]
    assert exact and all(peer["overlap"] == 1 for peer in exact)


def test_what_cannot_be_measured_is_one_sentence(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, said in (
        (["scale", "--images", "0"], "numbers of pictures above 0"),
        (["scale", "--memory", "-1"], "above 0"),
        (["scale", "--seed", "-1"], "from 0 up"),
        (["page", "--images", "10"], "belongs to bench scale"),
        (["scale", "--images", "5", "--out", str(work)], "at least as many pictures"),
    ):
        assert main(["bench", *options]) == REFUSED
        assert said in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine", encoding="utf-8")
    assert main(["bench", "scale", "--out", str(other)]) == REFUSED
    assert "holds something else" in capsys.readouterr().err
    assert main(["bench", "scale", "--images", "5", "--out", str(work), "--memory", "3"]) == REFUSED
    assert "another --from, --memory or --seed" in capsys.readouterr().err
