"""read_instre against small sets in INSTRE's own layout, with a gnd_instre.mat of the published structure."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import numpy as np
import pytest
import scipy.io
from PIL import Image

from patchify_core.gallery import detect_layout, read_dataset, read_instre
from tests.tiny import picture

WIDTH, HEIGHT = 40, 30
BOOK, CUP, FISH, PAIR = "INSTRE-S1/01a_canada_book", "INSTRE-S1/01b_cup", "INSTRE-S2/01_fish", "INSTRE-M/01"

# name -> lines x y width height of the .txt beside it
BOXES = {
    f"{BOOK}/001.jpg": [(2, 3, 10, 12)],
    f"{BOOK}/002.jpg": [(0, 0, 20, 10), (20, 15, 20, 15)],  # the object twice
    f"{CUP}/001.jpg": [(5, 5, 8, 8)],
    f"{FISH}/001.jpg": [(0, 0, 40, 30)],
    f"{PAIR}/001.jpg": [(1, 2, 10, 10), (25, 12, 10, 10)],  # first [a], then [b]
    f"{BOOK}/900.jpg": [(4, 4, 20, 20)],
    f"{CUP}/900.jpg": [(6, 1, 20, 25)],
    f"{FISH}/900.jpg": [(3, 3, 30, 25)],
    f"{PAIR}/900.jpg": [(2, 2, 10, 10), (20, 14, 15, 14)],
}
IMAGES = [name for name in BOXES if "900" not in name]
QUERIES = [name for name in BOXES if "900" in name]
CORNERS = [(4, 4, 24, 24), (6, 1, 26, 26), (3, 3, 33, 28), (2, 2, 35, 28)]  # the pair's box is around both
POSITIVES = [[1, 2, 5], [3, 5], [4], [5]]  # counted from 1, in IMAGES


def cell(names):
    """A MATLAB cell row of strings."""
    row = np.empty((1, len(names)), object)
    row[0] = names
    return row


def write_truth(folder, images=IMAGES, queries=QUERIES, positives=POSITIVES, boxes=CORNERS, **changes):
    gnd = np.empty((1, len(queries)), [("ok", object), ("bbx", object)])
    for at in range(len(queries)):
        gnd[0, at]["ok"] = np.array([positives[at]], np.uint16)
        gnd[0, at]["bbx"] = np.array([boxes[at]], np.float64)
    data = {"imlist": cell(images), "qimlist": cell(queries), "gnd": gnd, **changes}
    scipy.io.savemat(folder / "gnd_instre.mat", {key: value for key, value in data.items() if value is not None})
    return folder


def write_tree(folder):
    for number, (name, boxes) in enumerate(BOXES.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, (WIDTH, HEIGHT)).save(path)
        path.with_suffix(".txt").write_text("".join(" ".join(map(str, box)) + "\n" for box in boxes))
    return write_truth(folder)


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path)


def test_protocol(tree):
    told = []
    gallery = read_instre(tree, progress=lambda *args: told.append(args))
    assert [image.file_name for image in gallery.images] == IMAGES and [i.id for i in gallery.images] == [1, 2, 3, 4, 5]
    assert all((i.width, i.height) == (WIDTH, HEIGHT) and i.path.is_file() for i in (*gallery.images, *gallery.queries))
    assert [query.file_name for query in gallery.queries] == QUERIES
    assert [query.id for query in gallery.queries] == [6, 7, 8, 9] and not any(q.exclude for q in gallery.queries)
    assert [tuple(query.box.tolist()) for query in gallery.queries] == CORNERS
    assert [gallery.name(query.instance) for query in gallery.queries] == [BOOK, CUP, FISH, PAIR]
    assert [sorted(gallery.positives(query.instance)) for query in gallery.queries] == POSITIVES
    assert told[-1] == (9, 9) and len(told) == 9


def test_boxes_are_those_of_the_queried_object(tree):
    gallery = read_instre(tree)
    book, cup, fish, pair = (gallery.positives(query.instance) for query in gallery.queries)
    assert book[1].tolist() == [[2, 3, 12, 15]]
    assert book[2].tolist() == [[0, 0, 20, 10], [20, 15, 40, 30]]
    assert book[5].tolist() == [[1, 2, 11, 12]]  # the first line is object a
    assert cup[5].tolist() == [[25, 12, 35, 22]]  # the second is object b
    assert pair[5].tolist() == [[1, 2, 35, 22]]  # both together
    assert fish[4].tolist() == [[0, 0, 40, 30]]


def test_a_subset_has_fewer_queries_and_the_whole_database(tree):
    whole = read_instre(tree)
    for subset, count in (("s1", 2), ("s2", 1), ("m", 1)):
        gallery = read_instre(tree, subset)
        assert len(gallery.images) == 5 and len(gallery.queries) == count
        for query in gallery.queries:
            [same] = [other for other in whole.queries if other.id == query.id]
            assert gallery.positives(query.instance).keys() == whole.positives(same.instance).keys()
            assert (query.box == same.box).all() and gallery.name(query.instance) == whole.name(same.instance)


def test_xywh_query_boxes_are_detected_by_the_pictures_own_boxes(tree):
    sizes = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in CORNERS]
    gallery = read_instre(write_truth(tree, boxes=sizes))
    assert [tuple(query.box.tolist()) for query in gallery.queries] == CORNERS


def test_query_boxes_that_agree_with_nothing_are_corners(tree):
    gallery = read_instre(write_truth(tree, boxes=[(1, 1, 6, 6)] * 4))
    assert {tuple(query.box.tolist()) for query in gallery.queries} == {(1, 1, 6, 6)}


def test_queries_of_one_class_with_different_positives_are_different_instances(tree):
    names = [QUERIES[0]] * 3 + [QUERIES[2]]
    gallery = read_instre(
        write_truth(tree, queries=names, positives=[[1, 2], [2, 1], [1], [4]], boxes=[CORNERS[0]] * 4)
    )
    first, same, other, _ = gallery.queries
    assert first.instance == same.instance != other.instance
    assert [sorted(gallery.positives(q.instance)) for q in (first, other)] == [[1, 2], [1]]
    assert [gallery.name(q.instance) for q in (first, other)] == [BOOK, f"{BOOK} (2)"]


def test_a_query_without_positives_is_kept(tree):
    gallery = read_instre(write_truth(tree, positives=[[1], [3], [4], []]))
    assert gallery.positives(gallery.queries[3].instance) == {}


def test_boxes_beyond_the_edge_are_clipped(tree):
    (tree / BOOK / "001.txt").write_text("-3 -2 20 12\n")
    assert read_instre(tree).positives(1)[1].tolist() == [[0, 0, 17, 10]]


def test_nothing_is_decoded(tree, monkeypatch):
    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", decode)
    assert len(read_instre(tree).images) == 5


def test_read_dataset_detects_it(tree):
    assert detect_layout(tree) == "instre"
    assert len(read_dataset(tree).queries) == 4 and len(read_dataset(tree, "instre", "m").queries) == 1


# Refusals and notes ---------------------------------------------------------------------------------------------


def test_missing_files_are_named_and_counted(tree, refused):
    os.remove(tree / BOOK / "002.jpg")
    os.remove(tree / PAIR / "001.txt")
    message = refused(read_instre, tree)
    assert "2 of the 18 files" in message and "'INSTRE-S1/01a_canada_book/002.jpg'" in message


def test_no_ground_truth(tmp_path, refused):
    assert "There is no file" in refused(read_instre, tmp_path)
    assert "gnd_instre.mat" in refused(read_instre, tmp_path / "nowhere")
    (tmp_path / "gnd_instre.mat").mkdir()
    assert "cannot be read" in refused(read_instre, tmp_path)


@pytest.mark.parametrize("length", [0, 10, 100, 130, 200, 0.5, 0.9])
def test_a_ground_truth_that_is_cut_short(tree, refused, length):
    data = (tree / "gnd_instre.mat").read_bytes()
    (tree / "gnd_instre.mat").write_bytes(data[: length if isinstance(length, int) else int(length * len(data))])
    message = refused(read_instre, tree)
    assert "download it again" in message and "gnd_instre.mat" in message


OTHERS = {
    "another mat": {"gnd": None, "imlist": None, "qimlist": None, "x": np.eye(3)},
    "no gnd": {"gnd": None},
    "gnd of numbers": {"gnd": np.eye(2)},
    "Oxford's": {"gnd": np.array([[(1,)]], [("easy", object)])},
    "names of Oxford": {"imlist": cell(["all_souls_000013", "all_souls_000026", "a", "b", "c"])},
    "a name twice": {"imlist": cell([IMAGES[0]] * 5)},
    "fewer queries than gnd": {"qimlist": cell(QUERIES[:2])},
    "no images": {"imlist": cell([])},
    "names that are numbers": {"qimlist": np.eye(2)},
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_mat_file(tree, refused, case):
    assert "is not the ground truth of INSTRE" in refused(read_instre, write_truth(tree, **OTHERS[case]))


@pytest.mark.parametrize("positives", [[[0], [3], [4], [5]], [[6], [3], [4], [5]]])
def test_positives_that_are_not_in_the_list(tree, refused, positives):
    assert "is not the ground truth" in refused(read_instre, write_truth(tree, positives=positives))


def test_no_query(tree, refused):
    assert "lists no query" in refused(read_instre, write_truth(tree, queries=[]))
    one = write_truth(tree, queries=QUERIES[:1])
    assert "no query of the subset m" in refused(read_instre, one, "m")
    assert "subsets all, s1, s2, m" in refused(read_instre, one, "S9")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("100 100 5 5\n", "is outside its picture of 40 × 30"),
        ("1 2 3\n", "is not four numbers"),
        ("one two three four\n", "is not four numbers"),
        ("1 2 nan 4\n", "is not four finite numbers"),
        ("1 2 0 4\n", "has no area"),
        ("1 2 -3 4\n", "has no area"),
    ],
)
def test_a_bad_box_is_not_fatal(tree, text, part):
    (tree / BOOK / "002.txt").write_text(text + "3 3 4 4\n")
    (tree / BOOK / "001.txt").write_text(text)
    gallery = read_instre(tree)
    bad, positives = gallery.notes
    assert "left out: 2, first" in bad and f"'{BOOK}/001.txt', line 1 {part}" in bad
    assert f"no LocScore: 1, first: '{BOOK}/001.jpg'" in positives
    book = gallery.positives(1)
    assert book[1] is None and book[2].tolist() == [[3, 3, 7, 7]] and book[5] is not None


def test_an_empty_box_file(tree):
    (tree / BOOK / "001.txt").write_text("\n\n")
    gallery = read_instre(tree)
    assert gallery.positives(1)[1] is None and "no LocScore: 1" in gallery.notes[-1]


@pytest.mark.parametrize("box", [(100, 100, 200, 200), (30, 20, 5, 5), (5, 5, 5, 9)])
def test_an_invalid_query_box(tree, box):
    gallery = read_instre(write_truth(tree, boxes=[box, *CORNERS[1:]]))
    assert gallery.queries[0].box is None and gallery.queries[1].box is not None
    assert f"bbx of '{QUERIES[0]}'" in gallery.notes[0] and f"used whole: 1, first: '{QUERIES[0]}'" in gallery.notes[1]


def test_a_pair_without_two_boxes(tree):
    (tree / PAIR / "001.txt").write_text("1 2 10 10\n")
    gallery = read_instre(tree)
    assert "does not say which of its 1 boxes" in gallery.notes[0] and "no LocScore: 3" in gallery.notes[1]
    assert all(gallery.positives(instance)[5] is None for instance in (1, 2, 4))


def test_broken_pictures_are_named_and_counted(tree, refused):
    (tree / BOOK / "001.jpg").write_bytes(b"not a picture")
    (tree / CUP / "001.jpg").write_bytes(b"")
    message = refused(read_instre, tree)
    assert "2 of 9 pictures" in message and f"{BOOK}/001.jpg" in message


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/x.jpg", "C:\\x.jpg", "..\\x.jpg"])
def test_names_that_lead_out(tree, refused, name):
    assert PurePosixPath(name).suffix
    assert "leads out" in refused(read_instre, write_truth(tree, images=[*IMAGES[:4], name]))
