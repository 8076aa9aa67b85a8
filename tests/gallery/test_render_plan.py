"""The plan of the rendered gallery: the same every time, as large as the gallery, made without Blender."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from sample_db.render.config import SETS_FILE, load_set
from sample_db.render.plan import Deck, jobs_of_stages, plan

ROOT = Path(__file__).parents[2]
ANNOTATIONS = ROOT / "sample_db" / "annotations.json"
WITHOUT_BLENDER = "assemble attribution catalogue composition config geometry layout lens plan record".split()


@pytest.fixture
def bundled():
    return load_set("a")


def test_has_the_pictures_of_the_gallery(bundled):
    jobs = plan(bundled)
    kinds = Counter("query" if job.stage == "q" else "scene" if job.hero else "clutter" for job in jobs)
    assert kinds == {"query": 36, "scene": 144, "clutter": 12}
    assert len({job.key for job in jobs}) == len(jobs)


@pytest.mark.skipif(not ANNOTATIONS.exists(), reason="the bundled gallery is not in this checkout")
def test_agrees_with_the_annotations(bundled):
    annotations = json.loads(ANNOTATIONS.read_text(encoding="utf-8"))
    split = Counter(image["split"] for image in annotations["images"])
    jobs = plan(bundled)
    planned = Counter(job.split for job in jobs)
    assert split["query"] == planned["query"]
    assert split["gallery"] == planned["gallery"] + len(bundled.distractor_photos)
    assert {entry["code"]: entry["name"] for entry in annotations["categories"]} == bundled.instances
    queries = {image["file_name"] for image in annotations["images"] if image["split"] == "query"}
    assert queries == {f"queries/{job.hero}.jpg" for job in jobs if job.split == "query"}


def test_is_the_same_every_time_and_another_for_another_seed(bundled):
    assert plan(bundled) == plan(load_set("a"))
    assert plan(bundled) != plan(replace(bundled, seed=bundled.seed + 1))


def test_keeps_the_seeds_that_the_gallery_was_rendered_with(bundled):
    # A draw that is added, dropped or moved changes every later seed, and so the last one.
    jobs = plan(bundled)
    assert [(job.key, job.seed) for job in (jobs[0], jobs[-1])] == [
        ("q-C010", 418232089),
        ("clutter-11", 372848568),
    ]


def test_companies_hold_no_object_twice(bundled):
    for job in plan(bundled):
        company = [job.hero, *job.others, *job.clutter]
        assert len(set(company)) == len(company)
        assert set(job.others) <= set(bundled.instances)
        assert set(job.clutter) <= set(bundled.clutter)


def test_stages_come_in_the_order_asked_for(bundled):
    jobs = jobs_of_stages(plan(bundled), ["c", "q"])
    assert [job.stage for job in jobs] == ["c"] * 12 + ["q"] * 36


def test_a_deck_deals_every_card_before_any_comes_again():
    deck = Deck(random.Random(0), "abcdef")
    assert sorted(deck.deal(3) + deck.deal(3)) == list("abcdef")
    assert not set(deck.deal(4, avoid="ab")) & set("ab")


def test_a_set_that_cannot_be_dealt_is_refused(tmp_path):
    # With so little clutter the plan would look for a seventh piece for ever.
    sets = json.loads(SETS_FILE.read_text(encoding="utf-8"))
    sets["a"]["clutter"] = sets["a"]["clutter"][:6]
    path = tmp_path / "sets.json"
    path.write_text(json.dumps(sets), encoding="utf-8")
    with pytest.raises(ValueError, match="clutter"):
        load_set("a", path)


def test_imports_without_blender():
    # None in sys.modules makes every import of that name fail, here also where Blender is installed.
    imports = "; ".join(f"import sample_db.render.{name}" for name in WITHOUT_BLENDER)
    code = f"import sys; sys.modules['bpy'] = sys.modules['mathutils'] = None; {imports}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
