"""The model of presence: probabilities that keep the order, files that are what was written, recipes that differ."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.errors import PatchifyError
from patchify_core.files import SAMPLE_DB
from patchify_core.index.patch_index import PatchIndex
from patchify_core.retrieval.presence import (
    ABSENT,
    BACKGROUND,
    EVEN,
    LIKELY,
    UNSURE,
    Calibration,
    RecipeName,
    calibration_path,
    find_calibration,
    read_calibration,
    write_calibration,
)

WEIGHTS = st.tuples(st.floats(-50, 50), st.floats(0, 50), st.floats(0, 50))
RANKINGS = st.lists(st.floats(-1, 1), min_size=BACKGROUND.stop, max_size=60).map(lambda s: sorted(s, reverse=True))


RATE = {"share": 0.8, "low": 0.7, "high": 0.9, "queries": 20}
LEARNED = {
    "datasets": [{"name": "made"}],
    "held_out": dict.fromkeys(("absent_hits", "absent_false_alarms", "likely_hits", "likely_false_alarms"), RATE),
    "curve": [[0.05, 0.8]],
    "reliability": {"first": [[0.5, 0.5, 10]], "later": []},
}


def made(first=(-6.0, 8.0, 10.0), later=(-5.0, 8.0, 10.0), **values):
    given = {
        "recipe": RecipeName(digest="0" * 64),
        "absent_below": 0.2,
        "likely_from": 0.7,
        "learned": LEARNED,
        **values,
    }
    return Calibration(first=first, later=later, **given)


def slow(scores, ranked, first, later):
    """The same by the formula, a result at a time."""
    background = sum(ranked[10:30]) / 20
    chances = []
    for rank, score in enumerate(scores):
        a, b, c = later if rank else first
        chance = 1 / (1 + math.exp(-(a + b * score + c * (score - background))))
        chances.append(min(chance, chances[0]) if rank else chance)
    return chances


@given(RANKINGS, WEIGHTS, WEIGHTS, st.integers(1, 30))
def test_probabilities_are_shares_keep_the_order_and_are_those_of_the_formula(ranked, first, later, shown):
    found = made(first, later).presence(ranked[:shown], ranked)
    assert found.probabilities == pytest.approx(slow(ranked[:shown], ranked, first, later), abs=1e-9)
    assert all(0 <= chance <= 1 for chance in found.probabilities)
    assert all(a >= b for a, b in zip(found.probabilities, found.probabilities[1:], strict=False))
    assert all(chance >= EVEN for chance in found.probabilities[: found.above])
    assert all(chance < EVEN for chance in found.probabilities[found.above :])


@given(RANKINGS, WEIGHTS, WEIGHTS, st.floats(0, 0.5))
def test_a_better_first_result_never_makes_it_less_probable(ranked, first, later, more):
    better = [ranked[0] + more, *ranked[1:]]
    model = made(first, later)
    before, after = model.presence(ranked[:1], ranked), model.presence(better[:1], better)
    assert after.probabilities[0] >= before.probabilities[0]


def test_nothing_is_said_of_a_handful_of_pictures_or_of_no_results():
    model, ranked = made(), np.linspace(0.9, 0.1, BACKGROUND.stop)
    assert model.presence(ranked[:5], ranked[:5]) is None
    assert model.presence(ranked[:5], ranked[:-1]) is None
    assert model.presence([], ranked) is None
    assert model.presence(ranked[:5], ranked) is not None


def test_verdicts():
    assert [made().verdict(chance) for chance in (0.1, 0.2, 0.69, 0.7)] == [ABSENT, UNSURE, UNSURE, LIKELY]


def test_the_recipe_is_all_that_scores_depend_on():
    indexes = {name: PatchIndex.load(SAMPLE_DB / name) for name in ("index", "indexes/pooled", "indexes/salient")}
    names = {name: RecipeName.of(index) for name, index in indexes.items()}
    for one in names:
        assert [other for other in names if names[one].is_of(names[other])] == [one]
    pooled = indexes["indexes/pooled"]
    mean, axes = pooled.projection.mean, pooled.projection.axes
    signs = np.where(np.arange(axes.shape[1]) % 3, 1, -1).astype(np.float32)
    for moved, same in ((1e-12, True), (1e-3, False)):  # learned again, on another processor; of other pictures
        pooled.projection = type(pooled.projection)(mean + np.float32(moved), axes * signs)
        assert RecipeName.of(pooled).is_of(names["indexes/pooled"]) == same


@pytest.mark.parametrize("name", ["index", "indexes/pooled"])
def test_the_bundled_indexes_have_a_calibration_and_say_how_good_it_is(name):
    index = PatchIndex.load(SAMPLE_DB / name)
    found = find_calibration(index, None)
    assert found is not None and found == find_calibration(index, SAMPLE_DB / name)
    assert found == read_calibration(calibration_path(SAMPLE_DB / name))
    rates = found.learned.held_out
    assert rates["absent_hits"].share > 0.8 and rates["absent_false_alarms"].share < 0.06
    assert [one["name"] for one in found.learned.datasets] == ["sample_db", "davis20", "dreambooth30"]


def test_no_recipe_takes_the_numbers_of_another(tmp_path):
    salient = PatchIndex.load(SAMPLE_DB / "indexes/salient")
    assert find_calibration(salient, SAMPLE_DB / "indexes/salient") is None
    (tmp_path / "index").mkdir()
    write_calibration(made(), calibration_path(tmp_path / "index"))
    assert find_calibration(salient, tmp_path / "index") is None
    mine = made(recipe=RecipeName.of(salient))
    write_calibration(mine, calibration_path(tmp_path / "index"))
    assert find_calibration(salient, tmp_path / "index") == mine


@pytest.mark.parametrize(
    "change",
    [
        {"program": "other"},
        {"format": 2},
        {"recipe": {"digest": "short"}},
        {"recipe": "0" * 64},
        {"recipe": {"digest": "0" * 64, "cosines": ["x"]}},
        {"first": [1, 2]},
        {"first": [0, -1, 2]},
        {"later": [0, 1, -2]},
        {"first": [0, "x", 2]},
        {"absent_below": 0.9},
        {"likely_from": 2},
        {"learned": None},
        {"learned": LEARNED | {"held_out": {"absent_hits": RATE}}},
        {"learned": LEARNED | {"curve": [[0.5]]}},
        {"learned": LEARNED | {"reliability": {}}},
        {"more": 1},
    ],
)
def test_a_file_that_was_edited_is_refused_in_one_sentence(tmp_path, change):
    path = tmp_path / "index.calibration.json"
    write_calibration(made(), path)
    assert read_calibration(path) == made()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PatchifyError, match=r"is no calibration that this version reads: .*\.$"):
        read_calibration(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'{"first": NaN}', b"\xff\xfe"])
def test_a_file_that_is_something_else_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(PatchifyError, match="is no calibration"):
        read_calibration(tmp_path / "x.json")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "index.calibration.json"
    write_calibration(made(), path)
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        write_calibration(made(absent_below=0.1), path)
    assert read_calibration(path) == made() and [one.name for one in tmp_path.iterdir()] == [path.name]
