"""Learning presence: against scipy's optimiser, on rankings whose truth is known, and its rates counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from patchify_core.errors import GalleryError
from patchify_core.evaluation.presence import (
    FIRST,
    FOLDS,
    RIDGE,
    Examples,
    examples_of,
    fit,
    joined,
    learn,
    measure,
    rate,
    reliability,
)
from patchify_core.gallery import read_dataset
from patchify_core.patchify import Patchify
from patchify_core.retrieval.presence import RecipeName
from tests.tiny import TinyEncoder, write_dataset

RECIPE = RecipeName(digest="0" * 64)
ABOUT = {"name": "made", "digest": "", "pictures": 0, "queries": 0, "objects": 0}


def rankings(queries=200, objects=40, seed=0, apart=0.3, number=0):
    """Scores of pictures without the object around 0.3, of those with it `apart` above."""
    rng = np.random.default_rng(seed)
    rows, right = [], []
    for query in range(2 * queries):
        scores = np.concatenate([rng.normal(0.3, 0.05, 60), rng.normal(0.3 + apart, 0.08, 3 * (query % 2))])
        holds = np.arange(len(scores)) >= 60
        order = np.argsort(-scores)[:FIRST]
        rows.append(np.column_stack([scores[order], scores[order] - 0.3]))
        right.append(holds[order])
    of = np.repeat(np.arange(queries) % objects, 2) + (number << 40)
    return Examples(np.stack(rows), np.stack(right), np.arange(2 * queries) % 2 == 1, of, np.full(2 * queries, number))


def test_the_fit_is_the_optimum_that_scipy_finds():
    made = rankings(60, apart=0.12)
    rows, right = made.rows[:, 0], made.right[:, 0]
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    design, signs = (rows - mean) / spread, 2.0 * right - 1

    def loss(weights):
        return np.logaddexp(0, -signs * (weights[0] + design @ weights[1:])).sum() + RIDGE / 2 * np.sum(
            weights[1:] ** 2
        )

    best = minimize(loss, np.zeros(3), tol=1e-12).x
    intercept, *slopes = fit(rows, right)
    assert np.array(slopes) * spread == pytest.approx(best[1:], abs=1e-4)
    assert intercept + np.dot(slopes, mean) == pytest.approx(best[0], abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_weights_are_finite_and_never_negative_whatever_the_labels(seed, size):
    rng = np.random.default_rng(seed)
    weights = fit(rng.normal(size=(size, 2)) * rng.uniform(0, 2, 2), rng.random(size) < rng.random())
    assert np.isfinite(weights).all() and min(weights[1:]) >= 0


def test_objects_that_stand_out_are_told_from_those_that_are_not_there():
    learned = learn(rankings(), RECIPE, [ABOUT]).learned.model_dump()
    rates = learned["held_out"]
    assert rates["absent_hits"]["share"] > 0.95 and rates["absent_false_alarms"]["share"] < 0.1
    assert all(abs(chance - right) < 0.15 for chance, right, count in learned["reliability"]["later"] if count > 200)
    assert learned["transfer"] == {}


def test_where_nothing_stands_out_nothing_is_told():
    rates = learn(rankings(apart=0.0), RECIPE, [ABOUT]).learned.model_dump()["held_out"]
    assert rates["absent_hits"]["share"] < 0.25


def test_no_object_is_judged_by_what_was_learned_from_it(monkeypatch):
    made, seen = rankings(60), []
    chosen = Examples.chosen
    monkeypatch.setattr(Examples, "chosen", lambda self, which: seen.append(which) or chosen(self, which))
    learn(made, RECIPE, [ABOUT])
    assert len(seen) == FOLDS
    for used in seen:
        assert not set(made.objects[used]) & set(made.objects[~used])


def test_several_datasets_are_each_judged_by_the_others():
    both = joined([rankings(), rankings(seed=1, number=1)])
    transfer = learn(both, RECIPE, [ABOUT | {"name": "a"}, ABOUT | {"name": "b"}]).learned.model_dump()["transfer"]
    assert {*transfer} == {"a", "b"} and all(one["absent_hits"]["queries"] == 200 for one in transfer.values())


def test_measured_rates_are_those_counted_by_hand():
    made = rankings(80, apart=0.15)
    model = learn(rankings(seed=3, apart=0.15), RECIPE, [ABOUT])
    first = [
        model.presence(made.rows[n, :1, 0], [made.rows[n, 0, 0], *[0.3] * 40]).probabilities[0]
        for n in range(len(made.present))
    ]
    absent = [model.verdict(chance) == "probably not here" for chance in first]
    removed = [said for said, there in zip(absent, made.present, strict=True) if not there]
    rates = measure(made, model)["measured"]
    assert rates["absent_hits"]["share"] == pytest.approx(sum(removed) / len(removed))


def test_intervals_count_objects():
    hits = np.array([True] * 90 + [False] * 10)
    many, few = rate(hits, np.arange(100)), rate(hits, np.arange(100) % 10)
    assert (many.low, many.high) == pytest.approx((0.826, 0.945), abs=1e-3)  # Wilson's, as tables have it
    assert few.low < many.low and many.high < few.high


def test_a_reliability_table_counts_every_result_once():
    chances, right = np.array([0.0, 0.05, 0.5, 0.99, 1.0]), np.array([False, True, True, True, True])
    assert reliability(chances, right) == [[0.025, 0.5, 2], [0.5, 1.0, 1], [0.995, 1.0, 2]]


def test_too_few_objects_or_pictures_are_refused(tmp_path):
    with pytest.raises(GalleryError, match="There are 5 objects to learn from, and it takes 10"):
        learn(rankings(objects=5), RECIPE, [ABOUT])
    dataset = write_dataset(tmp_path / "dataset")
    engine = Patchify.build(dataset, tmp_path / "index", TinyEncoder())
    with pytest.raises(GalleryError, match="30 pictures that do not contain its object"):
        examples_of(read_dataset(dataset), engine)
