"""evaluation.breakdown against rankings from which the other positives were really taken out, and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.evaluation.breakdown import Bands, band_names, break_down
from patchify_core.evaluation.metrics import score_query, summarise
from patchify_core.evaluation.positives import find_positives
from patchify_core.gallery import Annotations, Gallery, GalleryImage, Query

CUP, HAT = 1, 2
SIDE = 100


def gallery_of(rows, queries=((50, CUP, ()),), images=20):
    """rows: (image, instance, box or None, visible or None, ignore)."""
    nan = math.nan
    return Gallery(
        Path("here"),
        tuple(GalleryImage(i, f"{i}.jpg", Path(f"{i}.jpg"), SIDE, SIDE) for i in range(images)),
        tuple(Query(i, "q.jpg", Path("q.jpg"), 9, 9, None, inst, frozenset(out)) for i, inst, out in queries),
        {CUP: "cup", HAT: "hat"},
        Annotations(
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1] for row in rows], np.int64),
            np.array([[nan] * 4 if row[2] is None else row[2] for row in rows], float).reshape(-1, 4),
            np.array([row[4] for row in rows], bool),
            np.array([nan if row[3] is None else row[3] for row in rows], float),
        ),
    )


def found_in(gallery, ranking, query):
    positives = gallery.positives(query.instance, query.exclude)
    boxes = np.tile([0.0, 0.0, 50.0, 50.0], (len(ranking), 1))
    return find_positives(
        np.array(ranking, np.int64), lambda at: boxes[at], positives, gallery.ignored(query.instance), query.exclude
    )


def broken_down(gallery, rankings, cutoff=None, **more):
    found = {q.id: found_in(gallery, ranking, q) for q, ranking in zip(gallery.queries, rankings, strict=True)}
    parts = break_down(found, gallery, cutoff, **more)
    return {kind: {part.name: part for part in some} for kind, some in parts.items()}


def square(share):
    """A box that covers this share of the picture, from its top left corner."""
    return [0, 0, SIDE, SIDE * share]


def test_by_hand():
    rows = [
        (1, CUP, square(0.01), 0.3, False),
        (2, CUP, square(0.05), 0.5, False),
        (3, CUP, square(0.2), 1.0, False),
        (4, CUP, square(0.5), None, False),
        (5, CUP, None, 0.95, False),
    ]
    # Ranks: 4 first, then a negative, 3, 1, a negative, 2; 5 is not found.
    parts = broken_down(gallery_of(rows), [[4, 9, 3, 1, 8, 2, *range(10, 20)]])
    size = parts["size"]
    assert list(size) == ["< 2 %", "2-10 %", "10-33 %", ">= 33 %", "unknown"]
    # Without the other positives: 1 is second, 2 is third, 3 is second, 4 is first, 5 is missing.
    assert [size[name].report.map for name in size] == [1 / 2, 1 / 3, 1 / 2, 1, 0]
    assert size["unknown"].report.locscore is None and size["< 2 %"].report.locscore == pytest.approx(1 / 2 * 50 / 2550)
    visible = parts["visibility"]
    assert list(visible) == ["< 50 %", "50-90 %", ">= 90 %", "unknown"]
    # At least 90 %: 3 (second, after one negative) and 5, which is missing.
    assert [visible[name].report.map for name in visible] == [1 / 2, 1 / 3, 1 / 4, 1]
    assert [visible[name].positives for name in visible] == [1, 1, 2, 1]
    [cup] = parts["instance"].values()
    assert cup.name == "cup" and cup.instance == CUP and cup.positives == 5
    assert cup.report.map == pytest.approx((1 + 2 / 3 + 3 / 4 + 4 / 6) / 5)
    assert cup.as_dict()["instance"] == CUP and "left_out" not in cup.as_dict()


def test_the_largest_of_several_boxes_and_visibilities_counts():
    rows = [(1, CUP, square(0.01), 0.1, False), (1, CUP, square(0.2), 0.7, False), (1, CUP, square(0.9), 1.0, True)]
    parts = broken_down(gallery_of(rows), [[1]])
    assert list(parts["size"]) == ["10-33 %"] and list(parts["visibility"]) == ["50-90 %"]


def test_limits_belong_to_the_upper_band():
    assert band_names((0.02, 0.1)) == ("< 2 %", "2-10 %", ">= 10 %")
    rows = [(1, CUP, square(0.1), 0.9, False), (2, CUP, square(0.33), 0.5, False)]
    parts = broken_down(gallery_of(rows), [[1, 2]])
    assert list(parts["size"]) == ["10-33 %", ">= 33 %"] and list(parts["visibility"]) == ["50-90 %", ">= 90 %"]
    own = broken_down(gallery_of(rows), [[1, 2]], bands=Bands((0.2,), (0.95,)))
    assert list(own["size"]) == ["< 20 %", ">= 20 %"] and list(own["visibility"]) == ["< 95 %"]


def test_queries_without_a_positive_in_the_band_are_left_out():
    rows = [(1, CUP, square(0.01), None, False), (2, HAT, square(0.5), None, False)]
    gallery = gallery_of(rows, [(50, CUP, ()), (51, HAT, ()), (52, HAT, [2])])
    parts = broken_down(gallery, [[1, 2], [1, 2], [1, 2]])
    assert {name: part.report.queries for name, part in parts["size"].items()} == {"< 2 %": 1, ">= 33 %": 1}
    assert {name: part.report.map for name, part in parts["instance"].items()} == {"cup": 1, "hat": 0.5}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_rankings_without_the_other_positives(data):
    """The real thing: each band's other positives made ignored, and the whole ranking scored again."""
    images = range(12)
    shares = [0.01, 0.05, 0.2, 0.5]
    chosen = data.draw(st.dictionaries(st.sampled_from(images), st.sampled_from(shares), min_size=1))
    rows = [(image, CUP, square(share), None, False) for image, share in chosen.items()]
    ranking = data.draw(st.permutations(images))[: data.draw(st.integers(0, 12))]
    out = data.draw(st.lists(st.sampled_from(images), max_size=3, unique=True))
    cutoff = data.draw(st.one_of(st.none(), st.integers(1, 13)))
    gallery = gallery_of(rows, [(50, CUP, out)])
    [query] = gallery.queries
    parts = broken_down(gallery, [ranking], cutoff)["size"]
    boxes = np.tile([0.0, 0.0, 50.0, 50.0], (len(ranking), 1))
    for name, share in zip(band_names(Bands().size), shares, strict=True):
        others = [image for image, other in chosen.items() if other != share]
        score = score_query(ranking, boxes, gallery.positives(CUP), others, query.exclude, cutoff)
        assert (name in parts) == (score is not None)
        if score is not None:
            assert parts[name].report == summarise({50: score})
            assert parts[name].positives == score.positives
