"""Datasets that are wrong, or not whole, or have no queries: what `index` and `evaluate` say of them."""

from __future__ import annotations

import json

import pytest

from tests.cli import REFUSED

pytestmark = pytest.mark.usefixtures("tiny_everywhere")


def test_evaluate_a_plain_folder(refusal, photos):
    assert "no annotations.json" in refusal("evaluate", photos)


def _edited(dataset, change):
    path = dataset / "annotations.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


BAD_DATASETS = {
    "no JSON": (lambda d: (d / "annotations.json").write_text("{"), "not valid JSON"),
    "a missing file": (lambda d: (d / "gallery" / "3.png").unlink(), "missing"),
    "no picture": (lambda d: _edited(d, lambda a: a.update(images=[], annotations=[])), "no gallery image"),
}


@pytest.mark.parametrize("command", ["index", "evaluate"])
@pytest.mark.parametrize("name", BAD_DATASETS)
def test_a_dataset_that_is_wrong(refusal, dataset, tmp_path, command, name):
    spoil, said = BAD_DATASETS[name]
    spoil(dataset)
    out = ["--out", tmp_path / "idx"] if command == "index" else []
    assert said in refusal(command, dataset, *out)


NOTED_BOXES = {
    "over the edge": ([50, 40, 30, 30], "1 box cut off at the edge of the picture, first: annotation"),
    "of no area": ([5, 5, 0, 3], "1 annotation without a box of any area inside the picture left out"),
    "inverted": ([9, 9, -5, -3], "1 annotation without a box of any area inside the picture left out"),
    "elsewhere": ([100, 100, 5, 5], "1 annotation without a box of any area inside the picture left out"),
}


@pytest.mark.parametrize("command", ["index", "evaluate"])
@pytest.mark.parametrize("name", NOTED_BOXES)
def test_boxes_that_are_none_are_counted(run, dataset, tmp_path, command, name):
    bbox, note = NOTED_BOXES[name]
    _edited(dataset, lambda a: a["annotations"][0].update(bbox=bbox))
    out = ["--out", tmp_path / "idx"] if command == "index" else []
    code, _, said = run(command, dataset, *out)
    assert code == 0 and said.count("note: ") == 1 and f"note: {note}" in said


def test_queries_from_boxes(run, refusal, dataset, tmp_path):
    """Without a query, evaluate says which field marks one, before anything is embedded; boxes can be queries."""
    _edited(dataset, lambda a: [image.pop("split", None) for image in a["images"]])
    index = tmp_path / "idx"
    said = refusal("evaluate", dataset, "--index", index)
    assert '"split": "query"' in said and "--queries-from boxes" in said and not index.exists()
    code, printed, _ = run("evaluate", dataset, "--queries-from", "boxes", "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    boxes = [a for a in json.loads((dataset / "annotations.json").read_text())["annotations"] if a.get("bbox")]
    assert code == 0 and "queries" in printed
    assert scores["queries"] + len(scores["left_out"]) == len(boxes)
    cut = (dataset / "gallery" / "3.png").read_bytes()
    (dataset / "gallery" / "3.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    said = refusal("evaluate", dataset, "--queries-from", "boxes", "--index", index)
    assert "gallery/3.png" in said and "git lfs pull" in said and not index.exists()
    (dataset / "gallery" / "3.png").write_bytes(cut)
    _edited(dataset, lambda a: [annotation.pop("bbox", None) for annotation in a["annotations"]])
    code, _, said = run("evaluate", dataset, "--queries-from", "boxes")
    assert code == REFUSED and "note: Annotations not used as queries: 8 without a box." in said
    assert "error: No annotation of" in said


def test_copies_of_a_query_are_noted(run, dataset):
    """The same file under another name is found first, and no exclusion knows of it."""
    copied = (dataset / "gallery" / "0.png").read_bytes()
    (dataset / "gallery" / "1.png").write_bytes(copied)
    note = "own picture, the same file under another name that is not excluded, first: "
    assert note not in run("evaluate", dataset)[2]
    code, _, said = run("evaluate", dataset, "--queries-from", "boxes")
    assert code == 0 and f"note: 2 queries find copies of their {note}gallery/0.png is gallery/1.png." in said
    (dataset / "queries" / "1.png").write_bytes((dataset / "gallery" / "2.png").read_bytes())
    _edited(dataset, lambda a: a["images"][7].update(width=60, height=48))
    code, _, said = run("evaluate", dataset)
    assert code == 0 and f"note: 1 query finds a copy of its {note}queries/1.png is gallery/2.png." in said
    _edited(dataset, lambda a: a["images"][7].update(exclude=[3]))
    assert note not in run("evaluate", dataset)[2]


def test_queries_without_a_positive_are_refused_first(refusal, dataset, tmp_path):
    def change(data):
        data["annotations"] = []
        for number, image in enumerate(data["images"]):
            if image.get("split") == "query":
                data["annotations"].append(
                    {"id": number, "image_id": image["id"], "category_id": data["categories"][0]["id"]}
                )

    _edited(dataset, change)
    assert "No query of" in refusal("evaluate", dataset, "--index", tmp_path / "idx")
    assert not (tmp_path / "idx").exists()


@pytest.mark.parametrize("command", ["index", "evaluate"])
def test_a_dataset_with_another_size_than_its_picture(run, dataset, tmp_path, command):
    _edited(dataset, lambda a: a["images"][2].update(width=61))
    out = ["--out", tmp_path / "idx"] if command == "index" else []
    code, printed, said = run(command, dataset, *out)
    assert code == REFUSED and printed == "" and "error: gallery/2.png is 60x48 pixels" in said


def test_evaluate_does_not_score_fewer_pictures(run, dataset):
    data = (dataset / "gallery" / "3.png").read_bytes()
    (dataset / "gallery" / "3.png").write_bytes(data[: len(data) // 2])
    code, printed, said = run("evaluate", dataset)
    assert code == REFUSED and printed == ""
    assert "error: 1 picture of" in said and "gallery/3.png" in said
