"""COCO exports of annotation tools: each is read like a clean dataset, or refused with a clear message."""

from __future__ import annotations

import gzip
import json
import unicodedata
import zipfile
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from patchify_core.errors import GalleryError
from patchify_core.gallery import check_pictures, detect_layout, read_coco, read_dataset, read_gallery
from tests.bad_pictures import encoded, oriented, photograph
from tests.gallery.test_gallery import put, refusal

mask = pytest.importorskip("pycocotools.mask")

SIZE = (40, 30)
CUP, HAT = 3, 90


def pictures(folder, *names, size=SIZE):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photograph(size), "PNG"))


def clean():
    """Three gallery pictures, one query, integer boxes: what every deviation below must be read as."""
    width, height = SIZE
    names = ["Föhn/Bild 1.png", "Föhn/Bild 2.png", "Föhn/Bild 3.png"]
    images = [{"id": i, "file_name": name, "width": width, "height": height} for i, name in enumerate(names)]
    images.append(
        {"id": 9, "file_name": "Föhn/Frage.png", "width": width, "height": height, "split": "query", "exclude": [2]}
    )
    return {
        "images": images,
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": CUP, "bbox": [2, 3, 10, 8]},
            {"id": 2, "image_id": 0, "category_id": HAT, "bbox": [20, 10, 20, 20]},
            {"id": 3, "image_id": 1, "category_id": CUP, "bbox": [5, 5, 12, 20], "ignore": 1},
            {"id": 4, "image_id": 1, "category_id": HAT, "bbox": [0, 0, 40, 30]},
            {"id": 5, "image_id": 2, "category_id": CUP, "bbox": [1, 1, 4, 4], "ignore": 1},
            {"id": 6, "image_id": 2, "category_id": CUP, "bbox": [9, 9, 4, 4]},
            {"id": 7, "image_id": 9, "category_id": CUP, "bbox": [4, 4, 16, 16]},
        ],
        "categories": [{"id": CUP, "name": "cup"}, {"id": HAT, "name": "hat"}],
    }


def write(folder, data, name="annotations.json", encode=lambda text: text.encode()):
    pictures(folder, *(entry["file_name"] for entry in clean()["images"]))
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(json.dumps(data, ensure_ascii=False)))
    return folder


def meaning(gallery):
    """Everything that a score depends on."""
    by_instance = {
        instance: (
            {i: None if b is None else sorted(b.tolist()) for i, b in gallery.positives(instance).items()},
            set(gallery.ignored(instance)),
        )
        for instance in (CUP, HAT)
    }
    queries = {(q.id, q.path.name, tuple(q.box.tolist()), q.instance, q.exclude) for q in gallery.queries}
    return {(i.id, i.file_name, i.width, i.height) for i in gallery.images}, by_instance, queries


def ids(convert):
    def change(data):
        for key in ("images", "annotations", "categories"):
            for entry in data[key]:
                for name in ("id", "image_id", "category_id", "width", "height"):
                    if name in entry:
                        entry[name] = convert(entry[name])
                if "exclude" in entry:
                    entry["exclude"] = [convert(value) for value in entry["exclude"]]

    return change


def names(spell):
    def change(data):
        for entry in data["images"]:
            entry["file_name"] = spell(entry["file_name"])

    return change


def polygon(box, size):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def two_polygons(box, size):
    x, y, w, h = box
    return [[x, y, x + 1, y, x + 1, y + 1, x, y + 1], [x, y + h - 1, x + w, y + h - 1, x + w, y + h, x, y + h]]


def compressed(box, size):
    pixels = np.zeros((size[1], size[0]), np.uint8, order="F")
    x, y, w, h = box
    pixels[y : y + h, x : x + w] = 1
    code = mask.encode(pixels)
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def run_lengths(box, size):
    pixels = np.zeros((size[1], size[0]), np.uint8)
    x, y, w, h = box
    pixels[y : y + h, x : x + w] = 1
    flat = pixels.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    return {"size": [size[1], size[0]], "counts": ([0] if flat[0] else []) + counts}


def masks(shape, empty):
    def change(data):
        for entry in data["annotations"]:
            if entry.get("bbox"):
                x, y, w, h = entry.pop("bbox")
                if w > 0 and 0 <= x < x + w <= SIZE[0] and 0 <= y < y + h <= SIZE[1]:
                    entry.update(empty, segmentation=shape((x, y, w, h), SIZE))
                else:
                    entry["bbox"] = [x, y, w, h]

    return change


def crowds(data):
    for entry in data["annotations"]:
        entry["iscrowd"] = entry.pop("ignore", 0)


def useless_boxes(data):
    bad = [[5, 5, 0, 0], [5, 5, -3, 4], [100, 100, 5, 5], [-9, 3, 9, 3], []]
    for number, box in enumerate(bad[:4]):
        data["annotations"].insert(0, {"id": 100 + number, "image_id": number % 3, "category_id": HAT, "bbox": box})


def over_the_edge(data):
    """Boxes that touch an edge extend beyond it."""
    for entry in data["annotations"]:
        entry["bbox"] = {2: [20, 10, 28, 21], 4: [-8, -2, 60, 50]}.get(entry.get("id"), entry["bbox"])


def other_fields(data):
    data["info"] = {"year": 2017}
    data["licenses"] = []
    for entry in data["images"]:
        entry.update(license=0, flickr_url="", coco_url="", date_captured=0)
    for entry in data["annotations"]:
        entry.update(area=1.5, attributes={"occluded": False}, iscrowd=entry.get("iscrowd", 0))
    for entry in data["categories"]:
        entry.update(supercategory="thing")


def without_annotation_ids(data):
    for entry in data["annotations"]:
        entry.pop("id")


def text_boxes(data):
    for entry in data["annotations"]:
        if "bbox" in entry:
            entry["bbox"] = [str(float(value)) for value in entry["bbox"]]


def backwards(data):
    for key in ("images", "annotations", "categories"):
        data[key].reverse()


DEVIATIONS = {
    "float ids": ids(lambda value: float(value)),
    "text ids": ids(lambda value: str(value)),
    "text floats": ids(lambda value: str(float(value))),
    "backslashes": names(lambda name: name.replace("/", "\\")),
    "percent": names(quote),
    "letter case": names(str.swapcase),
    "decomposed": names(lambda name: name.replace("ö", "o\u0308")),
    "crowds": crowds,
    "useless boxes": useless_boxes,
    "over the edge": over_the_edge,
    "other fields": other_fields,
    "no annotation ids": without_annotation_ids,
    "text boxes": text_boxes,
    "backwards": backwards,
    "polygons": masks(polygon, {}),
    "two polygons": masks(two_polygons, {"bbox": []}),
    "compressed RLE": masks(compressed, {"bbox": None}),
    "RLE": masks(run_lengths, {"bbox": [3, 3, 0, 0]}),
}
FIRST = ("useless boxes", "over the edge")  # they change boxes, which the masks replace
ENCODINGS = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 BOM": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 BE": lambda text: text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "ASCII": lambda text: json.dumps(json.loads(text)).encode("ascii"),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_deviation_is_read_like_the_clean_dataset(name, tmp_path):
    data = clean()
    DEVIATIONS[name](data)
    assert json.dumps(data) != json.dumps(clean())
    assert meaning(read_coco(write(tmp_path, data))) == meaning(read_coco(write(tmp_path / "clean", clean())))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.permutations(sorted(DEVIATIONS)), st.integers(0, len(DEVIATIONS)), st.sampled_from(sorted(ENCODINGS)))
def test_combined_deviations_are_read_alike_or_refused(tmp_path_factory, order, number, encoding):
    folder = tmp_path_factory.mktemp("foreign")
    data = clean()
    chosen = sorted(order[:number], key=lambda name: name not in FIRST)
    try:
        for name in chosen:
            DEVIATIONS[name](data)
    except (ValueError, TypeError, KeyError, IndexError):  # one has changed what the other changes
        return
    try:
        gallery = read_coco(write(folder, data, encode=ENCODINGS[encoding]))
    except GalleryError as error:
        assert "\n" not in str(error)
    else:
        assert meaning(gallery) == meaning(read_coco(write(folder / "clean", clean())))


def test_interpretations_are_noted(tmp_path):
    data = clean()
    useless_boxes(data)
    data["annotations"].append({"image_id": 1, "category_id": CUP, "bbox": []})
    over_the_edge(data)
    crowds(data)
    data["annotations"][-2]["segmentation"] = polygon(data["annotations"][-2].pop("bbox"), SIZE)
    names(str.upper)(data)
    notes = " ".join(read_coco(write(tmp_path, data)).notes)
    assert (
        "5 annotations without a box of any area inside the picture left out, so that they make no positives, first: "
        in notes
    )
    assert "2 boxes cut off at the edge of the picture, first: annotation 2" in notes
    assert "2 annotations of a crowd (iscrowd) counted as ignored, first: annotation 3" in notes
    assert "1 box computed from the segmentation" in notes
    assert "4 file names of annotations.json matched files whose names are spelled differently, first: 'FÖHN" in notes
    assert read_coco(write(tmp_path / "clean", clean())).notes == ()


def test_an_unusual_encoding_is_noted(tmp_path):
    assert "was read as UTF-16" in read_coco(write(tmp_path, clean(), encode=ENCODINGS["UTF-16"])).notes[0]
    assert read_coco(write(tmp_path, clean(), encode=ENCODINGS["UTF-8 BOM"])).notes == ()


def test_a_query_that_finds_itself_is_noted(tmp_path):
    data = clean()
    data["images"][3]["file_name"] = "Föhn/Bild 2.png"
    said = "do not exclude themselves: 1, first: image 9."
    assert said in " ".join(read_coco(write(tmp_path, data)).notes)
    data["images"][3]["exclude"] = [1]
    assert read_coco(write(tmp_path, data)).notes == ()


# Unused fields -----------------------------------------------------------------------------------------------


def without_needless_fields(data):
    """Annotation ids that are null, empty, text or duplicates; null lists; sizes missing but in the picture."""
    for entry, odd in zip(data["annotations"], [None, "", "3f2a-uuid", 4, 4, 1.5, []], strict=True):
        entry["id"] = odd
    for entry in data["images"]:
        entry.update(width=None, height=None, split=entry.get("split") or None)
        entry.setdefault("exclude", None)
    data["images"][1]["split"] = ""


def test_unused_fields_may_have_any_value(tmp_path):
    data = clean()
    without_needless_fields(data)
    assert meaning(read_coco(write(tmp_path, data))) == meaning(read_coco(write(tmp_path / "clean", clean())))


def test_pictures_alone_make_a_gallery(tmp_path):
    """Like image_info_test2017.json: enough for `index`."""
    data = {"images": clean()["images"][:3]}
    assert len(read_coco(write(tmp_path, data)).images) == 3
    data = {"images": clean()["images"]}
    assert "'annotations' is missing" in refusal(read_coco, write(tmp_path, data))


def test_categories_of_any_name(tmp_path):
    data = clean()
    data["categories"] = [{"id": CUP, "name": 12}, {"id": HAT, "supercategory": "clothes"}]
    assert read_coco(write(tmp_path, data)).instances == {CUP: "12", HAT: "category 90"}


@pytest.mark.parametrize("split", ["train", "Val", "test", "validation"])
def test_training_splits_are_gallery_pictures(split, tmp_path):
    data = clean()
    for entry in data["images"][:2]:
        entry["split"] = split
    data["images"][3]["split"] = "Query"
    gallery = read_coco(write(tmp_path, data))
    assert meaning(gallery) == meaning(read_coco(write(tmp_path / "clean", clean())))
    assert (
        f"2 splits other than 'gallery' and 'query' treated as 'gallery', first: {split!r} of image 0." in gallery.notes
    )


def test_rotated_boxes_are_counted(tmp_path):
    data = clean()
    data["annotations"][0]["attributes"] = {"occluded": False, "rotation": 45.0}
    assert (
        "1 box of rotated shapes used without their rotation, first: annotation 1."
        in read_coco(write(tmp_path, data)).notes
    )


def test_other_polygon_formats(tmp_path):
    """A list of points, and a polygon of less than three points beside a valid one."""
    data = clean()
    for entry, shape in zip(data["annotations"], (polygon, two_polygons) * 4, strict=False):
        points = shape(entry["bbox"], SIZE)
        entry["bbox"] = None
        flat = points[0]
        entry["segmentation"] = [flat[k : k + 2] for k in range(0, 8, 2)] if len(points) == 1 else [*points, [1, 2], []]
    assert meaning(read_coco(write(tmp_path, data))) == meaning(read_coco(write(tmp_path / "clean", clean())))


# Refusals -----------------------------------------------------------------------------------------------------


REFUSED = {
    "one file under two ids": (
        put("Föhn/Bild 1.png", "images", 1, "file_name"),
        "image 1 names the file 'Föhn/Bild 1.png', which image 0 is already",
    ),
    "under another spelling": (put("föhn\\bild 1.PNG", "images", 1, "file_name"), "which image 0 is already"),
    "a web address": (put("http://localhost:8080/1.png", "images", 1, "file_name"), "which is an address"),
    "a useless box of a query": (put([4, 4, 0, 9], "annotations", 6, "bbox"), "annotation 7 has a box without area"),
    "crowd of 2": (put(2, "annotations", 0, "iscrowd"), "annotation 1 has iscrowd 2, which is neither 0 nor 1"),
    "half an id": (put(1.5, "images", 1, "id"), "image 1.5 has id 1.5, which is not a whole number"),
    "a tiny box of a query": (
        put([4, 4, 0.5, 9], "annotations", 6, "bbox"),
        "annotation 7 has a box of less than a pixel",
    ),
    "elsewhere": (
        put("/home/bob/data/Bild 1.png", "images", 1, "file_name"),
        "leads out of the dataset's folder (similar",
    ),
    "worded id": (put("one", "images", 1, "id"), "image 'one' has id 'one', which is not a whole number"),
    "endless id": (put(float("inf"), "images", 1, "id"), "which is not a whole number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case, tmp_path):
    change, part = REFUSED[case]
    data = clean()
    change(data)
    assert part in refusal(read_coco, write(tmp_path, data))


BAD_MASKS = {
    "four numbers": ([[1, 2, 3, 4]], "not a polygon"),
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], "not a polygon"),
    "words": ([["a"] * 6], "not a polygon"),
    "not finite": ([[1, 2, 3, 4, 5, float("nan")]], "not a polygon"),
    "another picture's": (
        {"size": [40, 30], "counts": [1200]},
        "of size [40, 30] (height, width), but its picture is [30, 40]",
    ),
    "no size": ({"counts": [1200]}, "of size None"),
    "too short": ({"size": [30, 40], "counts": [10, 10]}, "run-length encoding is invalid"),
    "negative": ({"size": [30, 40], "counts": [1210, -10]}, "run-length encoding is invalid"),
    "no code": ({"size": [30, 40], "counts": 5}, "run-length encoding is invalid"),
    "odd letters": ({"size": [30, 40], "counts": "~~~"}, "run-length encoding is invalid"),
    "goes on": ({"size": [30, 40], "counts": "PPPP"}, "run-length encoding is invalid"),
    "too long": ({"size": [30, 40], "counts": "0" + "a1" * 300}, "run-length encoding is invalid"),
    "text": ("everything", "not a polygon"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_invalid_segmentations(case, tmp_path):
    shape, part = BAD_MASKS[case]
    data = clean()
    data["annotations"][0].update(bbox=None, segmentation=shape)
    message = refusal(read_coco, write(tmp_path, data))
    assert "annotation 1 has a segmentation" in message and part in message
    data["annotations"][0].update(bbox=[2, 3, 10, 8])  # so the segmentation is not needed
    assert meaning(read_coco(write(tmp_path, data))) == meaning(read_coco(write(tmp_path / "clean", clean())))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example("00")  # no run, which pycocotools turns into a box at the end of 32 bits
@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=40))
def test_any_run_length_code_is_read_or_refused(counts):
    """pycocotools' C code trusts its input, so invalid input must never reach it."""
    from patchify_core.gallery.coco_boxes import EntryError, box_of_mask

    try:
        box = box_of_mask({"size": [30, 40], "counts": counts}, SIZE)
    except EntryError:
        return
    assert box is not None and (box >= 0).all() and (box[2:] <= SIZE).all() and (box[2:] > box[:2]).all()


def test_boxes_in_another_format_are_refused(tmp_path):
    corners, fractions = clean(), clean()
    for entry in [*corners["annotations"], *fractions["annotations"]]:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = (
            [x, y, x + w + 30, y + h + 30] if entry in corners["annotations"] else [x / 40, y / 30, w / 40, h / 30]
        )
    assert "a bbox is [x, y, width, height] in pixels" in refusal(read_coco, write(tmp_path, corners))
    assert "boxes are fractions of their pictures" in refusal(read_coco, write(tmp_path, fractions))


@pytest.mark.parametrize("few", [1, 2, 4])
def test_few_boxes_in_another_format_are_refused_too(few, tmp_path):
    """Corners that stick out, corners contradicted only by their area, and fractions beside one valid box."""
    data = clean()
    data["annotations"] = data["annotations"][:few]
    data["images"] = data["images"][:3]
    for entry in data["annotations"]:
        entry["bbox"] = [30, 20, 39, 29]
    assert "mostly outside" in refusal(read_coco, write(tmp_path, data))
    for entry in data["annotations"]:
        entry.update(bbox=[5, 5, 20, 18], area=15 * 13)
    assert "boxes are corners, according to their area or outline" in refusal(read_coco, write(tmp_path, data))
    for entry in data["annotations"]:
        entry.update(area=20 * 18)
    assert len(read_coco(write(tmp_path, data)).images) == 3
    for entry in data["annotations"][: max(1, few - 1)]:
        entry.update(bbox=[0.1, 0.1, 0.5, 0.5])
    if few != 2:
        assert "boxes are fractions" in refusal(read_coco, write(tmp_path, data))


def outline(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


CORNERS = {
    "outline": lambda entry, box: entry.update(segmentation=outline(*box), area=1.5),
    "outline of points": lambda entry, box: entry.update(segmentation=[[box[0], box[1]], [box[2], box[3]], [9, 9]]),
    "mode": lambda entry, box: entry.update(bbox_mode=0),
}


@pytest.mark.parametrize("tells", CORNERS)
def test_corners_are_detected_by_other_fields(tells, tmp_path):
    data = clean()
    for entry in data["annotations"]:
        box = [8, 8, 20, 18]
        entry.update(bbox=box)
        CORNERS[tells](entry, box)
    assert "7 of its 7 boxes are corners" in refusal(read_coco, write(tmp_path, data))
    for entry in data["annotations"]:
        entry.update(bbox_mode=1, segmentation=outline(8, 8, 28, 26))
    assert len(read_coco(write(tmp_path, data)).images) == 3


def test_many_corners_are_detected_by_boxes_that_stick_out(tmp_path):
    """Real boxes stick out too, but then not all of them would be valid corners."""
    data = clean()
    data["annotations"] = [
        {"image_id": 0, "category_id": CUP, "bbox": [1 + n % 9, 2, 12 + n % 9, 15]} for n in range(19)
    ] + [{"image_id": 1, "category_id": CUP, "bbox": [20, 2, 26, 10]}]
    data["images"] = data["images"][:3]
    assert len(read_coco(write(tmp_path, data)).annotations) == 20  # one of twenty may be drawn carelessly
    data["annotations"][0]["bbox"] = [18, 2, 28, 10]
    assert "its 20 boxes would fit inside their pictures as corners" in refusal(read_coco, write(tmp_path, data))
    data["annotations"][1]["bbox"] = [18, 2, 10, 10]
    assert len(read_coco(write(tmp_path, data)).annotations) == 20


def test_the_format_of_boxes_is_the_first_problem_named(tmp_path):
    """The query's tiny box is a consequence of the format: YOLO's boxes begin with their centre."""
    data = clean()
    for entry in data["annotations"]:
        entry["bbox"] = [0.9, 0.5, 0.4, 0.2]
    assert "cannot be used: 7 of its 7 boxes are fractions" in refusal(read_coco, write(tmp_path, data))
    for entry in data["annotations"]:
        del entry["bbox"]
        entry["segmentation"] = outline(0.1, 0.2, 0.9, 0.8)
    assert "cannot be used: 7 of its 7 boxes are fractions" in refusal(read_coco, write(tmp_path, data))


def test_an_ignored_query_is_noted(tmp_path):
    data = clean()
    data["annotations"][6]["iscrowd"] = 1
    gallery = read_coco(write(tmp_path, data))
    assert gallery.notes == ("1 query used although marked as ignored (ignore, iscrowd), first: annotation 7.",)
    assert meaning(gallery) == meaning(read_coco(write(tmp_path / "clean", clean())))


# Sizes ------------------------------------------------------------------------------------------------------


def test_sizes_are_compared_before_anything_is_embedded(tmp_path):
    data = clean()
    folder = write(tmp_path, data)
    assert check_pictures(read_coco(folder)).notes == ()
    pictures(folder, "Föhn/Bild 2.png", size=(30, 40))
    message = refusal(check_pictures, read_coco(folder))
    assert "Bild 2.png is 30x40 pixels, but its annotations say 40x30: correct" in message and "EXIF" not in message


def test_a_size_before_exif_orientation_is_explained(tmp_path):
    name = oriented(tmp_path, 6).name  # stored 5 x 3, upright 3 x 5
    for size, fits in [((3, 5), True), ((5, 3), False), ((5, 5), False)]:
        image = {"id": 1, "file_name": name, "width": size[0], "height": size[1]}
        (tmp_path / "annotations.json").write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
        if fits:
            check_pictures(read_coco(tmp_path))
        else:
            message = refusal(check_pictures, read_coco(tmp_path))
            assert "annotations say 5x" in message and ("EXIF orientation" in message) == (size == (5, 3))


def test_unlisted_pictures_are_counted(tmp_path):
    folder = write(tmp_path, clean())
    pictures(folder, "more.png", "Föhn/@eaDir/thumb.png", ".hidden.png")
    (folder / "notes.txt").write_text("no picture")
    notes = check_pictures(read_coco(folder)).notes
    assert len(notes) == 1 and "do not list were left out: 1, first: more.png." in notes[0]


# Layouts ----------------------------------------------------------------------------------------------------

LAYOUTS = {
    "ours": ("annotations.json", "", ""),
    "beside images": ("annotations.json", "images/", ""),
    "CVAT": ("annotations/instances_default.json", "images/default/", ""),
    "CVAT, flat": ("annotations/instances_default.json", "images/", ""),
    "COCO": ("annotations/instances_train2017.json", "train2017/", ""),
    "COCO, images": ("annotations/instances_val2017.json", "images/val2017/", ""),
    "Ultralytics": ("annotations/train.json", "images/train/", ""),
    "one folder of another name": ("annotations/instances_default.json", "images/part1/", ""),
    "names with the folder": ("annotations/instances_default.json", "images/", "images/"),
    "COCO, test": ("annotations/image_info_test2017.json", "test2017/", ""),
    "COCO, stuff": ("annotations/stuff_val2017.json", "val2017/", ""),
    "LVIS": ("annotations/lvis_v1_val.json", "val2017/", ""),
    "one folder of any name": ("annotations/all.json", "pictures/", ""),
    "a folder beside the file": ("labels.json", "photos/", ""),
    "short names": ("ann/coco.json", "img/", ""),
    "Roboflow": ("train/_annotations.coco.json", "train/", ""),
    "Label Studio": ("result.json", "images/", "images/"),
    "Label Studio on Windows": ("result.json", "images/", "images\\"),
    "FiftyOne": ("labels.json", "data/", ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, tmp_path, tmp_path_factory):
    """The folder and the path of the JSON file are read alike."""
    file, where, prefix = LAYOUTS[layout]
    data = clean()
    for entry in data["images"]:
        pictures(tmp_path, where + entry["file_name"])
        entry["file_name"] = prefix + entry["file_name"]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data))
    want = meaning(read_coco(write(tmp_path_factory.mktemp("clean"), clean())))
    assert detect_layout(tmp_path) == "coco"
    for gallery in (read_coco(path), read_coco(tmp_path), read_dataset(tmp_path), read_gallery(path)):
        images, by_instance, queries = meaning(gallery)
        assert (by_instance, queries) == want[1:] and len(images) == 3
        assert all(image.path.is_file() for image in gallery.images)
    if layout != "Roboflow":
        assert len(read_gallery(tmp_path).images) == 3


ON_DISK = {
    "as it is": lambda name: name,
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "letter case": str.upper,
    "percent": lambda name: quote(name),
}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from(sorted(ON_DISK)),
    st.permutations(sorted(DEVIATIONS)),
    st.integers(0, 6),
    st.sampled_from(sorted(ENCODINGS)),
)
def test_deviations_in_any_layout_are_read_alike(tmp_path_factory, layout, spelling, order, number, encoding):
    """For any combination of content, place and spelling of the file names."""
    file, where, prefix = LAYOUTS[layout]
    folder, data = tmp_path_factory.mktemp("foreign"), clean()
    for entry in data["images"]:
        pictures(folder, where + ON_DISK[spelling](entry["file_name"]))
        entry["file_name"] = prefix + entry["file_name"]
    try:
        for name in sorted(order[:number], key=lambda name: name not in FIRST):
            DEVIATIONS[name](data)
    except (ValueError, TypeError, KeyError, IndexError):  # one has changed what the other changes
        return
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(ENCODINGS[encoding](json.dumps(data, ensure_ascii=False)))
    gallery = read_coco(folder)
    images, by_instance, _ = meaning(gallery)
    want = meaning(read_coco(write(folder / "clean", clean())))
    plain = {(q.id, tuple(q.box.tolist()), q.instance, q.exclude) for q in gallery.queries}
    assert by_instance == want[1] and plain == {(q[0], *q[2:]) for q in want[2]}
    assert len(images) == len({image.path for image in gallery.images}) == 3


def test_letter_case_of_folders_and_length_of_files_do_not_matter(tmp_path):
    data = clean()
    data["info"] = {"description": "long " * 300_000}  # neither key is in the first megabyte
    for entry in data["images"]:
        pictures(tmp_path, "Images/Default/" + entry["file_name"])
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "Instances_default.JSON").write_text(json.dumps(data))
    assert detect_layout(tmp_path) == "coco" and len(read_coco(tmp_path).images) == 3


@pytest.mark.parametrize(
    "content", [b"PK\3\4...", b"", b'{"images": [', b"<html>", b"version https://git-lfs.github.com/spec/v1"]
)
@pytest.mark.parametrize("name", ["annotations/instances_default.json", "_annotations.coco.json"])
def test_a_file_in_a_layouts_place_that_is_not_json_is_named(name, content, tmp_path):
    """It was meant to be the annotations: the folder is not a plain one with another document."""
    pictures(tmp_path, "images/a.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    for read in (read_coco, read_gallery):
        assert name in refusal(read, tmp_path)


def test_a_file_of_another_name_is_found_or_named(tmp_path):
    """`evaluate` uses the only JSON file beside the pictures; `index` reads a plain folder, with a note."""
    write(tmp_path, clean(), "my export (1).json")
    assert detect_layout(tmp_path) == "coco" and len(read_coco(tmp_path).images) == 3
    assert "my export (1).json" in read_gallery(tmp_path).notes[-1] and len(read_gallery(tmp_path).images) == 4
    deep = tmp_path / "deep"
    write(deep / "proj" / "export", clean(), "data.json")
    assert detect_layout(deep) == "folder" and "proj/export/data.json" in read_gallery(deep).notes[-1]


def test_pictures_below_the_named_folder_are_counted(tmp_path):
    data = clean()
    for part in ("train2017", "val2017"):
        pictures(tmp_path, *(f"{part}/{entry['file_name']}" for entry in data["images"]))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(data))
    notes = read_gallery(tmp_path, check=True).notes
    assert any("do not list were left out: 4, first: val2017/" in note for note in notes)


def test_positives_without_a_box_are_named(tmp_path):
    data = clean()
    data["annotations"][0].pop("bbox")
    notes = check_pictures(read_coco(write(tmp_path, data))).notes
    assert (
        len(notes) == 1
        and "1 of 6 annotations have no box, so queries of their objects get no LocScore, first: cup" in notes[0]
    )


def test_a_nested_split_does_not_replace_a_folder_of_pictures(tmp_path):
    """`index` reads all pictures of a folder, and notes that there are annotations."""
    write(tmp_path / "train", clean(), "_annotations.coco.json")
    pictures(tmp_path, "a.png")
    gallery = read_gallery(tmp_path)
    assert len(gallery.images) == 5 and not gallery.queries
    assert "Annotations are not read (train/_annotations.coco.json): to use them, name the file" in gallery.notes[-1]


def test_several_annotation_files_are_named(tmp_path):
    for part in ("train", "valid"):
        write(tmp_path / part, clean(), "_annotations.coco.json")
    assert "2 annotation files (train/_annotations.coco.json, valid/_annotations.coco.json)" in refusal(
        read_coco, tmp_path
    )
    assert "2 annotation files" in refusal(detect_layout, tmp_path)
    assert len(read_gallery(tmp_path).images) == 8


def test_the_split_in_the_file_name_takes_precedence(tmp_path):
    """train2017/1.png and val2017/1.png are two pictures."""
    data = clean()
    for part in ("train2017", "val2017"):
        pictures(tmp_path, *(f"{part}/{entry['file_name']}" for entry in data["images"]))
    for file in ("instances_val2017.json", "captions_val2017.json", "person_keypoints_val2017.json"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / file).write_text(json.dumps(data))
    assert {image.path.parent.parent.name for image in read_coco(tmp_path).images} == {"val2017"}


def test_pictures_in_two_places_are_refused(tmp_path):
    data = clean()
    for part in ("a", "b"):
        pictures(tmp_path, *(f"images/{part}/{entry['file_name']}" for entry in data["images"]))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_default.json").write_text(json.dumps(data))
    assert "are in" in refusal(read_coco, tmp_path) and "put the file beside its pictures" in refusal(
        read_coco, tmp_path
    )


def test_pictures_spread_over_folders_are_explained(tmp_path):
    data = clean()
    for number, entry in enumerate(data["images"]):
        pictures(tmp_path, f"images/{'train' if number else 'val'}/{entry['file_name']}")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_all.json").write_text(json.dumps(data))
    message = refusal(read_coco, tmp_path)
    assert f"it is in {str(tmp_path / 'images' / 'val')!r}, and all must be in one folder" in message


def test_names_relative_to_a_folder_of_annotations(tmp_path):
    data = clean()
    for entry in data["images"]:
        pictures(tmp_path, "images/" + entry["file_name"])
        entry["file_name"] = "../images/" + entry["file_name"]
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "trainval.json").write_text(json.dumps(data))
    for path in (tmp_path, tmp_path / "coco" / "trainval.json"):
        gallery = read_coco(path)
        assert [image.path.is_file() for image in gallery.images] == [True] * 3


def test_searched_folders_are_named(tmp_path):
    for folder in ("annotations", "images"):
        (tmp_path / folder).mkdir()
    (tmp_path / "annotations" / "instances_default.json").write_text(json.dumps(clean()))
    message = refusal(read_coco, tmp_path)
    assert "which is missing" in message and "pictures were looked for in" in message
    assert repr(str(tmp_path / "images")) in message and repr(str(tmp_path / "annotations")) in message


def test_other_json_does_not_make_a_folder_a_dataset(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "result.json").write_text('{"answer": 42}')
    (tmp_path / "labels.json").write_text('["a", "b"]')
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.json").write_text('{"shapes": [], "imagePath": "a.png"}')
    assert detect_layout(tmp_path) == "folder"
    assert len(read_gallery(tmp_path).images) == 2


# Files that are not JSON --------------------------------------------------------------------------------------------


def zipped(text):
    from io import BytesIO

    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("result.json", text)
    return stream.getvalue()


OTHER_FILES = {
    "zip": (zipped, "is a ZIP archive"),
    "gzip": (lambda text: gzip.compress(text.encode()), "is a gzip archive"),
    "PDF": (lambda text: b"%PDF-1.7", "is a PDF document, not a JSON file"),
    "SQLite": (lambda text: b"SQLite format 3\0", "is a database, not a JSON file"),
    "picture": (lambda text: encoded(photograph(SIZE), "JPEG"), "is a picture, not a JSON file"),
    "LFS": (lambda text: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
    "HTML": (lambda text: b"<!DOCTYPE html><title>Sign in</title>", "is a web page or XML"),
    "Latin-1": (lambda text: text.replace("cup", "Füße").encode("latin-1"), "in no Unicode encoding"),
    "zeros": (lambda text: b"\0" * 5000, "is empty (5,000 bytes)"),
    "tasks": (lambda text: b'[{"data": {"image": "a.png"}, "annotations": []}]', "Label Studio's own export"),
    "LabelMe": (lambda text: b'{"shapes": [], "imagePath": "a.png"}', "is a LabelMe file"),
    "UTF-16 cut": (lambda text: text.encode("utf-16")[:-1], "in no Unicode encoding"),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_another_file_type_is_named(case, tmp_path):
    make, part = OTHER_FILES[case]
    message = refusal(read_coco, write(tmp_path, clean(), encode=make))
    assert part in message and "annotations.json" in message


def test_a_duplicate_key(tmp_path):
    """Two lists joined by hand, of which the first would be lost silently. Equal values are accepted."""
    text = json.dumps(clean())
    folder = write(tmp_path, clean())
    for more in (', "annotations": []}', ', "info": {"year": 1, "year": 2}}'):
        (folder / "annotations.json").write_text(text[:-1] + more)
        message = refusal(read_coco, folder)
        assert "annotations.json" in message and "twice, with different values" in message
    (folder / "annotations.json").write_text(text.replace('"category_id": 3', '"category_id": 3, "category_id": 3'))
    assert meaning(read_coco(folder)) == meaning(read_coco(write(tmp_path / "clean", clean())))


# Queries from boxes -----------------------------------------------------------------------------------------


def test_every_box_becomes_a_query_that_excludes_its_own_picture(tmp_path):
    gallery = read_coco(write(tmp_path, clean()))
    boxed = gallery.with_box_queries()
    rows = gallery.annotations
    want = [
        (int(image), int(instance), box.tolist())
        for image, instance, box, ignore in zip(rows.image_ids, rows.instances, rows.boxes, rows.ignore, strict=True)
        if not ignore and not np.isnan(box).any()
    ]
    assert [(*q.exclude, q.instance, q.box.tolist()) for q in boxed.queries] == want and len(want) == 4
    assert all(gallery.image(*q.exclude).path == q.path for q in boxed.queries)
    assert len({q.id for q in boxed.queries} | {i.id for i in gallery.images}) == 4 + 3
    assert boxed.notes == ("Annotations not used as queries: 2 ignored.",)
    assert boxed.images == gallery.images and boxed.annotations is gallery.annotations


def test_boxes_of_less_than_a_pixel_are_not_queries(tmp_path):
    data = clean()
    data["annotations"][0]["bbox"] = [39.7, 3, 10, 8]  # 0.3 pixels of it are inside
    data["annotations"][1].pop("bbox")
    boxed = read_coco(write(tmp_path, data)).with_box_queries()
    assert "2 ignored, 1 without a box, 1 of less than a pixel." in boxed.notes[-1]
    assert len(boxed.queries) == 2
