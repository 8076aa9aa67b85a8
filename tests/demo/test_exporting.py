"""Tables, records and drawings of an answer, without Gradio and without a browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchify_core.demo import exporting, results
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.results import Answer, Result
from patchify_core.demo.storage import StoredPicture
from patchify_core.evaluation.metrics import QueryScore
from patchify_core.regions import Pyramid
from patchify_core.retrieval.ranking import Match
from patchify_core.web import slides

SVG = "{http://www.w3.org/2000/svg}"
BOX, CELL = np.array([10.5, 20, 60, 70.25]), np.array([0, 0, 50, 50.0])
SCORE = QueryScore(0.9, 0.6, 0.66, 2, 2, 1, np.array([1, 2]), np.array([1.0, 1.0]), np.array([0.6, 0.6]))


def a_result(rank: int, name: str = "gallery/a.jpg", verdict: str = results.RIGHT) -> Result:
    match = Match(rank + 100, 0.9 - rank / 100, BOX, 3, name)
    return Result(rank, match, CELL, verdict, 0.61 if verdict == results.RIGHT else None, BOX[None])


def an_answer(results: list[Result], **more: object) -> Answer:
    given: dict[str, object] = {"score": SCORE, "winning": SCORE, "plain": None, "baseline": SCORE, "ceiling": 0.7}
    return Answer(
        tuple(results),
        Pyramid(3).stages,
        3,
        None,
        "map",
        pictures=9,
        found=len(results),
        **(given | more),  # type: ignore[arg-type]
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    Image.new("RGB", (400, 300), (200, 30, 30)).save(tmp_path / "a.png")
    Image.new("RGB", (90, 300), (30, 200, 30)).save(tmp_path / "tall.png")
    return tmp_path


def a_question(files: Path, **more: object) -> UserQuery:
    given: dict[str, object] = {"path": files / "a.png"} | more
    return UserQuery("kettle", 400, 300, BOX, 1, np.zeros(2, np.float32), **given)  # type: ignore[arg-type]


def drawn(files: Path, query: UserQuery, answer: Answer, name: str | None = "kettle") -> ET.Element:
    text = slides.slide(query, answer, name, lambda image_id: (400, 300, files / "a.png"))
    return ET.fromstring(text)


# Tables -----------------------------------------------------------------------------------------------------


def test_table_has_every_result_with_all_digits() -> None:
    text = exporting.as_csv(an_answer([a_result(1), a_result(2, verdict=results.WRONG)]))
    assert text.startswith("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text[1:])))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert [float(rows[0][name]) for name in ("x1", "y1", "x2", "y2")] == BOX.tolist()
    assert [float(rows[0][f"patch_{name}"]) for name in ("x1", "y1", "x2", "y2")] == CELL.tolist()
    assert float(rows[0]["score"]) == 0.9 - 1 / 100
    assert (rows[0]["iou"], rows[1]["iou"]) == ("0.61", "")
    assert (rows[0]["verdict"], rows[1]["verdict"]) == ("right", "wrong")


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(1)", "\t=1", '=HYPERLINK("http://a","b")'])
def test_no_cell_is_a_formula(name: str) -> None:
    text = exporting.as_csv(an_answer([a_result(1, name)]))
    (row,) = csv.DictReader(io.StringIO(text[1:]))
    assert row["file_name"] == f"'{name}"


def test_names_with_commas_quotes_and_lines_stay_one_cell() -> None:
    name = 'a "b", c\nd é 日.jpg'
    (row,) = csv.DictReader(io.StringIO(exporting.as_csv(an_answer([a_result(1, name)]))[1:]))
    assert row["file_name"] == name


def test_record_holds_question_scores_and_results(files) -> None:
    answer = an_answer([a_result(1)], plain=None)
    data = json.loads(exporting.as_json(a_question(files), answer, "kettle", {"name": "pooled"}))
    assert data["question"] == {
        "picture": "kettle",
        "width": 400,
        "height": 300,
        "box": BOX.tolist(),
        "object": "kettle",
    }
    assert data["options"] == {"level": 3, "patches": 14, "boxes": "map", "reranker": None}
    assert data["scores"]["shown"] == {"ap": 0.9, "locscore": 0.6, "positives": 2}
    assert data["scores"]["before_reranking"] is None and data["scores"]["best_locscore"] == 0.7
    assert data["results"][0]["box"] == BOX.tolist() and data["results"][0]["verdict"] == "right"
    assert data["index"] == {"name": "pooled"}


def test_record_of_words_and_of_an_own_picture_holds_no_picture() -> None:
    words = UserQuery("a kettle", 0, 0, None, None, np.zeros(2, np.float32), words="a kettle")
    answer = an_answer([], score=None, winning=None, baseline=None, ceiling=None)
    assert json.loads(exporting.as_json(words, answer, None, {}))["question"] == {"words": "a kettle", "object": None}
    own = UserQuery("your picture", 5, 5, None, None, np.zeros(2, np.float32), data=StoredPicture(b"secret"))
    assert "secret" not in exporting.as_json(own, answer, None, {})


# Drawings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 5, 10, 20, 40])
def test_drawing_keeps_inside_and_holds_everything(files, number) -> None:
    svg = drawn(files, a_question(files), an_answer([a_result(rank) for rank in range(1, number + 1)]))
    assert svg.get("viewBox") == "0 0 1920 1080"
    places = [[float(node.get(name, "0")) for name in ("x", "y", "width", "height")] for node in svg.iter(f"{SVG}rect")]
    assert all(x >= 0 and y >= 0 and x + w <= 1920 and y + h <= 1080 for x, y, w, h in places)
    assert len(list(svg.iter(f"{SVG}image"))) == number + 1
    words = [node.text for node in svg.iter(f"{SVG}text")]
    for rank in range(1, number + 1):
        assert f"{0.9 - rank / 100:.3f}" in words and str(rank) in words
    assert words.count("✓ match, good box") == number and words.count("IoU 0.61") == number
    assert "0.900" in words and "0.600" in words
    for tag in svg.iter():
        assert tag.tag.removeprefix(SVG) in {"svg", "g", "rect", "text", "title", "desc", "image"}  # no script, no link
        assert not any(name.startswith("on") for name in tag.attrib)


@pytest.mark.parametrize("number", [5, 10, 20, 40])
def test_results_fill_the_width_of_the_drawing(files, number) -> None:
    svg = drawn(files, a_question(files), an_answer([a_result(rank) for rank in range(1, number + 1)]))
    cards = [node for node in svg.iter(f"{SVG}rect") if node.get("rx") == "8"]
    rights = [float(node.get("x")) + float(node.get("width")) for node in cards]
    assert len(cards) == number and max(rights) == pytest.approx(1920 - slides.MARGIN, abs=0.2)


def test_boxes_lie_where_they_lie_in_the_picture(files) -> None:
    svg = drawn(files, a_question(files), an_answer([a_result(1)]))
    query, result = svg.iter(f"{SVG}image")
    for image, colour, box in (
        (query, slides.ASK, BOX),
        (result, slides.COLOURS["right"][0], BOX),
        (result, slides.PATCH, CELL),
    ):
        (rect,) = [node for node in svg.iter(f"{SVG}rect") if node.get("stroke") == colour]
        thick = float(rect.get("stroke-width"))
        x, y, w, h = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
        left, top, wide, high = (float(image.get(name)) for name in ("x", "y", "width", "height"))
        outer = np.array([x - thick / 2, y - thick / 2, x + w + thick / 2, y + h + thick / 2])
        expected = np.array([left, top, left, top]) + box * np.tile([wide / 400, high / 300], 2)
        np.testing.assert_allclose(outer, expected, atol=0.15)
    dotted = [node.get("stroke") for node in svg.iter(f"{SVG}rect") if node.get("stroke-dasharray")]
    assert dotted == [slides.PATCH]


def test_pictures_inside_are_jpegs_of_a_bounded_size(files) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    Image.fromarray(noise).save(files / "a.png")
    answer = an_answer([a_result(rank) for rank in range(1, 11)])
    text = slides.slide(a_question(files), answer, None, lambda image_id: (1200, 900, files / "a.png"))
    for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", text):
        with Image.open(io.BytesIO(base64.b64decode(data))) as inside:
            assert inside.format == "JPEG" and max(inside.size) <= 720
    assert len(text) < 6_000_000  # noise is the worst that there is


def test_pictures_of_any_shape_keep_it(files) -> None:
    text = slides.slide(
        a_question(files), an_answer([a_result(1)]), None, lambda image_id: (90, 300, files / "tall.png")
    )
    image = list(ET.fromstring(text).iter(f"{SVG}image"))[1]
    assert float(image.get("width")) / float(image.get("height")) == pytest.approx(0.3, abs=0.001)


def test_words_and_own_pictures_are_drawn_too(files) -> None:
    unknown = an_answer(
        [replace(a_result(1), verdict=results.UNKNOWN, iou=None)], score=None, winning=None, baseline=None
    )
    words = '<script>alert("x")</script> & a very long question \u0007 about 日本 kettles, and more of them'
    asked = UserQuery(words, 0, 0, None, None, np.zeros(2, np.float32), words=words)
    svg = drawn(files, asked, unknown, None)
    text = " ".join(node.text or "" for node in svg.iter(f"{SVG}text"))
    assert "日本" in text and "<script>" in text  # as words that are read, not as markup
    assert not list(svg.iter(f"{SVG}script"))
    assert "not scored" in text and len(list(svg.iter(f"{SVG}image"))) == 1
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (1, 2, 3)).save(stream, "PNG")
    own = UserQuery("your picture", 40, 30, None, None, np.zeros(2, np.float32), data=StoredPicture(stream.getvalue()))
    assert len(list(drawn(files, own, unknown, None).iter(f"{SVG}image"))) == 2


def test_names_of_downloads() -> None:
    assert exporting.file_name("birthday cake") == "patchify-birthday-cake"
    assert exporting.file_name("../../etc/passwd") == "patchify-etc-passwd"
    assert exporting.file_name("日本") == "patchify-results"
    assert len(exporting.file_name("x" * 500)) < 80
