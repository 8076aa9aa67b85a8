"""web without Gradio and without a browser: shelf, questions, answers, stages and their words."""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.demo import stages
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.indexes import DEFAULT, GalleryIndexes, public_spec
from patchify_core.demo.queries import MAX_WORDS, UserQuery, checked_words
from patchify_core.encoders import EncoderInfo
from patchify_core.errors import EncoderError
from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from patchify_core.retrieval.ranking import Verification
from patchify_core.web import views
from patchify_core.web.views.detail import GAP, MOST_LINES, TALLEST, WIDTH, _into, _layout
from patchify_core.web.visits import file_url
from tests.tiny import DIM, INFO, TinyEncoder, write_dataset

OTHER = replace(INFO, spec="other", licence="MIT")
SPEAKS = replace(INFO, spec="speaks")


class Speaking(TinyEncoder):
    """A tiny encoder that knows words, in its way: it looks at the first letter."""

    def encode_text(self, words: str) -> np.ndarray:
        row = np.zeros(DIM, np.float32)
        row[ord(words[0]) % DIM] = 1
        return row


def made(spec: str, settings: object = None) -> TinyEncoder:
    """Stands in for `load_encoder`."""
    if spec == "gone":
        raise EncoderError("The weights of gone cannot be had: use another encoder.")
    return Speaking(SPEAKS) if spec == "speaks" else TinyEncoder(replace(INFO, spec=spec, licence=_licence(spec)))


def _licence(spec: str) -> str:
    return OTHER.licence if spec == "other" else INFO.licence


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A dataset with a default index and four others."""
    from patchify_core import encoders

    monkeypatch.setattr(encoders, "load_encoder", made)
    gallery = read_coco(write_dataset(tmp_path / "set"))
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions("pyramid:3"))
    for name, info, regions in (
        ("other", OTHER, "pyramid:2+random:5,0"),
        ("speaks", SPEAKS, "pyramid:2"),
        ("gone", replace(INFO, spec="gone"), "pyramid:1"),
        ("windows", INFO, "sliding:0.5,0.5"),
    ):
        build_index(gallery, gallery.root / "indexes" / name, TinyEncoder(info), parse_regions(regions))
    return gallery.root


# Shelf ----------------------------------------------------------------------------------------------------


def test_shelf_offers_the_default_first_and_every_other_index(folder) -> None:
    offers = GalleryIndexes(folder).choices
    assert list(offers) == [DEFAULT, "gone", "other", "speaks", "windows"]
    assert offers["other"].label == "Every patch encoded separately (24-D) · other · random:5,0"
    assert offers[DEFAULT].label == "Paper: every patch encoded separately (24-D)"
    assert len({offer.label for offer in offers.values()}) == 5


def test_indexes_that_would_read_the_same_say_which_they_are(folder) -> None:
    shutil.copytree(folder / "index", folder / "indexes" / "again")
    try:
        offers = GalleryIndexes(folder).choices
    finally:
        shutil.rmtree(folder / "indexes" / "again")
    assert offers[DEFAULT].label == "Paper: every patch encoded separately (24-D) (index)"
    assert offers["again"].label == "Paper: every patch encoded separately (24-D) (again)"


def test_without_other_indexes_there_is_one_offer(tmp_path) -> None:
    gallery = read_coco(write_dataset(tmp_path / "set"))
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions("pyramid:2"))
    assert list(GalleryIndexes(gallery.root).choices) == [DEFAULT]


def test_index_that_does_not_load_or_fit_is_left_out_with_one_line(folder, caplog, tmp_path, monkeypatch) -> None:
    # Libraries that other tests load (OpenVINO's converter, say) set up logging to their own liking.
    monkeypatch.setattr(logging.getLogger("patchify_core.demo.indexes"), "disabled", False)
    monkeypatch.setattr(logging.root.manager, "disable", 0)
    caplog.set_level(logging.WARNING, logger="patchify_core.demo.indexes")
    (folder / "indexes" / "gone" / "index.faiss").write_bytes(b"cut")
    (folder / "indexes" / "empty").mkdir()
    (folder / "indexes" / "notes.txt").write_text("not a folder")
    few = tmp_path / "few"
    write_dataset(few)
    (few / "gallery" / "3.png").write_bytes((few / "gallery" / "4.png").read_bytes())
    build_index(read_coco(few), folder / "indexes" / "stranger", TinyEncoder(), parse_regions("pyramid:1"))
    assert list(GalleryIndexes(folder).choices) == [DEFAULT, "other", "speaks", "windows"]
    assert len(caplog.records) == 3
    for record, name in zip(caplog.records, ("empty", "gone", "stranger"), strict=True):
        assert name in record.getMessage() and "\n" not in record.getMessage()


def test_an_index_called_index_does_not_replace_the_default(folder) -> None:
    (folder / "indexes" / "other").rename(folder / "indexes" / "index")
    offers = GalleryIndexes(folder).choices
    assert offers[DEFAULT].index.encoder.spec == "tiny"
    assert offers["indexes/index"].index.encoder.spec == "other"


@pytest.mark.parametrize("name", ["", "nothing", None, 5, ["index"]])
def test_names_that_are_not_offered_are_refused(folder, refused, name) -> None:
    assert "does not have that method" in refused(GalleryIndexes(folder).engine, name)


def test_encoder_is_loaded_once_and_shared_by_its_indexes(folder, monkeypatch) -> None:
    from patchify_core import encoders

    loaded: list[str] = []

    def slowly(spec: str, settings: object = None) -> TinyEncoder:
        loaded.append(spec)
        time.sleep(0.05)
        return made(spec)

    monkeypatch.setattr(encoders, "load_encoder", slowly)
    ours = GalleryIndexes(folder)
    names = [DEFAULT, "windows", "other"] * 4
    threads = [threading.Thread(target=ours.engine, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(loaded) == ["other", "tiny"]
    assert ours.engine(DEFAULT).encoder is ours.engine("windows").encoder
    assert ours.is_loaded("other") and not ours.is_loaded("speaks")


def test_loading_one_encoder_keeps_nobody_from_another(folder, monkeypatch) -> None:
    from patchify_core import encoders

    go = threading.Event()

    def load(spec: str, settings: object = None) -> TinyEncoder:
        assert spec != "other" or go.wait(60)
        return made(spec)

    monkeypatch.setattr(encoders, "load_encoder", load)
    ours = GalleryIndexes(folder)
    waiting = threading.Thread(target=ours.engine, args=("other",))
    waiting.start()
    ours.engine(DEFAULT)  # would never come back if it waited too
    assert not ours.is_loaded("other")
    go.set()
    waiting.join()
    assert ours.is_loaded("other")


def test_encoder_that_could_not_be_had_is_tried_again(folder, refused, monkeypatch) -> None:
    from patchify_core import encoders

    ours = GalleryIndexes(folder)
    assert "cannot be had" in refused(ours.engine, "gone")
    assert not ours.is_loaded("gone")
    monkeypatch.setattr(encoders, "load_encoder", lambda spec, settings=None: TinyEncoder(replace(INFO, spec=spec)))
    assert ours.engine("gone").encoder.info.spec == "gone"


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("effnet-lite0", "effnet-lite0"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32//home/me/b32.pt", "open_clip:ViT-B-32/b32.pt"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("timm:resnet18@/home/me/r18.pt", "timm:resnet18@r18.pt"),
    ],
)
def test_folders_of_the_server_are_not_shown(spec, shown) -> None:
    assert public_spec(EncoderInfo(spec, 1, 1, "", "", "")) == shown


# Words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["", "  \n ", None, 5, ["a"], "x" * (MAX_WORDS + 1), "k" * 10_000, "\ud800", "a\0b"])
def test_words_that_cannot_be_asked_are_one_sentence(words, refused) -> None:
    refused(checked_words, words)


def test_words_become_one_line() -> None:
    assert checked_words(" a red\n\n kettle ") == "a red kettle"


def test_query_in_words_has_no_picture_and_no_box(folder, refused) -> None:
    ours = ExampleGallery(folder)
    query = ours.in_words("rug", "speaks")
    assert (query.words, query.box, query.path, query.data, query.key) == ("rug", None, None, None, "")
    answer = ours.answer(query, 2, 5)
    assert len(answer.results) == 5 and answer.score is None
    expected = ours.indexes.engine("speaks").search(text="rug", top=5)
    assert [result.match.image_id for result in answer.results] == [match.image_id for match in expected]
    named = ours.answer(ours.with_instance(query, 2), 2, 5)
    assert named.score is not None and 0 <= named.score.ap <= 1 and named.baseline is not None
    assert "query is words" in refused(ours.with_box, query, (0, 0, 5, 5))
    again = ours.from_result(answer.results[0].match.image_id, answer.results[0].match.box, None, "speaks")
    assert again.words is None and again.index_name == "speaks"
    assert ours.answer(again, 2, 5).results[0].match.image_id == again.itself
    assert "pictures only" in refused(ours.in_words, "rug")


def test_words_are_escaped() -> None:
    query = UserQuery("<b>x</b>", 0, 0, None, None, np.zeros(3, np.float32), words='<img src=x onerror="a()">')
    html = views.query(query, file_url)
    assert "<img src=x" not in html and "onerror=&#34;" in html


# Another encoder for the same question --------------------------------------------------------------------


def test_every_kind_of_query_is_described_anew(folder, refused) -> None:
    ours = ExampleGallery(folder)
    data = (folder / "queries" / "2.png").read_bytes()
    boxed = ours.with_box(ours.upload(data), (3, 4, 30, 28))
    result = ours.from_result(2, np.array([0.0, 0, 30, 24]), 1)
    for query in (ours.first(), boxed, result, ours.with_instance(ours.first(), None)):
        other = ours.with_index(query, "other")
        assert other.index_name == "other"
        kept = ("name", "width", "height", "instance", "path", "data", "preview", "example", "itself", "key")
        assert [getattr(other, name) for name in kept] == [getattr(query, name) for name in kept]
        np.testing.assert_array_equal(other.box, query.box)
        expected = ours.indexes.engine("other").describe_query(query.source, query.box)
        np.testing.assert_array_equal(other.descriptor, expected)
        assert other.rankings is not query.rankings
        back = ours.with_index(other, DEFAULT)
        np.testing.assert_array_equal(back.descriptor, query.descriptor)
    words = ours.in_words("quilt", "speaks")
    assert "pictures only" in refused(ours.with_index, words, "other")
    assert "cannot be had" in refused(ours.with_index, boxed, "gone")


def test_answers_come_from_the_index_of_the_question(folder) -> None:
    ours = ExampleGallery(folder)
    query = ours.with_index(ours.first(), "other")
    answer = ours.answer(query, 3, 7)
    assert [stage.spec for stage in answer.stages] == ["pyramid:1", "pyramid:2", "pyramid:2+random:5,0"]
    expected = ours.indexes.engine("other").search_descriptor(query.descriptor, 7, 3)
    assert [r.match.image_id for r in answer.results] == [match.image_id for match in expected]
    windows = ours.answer(ours.with_index(ours.first(), "windows"), 1, 7)
    assert windows.baseline is None and windows.score is not None and windows.ceiling is not None


# Re-ranking -----------------------------------------------------------------------------------------------


class Backwards:
    """A re-ranker that turns the first three round."""

    name, shortlist, needs_picture = "sift", 3, True

    def __init__(self) -> None:
        self.asked: list[tuple[object, object, frozenset[int]]] = []

    def rerank(self, engine, query, matches, level):
        self.asked.append((query.picture.size, query.box, query.exclude))
        return [*matches[:3][::-1], *matches[3:]]


@pytest.fixture
def turned(folder, monkeypatch) -> tuple[ExampleGallery, Backwards]:
    ours, reranker = ExampleGallery(folder), Backwards()
    monkeypatch.setattr(ours.rerankers, "load", lambda name: reranker)
    return ours, reranker


def test_rerankers_that_are_not_installed_are_not_offered(monkeypatch, refused) -> None:
    from patchify_core.demo import reranking

    monkeypatch.setattr(reranking.importlib.util, "find_spec", lambda name: None)
    offered = reranking.Rerankers()
    assert offered.names == ("patch-qe", "sift")
    assert "does not have that way" in refused(offered.load, "xfeat")
    assert offered.load("patch-qe").name == "patch-qe"


def test_slow_rerankers_compare_fewer_pictures(monkeypatch) -> None:
    from patchify_core.demo import reranking
    from patchify_core.retrieval import rerank

    asked: dict[str, int] = {}
    monkeypatch.setattr(rerank, "load_reranker", lambda name, s: asked.setdefault(name, s.verification.shortlist))
    monkeypatch.setattr(reranking.importlib.util, "find_spec", lambda name: True)
    offered = reranking.Rerankers()
    for name in offered.names:
        offered.load(name)
    assert asked["aliked"] < asked["sift"] == rerank.VerificationSettings.shortlist
    assert str(asked["aliked"]) in reranking.NAMES["aliked"]


def test_reranked_answer_has_both_scores_and_is_made_once(turned) -> None:
    ours, reranker = turned
    query = ours.first()
    plain, answer = ours.answer(query, 3, 7), ours.answer(query, 3, 7, "sift")
    order = [result.match.image_id for result in plain.results]
    assert [result.match.image_id for result in answer.results] == [*order[:3][::-1], *order[3:]]
    assert plain.plain is None and answer.plain is not None and answer.plain.ap == plain.score.ap
    size = (query.width, query.height)
    assert reranker.asked == [(size, query.box, frozenset())]
    ours.answer(query, 3, 4, "sift")
    ours.detail(query, order[0], 3, 7, "sift")
    ours.answer(ours.with_instance(query, 2), 3, 7, "sift")
    assert len(reranker.asked) == 1
    ours.answer(ours.with_box(query, (0, 0, 9, 9)), 3, 7, "sift")  # another question
    assert len(reranker.asked) == 2


def test_a_gallery_picture_that_asks_takes_no_part_in_its_own_reranking(turned) -> None:
    ours, reranker = turned
    query = ours.from_result(3, np.array([0.0, 0, 30, 24]), 1)
    ours.answer(query, 3, 7, "sift")
    assert reranker.asked[0][2] == {3}


def test_words_cannot_be_compared_point_by_point(turned, refused) -> None:
    ours, _ = turned
    assert "query is words" in refused(ours.answer, ours.in_words("rug", "speaks"), 2, 5, "sift")


def test_ranking_of_one_question_is_no_others(folder) -> None:
    ours = ExampleGallery(folder)
    first, second = (
        ours.upload((folder / "queries" / "1.png").read_bytes()),
        ours.upload((folder / "queries" / "2.png").read_bytes()),
    )
    ours.answer(first, 3, 7)
    assert second.rankings == {} and first.rankings


# Stages and how they are worded ---------------------------------------------------------------------------


def test_stages_are_named_as_the_paper_does_and_parts_as_they_are() -> None:
    found = parse_regions("pyramid:3+random:4,0").stages
    assert [stages.option(found, n) for n in (1, 2, 3, 4)] == ["Global", "L1 · 2×2", "L2 · 3×3", "+ random:4,0"]
    assert [stages.title(found, n) for n in (1, 2, 3, 4)] == ["whole picture", "2×2 grid", "3×3 grid", "random:4,0"]
    assert stages.summary(found, 1) == "L0, 1 patch"
    assert stages.summary(found, 4) == "random:4,0, 18 patches"
    assert [stages.stage_of(found, patch) for patch in (0, 1, 4, 5, 13, 14, 17)] == [1, 2, 2, 3, 3, 4, 4]
    alone = parse_regions("sliding:0.5,0.5").stages
    assert stages.option(alone, 1) == stages.title(alone, 1) == "sliding:0.5,0.5"


@pytest.mark.parametrize("name", [DEFAULT, "other", "windows"])
def test_detail_shows_every_patch_of_every_stage_once(folder, name) -> None:
    ours = ExampleGallery(folder)
    query = ours.with_index(ours.first(), name)
    level = ours.levels_of(name)
    answer = ours.answer(query, level, 7)
    found = ours.detail(query, answer.results[0].match.image_id, level, 7)
    html = views.detail(found, (60, 48, folder / "gallery" / "0.png"), query, file_url)
    assert html.count('class="pf-cell') - html.count('class="pf-cells') == found.stages[-1].patches
    assert html.count("is-winner") == 1
    shown = int(re.search(r'data-show="(\d+)"', html)[1])
    assert shown == stages.stage_of(found.stages, answer.results[0].match.patch)


# Points ---------------------------------------------------------------------------------------------------

SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, SIDES, SIDES)
def test_two_pictures_keep_their_shapes_and_do_not_meet(query_width, query_height, width, height) -> None:
    left, right, total = _layout(query_width, query_height, width, height)
    for (x, y, wide, tall), (w, h) in ((left, (query_width, query_height)), (right, (width, height))):
        assert wide / tall == pytest.approx(w / h)
        assert x >= -1e-6 and y >= -1e-6 and x + wide <= WIDTH + 1e-6 and y + tall <= total + 1e-6
    assert left[0] + left[2] + GAP <= right[0] + 1e-6
    assert total <= TALLEST + 1e-6


@given(SIDES, SIDES, st.floats(0, 1), st.floats(0, 1))
def test_a_point_of_a_picture_lies_there_in_the_drawing(width, height, right, down) -> None:
    pane, _, _ = _layout(width, height, 640, 480)
    x, y = _into(np.array([[right * width, down * height]]), pane, width, height)[0]
    assert x == pytest.approx(pane[0] + right * pane[2]) and y == pytest.approx(pane[1] + down * pane[3])


@pytest.mark.parametrize("inliers", [0, 1, 7, 500])
def test_points_that_agree_are_counted_in_words_and_drawn(folder, inliers) -> None:
    ours = ExampleGallery(folder)
    query = ours.first()
    match = ours.ranking(query, 3)[0]
    rows = np.random.default_rng(0).uniform(0, 40, (inliers + 3, 2))
    checked = Verification("sift", inliers + 3, inliers, rows, rows, 0.5, match.score)
    plain = ours.detail(query, match.image_id, 3, 7)
    result = replace(plain.result, match=replace(match, verification=checked, score=0.9))
    found = replace(plain, result=result)
    html = views.detail(found, (60, 48, folder / "gallery" / "0.png"), query, file_url)
    assert html.count("<line") == 2 * min(inliers, MOST_LINES)  # each on a dark one, to be seen on any picture
    assert ('data-show="points"' in html) == (inliers > 0)
    said = {0: "none agree", 1: "1 point of", 7: "7 points of", 500: "500 points of"}[inliers]
    assert said in html
    assert ("60 of them are drawn" in html) == (inliers == 500)
