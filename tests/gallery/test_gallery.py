"""Valid datasets and folders are read, and invalid ones are refused with a clear message."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from patchify_core.errors import GalleryError, PatchifyError
from patchify_core.gallery import (
    Annotations,
    Gallery,
    read_coco,
    read_folder,
    read_gallery,
)
from tests.bad_pictures import bomb, encoded, oriented, photograph, text, truncated_jpeg

PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

CUP, HAT, FOX = 7, 8, 9


def image_entry(image_id, name, split="gallery", **more):
    return {"id": image_id, "file_name": name, "width": 100, "height": 50, "split": split, **more}


def annotation(image_id, category_id, bbox=None, **more):
    box = {} if bbox is None else {"bbox": bbox}
    return {"image_id": image_id, "category_id": category_id, **box, **more}


def tiny():
    """Three gallery pictures, two queries, and every kind of annotation."""
    return {
        "info": {"description": "made by the test"},
        "images": [
            image_entry(1, "gallery/a.png"),
            image_entry(2, "gallery/b.png"),
            image_entry(3, "gallery/c.png"),
            image_entry(11, "queries/q.png", "query", exclude=[2]),
            image_entry(12, "gallery/a.png", "query"),  # a picture may be a query as well
        ],
        "annotations": [
            annotation(1, CUP, [10, 5, 20, 30], id=1, iscrowd=0),
            annotation(1, CUP, [50, 5, 10, 10], id=2, visible=0.5),
            annotation(1, HAT, [0, 0, 9, 9], id=3, ignore=1),
            annotation(2, CUP, id=4),  # without a box
            annotation(2, HAT, [1, 2, 3, 4], id=5, ignore=1),
            annotation(2, HAT, [5, 6, 7, 8], id=6, ignore=0),
            annotation(3, CUP, [1, 1, 2, 2], id=7, ignore=True),
            annotation(11, CUP, [0.5, 1, 2, 3], id=8),
            annotation(12, HAT, id=9),
        ],
        "categories": [
            {"id": CUP, "name": "red cup"},
            {"id": HAT, "name": "hat"},
            {"id": FOX, "name": "Hat"},
        ],
    }


def write(folder, data):
    for entry in tiny()["images"]:
        path = folder / entry["file_name"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"read_coco looks whether it is there, not what it is")
    text = data if isinstance(data, str) else json.dumps(data)
    (folder / "annotations.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def gallery(tmp_path):
    return read_coco(write(tmp_path, tiny()))


def refusal(function, *args):
    with pytest.raises(GalleryError) as error:
        function(*args)
    message = str(error.value)
    assert isinstance(error.value, PatchifyError)
    assert "\n" not in message and "Traceback" not in message
    return message


# Valid datasets --------------------------------------------------------------------------------


def test_images_and_queries(gallery, tmp_path):
    assert [(i.id, i.file_name, i.width, i.height) for i in gallery.images] == [
        (1, "gallery/a.png", 100, 50),
        (2, "gallery/b.png", 100, 50),
        (3, "gallery/c.png", 100, 50),
    ]
    assert gallery.images[0].path == tmp_path / "gallery/a.png"
    assert gallery.root == tmp_path and gallery.skipped == ()
    first, second = gallery.queries
    assert (first.id, first.instance, first.exclude, first.width) == (11, CUP, {2}, 100)
    assert first.box.tolist() == [0.5, 1, 2.5, 4] and first.box.dtype == np.float64
    assert (second.id, second.instance, second.exclude, second.box) == (12, HAT, frozenset(), None)
    assert second.path == gallery.images[0].path


def test_annotations_of_gallery_images_are_parallel_arrays(gallery):
    rows = gallery.annotations
    assert len(rows) == 7
    assert rows.image_ids.tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert rows.instances.tolist() == [CUP, CUP, HAT, CUP, HAT, HAT, CUP]
    assert rows.ignore.tolist() == [False, False, True, False, True, False, True]
    assert rows.boxes[:2].tolist() == [[10, 5, 30, 35], [50, 5, 60, 15]]  # xywh became xyxy
    assert np.isnan(rows.boxes[3]).all() and not np.isnan(rows.boxes[4]).any()
    np.testing.assert_array_equal(rows.visible, [np.nan, 0.5, *[np.nan] * 5])
    types = [a.dtype for a in (rows.image_ids, rows.instances, rows.boxes, rows.ignore, rows.visible)]
    assert types == [np.int64, np.int64, np.float64, bool, np.float64]


def test_positives(gallery):
    cups = gallery.positives(CUP)
    assert set(cups) == {1, 2}
    assert cups[1].tolist() == [[10, 5, 30, 35], [50, 5, 60, 15]]  # several boxes in one picture
    assert cups[2] is None  # a positive without a box
    assert set(gallery.positives(CUP, exclude={2, 99})) == {1}
    assert set(gallery.positives(CUP)) == {1, 2}  # exclude changes nothing permanently
    hats = gallery.positives(HAT)
    assert set(hats) == {2}
    assert hats[2].tolist() == [[5, 6, 12, 14]]  # one row is ignored, the other is not: positive
    assert gallery.positives(FOX) == {} and gallery.positives(12345) == {}


def test_ignored(gallery):
    assert gallery.ignored(CUP) == {3}
    assert gallery.ignored(HAT) == {1}
    assert gallery.ignored(FOX) == frozenset()


def test_boxes_of(gallery):
    assert gallery.boxes_of(1, CUP).shape == (2, 4)
    for image_id, instance in [
        (2, CUP),
        (3, CUP),
        (1, FOX),
        (99, 99),
    ]:  # no box, only ignored, not there, unknown
        assert gallery.boxes_of(image_id, instance).shape == (0, 4)


def test_results_cannot_be_modified(gallery):
    with pytest.raises(ValueError, match="read-only"):
        gallery.boxes_of(1, CUP)[0, 0] = 99
    gallery.positives(CUP).clear()
    assert set(gallery.positives(CUP)) == {1, 2}


def test_image_and_name(gallery):
    assert gallery.image(2).file_name == "gallery/b.png"
    assert "no image 11" in refusal(gallery.image, 11)  # a query is not in the gallery
    assert gallery.name(CUP) == "red cup"
    assert "no instance 1" in refusal(gallery.name, 1)


def slow_positives(rows, instance):
    found = {}
    for image, shown, box, ignore in zip(rows.image_ids, rows.instances, rows.boxes, rows.ignore, strict=True):
        if shown == instance and not ignore:
            found.setdefault(int(image), []).extend([] if np.isnan(box[0]) else [box.tolist()])
    return found


ROWS = st.lists(st.tuples(st.integers(-2, 4), st.integers(-2, 3), st.booleans(), st.booleans()), max_size=30)


@PROPERTY
@given(ROWS)
def test_lookups_match_a_plain_loop(drawn):
    boxes = [[k, k, k + 1, k + 1] if boxed else [np.nan] * 4 for k, (_, _, boxed, _) in enumerate(drawn)]
    rows = Annotations(
        np.array([r[0] for r in drawn], np.int64),
        np.array([r[1] for r in drawn], np.int64),
        np.array(boxes, float).reshape(-1, 4),
        np.array([r[3] for r in drawn], bool),
        np.full(len(drawn), np.nan),
    )
    gallery = Gallery(Path("."), (), annotations=rows)
    for instance in range(-2, 4):
        want = slow_positives(rows, instance)
        got = gallery.positives(instance)
        assert {k: [] if v is None else v.tolist() for k, v in got.items()} == want
        touched = {int(i) for i in rows.image_ids[rows.instances == instance]}
        assert gallery.ignored(instance) == touched - want.keys()


def test_a_thousand_queries_of_a_large_gallery_are_quick():
    rng = np.random.default_rng(0)
    n = 100_000
    rows = Annotations(
        np.arange(n), rng.integers(0, 1000, n), rng.random((n, 4)), rng.random(n) < 0.1, np.full(n, np.nan)
    )
    gallery = Gallery(Path("."), (), annotations=rows)
    start = time.thread_time()
    total = sum(len(gallery.positives(i, {i})) + len(gallery.ignored(i)) for i in range(1000))
    assert n - 1000 <= total <= n
    assert time.thread_time() - start < 5  # scanning all rows for each query takes several times as long


def test_optional_fields_may_be_missing(tmp_path):
    """No split means gallery; annotations need no id; a null box is no box; a byte order mark is accepted."""
    data = tiny()
    data["images"] = [{k: v for k, v in image_entry(1, "gallery/a.png").items() if k != "split"}]
    data["annotations"] = [{"image_id": 1, "category_id": CUP, "bbox": None, "visible": None}] * 2
    folder = write(tmp_path, "\ufeff" + json.dumps(data))
    gallery = read_coco(folder / "annotations.json")
    assert len(gallery.images) == 1 and gallery.queries == () and gallery.positives(CUP) == {1: None}


@pytest.mark.parametrize(
    ("bbox", "xyxy"),
    [
        ([0, 0, 100, 50], [0, 0, 100, 50]),  # the whole picture
        ([-0.5, -1, 50, 20], [0, 0, 49.5, 19]),  # rounding errors at the left and top
        ([90, 40, 11, 10.7], [90, 40, 100, 50]),  # rounding errors at the right and bottom
        ([0.1, 0.2, 0.25, 0.5], [0.1, 0.2, 0.35, 0.7]),  # smaller than a pixel
    ],
)
def test_boxes_become_xyxy_inside_the_picture(bbox, xyxy, tmp_path):
    data = tiny()
    data["annotations"][0]["bbox"] = bbox
    gallery = read_coco(write(tmp_path, data))
    np.testing.assert_allclose(gallery.boxes_of(1, CUP)[0], xyxy, rtol=0, atol=1e-12)


# Invalid datasets ----------------------------------------------------------------------------


def drop(*path):
    def change(data):
        *way, last = path
        for step in way:
            data = data[step]
        del data[last]

    return change


def put(value, *path):
    def change(data):
        *way, last = path
        for step in way:
            data = data[step]
        data[last] = value

    return change


def add(key, entry):
    return lambda data: data[key].append(entry)


MALFORMED = {
    "no images": (drop("images"), "'images' is missing"),
    "no annotations": (drop("annotations"), "'annotations' is missing"),
    "no categories": (drop("categories"), "'categories' is missing"),
    "images no list": (put({}, "images"), "'images' is not a list"),
    "image no object": (put(3, "images", 1), "image no. 2 is not an object"),
    "no gallery": (put([], "images"), "it lists no gallery image"),
    "image without id": (drop("images", 0, "id"), "image no. 1 has no 'id'"),
    "image id true": (put(True, "images", 0, "id"), "image True has id True, which is not a whole number"),
    "image id huge": (put(2**63, "images", 0, "id"), "which is not a whole number"),
    "image id list": (put([1], "images", 0, "id"), "image [1] has id [1], which is not a whole number"),
    "image twice": (put(1, "images", 1, "id"), "image 1 is listed twice"),
    "no file name": (drop("images", 0, "file_name"), "image 1 has no 'file_name'"),
    "file name number": (put(5, "images", 0, "file_name"), "image 1 has file_name 5, which is not text"),
    "file name empty": (put("", "images", 0, "file_name"), "image 1 has file_name '', which is not text"),
    "file name surrogate": (put("\ud800", "images", 0, "file_name"), r"'\ud800', which is not text"),
    "file name absolute": (put("/etc/passwd", "images", 0, "file_name"), "'/etc/passwd', which leads out"),
    "file name drive": (put("C:\\a.png", "images", 0, "file_name"), "'C:\\\\a.png', which leads out"),
    "file name up": (
        put("gallery/../../a.png", "images", 0, "file_name"),
        "'gallery/../../a.png', which leads out",
    ),
    "file name up windows": (put("..\\a.png", "images", 0, "file_name"), "'..\\\\a.png', which leads out"),
    "file missing": (
        put("gallery/z.png", "images", 1, "file_name"),
        "image 2 names the file 'gallery/z.png', which is missing",
    ),
    "query file missing": (
        put("queries/z.png", "images", 3, "file_name"),
        "image 11 names the file 'queries/z.png', which is missing",
    ),
    "file a folder": (put("gallery", "images", 1, "file_name"), "'gallery', which is missing"),
    "file nul": (put("a\0.png", "images", 1, "file_name"), r"'a\x00.png', which is missing"),
    "no width": (drop("images", 0, "width"), "image 1 has no 'width'"),
    "width float": (put(100.5, "images", 0, "width"), "image 1 has width 100.5"),
    "width null": (put(None, "images", 0, "width"), "image 1 has width None"),
    "height zero": (
        put(0, "images", 0, "height"),
        "image 1 has height 0, which is not a whole number from 1 up",
    ),
    "split": (put("querry", "images", 0, "split"), "image 1 has split 'querry'"),
    "split list": (put([], "images", 0, "split"), "image 1 has split []"),
    "exclude": (put(2, "images", 3, "exclude"), "image 11 has an 'exclude' that is not a list of image ids: 2"),
    "exclude unknown": (
        put([99], "images", 3, "exclude"),
        "query image 11 excludes image 99, which is not in",
    ),
    "exclude query": (
        put([2, 12], "images", 3, "exclude"),
        "query image 11 excludes image 12, which is not in",
    ),
    "annotation no image": (drop("annotations", 0, "image_id"), "annotation 1 has no 'image_id'"),
    "annotation image": (
        put(99, "annotations", 0, "image_id"),
        "annotation 1 names image 99, which is not listed",
    ),
    "annotation category": (
        put(99, "annotations", 0, "category_id"),
        "annotation 1 names category 99, which is not listed",
    ),
    "annotation no category": (drop("annotations", 0, "category_id"), "annotation 1 has no 'category_id'"),
    "box text": (
        put("10,5,20,30", "annotations", 0, "bbox"),
        "annotation 1 has a bbox that is not four numbers",
    ),
    "box of three": (put([1, 2, 3], "annotations", 0, "bbox"), "is not four numbers [x, y, w, h]: [1, 2, 3]"),
    "box nan": (put([1, 2, float("nan"), 4], "annotations", 0, "bbox"), "is not four numbers"),
    "box infinite": (put([1, 2, float("inf"), 4], "annotations", 0, "bbox"), "is not four numbers"),
    "box true": (put([1, 2, True, 4], "annotations", 0, "bbox"), "is not four numbers"),
    "box huge": (put([1, 2, 10**400, 4], "annotations", 0, "bbox"), "is not four numbers"),
    "visible": (
        put(1.5, "annotations", 1, "visible"),
        "annotation 2 has visible 1.5, which is not between 0 and 1",
    ),
    "visible text": (put("half", "annotations", 1, "visible"), "annotation 2 has visible 'half'"),
    "ignore": (put("yes", "annotations", 1, "ignore"), "annotation 2 has ignore 'yes'"),
    "query without": (drop("annotations", 7), "query image 11 has 0 annotations instead of one"),
    "query with two": (
        add("annotations", annotation(11, HAT)),
        "query image 11 has 2 annotations instead of one",
    ),
    "category twice": (put(CUP, "categories", 1, "id"), "category 7 is listed twice"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_dataset(case, tmp_path):
    change, part = MALFORMED[case]
    data = tiny()
    change(data)
    message = refusal(read_coco, write(tmp_path, data))
    assert part in message
    assert "annotations.json' cannot be used: " in message and message.endswith("; correct that first.")


def test_one_bad_image_is_one_problem(tmp_path):
    """Its annotations, and the query that excludes it, are not blamed as well."""
    data = tiny()
    data["images"][1]["width"] = None
    message = refusal(read_coco, write(tmp_path, data))
    assert message.count("; ") == 1 and "more problem" not in message


def test_many_problems_are_named_and_counted(tmp_path):
    data = tiny()
    data["images"] += [image_entry(100 + k, f"gallery/none{k}.png") for k in range(9)]
    folder = write(tmp_path, data)
    message = refusal(read_coco, folder)
    assert all(f"image 10{k} names the file 'gallery/none{k}.png', which is missing" in message for k in range(3))
    assert "none3" not in message and "; and 6 more problems; " in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('{"images": [', "is not valid JSON (line 1: "),
        ("", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1, 2]", "contains no dataset"),
        ("null", "contains no dataset"),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", "is not valid JSON"),  # more digits than Python reads
    ],
)
def test_broken_json(content, part, tmp_path):
    assert part in refusal(read_coco, write(tmp_path, content))


def test_json_that_is_not_utf8(tmp_path):
    (tmp_path / "annotations.json").write_bytes(b'{"images": "\xff\xfe"}')
    assert "is not valid JSON" in refusal(read_coco, tmp_path)


def test_no_json(tmp_path):
    assert "There is no file" in refusal(read_coco, tmp_path)
    assert "There is no file" in refusal(read_coco, tmp_path / "other.json")
    (tmp_path / "annotations.json").mkdir()
    assert "annotations.json' is a folder, not a JSON file" in refusal(read_coco, tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "bbox", "x"]), inner),
    max_leaves=8,
)


@PROPERTY
@given(st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 2), st.data())
def test_any_value_anywhere_is_read_or_refused(tmp_path_factory, key, position, data):
    folder = tmp_path_factory.mktemp("any")
    dataset = tiny()
    entry = dataset[key][position]
    if data.draw(st.booleans()):
        entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(JSON)
    else:
        dataset[key][position] = data.draw(JSON)
    try:
        gallery = read_coco(write(folder, dataset))
    except GalleryError as error:
        assert "cannot be used" in str(error)
    else:
        assert gallery.images


# A plain folder -------------------------------------------------------------------------------------------


def make(folder, *names, size=(4, 3)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photograph(size), "PNG"))


def test_folder_lists_pictures_in_order(tmp_path):
    make(tmp_path, "b.png", "B.PNG", "a/z.Jpeg", "a/deep/er/x.webp", "a.gif", "é.tif")
    make(tmp_path, ".hidden.png", ".git/c.png", "a/.cache/d.png")
    (tmp_path / "notes.txt").write_text("no picture")
    gallery = read_folder(tmp_path)
    names = [image.file_name for image in gallery.images]
    assert names == ["B.PNG", "a.gif", "a/deep/er/x.webp", "a/z.Jpeg", "b.png", "é.tif"]
    assert [image.id for image in gallery.images] == [1, 2, 3, 4, 5, 6]
    assert all((i.width, i.height) == (4, 3) and i.path == tmp_path / i.file_name for i in gallery.images)
    assert gallery.queries == () and gallery.instances == {} and len(gallery.annotations) == 0
    assert gallery.skipped == () and gallery.positives(1) == {} and gallery.ignored(1) == frozenset()


def test_content_decides_what_is_a_picture(tmp_path):
    """Whatever its name. Unreadable pictures are named, other files are counted."""
    odd = ["a.jfif", "b.jpe", "c.MPO", "d.pjpeg", "e", "f.txt", "g.png.bak", "h.dat"]
    make(tmp_path, *odd)
    (tmp_path / "letter.txt").write_text("dear")
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(99))
    (tmp_path / "more.txt").write_bytes(b"")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    (tmp_path / "raw.NEF").write_bytes(encoded(photograph(), "TIFF"))
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500))
    (tmp_path / "photoshop").write_bytes(b"8BPS\0\1" + bytes(99))
    gallery = read_folder(tmp_path)
    assert [image.file_name for image in gallery.images] == sorted(odd)
    assert [name for name, _ in gallery.skipped] == ["IMG_1.HEIC", "drawing.svg", "photoshop", "raw.NEF"]
    assert all(why.endswith(".") and len(why) > 20 for _, why in gallery.skipped)
    assert gallery.notes == ("3 files are not pictures and were left out (2 .txt, 1 .mp4).",)


def test_side_files_are_skipped_and_counted(tmp_path):
    """Thumbnails, deleted files and snapshots of a NAS are not photos of the folder."""
    make(tmp_path, "IMG_1.JPG", "sub/IMG_2.JPG")
    for folder in ("@eaDir/IMG_1.JPG", "sub/@eaDir/IMG_2.JPG", "#recycle", "$RECYCLE.BIN/S-1-5", "sub/.@__thumb"):
        make(tmp_path, f"{folder}/a.jpg")
    make(tmp_path, "__MACOSX/._IMG_1.JPG", ".thumbnails/a.png", "._IMG_1.JPG", ".hidden/a.png")
    (tmp_path / "Thumbs.db").write_bytes(encoded(photograph(), "PNG"))  # whatever its content
    (tmp_path / "IMG_1.xmp").write_text("<x/>")
    gallery = read_folder(tmp_path)
    assert [image.file_name for image in gallery.images] == ["IMG_1.JPG", "sub/IMG_2.JPG"]
    assert gallery.skipped == () and len(gallery.notes) == 1
    assert "2 @eaDir" in gallery.notes[0] and "1 #recycle" in gallery.notes[0] and "hidden" not in gallery.notes[0]


def test_pages_after_the_first_are_noted_once(tmp_path):
    make(tmp_path, "one.png")
    photograph().save(tmp_path / "scan.tif", save_all=True, append_images=[photograph(), photograph()])
    assert read_folder(tmp_path).notes == ("Only the first page or frame of scan.tif is used.",)
    photograph().save(tmp_path / "film.gif", save_all=True, append_images=[photograph().rotate(90)])
    (note,) = read_folder(tmp_path).notes
    assert note == "Only the first page or frame of each of 2 pictures, film.gif among them, is used."


def test_patterns_to_exclude(tmp_path):
    make(tmp_path, "a.png", "b.gif", "drafts/c.png", "x/drafts/d.png", "x/e.png", "x/keep.gif")
    names = {
        (): ["a.png", "b.gif", "drafts/c.png", "x/drafts/d.png", "x/e.png", "x/keep.gif"],
        ("*.gif",): ["a.png", "drafts/c.png", "x/drafts/d.png", "x/e.png"],
        ("*.gif", "!keep.gif"): ["a.png", "drafts/c.png", "x/drafts/d.png", "x/e.png", "x/keep.gif"],
        ("drafts/",): ["a.png", "b.gif", "x/e.png", "x/keep.gif"],
        ("/drafts",): ["a.png", "b.gif", "x/drafts/d.png", "x/e.png", "x/keep.gif"],
        ("x/**", "# not a pattern", ""): ["a.png", "b.gif", "drafts/c.png"],
    }
    for patterns, left in names.items():
        gallery = read_folder(tmp_path, patterns)
        assert [image.file_name for image in gallery.images] == left
        assert any("--exclude" in note for note in gallery.notes) == (len(left) < 6)
    assert "There is no picture to search in" in refusal(read_folder, tmp_path, ["*"])


def test_folder_gives_upright_sizes(tmp_path):
    oriented(tmp_path, 6)
    assert [(i.width, i.height) for i in read_folder(tmp_path).images] == [(3, 5)]


def test_folder_skips_what_it_cannot_read_and_says_so(tmp_path):
    make(tmp_path, "good.png", "zoo.png")
    text(tmp_path)
    bomb(tmp_path)
    truncated_jpeg(tmp_path)  # its header, which is all that is read here, is intact
    (tmp_path / "sub.png").mkdir()  # a folder may have any name
    gallery = read_folder(tmp_path)
    assert [(i.id, i.file_name) for i in gallery.images] == [(1, "good.png"), (2, "half.jpg"), (3, "zoo.png")]
    assert [name for name, _ in gallery.skipped] == ["bomb.png", "text.jpg"]
    assert "too large" in gallery.skipped[0][1] and "not a picture" in gallery.skipped[1][1]


def test_folder_refusals(tmp_path):
    assert "is empty" in refusal(read_gallery, "")
    assert "There is no folder" in refusal(read_folder, tmp_path / "missing")
    make(tmp_path, "one.png")
    assert "is a file, not a folder" in refusal(read_folder, tmp_path / "one.png")
    assert "cannot be read" in refusal(read_folder, "nul\0")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "There is no picture to search in" in refusal(read_folder, empty)
    make(empty, ".photos/a.png")
    assert "hidden and system files and folders are not read, first: .photos" in refusal(read_folder, empty)
    text(empty)
    message = refusal(read_folder, str(empty))
    assert "1 could not be read, first: 'text.jpg' is text, not a picture" in message and ".)" not in message


def test_folder_does_not_follow_links_out_or_in_circles(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    make(inside, "a.png", "sub/b.png")
    make(outside, "secret.png")
    (inside / "link.png").symlink_to(outside / "secret.png")
    (inside / "gone.png").symlink_to(inside / "nowhere.png")
    (inside / "self.png").symlink_to(inside / "self.png")
    (inside / "same.png").symlink_to(inside / "a.png")  # inside the folder: a picture like any other
    (inside / "sub" / "round").symlink_to(inside)
    (inside / "away").symlink_to(outside)
    gallery = read_folder(inside)
    assert [i.file_name for i in gallery.images] == ["a.png", "same.png", "sub/b.png"]
    why = dict(gallery.skipped)
    assert set(why) == {"link.png", "gone.png", "self.png", "sub/round", "away"}
    assert "leads out of the folder" in why["link.png"] and "linked folder" in why["sub/round"]
    (tmp_path / "alias").symlink_to(inside)
    assert len(read_folder(tmp_path / "alias").images) == 3  # the folder itself may be a link


def test_folder_skips_names_that_are_not_unicode(tmp_path):
    make(tmp_path, "a.png", "narrow\u202fspace.png")  # like screenshots of macOS
    try:
        (tmp_path / os.fsdecode(b"bad\xff.png")).write_bytes(encoded(photograph(), "PNG"))
    except OSError:
        pytest.skip("this file system takes no names but valid ones")
    gallery = read_folder(tmp_path)
    assert [i.file_name for i in gallery.images] == ["a.png", "narrow\u202fspace.png"]
    assert "not valid Unicode" in gallery.skipped[0][1]
    "".join(gallery.skipped[0]).encode()


def test_folder_without_permission(tmp_path):
    make(tmp_path, "a.png", "locked/b.png")
    (tmp_path / "locked").chmod(0)
    try:
        if os.access(tmp_path / "locked", os.R_OK):
            pytest.skip("this user may read every folder (root)")
        gallery = read_folder(tmp_path)
        assert len(gallery.images) == 1 and gallery.skipped[0][0] == "locked"
        assert "may not be read" in gallery.skipped[0][1]
        assert "cannot be read" in refusal(read_folder, tmp_path / "locked")
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_folder_decodes_nothing(tmp_path, monkeypatch):
    make(tmp_path, *[f"{k:03}.png" for k in range(200)])

    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", decode)
    assert len(read_folder(tmp_path).images) == 200


# read_gallery ---------------------------------------------------------------------------------------------------


def test_read_gallery_chooses(tmp_path):
    dataset = write(tmp_path, tiny())
    assert len(read_gallery(dataset).queries) == len(read_gallery(str(dataset / "annotations.json")).queries) == 2
    plain = tmp_path / "plain"
    make(plain, "a.png")
    assert len(read_gallery(plain).images) == 1
    assert "There is no folder" in refusal(read_gallery, tmp_path / "missing")
    assert "There is no file" in refusal(read_gallery, tmp_path / "missing.json")
    assert "is a file, not a folder" in refusal(read_gallery, plain / "a.png")
    make(tmp_path / "named.json", "b.png")
    assert len(read_gallery(tmp_path / "named.json").images) == 1  # a folder may have any name
    assert "cannot be read" in refusal(read_gallery, "nul\0")
