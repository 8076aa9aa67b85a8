"""evaluation.positives: scores over equal similarities against brute force over every order of them."""

from __future__ import annotations

from itertools import permutations, product
from math import isnan

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from patchify_core.evaluation.metrics import score_positives, score_query, summarise
from patchify_core.evaluation.positives import find_positives

# No deadline: a busy machine is not a wrong answer.
PROPERTY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SIDE = 10


# --- The slow reference: every order of equal scores, each scored by loops over the published formulas. ---


def every_order(scores):
    """Each order of the positions 0..N-1 by descending score."""
    groups = [[at for at, score in enumerate(scores) if score == value] for value in sorted(set(scores), reverse=True)]
    for parts in product(*(permutations(group) for group in groups)):
        yield [at for part in parts for at in part]


def slow_rectangular(order, right, ious, positives, cutoff):
    """AP, LocScore and whether a positive is among the first 1 and 2, of one order."""
    shown = order if cutoff is None else order[:cutoff]
    divisor = positives if cutoff is None else min(cutoff, positives)
    ap = locscore = 0.0
    for rank, at in enumerate(shown, 1):
        if right[at]:
            precision = sum(right[other] for other in shown[:rank]) / rank
            ap += precision / divisor
            locscore += precision * ious[at] / divisor
    return ap, locscore, any(right[at] for at in shown[:1]), any(right[at] for at in shown[:2])


def slow_trapezoids(order, right, positives):
    """AP as the area below trapezoids, as the scripts of Oxford, Paris and INSTRE add it up."""
    area, before = 0.0, 0
    for rank, at in enumerate(order):
        if right[at]:
            left = 1.0 if rank == 0 else before / rank
            area += (left + (before + 1) / (rank + 1)) / 2 / positives
            before += 1
    return area


# --- Random rankings with many ties ---


@st.composite
def rankings(draw):
    """Scores, which images are positives, the IoU of each, how many positives were missed, and a cut-off."""
    count = draw(st.integers(1, 6))
    return (
        draw(st.lists(st.sampled_from([0.2, 0.5, 0.7]), min_size=count, max_size=count)),
        draw(st.lists(st.booleans(), min_size=count, max_size=count)),
        draw(st.lists(st.sampled_from([0.1, 0.4, 0.8, 1.0]), min_size=count, max_size=count)),
        draw(st.integers(0, 2)),
        draw(st.one_of(st.none(), st.integers(1, count + 2))),
    )


def arguments_of(scores, right, ious, missed):
    """What `find_positives` and `score_query` take: positives have the whole picture as box, winners a share of it."""
    order = sorted(range(len(scores)), key=lambda at: -scores[at])
    boxes = np.array([[0, 0, SIDE, SIDE * ious[at]] for at in order])
    whole = np.array([[0.0, 0, SIDE, SIDE]])
    positives = {at: whole for at, positive in enumerate(right) if positive}
    positives |= {1000 + number: whole for number in range(missed)}
    return np.array(order, np.int64), boxes, positives, np.array([scores[at] for at in order])


@PROPERTY
@given(rankings())
def test_scores_are_the_mean_over_all_orders(case):
    scores, right, ious, missed, cutoff = case
    positives = sum(right) + missed
    assume(positives)
    ids, boxes, wanted, values = arguments_of(scores, right, ious, missed)
    score = score_query(ids, boxes, wanted, cutoff=cutoff, scores=values)
    slow = np.mean([slow_rectangular(o, right, ious, positives, cutoff) for o in every_order(scores)], axis=0)
    assert (score.ap, score.locscore, score.hit_at(1), score.hit_at(2)) == pytest.approx(tuple(slow), abs=1e-12)
    assert 0 <= score.locscore <= score.ap <= 1
    rows = score.rows()
    assert (rows[-1].running if rows else 0) == score.locscore


@PROPERTY
@given(rankings())
def test_trapezoids_are_the_mean_over_all_orders(case):
    scores, right, ious, missed, _ = case
    positives = sum(right) + missed
    assume(positives)
    ids, boxes, wanted, values = arguments_of(scores, right, ious, missed)
    found = find_positives(ids, lambda at: boxes[at], wanted, scores=values)
    slow = np.mean([slow_trapezoids(order, right, positives) for order in every_order(scores)])
    assert found.precisions(trapezoid=True).sum() / positives == pytest.approx(slow, abs=1e-12)


@PROPERTY
@given(rankings(), st.data())
def test_what_leaves_the_ranking_leaves_its_tie_too(case, data):
    scores, right, ious, missed, cutoff = case
    ids, boxes, wanted, values = arguments_of(scores, right, ious, missed)
    gone = data.draw(st.lists(st.sampled_from(range(len(scores))), unique=True))
    stays = [at for at in range(len(scores)) if at not in gone]
    left = score_query(ids, boxes, wanted, ignored=gone, cutoff=cutoff, scores=values)
    fewer = [[column[at] for at in stays] for column in (scores, right, ious)]
    positives = sum(fewer[1]) + missed
    assert (left is None) == (positives == 0)
    if left is None:
        return
    slow = [slow_rectangular(order, *fewer[1:], positives, cutoff)[:2] for order in every_order(fewer[0])]
    assert (left.ap, left.locscore) == pytest.approx(tuple(np.mean(slow, axis=0)), abs=1e-12)
    some = find_positives(ids, lambda at: boxes[at], wanted, scores=values).only(wanted.keys() - set(gone), True)
    others = score_query(ids, boxes, wanted, ignored=[at for at in gone if right[at]], cutoff=cutoff, scores=values)
    again = score_positives(some, cutoff)
    assert (again.ap, again.locscore, again.first) == (others.ap, others.locscore, others.first)
    assert again.precisions.tolist() == others.precisions.tolist()


@PROPERTY
@given(rankings())
def test_the_order_in_which_ties_are_given_does_not_matter(case):
    scores, right, ious, missed, cutoff = case
    assume(sum(right) + missed)
    ids, boxes, wanted, values = arguments_of(scores, right, ious, missed)
    turned = np.lexsort((ids, -values))[::-1][np.argsort(-values[np.lexsort((ids, -values))[::-1]], kind="stable")]
    one, other = (
        score_query(ids[o], boxes[o], wanted, cutoff=cutoff, scores=values[o]) for o in (np.arange(len(ids)), turned)
    )
    assert (one.ap, one.locscore) == pytest.approx((other.ap, other.locscore), abs=1e-15)


def test_by_hand():
    """One positive among two images with one score: first in half of the orders, second in the others."""
    wanted = {1: np.array([[0.0, 0, 10, 10]])}
    score = score_query([1, 2], [[0, 0, 10, 4]] * 2, wanted, scores=[0.5, 0.5])
    assert (score.ap, score.locscore) == pytest.approx((0.75, 0.3))
    assert (score.hit_at(1), score.hit_at(2), score.first_hit) == (0.5, 1, 1)
    # Under a cut-off of one rank, half of the orders count it.
    assert score_query([1, 2], [[0, 0, 10, 4]] * 2, wanted, cutoff=1, scores=[0.5, 0.5]).ap == 0.5
    report = summarise({0: score, 1: score_query([1, 2], [[0, 0, 10, 4]] * 2, wanted, scores=[0.6, 0.5])})
    assert report.recall == {1: 0.75, 5: 1, 10: 1}


def test_equal_scores_everywhere_do_not_favour_low_ids():
    """A ranking that knows nothing scores the mean of a random one, whatever the positives are called."""
    wanted = dict.fromkeys(range(10), None)
    score = score_query(np.arange(1000), np.zeros((1000, 4)), wanted, scores=np.zeros(1000))
    assert 0.01 < score.ap < 0.02 and score.hit_at(1) == pytest.approx(0.01)


@PROPERTY
@given(st.integers(1, 60), st.integers(1, 70))
def test_a_cutoff_inside_a_tie_of_positives_scores_one_and_no_more(images, cutoff):
    box = np.array([[1.0, 2, 5, 7]])
    score = score_query(
        np.arange(images), box.repeat(images, 0), dict.fromkeys(range(images), box), cutoff=cutoff, scores=[1] * images
    )
    assert score.ap == score.locscore == pytest.approx(1) and score.ap <= 1


def test_without_equal_scores_nothing_is_averaged():
    random = np.random.default_rng(0)
    boxes, wanted = np.tile([0.0, 0, 10, 5], (50, 1)), dict.fromkeys(range(0, 50, 7), np.array([[0.0, 0, 10, 10]]))
    order = random.permutation(50)
    for cutoff in (None, 3, 20):
        plain = score_query(order, boxes, wanted, cutoff=cutoff)
        scored = score_query(order, boxes, wanted, cutoff=cutoff, scores=np.linspace(1, 0, 50))
        assert (plain.ap, plain.locscore, plain.first) == (scored.ap, scored.locscore, scored.first)
        assert plain.precisions.tolist() == scored.precisions.tolist()


def test_scores_must_be_those_of_the_images():
    with pytest.raises(ValueError, match="one per image"):
        score_query([1, 2], np.zeros((2, 4)), {1: None}, scores=[1.0])
    assert isnan(score_query([1], [[0, 0, 1, 1]], {1: None}, scores=[1.0]).ious[0])
