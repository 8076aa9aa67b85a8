"""What the Evaluation tab makes of the study files, without a browser."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.demo import trials
from patchify_core.demo.studies import Studies, read_studies
from patchify_core.evaluation.compare import interval
from patchify_core.web import views
from patchify_core.web.views.evaluation import difference_text
from tests.study_files import row, study, write

NAMES = ["rug", "quilt", "rug", "lamp"]
SET = {"set": {"digest": "d" * 64, "pictures": 9, "queries": [3, 5, 8, 9], "instances": NAMES}}


def made(tmp_path, **rows: list[dict]) -> tuple[trials.Trial, ...]:
    for name, content in rows.items():
        write(tmp_path, study(name, SET, content))
    return trials.trials(read_studies(tmp_path))


def test_seeds_are_averaged_and_the_same_row_of_another_file_is_no_seed(tmp_path) -> None:
    pq = [row("set", 4, seed, factory="PCAH128,PQ16", bytes_per_patch=16) for seed in (0, 1, 2)]
    found = made(tmp_path, encoders=[row("set", 4)], compression=[row("set", 4), *pq], regions=[row("set", 4)])
    assert len(found) == 2
    exact, small = found
    assert exact.seeds == 1 and exact.studies == ("encoders", "regions", "compression")
    assert small.seeds == 3
    assert small.mean.of("map") == pytest.approx(np.mean([r["map"] for r in pq]))
    assert small.mean.spread("map") == pytest.approx(np.ptp([r["map"] for r in pq]))
    np.testing.assert_allclose(small.per_query("ap"), np.mean([r["ap"] for r in pq], axis=0))
    assert small.per_query("ap") != exact.per_query("ap")


def test_random_regions_are_averaged_over_what_was_drawn(tmp_path) -> None:
    draws = [row("set", 4, 7 + n, seed=0, regions=f"random:30,{n}", indexed=f"random:30,{n}") for n in range(3)]
    found = made(tmp_path, regions=draws)
    assert len(found) == 1
    assert found[0].seeds == 3
    assert found[0]["regions"] == "random:30"
    assert found[0].label == "effnet-lite0 · random:30"


def test_stages_of_other_regions_are_one_where_nothing_was_learned_and_several_where_it_was(tmp_path) -> None:
    stage = {"regions": "pyramid:3", "level": 3, "patches": 14}
    rows = [row("set", 4, indexed=indexed, **stage) for indexed in ("pyramid:4", "pyramid:3+salient:16")]
    coded = [r | {"factory": "PCAH128,PQ16"} for r in rows]
    found = made(tmp_path, regions=[*rows, *coded])
    assert [t["factory"] for t in found] == ["Flat", "PCAH128,PQ16", "PCAH128,PQ16"]


def test_every_different_setting_is_a_trial_of_its_own_with_a_label_of_its_own(tmp_path) -> None:
    changes = [
        {},
        {"encoder": "effnet-lite1"},
        {"regions": "salient:30"},
        {"rerank": "sift"},
        {"factory": "SQ8"},
        {"factory": "PCAH128,PQ16"},
        {"factory": "PCAH128,PQ16", "codebook": "global"},
        {"factory": "PCAH128,PQ16", "rescore": "SQ8"},
        {"features": "pooled:640"},
        {"features": "pooled:640", "query": "224"},
        {"features": "pooled:640", "refine": "map"},
        {"refine": "soft"},
    ]
    found = made(tmp_path, compression=[row("set", 4, **change) for change in changes])
    assert len(found) == len(changes)
    assert len({t.label for t in found}) == len({t.id for t in found}) == len(changes)
    assert len({t.title for t in found}) == len(changes)  # in plain words too
    # What a row is called does not depend on what else is in the files.
    again = made(tmp_path, compression=[row("set", 4, **changes[3])])
    assert again[0].id == found[3].id


def test_baseline_is_whole_pictures_of_the_same_encoder(tmp_path) -> None:
    base = {"regions": "pyramid:1", "level": 1, "patches": 1}
    rows = [
        row("set", 4, encoder=encoder, **more)
        for encoder in ("a", "b")
        for more in (base, {}, {**base, "rerank": "qe"}, {**base, "features": "pooled:640"}, {**base, "refine": "soft"})
    ]
    found = made(tmp_path, encoders=rows)
    assert [t.baseline for t in found] == [True, False, False, False, False] * 2
    assert trials.baseline_of(found, found[6]) is found[5]
    assert trials.baseline_of(found[6:], found[6]) is None


def test_first_choice_is_the_papers_default_or_the_best(tmp_path) -> None:
    rows = [row("set", 4, encoder="best", ap=[1.0] * 4), row("set", 4), row("set", 4, encoder="worst", ap=[0.1] * 4)]
    found = made(tmp_path, encoders=rows)
    assert trials.first_choice(found, "set") is found[1]
    assert trials.first_choice((found[2], found[0]), "set") is found[0]
    assert trials.first_choice(found, "other") is None


def test_objects_are_averaged_over_their_queries_the_worst_first(tmp_path) -> None:
    (trial,) = made(tmp_path, encoders=[row("set", 4, ap=[0.2, 0.6, 0.8, None], ls=[0.1, 0.3, None, None], map=0.5)])
    parts = trials.by_object(trial, NAMES)
    assert [(p.name, p.queries) for p in parts] == [("rug", 2), ("quilt", 1), ("lamp", 1)]
    assert parts[0].ap == pytest.approx(0.5) and parts[0].ls == pytest.approx(0.1)
    assert parts[2].ap is None and parts[2].ls is None


@given(st.lists(st.none() | st.floats(0, 1).map(lambda x: round(x, 4)), min_size=1, max_size=20), st.integers(1, 8))
def test_failures_are_the_lowest_scores_of_those_that_are_not_perfect(aps, count) -> None:
    numbers = row("set", len(aps), ap=aps, ls=[None] * len(aps), map=0.5, locscore=None)
    trial = trials.Trial("x", trials.Mean((numbers,)), (), False)
    found = trials.failures(trial, list(range(100, 100 + len(aps))), ["name"] * len(aps), count)
    imperfect = sorted(ap for ap in aps if ap is not None and ap < 1)
    assert [f.ap for f in found] == imperfect[:count]
    assert all(aps[f.query - 100] == f.ap for f in found)
    assert len({f.query for f in found}) == len(found)


def test_failure_says_what_came_first(tmp_path) -> None:
    best = [[7, 1.0, 2.0, 30.5, 40.0], None, None, None]
    (trial,) = made(tmp_path, encoders=[row("set", 4, ap=[0.1, 1, 1, 0.9], best=best, first_hit=[3, 1, 1, None])])
    worst, other = trials.failures(trial, SET["set"]["queries"], NAMES)
    assert (worst.query, worst.name, worst.first_hit) == (3, "rug", 3)
    assert worst.best is not None and worst.best[0] == 7
    np.testing.assert_array_equal(worst.best[1], [1, 2, 30.5, 40])
    assert (other.query, other.first_hit, other.best) == (9, None, None)


def test_paired_difference_is_the_bootstrap_of_the_queries_both_have(tmp_path) -> None:
    rows = [row("set", 4, 1, ap=[0.1, 0.2, None, 0.9], map=0.4), row("set", 4, 2, encoder="b", ap=[0.4, 0.4, 1, 0.8])]
    a, b = made(tmp_path, encoders=rows)
    mean_ap, locscore = trials.paired(a, b)
    differences = np.array([0.3, 0.2, -0.1])
    assert mean_ap.metric == "mAP" and mean_ap.queries == 3
    assert mean_ap.difference == pytest.approx(differences.mean())
    assert (mean_ap.low, mean_ap.high) == pytest.approx(interval(differences))
    assert locscore.queries == 4
    back = trials.paired(b, a)[0]
    assert (back.difference, back.low, back.high) == pytest.approx((-mean_ap.difference, -mean_ap.high, -mean_ap.low))
    assert "no difference" in difference_text(mean_ap)
    assert "same mAP" in difference_text(trials.paired(a, a)[0])


def test_paired_says_better_and_worse_from_the_chosen_ones_side(tmp_path) -> None:
    a, b = made(tmp_path, encoders=[row("set", 4, ap=[0.1] * 4), row("set", 4, encoder="b", ap=[0.5, 0.6, 0.7, 0.6])])
    assert "<b>better</b>" in difference_text(trials.paired(a, b)[0])
    assert "<b>worse</b>" in difference_text(trials.paired(b, a)[0])


def test_paired_needs_one_dataset_and_a_trial_must_be_there(tmp_path, refused) -> None:
    more = {**SET, "other": SET["set"]}
    write(tmp_path, study("encoders", more, [row("set", 4), row("other", 4)]))
    found = trials.trials(read_studies(tmp_path))
    assert "different datasets" in refused(trials.paired, *found)
    for wanted in ("nothing", None, 3, {"a": 1}):
        assert "reload" in refused(trials.find, found, wanted)


def test_table_has_what_the_script_sorts_by_and_escapes_what_files_say(tmp_path) -> None:
    odd = "<script>alert(1)</script>"
    rows = [row("set", 4, encoder=odd), row("set", 4, 1, factory="PQ16", locscore=None, ls=[None] * 4)]
    found = made(tmp_path, encoders=[rows[0]], compression=[rows[1]])
    studies = read_studies(tmp_path)
    html = views.evaluation(found, studies, "set", found[0], str)
    assert odd not in html and "&lt;script&gt;" in html
    assert html.count("<tr data-id=") == 2
    heads = re.findall(r'data-column="(\w+)"', html)
    for body in re.findall(r"<tr data-id=.*?</tr>", html):
        assert len(re.findall(r"<t[hd] [^>]*data-v=", body)) == len(heads)
    assert f'data-v="{rows[0]["map"]:.6f}"' in html
    assert heads[:2] == ["map", "locscore"] and ">Grids up to 4×4</button>" in html
    # The missing files are named with their commands.
    assert "study rerank sample_db" in html and "study regions sample_db" in html


def test_nothing_measured_is_said_and_nothing_breaks(tmp_path) -> None:
    html = views.evaluation((), Studies({}, {"encoders": "It is not here: make it with `a <b> c`."}), "", None, str)
    assert "<code>a &lt;b&gt; c</code>" in html
    assert "<table" not in html
