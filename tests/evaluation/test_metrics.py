"""evaluation.metrics against a slow reference straight from the paper's formulas, and its invariants."""

from __future__ import annotations

import doctest
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from patchify_core.errors import GalleryError
from patchify_core.evaluation import metrics
from patchify_core.evaluation.metrics import grid_ceiling, score_positives, score_query, summarise
from patchify_core.evaluation.positives import find_positives

# No deadline: a first call may import torch, and a busy machine is not a wrong answer.
PROPERTY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

WIDTH, HEIGHT = 12, 10


# --- The slow reference: loops over the paper's formulas, with nothing shared with the fast code. ---


def rank_order(scores, image_ids):
    """Indices of images by descending score, ties by ascending id."""
    return np.lexsort((np.asarray(image_ids), -np.asarray(scores, np.float64)))


def slow_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def slow_score(case):
    """AP, LocScore, mean IoU, |P|, divisor and first hit, or None; `case` is an unranked Case."""
    removed = set(case.ignored) | set(case.excluded)
    positives = {image: rows for image, rows in case.positives.items() if image not in removed}
    if not positives:
        return None

    ranking = sorted(range(len(case.ids)), key=lambda i: (-case.scores[i], case.ids[i]))
    ranking = [i for i in ranking if case.ids[i] not in removed]
    divisor = len(positives)
    if case.cutoff is not None:
        ranking = ranking[: case.cutoff]
        divisor = min(case.cutoff, divisor)

    ap, locscore, ious, first_hit = 0.0, 0.0, [], None
    for r in range(1, len(ranking) + 1):
        image = case.ids[ranking[r - 1]]
        if image not in positives:
            continue
        if first_hit is None:
            first_hit = r
        precision = sum(case.ids[i] in positives for i in ranking[:r]) / r
        annotated = positives[image]
        iou = max(slow_iou(case.boxes[ranking[r - 1]], box) for box in annotated) if annotated else math.nan
        ap += precision / divisor
        locscore += precision * iou / divisor
        ious.append(iou)

    located = all(positives.values())  # neither None nor an empty list
    return {
        "ap": ap,
        "locscore": locscore if located else None,
        "mean_iou": sum(ious) / len(ious) if located and ious else None,
        "positives": len(positives),
        "divisor": divisor,
        "first_hit": first_hit,
    }


# --- Random evaluations ---


@dataclass(frozen=True)
class Case:
    """One query: unranked images with scores and winning boxes, its positives and lists."""

    ids: list
    scores: list
    boxes: list
    positives: dict
    ignored: list
    excluded: list
    cutoff: int | None

    def score(self, **changes):
        order = rank_order(self.scores, self.ids)
        arguments = {
            "image_ids": np.array(self.ids, dtype=int)[order],
            "boxes": np.array(self.boxes, dtype=float).reshape(-1, 4)[order],
            "positives": {
                image: None if rows is None else np.array(rows, dtype=float).reshape(-1, 4)
                for image, rows in self.positives.items()
            },
            "ignored": self.ignored,
            "excluded": self.excluded,
            "cutoff": self.cutoff,
        }
        return score_query(**{**arguments, **changes})


@st.composite
def proper_boxes(draw):
    x1, y1 = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return [x1, y1, draw(st.integers(x1 + 1, WIDTH)), draw(st.integers(y1 + 1, HEIGHT))]


@st.composite
def cases(draw, located=False, lists=True, cutoffs=True):
    """Cases; `located`: every positive has a box, `lists`: with ignored and excluded images."""
    count = draw(st.integers(1 if located else 0, 10))
    ids = draw(st.permutations(range(count)))
    known = range(count + 3)  # the last three are not ranked: positives that the search missed
    some = st.lists(st.sampled_from(known), max_size=4, unique=True) if lists else st.just([])
    annotated = st.lists(proper_boxes(), min_size=1, max_size=3)
    return Case(
        ids=list(ids),
        scores=draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=count, max_size=count)),  # many ties
        boxes=draw(st.lists(proper_boxes(), min_size=count, max_size=count)),
        positives=draw(
            st.dictionaries(
                st.sampled_from(known),
                annotated if located else st.one_of(annotated, st.none(), st.just([])),
                min_size=1 if located else 0,
                max_size=6,
            )
        ),
        ignored=draw(some),
        excluded=draw(some),
        cutoff=draw(st.one_of(st.none(), st.integers(1, count + 3))) if cutoffs else None,
    )


def same(a, b):
    """Whether two QueryScores are the same to the last bit."""
    return (a is None and b is None) or all(
        np.array_equal(np.array(x, dtype=float), np.array(y, dtype=float), equal_nan=True)
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


# Where any positive may lack a box, few cases have a LocScore: half of them are drawn with a box for each.
EITHER = st.one_of(cases(), cases(located=True))


@settings(PROPERTY, max_examples=300)
@given(EITHER)
def test_equals_the_slow_reference(case):
    fast, slow = case.score(), slow_score(case)
    if slow is None:
        assert fast is None
        return
    for name, expected in slow.items():
        assert getattr(fast, name) == pytest.approx(expected, abs=1e-12), name


# --- The worked example of the teaching page ---

FIVE = [10, 11, 12, 13, 14]
FIVE_BOXES = [[0, 0, 1, 1], [0, 0, 10, 6], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 10, 3]]
WHOLE = np.array([[0.0, 0, 10, 10]])
THREE = {11: WHOLE, 14: WHOLE, 99: WHOLE}  # 99 is not found


def test_worked_example():
    score = score_query(FIVE, FIVE_BOXES, THREE)
    assert score.ap == pytest.approx((1 / 2 + 2 / 5) / 3) == pytest.approx(0.3)
    assert score.locscore == pytest.approx((0.5 * 0.6 + 0.4 * 0.3) / 3) == pytest.approx(0.14)
    assert score.mean_iou == pytest.approx(0.45)  # over the two that appear, not over all three
    assert (score.positives, score.divisor, score.first_hit) == (3, 3, 2)
    assert [score.hit_at(k) for k in (1, 2, 5)] == [False, True, True]
    assert score.ranks.tolist() == [2, 5]
    assert score.precisions.tolist() == [0.5, 0.4]
    assert score.ious.tolist() == pytest.approx([0.6, 0.3])


def test_worked_example_row_by_row():
    first, second = score_query(FIVE, FIVE_BOXES, THREE).rows()
    assert (first.rank, first.precision, first.iou) == (2, 0.5, 0.6)
    assert (first.contribution, first.running) == pytest.approx((0.1, 0.1))
    assert (second.rank, second.precision, second.iou) == (5, 0.4, 0.3)
    assert (second.contribution, second.running) == pytest.approx((0.04, 0.14))


def test_worked_example_under_a_cutoff():
    # Two ranks count: one hit, and the divisor is min(2, 3), so that a perfect list of two would score 1.
    score = score_query(FIVE, FIVE_BOXES, THREE, cutoff=2)
    assert (score.divisor, score.positives, score.ranks.tolist()) == (2, 3, [2])
    assert score.ap == pytest.approx(0.5 / 2)
    assert score.locscore == pytest.approx(0.5 * 0.6 / 2)


def test_ignored_images_leave_before_the_cutoff_counts():
    # Without 10, image 11 is first; the cut-off then reaches as far as 12.
    score = score_query(FIVE, FIVE_BOXES, THREE, ignored=[10], cutoff=2)
    assert (score.ap, score.first_hit) == (0.5, 1)


def test_excluded_and_ignored_positives_leave_the_divisor():
    assert score_query(FIVE, FIVE_BOXES, THREE, excluded=[99]).ap == pytest.approx(0.45)
    assert score_query(FIVE, FIVE_BOXES, THREE, ignored={99}).ap == pytest.approx(0.45)
    assert score_query(FIVE, FIVE_BOXES, THREE, excluded=[11, 14], ignored=[99]) is None


# --- Invariants ---


@PROPERTY
@given(EITHER)
def test_bounds(case):
    # Exact, not approximate: 0 <= LocScore <= AP <= 1 must survive rounding.
    score = case.score()
    assume(score is not None)
    assert 0 <= score.ap <= 1
    assert score.locscore is None or 0 <= score.locscore <= score.ap


@PROPERTY
@given(cases(located=True))
def test_right_boxes_everywhere_make_locscore_equal_ap(case):
    right = [case.positives[image][-1] if image in case.positives else [0, 0, 1, 1] for image in case.ids]
    order = rank_order(case.scores, case.ids)
    score = case.score(boxes=np.array(right)[order])
    assume(score is not None)
    assert score.locscore == score.ap
    assert score.mean_iou is None or score.mean_iou == 1


@PROPERTY
@given(st.integers(1, 300), st.integers(0, 300))
def test_a_perfect_ranking_scores_exactly_one(found, others):
    # Adding up found times 1/found would miss 1 by rounding for many counts.
    ids, box = np.arange(found + others), np.array([[1.0, 2, 5, 7]])
    score = score_query(ids, box.repeat(len(ids), axis=0), {image: box for image in range(found)})
    assert (score.ap, score.locscore, score.mean_iou) == (1, 1, 1)


@PROPERTY
@given(cases(located=True))
def test_a_global_methods_iou_is_the_objects_share(case):
    # Its box is the whole image, so nothing but the object's size decides.
    one_box = {image: rows[:1] for image, rows in case.positives.items()}
    score = case.score(
        boxes=np.tile([0, 0, WIDTH, HEIGHT], (len(case.ids), 1)),
        positives={image: np.array(rows) for image, rows in one_box.items()},
    )
    assume(score is not None)
    order = rank_order(case.scores, case.ids)
    kept = [case.ids[i] for i in order if case.ids[i] not in {*case.ignored, *case.excluded}]
    shares = [
        (x2 - x1) * (y2 - y1) / (WIDTH * HEIGHT)
        for image in kept[: case.cutoff]
        for x1, y1, x2, y2 in one_box.get(image, [])
    ]
    assert score.ious.tolist() == pytest.approx(shares, abs=1e-12)


@PROPERTY
@given(EITHER, st.data())
def test_where_an_ignored_image_stands_never_matters(case, data):
    assume(case.ids)
    image = data.draw(st.sampled_from(case.ids))
    ids, boxes = np.array(case.ids), np.array(case.boxes)
    gone = ids != image
    there = score_query(ids, boxes, case.positives, [*case.ignored, image], case.excluded, case.cutoff)
    away = score_query(ids[gone], boxes[gone], case.positives, [*case.ignored, image], case.excluded, case.cutoff)
    as_excluded = score_query(ids, boxes, case.positives, case.ignored, [*case.excluded, image], case.cutoff)
    assert same(there, away)
    assert same(there, as_excluded)


@PROPERTY
@given(EITHER, st.data())
def test_relabelling_images_changes_nothing(case, data):
    # The new names need not keep the order: the ranking is given, and ids are names in score_query.
    names = data.draw(st.permutations([7 * n - 20 for n in range(len(case.ids) + 3)]))
    ranked, boxes = np.array(case.ids, dtype=int), np.array(case.boxes).reshape(-1, 4)
    original = score_query(ranked, boxes, case.positives, case.ignored, case.excluded, case.cutoff)
    renamed = score_query(
        [names[image] for image in ranked],
        boxes,
        {names[image]: rows for image, rows in case.positives.items()},
        {names[image] for image in case.ignored},
        {names[image] for image in case.excluded},
        case.cutoff,
    )
    assert same(original, renamed)


@PROPERTY
@given(cases(located=True, lists=False, cutoffs=False))
def test_a_positive_that_moves_up_raises_ap(case):
    ids, boxes = np.array(case.ids), np.array(case.boxes)
    positive = [image in case.positives for image in case.ids]
    places = [r for r in range(1, len(ids)) if positive[r] and not positive[r - 1]]
    assume(places)
    swapped = np.arange(len(ids))
    swapped[[places[0] - 1, places[0]]] = swapped[[places[0], places[0] - 1]]
    before = score_query(ids, boxes, case.positives)
    after = score_query(ids[swapped], boxes[swapped], case.positives)
    assert after.ap > before.ap
    assert after.locscore >= before.locscore


@PROPERTY
@given(cases(located=True), proper_boxes())
def test_one_more_annotated_box_never_lowers_locscore(case, extra):
    more = {image: [*rows, extra] for image, rows in case.positives.items()}
    before, after = case.score(), case.score(positives=more)
    assume(before is not None)
    assert after.locscore >= before.locscore
    assert after.ap == before.ap


@PROPERTY
@given(cases(cutoffs=False), proper_boxes())
def test_the_boxes_and_number_of_later_negatives_do_not_matter(case, box):
    ids, boxes = list(case.ids), list(case.boxes)
    longer = score_query([*ids, 500, 501], [*boxes, box, box], case.positives, case.ignored, case.excluded)
    original = score_query(ids, np.array(boxes).reshape(-1, 4), case.positives, case.ignored, case.excluded)
    assert same(longer, original)


@PROPERTY
@given(cases(cutoffs=False))
def test_a_cutoff_beyond_everything_changes_nothing(case):
    assert same(case.score(cutoff=1000), case.score())


@PROPERTY
@given(EITHER)
def test_the_rows_add_up(case):
    score = case.score()
    assume(score is not None)
    rows = score.rows()
    assert [row.rank for row in rows] == score.ranks.tolist()
    if score.locscore is not None:
        assert (rows[-1].running if rows else 0.0) == score.locscore  # to the last bit
        assert sum(row.contribution for row in rows) == pytest.approx(score.locscore, abs=1e-12)
    for row in rows:
        expected = row.precision * row.iou / score.divisor
        assert row.contribution == pytest.approx(expected, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_many_rows_still_end_in_locscore_itself(seed):
    # With hundreds of hits the order of adding and dividing shows in the last bits, so it must be the same.
    random = np.random.default_rng(seed)
    ids, boxes = np.arange(600), np.tile([0.0, 0, 10, 10], (600, 1))
    boxes[:, 3] = random.uniform(1, 10, 600)
    score = score_query(ids, boxes, dict.fromkeys(random.choice(600, 301, replace=False).tolist(), WHOLE))
    assert score.rows()[-1].running == score.locscore


def test_a_positive_without_a_box_leaves_ap_and_takes_locscore():
    score = score_query(FIVE, FIVE_BOXES, {11: WHOLE, 14: None})
    assert score.ap == pytest.approx(0.45)
    assert (score.locscore, score.mean_iou) == (None, None)
    assert score.ious[0] == pytest.approx(0.6)
    first, second = score.rows()
    assert first.contribution == pytest.approx(0.15)
    assert math.isnan(second.iou) and math.isnan(second.contribution) and math.isnan(second.running)
    # No rows is the same statement as None, and an unfound positive without a box counts as well.
    assert same(score_query(FIVE, FIVE_BOXES, {11: WHOLE, 14: np.zeros((0, 4))}), score)
    assert score_query(FIVE, FIVE_BOXES, {11: WHOLE, 99: None}).locscore is None
    # Once that positive is excluded, every box is known again.
    assert score_query(FIVE, FIVE_BOXES, {11: WHOLE, 14: None}, excluded=[14]).locscore == pytest.approx(0.3)


def test_nothing_found():
    score = score_query(FIVE, FIVE_BOXES, {99: WHOLE})
    assert (score.ap, score.locscore, score.mean_iou, score.first_hit) == (0, 0, None, None)
    assert score.rows() == []
    assert not score.hit_at(10)
    # So does an empty ranking: it is a score of 0, not a query to leave out.
    assert score_query([], np.zeros((0, 4)), {99: WHOLE}).ap == 0


# --- What is a programming error ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_ids": [10, 11, 12, 13, 10]}, "ranked twice"),
        ({"image_ids": [10, 11]}, r"image_ids must be \(N,\) and boxes \(N, 4\)"),
        ({"boxes": np.zeros((5, 5))}, r"image_ids must be \(N,\) and boxes \(N, 4\)"),
        ({"cutoff": 0}, "at least 1, got 0"),
        ({"boxes": np.full((5, 4), np.nan)}, "four finite numbers"),
        ({"positives": {11: np.array([[0, 0, np.inf, 1]])}}, "four finite numbers"),
    ],
)
def test_score_query_refuses(changes, message):
    arguments = {"image_ids": FIVE, "boxes": FIVE_BOXES, "positives": THREE, **changes}
    with pytest.raises(ValueError, match=message):
        score_query(**arguments)


# --- The report ---


def ranked_at(rank, positives):
    """A query whose only found positive stands at `rank`, with a winning box of IoU 0.5."""
    ids = np.arange(100, 112)
    return score_query(ids, np.tile([0, 0, 10, 5], (12, 1)), {99 + rank: positives})


def test_report_of_a_small_evaluation():
    report = summarise(
        {
            3: ranked_at(1, WHOLE),  # AP 1, LocScore 0.5
            4: None,
            5: ranked_at(5, WHOLE),  # AP 0.2, LocScore 0.1
            8: ranked_at(10, None),  # AP 0.1, no box: in the mAP, not in the mean LocScore
            9: score_query(FIVE, FIVE_BOXES, {99: WHOLE}),  # not found: AP 0, LocScore 0, no IoU
        }
    )
    assert report.map == pytest.approx((1 + 0.2 + 0.1 + 0) / 4)
    assert report.locscore == pytest.approx((0.5 + 0.1 + 0) / 3)
    assert report.mean_iou == pytest.approx(0.5)
    assert report.recall == {1: 0.25, 5: 0.5, 10: 0.75}
    assert (report.queries, report.left_out, report.without_boxes) == (4, (4,), 1)


def test_recall_is_any_positive_not_the_share_of_positives():
    # Two positives, one of them first: 1 by the retrieval field's definition, 0.5 by the other.
    score = score_query(FIVE, FIVE_BOXES, {10: WHOLE, 99: WHOLE})
    assert summarise({0: score}).recall == {1: 1, 5: 1, 10: 1}


def test_report_as_json():
    # numpy ids and numbers are what an evaluation has at hand, and json refuses them.
    report = summarise({np.int64(3): ranked_at(2, None), np.int64(4): None})
    assert json.loads(json.dumps(report.as_dict())) == {
        "map": 0.5,
        "locscore": None,
        "mean_iou": None,
        "recall@1": 0.0,
        "recall@5": 1.0,
        "recall@10": 1.0,
        "queries": 1,
        "left_out": [4],
    }


@PROPERTY
@given(st.lists(cases(located=True), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_queries_does_not_matter(several, random):
    scores = {query: case.score() for query, case in enumerate(several)}
    assume(any(scores.values()))
    shuffled = list(scores.items())
    random.shuffle(shuffled)
    one, two = summarise(scores).as_dict(), summarise(dict(shuffled)).as_dict()
    assert sorted(one.pop("left_out")) == sorted(two.pop("left_out"))
    assert one == two


@pytest.mark.parametrize("scores", [{}, {1: None, 2: None}])
def test_an_evaluation_without_any_positive_is_refused(scores):
    # 0 would be a lie and NaN is no JSON.
    with pytest.raises(GalleryError, match=f"None of the {len(scores)} queries has a positive image"):
        summarise(scores)


# --- The ceiling of a grid ---

GRID = np.array([[0, 0, 8, 8], [0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [4, 4, 8, 8]])


def test_ceiling_by_hand():
    positives = {
        1: np.array([[0, 0, 4, 3]]),  # 12/16 of a quadrant
        2: np.array([[0, 0, 8, 8]]),  # the 1x1 cell
        3: np.array([[3, 3, 5, 5], [4, 0, 8, 2]]),  # the better of 1/19 and 8/16
    }
    assert grid_ceiling(dict.fromkeys(positives, GRID), positives) == pytest.approx((0.75 + 1 + 0.5) / 3)


def test_an_image_without_cells_adds_nothing():
    # Region proposals may find nothing in a picture.
    cells = {1: GRID, 2: np.zeros((0, 4))}
    assert grid_ceiling(cells, dict.fromkeys(cells, np.array([[0, 0, 8, 8]]))) == 0.5


@PROPERTY
@given(cases(located=True, lists=False, cutoffs=False), st.data())
def test_no_ranking_exceeds_the_ceiling_and_the_perfect_one_reaches_it(case, data):
    known = sorted({*case.ids, *case.positives})
    cells = {image: np.array(data.draw(st.lists(proper_boxes(), min_size=1, max_size=4))) for image in known}
    positives = {image: np.array(rows) for image, rows in case.positives.items()}
    ceiling = grid_ceiling(cells, positives)

    chosen = [cells[image][data.draw(st.integers(0, len(cells[image]) - 1))] for image in case.ids]
    assert score_query(case.ids, chosen, positives).locscore <= ceiling + 1e-12

    best = [
        max(cells[image], key=lambda cell: max(slow_iou(cell, box) for box in rows))
        for image, rows in positives.items()
    ]
    assert score_query(list(positives), best, positives).locscore == pytest.approx(ceiling, abs=1e-12)


def test_ceiling_refuses():
    with pytest.raises(ValueError, match="at least one positive"):
        grid_ceiling({}, {})
    with pytest.raises(ValueError, match="an annotated box for each"):
        grid_ceiling({1: GRID}, {1: np.zeros((0, 4))})
    with pytest.raises(KeyError):
        grid_ceiling({1: GRID}, {2: WHOLE})


def test_the_docstrings_examples_are_true():
    results = doctest.testmod(metrics)
    assert results.attempted > 0
    assert results.failed == 0


# --- What is kept of a ranking, and scores of it ---


@PROPERTY
@given(EITHER)
def test_what_is_kept_of_a_ranking_is_enough_for_any_cutoff(case):
    order = rank_order(case.scores, case.ids)
    ids, boxes = np.array(case.ids, np.int64)[order], np.array(case.boxes, float).reshape(-1, 4)[order]
    positives = {
        i: None if rows is None else np.array(rows, float).reshape(-1, 4) for i, rows in case.positives.items()
    }
    asked = []

    def boxes_at(at):
        asked.extend(at.tolist())
        return boxes[at]

    found = find_positives(ids, boxes_at, positives, case.ignored, case.excluded)
    assert (found is None) == (case.score() is None)
    if found is not None:
        assert {int(ids[at]) for at in asked} <= set(positives) - {*case.ignored, *case.excluded}
        for cutoff in (None, 1, 2, 5, 100):
            assert same(score_positives(found, cutoff), case.score(cutoff=cutoff))


@PROPERTY
@given(EITHER, st.data())
def test_some_of_the_positives_as_if_the_others_were_ignored(case, data):
    order = rank_order(case.scores, case.ids)
    ids, boxes = np.array(case.ids, np.int64)[order], np.array(case.boxes, float).reshape(-1, 4)[order]
    positives = {
        i: None if rows is None else np.array(rows, float).reshape(-1, 4) for i, rows in case.positives.items()
    }
    found = find_positives(ids, lambda at: boxes[at], positives, case.ignored, case.excluded)
    assume(found is not None)
    counted = sorted(set(positives) - {*case.ignored, *case.excluded})
    kept = data.draw(st.lists(st.sampled_from(counted), unique=True))
    others = [image for image in counted if image not in kept]
    some = found.only(kept, all(positives[i] is not None and len(positives[i]) for i in kept))
    whole = case.score(ignored=[*case.ignored, *others])
    assert same(None if some is None else score_positives(some, case.cutoff), whole)


def test_score_found_refuses_a_cutoff_of_nothing():
    found = find_positives(np.array([1]), lambda at: np.zeros((len(at), 4)), {1: None})
    with pytest.raises(ValueError, match="at least 1, got 0"):
        score_positives(found, 0)
