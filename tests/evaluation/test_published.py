"""evaluation.published against slow transcriptions of what the publishers' papers and scripts say, loop by loop."""

from __future__ import annotations

import functools
import operator
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from patchify_core.evaluation.positives import find_positives
from patchify_core.evaluation.published import precision_at, published_scores
from patchify_core.gallery import Annotations, Benchmark, Gallery, GalleryImage, Query

PROPERTY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

IMAGES = 40


# --- The slow references. Rankings are lists of image ids, best first; nothing is tied. ---


def ilias_ap(ranking, positives, k=1000):
    """Sum of the precision at each positive among the first k, divided by min(k, positives)."""
    hits, total = 0, 0.0
    for place, image in enumerate(ranking[:k]):
        if image in positives:
            hits += 1
            total += hits / (place + 1)
    return total / min(k, len(positives))


def trapezoids(ranking, positives, junk=()):
    """Oxford's area below the precision-recall curve, with 0-based places and junk taken out one by one."""
    places, skipped, at = [], 0, 0
    for image in ranking:
        if image in junk:
            skipped += 1
        elif image in positives:
            places.append(at - skipped)
        at += 1
    area = 0.0
    for number, place in enumerate(places):
        before = 1.0 if place == 0 else number / place
        area += (before + (number + 1) / (place + 1)) * (1 / len(positives)) / 2
    return area


def precision(ranking, positives, junk, k):
    """Precision at k, or at the last positive if that is earlier."""
    ranks, at = [], 0
    for image in ranking:
        if image not in junk:
            at += 1
            if image in positives:
                ranks.append(at)
    k = min(max(ranks), k)
    return sum(rank <= k for rank in ranks) / k


# --- Small evaluations ---


def gallery_of(instances, benchmark, queries):
    """instances: instance -> ({image: None}, ignored images); queries: instance of each, ids from 1000."""
    rows = [(i, n, False) for n, (shown, _) in instances.items() for i in shown]
    rows += [(i, n, True) for n, (_, ignored) in instances.items() for i in ignored]
    return Gallery(
        Path("here"),
        tuple(GalleryImage(i, f"{i}.jpg", Path(f"{i}.jpg"), 9, 9) for i in range(IMAGES)),
        tuple(Query(1000 + n, "q.jpg", Path("q.jpg"), 9, 9, None, which) for n, which in enumerate(queries)),
        {n: str(n) for n in instances},
        Annotations(
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1] for row in rows], np.int64),
            np.full((len(rows), 4), np.nan),
            np.array([row[2] for row in rows], bool),
            np.full(len(rows), np.nan),
        ),
        benchmark=benchmark,
    )


def scored(gallery, rankings, cutoff=None):
    """(measure, part) -> (value, queries) of rankings, one per query."""
    found = {
        query.id: find_positives(
            np.array(ranking, np.int64), None, gallery.positives(query.instance), gallery.ignored(query.instance)
        )
        for query, ranking in zip(gallery.queries, rankings, strict=True)
    }
    return {(one.measure, one.part): (one.value, one.queries) for one in published_scores(found, gallery, cutoff)}


def rankings_of(seed, queries):
    random = np.random.default_rng(seed)
    return [random.permutation(IMAGES).tolist() for _ in range(queries)]


@pytest.mark.parametrize("seed", range(5))
def test_ilias(seed):
    random = np.random.default_rng(seed)
    owner = random.integers(1, 5, 24).tolist()  # images 0..23 are positives of four objects, the others distractors
    positives = {n: [i for i, one in enumerate(owner) if one == n] for n in (1, 2, 3, 4)}
    scale = dict(enumerate(random.choice([0.01, 0.06880213760855043, 0.1, 0.2, 0.2729876723163842, 0.9], 24).tolist()))
    clutter = dict(enumerate(random.choice([0, 17, 18, 40, 53, 90], 24).tolist()))
    categories = {1: ("art", "toy"), 2: ("art", "sculpture"), 3: ("art", "toy"), 4: ("landmark", "other")}
    keyed = {
        kind: {(owner[i], i): v for i, v in values.items()} for kind, values in (("scale", scale), ("clutter", clutter))
    }
    asked = [1, 1, 2, 3, 3, 3, 4]
    rankings = rankings_of(seed, len(asked))
    instances = {n: (dict.fromkeys(some), ()) for n, some in positives.items()}
    scores = scored(gallery_of(instances, Benchmark("ilias", keyed, categories), asked), rankings)

    aps = [ilias_ap(ranking, positives[n]) for ranking, n in zip(rankings, asked, strict=True)]
    assert scores.pop(("mAP@1000", "all")) == (pytest.approx(np.mean(aps)), 7)
    assert scores.pop(("oracle@1000", "all")) == (1, 7)  # the whole gallery is among the first 1000
    limits = {
        "scale": (
            [0, 0.06880213760855043, 0.13526567164179104, 0.2729876723163842, 9],
            ["< 0.0688", "0.0688-0.135", "0.135-0.273", ">= 0.273"],
        ),
        "clutter": ([0, 18, 33, 53, 999], ["< 18", "18-33", "33-53", ">= 53"]),
    }
    for kind, values in (("scale", scale), ("clutter", clutter)):
        for low, high, name in zip(limits[kind][0], limits[kind][0][1:], limits[kind][1], strict=False):
            some = []
            for ranking, n in zip(rankings, asked, strict=True):
                left_out = {i for i in positives[n] if not low <= values[i] < high}
                if set(positives[n]) - left_out:
                    kept = [i for i in ranking if i not in left_out]
                    some.append(ilias_ap(kept, set(positives[n]) - left_out))
            assert (f"{kind} {name}" in {part for _, part in scores}) == bool(some)
            if some:
                assert scores.pop(("mAP@1000", f"{kind} {name}")) == (pytest.approx(np.mean(some)), len(some))
    per_object = {n: np.mean([ap for ap, one in zip(aps, asked, strict=True) if one == n]) for n in (1, 2, 3, 4)}
    expected = {
        "category art": ([1, 2, 3], 6),
        "category landmark": ([4], 1),
        "subcategory art-toy": ([1, 3], 5),
        "subcategory art-sculpture": ([2], 1),
        "subcategory landmark-other": ([4], 1),
    }
    for part, (objects, queries) in expected.items():
        value = np.mean([per_object[n] for n in objects])
        assert scores.pop(("mAP@1000, mean over objects", part)) == (pytest.approx(value), queries)
    assert not scores


def test_ilias_counts_a_thousand_ranks(monkeypatch):
    monkeypatch.setattr("patchify_core.evaluation.published.ILIAS_RANKS", 5)
    gallery = gallery_of({1: ({3: None, 4: None, 30: None}, ())}, Benchmark("ilias"), [1])
    scores = scored(gallery, [list(range(IMAGES))])
    assert scores == {
        ("mAP@5", "all"): (pytest.approx(ilias_ap(range(IMAGES), {3, 4, 30}, 5)), 1),
        ("oracle@5", "all"): (pytest.approx(2 / 3), 1),
    }


@pytest.mark.parametrize("seed", range(5))
def test_both_conventions_of_instre(seed, monkeypatch):
    monkeypatch.setattr("patchify_core.evaluation.published.INSTRE_RANKS", 10)
    positives = {1: range(4), 2: range(10, 24)}
    gallery = gallery_of(
        {n: (dict.fromkeys(some), ()) for n, some in positives.items()}, Benchmark("instre"), [1, 2, 2]
    )
    rankings = rankings_of(seed, 3)
    pairs = list(zip(rankings, [positives[1], positives[2], positives[2]], strict=True))
    rectangles = np.mean([ilias_ap(ranking, some, 10) for ranking, some in pairs])
    area = np.mean([trapezoids(ranking, some) for ranking, some in pairs])
    first, second = (
        ("mAP, rectangles, first 10 ranks (as ELViS)", "all"),
        ("mAP, trapezoids, all ranks (as Iscen et al.)", "all"),
    )
    assert scored(gallery, rankings) == {first: (pytest.approx(rectangles), 3), second: (pytest.approx(area), 3)}
    assert area < np.mean([ilias_ap(ranking, some) for ranking, some in pairs])
    # Of a ranking that was fetched in part there is no area.
    assert scored(gallery, rankings, cutoff=20).keys() == {first}


@pytest.mark.parametrize("seed", range(5))
def test_oxford_and_paris(seed):
    random = np.random.default_rng(seed)
    kinds = {n: random.choice(["easy", "hard", "junk", ""], IMAGES).tolist() for n in (1, 2)}
    kinds[3] = ["hard", "junk"] + [""] * (IMAGES - 2)  # none is easy
    of = {
        n: {kind: [i for i, one in enumerate(row) if one == kind] for kind in ("easy", "hard", "junk")}
        for n, row in kinds.items()
    }
    hard = {(n, i): float(kind == "hard") for n, some in of.items() for kind in ("easy", "hard") for i in some[kind]}
    instances = {n: (dict.fromkeys(some["easy"] + some["hard"]), some["junk"]) for n, some in of.items()}
    rankings = rankings_of(seed, 3)
    scores = scored(gallery_of(instances, Benchmark("roxford5k", {"hard": hard}), [1, 2, 3]), rankings)
    protocols = {
        "easy": (["easy"], ["junk", "hard"]),
        "medium": (["easy", "hard"], ["junk"]),
        "hard": (["hard"], ["junk", "easy"]),
    }
    for name, (right, junk) in protocols.items():
        rows = [
            (
                ranking,
                functools.reduce(operator.iadd, (some[kind] for kind in right), []),
                functools.reduce(operator.iadd, (some[kind] for kind in junk), []),
            )
            for ranking, some in zip(rankings, of.values(), strict=True)
        ]
        rows = [row for row in rows if row[1]]
        assert len(rows) == (2 if name == "easy" else 3)
        assert scores.pop(("mAP, trapezoids", name)) == (
            pytest.approx(np.mean([trapezoids(*row) for row in rows])),
            len(rows),
        )
        for k in (1, 5, 10):
            assert scores.pop((f"mP@{k}", name)) == (
                pytest.approx(np.mean([precision(*row, k) for row in rows])),
                len(rows),
            )
    assert not scores


@PROPERTY
@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.booleans()), min_size=1, max_size=6),
    st.integers(0, 1),
    st.integers(1, 7),
)
def test_precision_at_k_is_the_mean_over_the_orders_of_equal_scores(images, missed, k):
    positives = {i for i, (_, right) in enumerate(images) if right}
    assume(positives)
    order = sorted(range(len(images)), key=lambda i: -images[i][0])
    wanted = dict.fromkeys([*positives, *range(100, 100 + missed)])
    values = np.array([float(images[i][0]) for i in order])
    found = find_positives(np.array(order, np.int64), None, wanted, scores=values)
    high, low = ([i for i in order if images[i][0] == value] for value in (2, 1))
    slow = [
        # A positive that the ranking lacks comes after all of it.
        precision([*a, *b, *range(200, 210), *range(100, 100 + missed)], wanted.keys(), (), k)
        for a in permutations(high)
        for b in permutations(low)
    ]
    assert precision_at(found, k) == pytest.approx(np.mean(slow), abs=1e-12)


def test_a_dataset_of_ones_own_has_none():
    assert scored(gallery_of({1: ({3: None}, ())}, None, [1]), [[3]]) == {}
