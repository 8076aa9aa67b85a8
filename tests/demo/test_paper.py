"""demo.paper, gallery_info and animation: the paper's method on the examples, number for number as in the library."""

from __future__ import annotations

import io
import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from patchify_core.demo.animation import GRID_MS, WINNER_MS, animate
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.gallery_info import FILE, stored_answers
from patchify_core.demo.paper import Paper
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.run import evaluate
from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import parse_regions
from tests.page_server import write_gallery
from tests.tiny import TinyEncoder


@pytest.fixture(scope="module")
def gallery(sample_db, lite0) -> ExampleGallery:
    return ExampleGallery(sample_db, lite0)


@pytest.fixture(scope="module")
def document(gallery):
    done: list[tuple[int, int]] = []
    made = json.loads(json.dumps(Paper(gallery).document(lambda *at: done.append(at)), allow_nan=False))
    assert done == [(n, len(gallery.examples)) for n in range(1, len(gallery.examples) + 1)]
    return made


def test_what_lies_beside_the_gallery_is_what_is_computed(document, sample_db):
    """Counts exactly; scores to the last digit that another machine's rounding of the network may change."""
    shipped = stored_answers(sample_db)
    assert shipped is not None, "make it again: patchify showcase OUT --prepare"

    def same(ours, theirs, at=""):
        if isinstance(ours, dict):
            assert ours.keys() == theirs.keys(), at
            for key in ours:
                same(ours[key], theirs[key], f"{at}.{key}")
        elif isinstance(ours, list):
            assert len(ours) == len(theirs), at
            for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                same(one, other, f"{at}[{number}]")
        elif isinstance(ours, float):
            assert ours == pytest.approx(theirs, abs=2e-3), at
        else:
            assert ours == theirs, at

    same(document, shipped)


def test_scores_are_those_of_an_evaluation(document, gallery, sample_db, lite0):
    reports = evaluate(gallery.gallery, Patchify.open(sample_db / "index", lite0))
    for at, report in enumerate(reports):
        assert document["overall"][at]["map"] == pytest.approx(report.report.map, abs=6e-5)
        assert document["overall"][at]["locscore"] == pytest.approx(report.report.locscore, abs=6e-5)
        for part, size in zip(report.breakdown["size"], document["sizes"], strict=True):
            assert (part.name, part.positives, part.report.queries) == (
                size["name"],
                size["positives"],
                size["queries"],
            )
            assert size["levels"][at]["map"] == pytest.approx(part.report.map, abs=6e-5)
        for entry in document["examples"]:
            found = report.outcomes[entry["id"]].positives
            rows = {row["picture"]: row["ranks"][at] for row in entry["positives"]}
            assert {int(i): int(r) for i, r in zip(found.image_ids, found.ranks, strict=True)} == rows


def test_ap_and_locscore_follow_from_the_ranks_that_are_given(document):
    """A reader of the file can compute every number of it again, by the formulas alone."""
    limits = [0.0, *document["limits"], np.inf]
    for entry in document["examples"]:
        for at, level in enumerate(entry["levels"]):
            rows = sorted((row["ranks"][at], row["ious"][at], row["share"]) for row in entry["positives"])
            terms = [(n / rank, n / rank * overlap) for n, (rank, overlap, _) in enumerate(rows, 1)]
            assert level["ap"] == pytest.approx(sum(term[0] for term in terms) / len(rows), abs=1e-4)
            assert level["locscore"] == pytest.approx(sum(term[1] for term in terms) / len(rows), abs=1e-3)
            assert level["ceiling"] >= level["locscore"] - 1e-4
            for band, (low, high) in zip(entry["bands"], pairwise(limits), strict=True):
                inside = [low <= share < high for _, _, share in rows]
                if not any(inside):
                    assert band is None
                    continue
                ranks = [rank - sum(not x for x in inside[:n]) for n, (rank, _, _) in enumerate(rows) if inside[n]]
                assert band["levels"][at]["ap"] == pytest.approx(
                    np.mean([n / r for n, r in enumerate(ranks, 1)]), abs=1e-4
                )


def test_a_picture_scores_its_best_patch_at_every_level(document):
    for entry in document["examples"]:
        for level, shown in zip(document["levels"], entry["levels"], strict=True):
            scores = [result["score"] for result in shown["results"]]
            assert scores == sorted(scores, reverse=True) and len(scores) == 10
            matches = sum(result["verdict"] in ("right", "off") for result in shown["results"])
            assert shown["found"] == matches
            for result in shown["results"]:
                patches = entry["patches"][str(result["picture"])][: level["patches"]]
                assert result["score"] == pytest.approx(max(patches), abs=2e-4)
                assert patches[result["patch"]] == pytest.approx(max(patches), abs=2e-4)
                assert (result["iou"] is not None and result["iou"] >= 0.5) == (result["verdict"] == "right")
                assert str(result["picture"]) in document["pictures"]


def test_it_opens_where_patches_help(document):
    first = next(entry for entry in document["examples"] if entry["id"] == document["first"])
    assert first["levels"][-1]["ap"] - first["levels"][0]["ap"] > 0.5


def test_answers_of_another_gallery_or_index_are_not_taken(sample_db, tmp_path):
    for name in ("annotations.json", FILE, "index/meta.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(sample_db / name, tmp_path / name)
    whole = json.loads((tmp_path / FILE).read_text())
    assert stored_answers(tmp_path) == whole
    for changed in ({"made_of": "0"}, {"index": "../elsewhere"}, {"index": "nowhere"}, {"index": 3}):
        (tmp_path / FILE).write_text(json.dumps(whole | changed))
        assert stored_answers(tmp_path) is None
    for damaged in ("", "[]", "{", "null"):
        (tmp_path / FILE).write_text(damaged)
        assert stored_answers(tmp_path) is None
    (tmp_path / FILE).write_text(json.dumps(whole))
    (tmp_path / "annotations.json").write_text((sample_db / "annotations.json").read_text() + " ")
    assert stored_answers(tmp_path) is None
    (tmp_path / FILE).unlink()
    assert stored_answers(tmp_path) is None


def test_a_gallery_without_an_index_as_in_the_paper_says_so(gallery, monkeypatch):
    choices = {name: choice for name, choice in gallery.indexes.choices.items() if name == "pooled"}
    monkeypatch.setattr(gallery.indexes, "choices", choices)
    with pytest.raises(PatchifyError, match="pass per patch: build one"):
        Paper(gallery)


def test_another_box_is_answered_as_an_example_is(document, gallery, refused):
    """With its own box it is the entry of the document; around something else the object is unknown."""
    paper = Paper(gallery)
    for entry in document["examples"][:3]:
        made = paper.answer(entry["id"], entry["box"])
        for level, shown in zip(made["entry"]["levels"], entry["levels"], strict=True):
            assert (level["ap"], level["locscore"]) == (shown["ap"], shown["locscore"])
            assert [one["picture"] for one in level["results"]] == [one["picture"] for one in shown["results"]]
        assert made["entry"]["known"] and made["entry"]["id"] == entry["id"]
        named = {row["picture"] for level in made["entry"]["levels"] for row in level["results"]}
        assert named <= {int(picture) for picture in made["pictures"]}
    whole = paper.answer(entry["id"], None)["entry"]
    assert whole["box"] is None and whole["known"]
    x1, y1, _, _ = entry["box"]
    unknown = paper.answer(entry["id"], [0, 0, max(x1 - 1, 4), max(y1 - 1, 4)])["entry"]
    assert not unknown["known"] and unknown["positives"] == unknown["bands"] == []
    assert unknown["levels"][0]["ap"] is None
    assert {result["verdict"] for result in unknown["levels"][0]["results"]} == {"unknown"}
    assert "example" in refused(paper.answer, 1, entry["box"])
    assert refused(paper.answer, entry["id"], [9, 9, 2, 2])


def test_an_example_of_an_object_in_no_picture_has_no_scores_and_the_others_have(tmp_path):
    folder = write_gallery(tmp_path / "set")
    data = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    gone = {image["id"] for image in data["images"] if image["split"] == "gallery"}
    data["annotations"] = [one for one in data["annotations"] if one["category_id"] != 1 or one["image_id"] not in gone]
    (folder / "annotations.json").write_text(json.dumps(data), encoding="utf-8")
    build_index(read_coco(folder), folder / "index", TinyEncoder(), parse_regions("pyramid:2"))
    made = Paper(ExampleGallery(folder, TinyEncoder())).document()
    scores = {one["name"]: one["levels"][-1]["ap"] for one in made["examples"]}
    assert scores["rug"] is None and scores["quilt"] > 0 and made["overall"][0]["queries"] == 1


def test_the_film_shows_each_grid_and_then_the_winner(document, sample_db):
    entry = document["examples"][0]
    for picture in list(entry["patches"])[:2]:
        shown = Image.open(io.BytesIO(animate(document, sample_db, entry["id"], int(picture))))
        assert shown.format == "WEBP" and shown.n_frames == len(document["levels"]) + 1
        times = []
        for number in range(shown.n_frames):
            shown.seek(number)
            shown.load()
            times.append(shown.info["duration"])
        assert times == [GRID_MS] * len(document["levels"]) + [WINNER_MS]
    for query, picture in ((10**6, 1), (entry["id"], 10**6)):
        with pytest.raises(KeyError):
            animate(document, sample_db, query, picture)


def test_pictures_that_the_page_does_not_show_are_refused(gallery, refused):
    paper = Paper(gallery)
    assert paper._file(gallery.folder / "gallery" / "deep" / "1.jpg") == "gallery/deep/1.jpg"
    for path in (gallery.folder / "images" / "1.jpg", gallery.folder.parent / "gallery" / "1.jpg"):
        assert "neither in gallery nor in queries" in refused(paper._file, path)
