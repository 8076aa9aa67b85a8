"""evaluation.compare: the paired bootstrap against a slow loop, its invariants, and what it refuses."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.evaluation.compare import BootstrapSettings, Difference, as_json, compare, interval, read_run
from patchify_core.evaluation.results import EvaluationFile

FAST = BootstrapSettings(resamples=300)
SCORES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12)


def run_of(aps, locscores=None, **levels):
    """A run with one level, or with several: level=[aps]."""
    return EvaluationFile.model_validate(file_of(aps, locscores, **levels))


def file_of(aps, locscores=None, **levels):
    """The content of a run's file."""
    levels = levels or {"1": aps}
    located = locscores or [ap / 2 for ap in aps]

    def scores(level, at):
        return {"ap": levels[level][at], "locscore": located[at]}

    return {
        "program": "patchify evaluate",
        "format": 1,
        "levels": [{"level": int(level)} for level in levels],
        "run": {"dataset": "abc"},
        "per_query": [
            {
                "id": 9 + at,
                "file_name": f"{at}.jpg",
                "instance": 1,
                "levels": {level: scores(level, at) for level in levels},
            }
            for at in range(len(aps))
        ],
    }


@settings(max_examples=25, deadline=None)
@given(SCORES)
def test_a_run_differs_from_itself_by_exactly_nothing(aps):
    for difference in compare(run_of(aps), run_of(aps), settings=FAST):
        assert difference.difference == difference.low == difference.high == 0.0
        assert difference.queries == len(aps) and "the same" in difference.sentence()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=12))
def test_exchanging_the_runs_turns_the_sign(pairs):
    a, b = (run_of([pair[side] for pair in pairs]) for side in (0, 1))
    for there, back in zip(compare(a, b, settings=FAST), compare(b, a, settings=FAST), strict=True):
        assert there.difference == pytest.approx(-back.difference, abs=1e-12)
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
        assert there.low <= there.high and (there.a, there.b) == (back.b, back.a)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=15), st.integers(0, 3))
def test_equals_a_slow_loop(differences, seed):
    chosen = BootstrapSettings(resamples=200, seed=seed)
    random = np.random.default_rng(seed)
    means = []
    for _ in range(chosen.resamples):
        drawn = [differences[random.integers(0, len(differences))] for _ in differences]
        means.append(sum(drawn) / len(drawn))
    means.sort()

    def percentile(p):
        at = p / 100 * (len(means) - 1)
        low = int(at)
        return means[low] + (at - low) * (means[min(low + 1, len(means) - 1)] - means[low])

    assert interval(np.array(differences), chosen) == pytest.approx((percentile(2.5), percentile(97.5)), abs=1e-9)


def test_drawing_in_pieces_changes_nothing(monkeypatch):
    differences = np.random.default_rng(1).normal(size=37)
    whole = interval(differences, FAST)
    monkeypatch.setattr("patchify_core.evaluation.compare._BATCH", 100)
    assert interval(differences, FAST) == whole


def test_the_order_of_the_queries_does_not_matter():
    a, b = run_of([0.1, 0.5, 0.9, 0.3]), run_of([0.2, 0.4, 0.9, 0.8])
    turned = a.model_copy(update={"per_query": a.per_query[::-1]})
    assert compare(a, b, settings=FAST) == compare(turned, b, settings=FAST)


def test_the_interval_is_about_as_wide_as_theory_says():
    """For a mean of many independent differences: 1.96 standard errors to either side."""
    differences = np.random.default_rng(5).normal(0.1, 0.2, 400)
    low, high = interval(differences)
    error = differences.std() / 20
    assert (low, high) == pytest.approx(
        (differences.mean() - 1.96 * error, differences.mean() + 1.96 * error), abs=2e-3
    )


def test_sentences():
    def said(difference, low, high):
        return Difference("mAP", 0.5, 0.5 + difference, difference, low, high, 36).sentence()

    assert said(0.054, 0.021, 0.088) == "B is better by 0.054 mAP, 95 % interval 0.021..0.088 (36 queries)."
    assert said(-0.054, -0.088, -0.021) == "A is better by 0.054 mAP, 95 % interval 0.021..0.088 (36 queries)."
    assert "B is ahead by 0.010 mAP, but these queries cannot tell" in said(0.01, -0.02, 0.04)
    assert "-0.020..0.040" in said(0.01, -0.02, 0.04)
    assert "A is ahead" in said(-0.01, -0.04, 0.02)
    assert said(0.0, -0.02, 0.02).startswith("A and B have the same mAP, 95 % interval -0.020..0.020")


def test_levels():
    run = run_of([0.1, 0.2], **{"1": [0.1, 0.2], "4": [0.6, 0.9]})
    [finest, _] = compare(run, run, settings=FAST)
    assert finest.difference == 0 and finest.a == pytest.approx(0.75)
    [first, _] = compare(run, run, 1, 4, FAST)
    assert first.difference == pytest.approx(0.6) and first.a == pytest.approx(0.15)


def test_queries_without_boxes_have_no_locscore():
    a, b = run_of([0.1, 0.5], [None, 0.2]), run_of([0.2, 0.4], [0.1, 0.1])
    found, located = compare(a, b, settings=FAST)
    assert (found.queries, located.queries) == (2, 1) and located.difference == pytest.approx(-0.1)
    [only] = compare(run_of([0.1], [None]), run_of([0.3], [None]), settings=FAST)
    assert only.metric == "mAP"
    assert json.loads(json.dumps(as_json([only], FAST)))["differences"]["mAP"]["difference"] == pytest.approx(0.2)


def changed(run, change):
    run = copy.deepcopy(run)
    change(run)
    return run


WRONG = {
    "fewer queries": (lambda r: r["per_query"].pop(), "have different queries (2 and 1; first difference: 1.jpg)"),
    "another file": (lambda r: r["per_query"][0].update(file_name="x.jpg"), "have different queries"),
    "other pictures": (lambda r: r["run"].update(dataset="other"), "over different pictures or annotations"),
    "no run": (lambda r: r.pop("run"), "edited or damaged"),
    "text for a score": (lambda r: r["per_query"][0]["levels"]["1"].update(ap="much"), "edited or damaged"),
    "queries that are none": (lambda r: r.update(per_query=[1, 2]), "edited or damaged"),
    "a score above 1": (lambda r: r["per_query"][0]["levels"]["1"].update(ap=1.5), "edited or damaged"),
    "a level that a query lacks": (lambda r: r["per_query"][1].update(levels={}), "edited or damaged"),
    "no levels": (lambda r: r.update(levels=[]), "edited or damaged"),
    "nothing scored": (
        lambda r: [q["levels"]["1"].update(ap=None, locscore=None) for q in r["per_query"]],
        "nothing to compare",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_runs_that_cannot_be_compared(tmp_path, refused, case):
    change, part = WRONG[case]
    file = file_of([0.1, 0.2])
    (tmp_path / "a.json").write_text(json.dumps(file))
    (tmp_path / "b.json").write_text(json.dumps(changed(file, change)))
    assert part in refused(lambda: compare(*(read_run(tmp_path / name) for name in ("a.json", "b.json"))))


def test_a_level_that_a_run_lacks(refused):
    assert "Run B has no level 2: it has 1." in refused(
        compare, run_of([0.1], **{"1": [0.1], "2": [0.2]}), run_of([0.1]), 2, 2
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "was not written by evaluate --json"),
        ('{"map": 0.5}', "was not written by evaluate --json"),
        ('{"images": [], "annotations": []}', "was not written by evaluate --json"),
        ('{"program": "patchify evaluate", "format": 99}', "has format 99"),
    ],
)
def test_files_of_something_else(tmp_path, refused, content, part):
    path = tmp_path / "run.json"
    path.write_text(content)
    assert part in refused(read_run, path)


def test_files_that_cannot_be_read(tmp_path, refused):
    assert "There is no file" in refused(read_run, tmp_path / "none.json")
    assert "cannot be read" in refused(read_run, tmp_path)
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00{")
    assert "not valid JSON" in refused(read_run, tmp_path / "x.json")
