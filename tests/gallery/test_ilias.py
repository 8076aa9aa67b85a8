"""read_ilias against small sets in ILIAS's own layout: ilias_core, image_ids, unpacked distractors."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile

import pytest

from patchify_core.gallery import detect_layout, read_dataset, read_ilias
from patchify_core.gallery.ilias import ilias_id
from patchify_core.index.build import build_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.regions import Pyramid
from tests.imaging.test_tar_members import write_tar
from tests.tiny import TinyEncoder, picture

WIDTH, HEIGHT = 40, 30
BIMP, FLEP = "bold_bimp_000", "bold_flep_001"

# name below ilias_core -> lines x y width height of its _bbox.txt
BOXES = {
    f"{BIMP}/query/Q000_00.jpg": [(4, 5, 20, 10)],
    f"{BIMP}/query/Q000_01.jpg": [(0, 0, 10, 10), (20, 20, 20, 10)],  # in two pieces
    f"{BIMP}/pos/P000_00.jpg": [(1, 2, 10, 12)],
    f"{BIMP}/pos/P000_01.jpg": [(0, 0, 5, 5), (30, 20, 10, 10)],
    f"{FLEP}/query/Q001_00.jpg": [(0, 0, 40, 30)],
    f"{FLEP}/pos/P001_00.jpg": [(10, 10, 8, 8)],
}
QUERIES = [name for name in BOXES if "/query/" in name]
POSITIVES = [name for name in BOXES if "/pos/" in name]


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, (WIDTH, HEIGHT)).save(path)


def write_core(folder):
    for number, (name, boxes) in enumerate(BOXES.items()):
        path = folder / "ilias_core" / name
        save(path, number)
        lines = "".join(" ".join(map(str, box)) + "\n" for box in boxes)
        path.with_name(path.stem + "_bbox.txt").write_text(lines)
    for name in (BIMP, FLEP):  # other files of the archive
        (folder / "ilias_core" / name / "query" / f"T{name[-3:]}.txt").write_text("a toy with a hat")
        (folder / "ilias_core" / name / "pos" / f"P{name[-3:]}_00_url.txt").write_text("https://example.org/x")
    return folder


def write_lists(folder):
    (folder / "image_ids").mkdir()
    (folder / "image_ids" / "image_query_ids.txt").write_text("".join(f"{name},0.5\n" for name in QUERIES))
    (folder / "image_ids" / "positive_ids.txt").write_text("".join(f"{name},0.125,17\n" for name in POSITIVES))
    return folder


@pytest.fixture
def core(tmp_path):
    return write_core(tmp_path)


@pytest.fixture
def lists(core):
    return write_lists(core)


@pytest.fixture
def distractors(lists):
    for seed, name in enumerate(("00000/aa11.jpg", "00000/bb22.jpg", "00001/cc33.jpg"), 50):
        save(lists / "yfcc100m" / name, seed)
    (lists / "image_ids" / "mini_ilias_yfcc100m_ids.txt").write_text("cc33\naa11\n")
    return lists


def test_protocol(core):
    told = []
    gallery = read_ilias(core, progress=lambda *args: told.append(args))
    assert [image.file_name for image in gallery.images] == [f"ilias_core/{name}" for name in POSITIVES]
    assert [query.file_name for query in gallery.queries] == [f"ilias_core/{name}" for name in QUERIES]
    assert len({i.id for i in (*gallery.images, *gallery.queries)}) == 6
    assert all((i.width, i.height) == (WIDTH, HEIGHT) and i.path.is_file() for i in (*gallery.images, *gallery.queries))
    assert gallery.instances == {1: BIMP, 2: FLEP}
    assert [query.instance for query in gallery.queries] == [1, 1, 2]
    assert told[-1] == (6, 6)


def test_queries_are_cropped_and_positives_keep_every_box(core):
    gallery = read_ilias(core)
    assert [query.box.tolist() for query in gallery.queries] == [[4, 5, 24, 15], [0, 0, 40, 30], [0, 0, 40, 30]]
    assert {i: rows.tolist() for i, rows in gallery.positives(1).items()} == {
        1: [[1, 2, 11, 14]],
        2: [[0, 0, 5, 5], [30, 20, 40, 30]],
    }
    assert {i: rows.tolist() for i, rows in gallery.positives(2).items()} == {3: [[10, 10, 18, 18]]}


def test_the_core_alone_is_enough(core):
    gallery = read_ilias(core / "ilias_core")
    assert [image.file_name for image in gallery.images] == POSITIVES and len(gallery.queries) == 3


def test_distractors_are_negatives_for_all(distractors):
    gallery = read_ilias(distractors)
    assert [i.file_name for i in gallery.images[3:]] == [
        "yfcc100m/00000/aa11.jpg",
        "yfcc100m/00000/bb22.jpg",
        "yfcc100m/00001/cc33.jpg",
    ]
    assert gallery.positives(1).keys() | gallery.positives(2).keys() == {1, 2, 3}
    mini = read_ilias(distractors, "mini")
    assert [i.file_name for i in mini.images[3:]] == ["yfcc100m/00000/aa11.jpg", "yfcc100m/00001/cc33.jpg"]
    assert len(read_ilias(distractors, "core").images) == 3


def test_read_dataset_detects_it(distractors, refused):
    assert detect_layout(distractors) == detect_layout(distractors / "ilias_core") == "ilias"
    assert len(read_dataset(distractors).images) == 6 and len(read_dataset(distractors, "ilias", "core").images) == 3
    (distractors / "annotations.json").write_text("{}")
    assert "looks like coco and like ilias" in refused(read_dataset, distractors)
    assert len(read_dataset(distractors, "ilias").images) == 6
    assert "Unknown layout 'iliad'" in refused(read_dataset, distractors, "iliad")
    assert "Only INSTRE and ILIAS have subsets" in refused(read_dataset, distractors, "folder", "core")
    assert len(read_dataset(distractors, "folder").images) == 9


TAXONOMY = {
    "product": {"toy": {"doll": [BIMP, "another_one_999"], "other": []}},
    "landmark": {"architecture": {"other": [FLEP]}},
}


def test_groups_of_its_own_evaluation(lists):
    (lists / "misc").mkdir()
    (lists / "misc" / "taxonomy.json").write_text(json.dumps(TAXONOMY))
    gallery = read_ilias(lists)
    assert gallery.notes == () and gallery.benchmark.name == "ilias"
    assert gallery.benchmark.categories == {1: ("product", "toy"), 2: ("landmark", "architecture")}
    assert gallery.benchmark.values["scale"] == {(1, 1): 0.125, (1, 2): 0.125, (2, 3): 0.125}
    assert gallery.benchmark.values["clutter"] == {(1, 1): 17, (1, 2): 17, (2, 3): 17}


def test_lists_and_taxonomy_are_optional(core, refused):
    gallery = read_ilias(core)
    assert gallery.benchmark.values == {} and gallery.benchmark.categories == {}
    assert ["positive_ids.txt" in note or "taxonomy.json" in note for note in gallery.notes] == [True, True]
    for content in (b"[1]", b"{", b'{"a": 3}', b"[" * 200_000, b'{"a": ' * 200_000):
        (core / "taxonomy.json").write_bytes(content)
        assert "taxonomy.json' is not ILIAS' taxonomy" in refused(read_ilias, core)


@pytest.mark.parametrize("row", ["{},0.5", "{}", "{},small,17"])
def test_a_list_without_scale_and_clutter(lists, row):
    (lists / "image_ids" / "positive_ids.txt").write_text("".join(row.format(name) + "\n" for name in POSITIVES))
    gallery = read_ilias(lists)
    assert gallery.benchmark.values == {} and "no columns of scale and clutter" in gallery.notes[0]


# Refusals and notes ---------------------------------------------------------------------------------------------


def test_pictures_that_the_lists_name_must_be_there(lists, refused):
    read_ilias(lists)
    os.remove(lists / "ilias_core" / POSITIVES[0])
    message = refused(read_ilias, lists)
    assert "1 of the 3 files that image_ids/positive_ids.txt" in message and POSITIVES[0] in message


def test_pictures_that_the_lists_do_not_name(lists, refused):
    save(lists / "ilias_core" / BIMP / "pos" / "P000_77.jpg", 1)
    message = refused(read_ilias, lists)
    assert "1 pictures" in message and "P000_77.jpg" in message


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00"])
def test_an_invalid_list(lists, refused, content):
    (lists / "image_ids" / "positive_ids.txt").write_bytes(content)
    assert "positive_ids.txt" in refused(read_ilias, lists)


def test_missing_boxes_are_named_and_counted(core, refused):
    for name in (POSITIVES[1], QUERIES[0]):
        os.remove(core / "ilias_core" / (name[:-4] + "_bbox.txt"))
    message = refused(read_ilias, core)
    assert "2 of the 6 files" in message and "Q000_00_bbox.txt" in message


BAD_BOXES = [
    (b"100 100 5 5\n", "line 1 is outside its picture of 40 × 30"),
    (b"1 2 3\n", "line 1 is not four numbers"),
    (b"1 2 3 0\n", "line 1 has no area"),
    (b"1 2 nan 4\n", "line 1 is not four finite numbers"),
    (b"[[1, 2, 3, 4]]\n", "line 1 is not four numbers"),
    (b"\x80\xff\xfe\x81", "is not text"),
]


@pytest.mark.parametrize(("content", "part"), BAD_BOXES)
def test_a_positive_without_a_box_is_not_fatal(core, content, part):
    file = core / "ilias_core" / (POSITIVES[0][:-4] + "_bbox.txt")
    file.write_bytes(content)
    gallery = read_ilias(core)
    bad, positives = gallery.notes[:2]
    assert bad.startswith("Boxes that cannot be used were left out: 1, first: 'ilias_core/bold_bimp_000/pos/P000_00_bb")
    assert part in bad
    assert "get no LocScore: 1, first: 'ilias_core/bold_bimp_000/pos/P000_00.jpg'" in positives
    assert gallery.positives(1)[1] is None and len(gallery.positives(1)[2]) == 2


@pytest.mark.parametrize(("content", "part"), [*BAD_BOXES, (b"", "")])
def test_a_query_without_a_box_is_used_whole(core, content, part):
    (core / "ilias_core" / (QUERIES[0][:-4] + "_bbox.txt")).write_bytes(content)
    gallery = read_ilias(core)
    assert gallery.queries[0].box is None and gallery.queries[1].box is not None
    assert "used whole: 1, first: 'ilias_core/bold_bimp_000/query" in gallery.notes[1 if part else 0]
    assert part in gallery.notes[0]


def test_the_other_lines_of_a_file_count(core):
    file = core / "ilias_core" / (POSITIVES[1][:-4] + "_bbox.txt")
    file.write_text("7 7 0 12\n\n30 20 100 10\n1 1 -4 3\n-5 -5 6 7\n")
    gallery = read_ilias(core)
    assert gallery.positives(1)[2].tolist() == [[30, 20, 40, 30], [0, 0, 1, 2]]
    assert [("2, first" in note, "line 1 has no area" in note or "line 3" in note) for note in gallery.notes[:2]] == [
        (True, True),
        (True, True),
    ]
    assert gallery.notes[1].startswith("Boxes were cut off at the edge of their picture: 2, first: 'ilias_core")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_box_file_in_another_encoding_is_read(core, encoding):
    (core / "ilias_core" / (POSITIVES[0][:-4] + "_bbox.txt")).write_bytes("1 2 10 12\r\n".encode(encoding))
    gallery = read_ilias(core)
    assert gallery.positives(1)[1].tolist() == [[1, 2, 11, 14]] and not any("oxes" in note for note in gallery.notes)


def test_an_object_without_pictures(core, refused):
    os.remove(core / "ilias_core" / FLEP / "pos" / "P001_00.jpg")
    message = refused(read_ilias, core)
    assert "1 folders" in message and f"{FLEP}/pos" in message


def test_no_object_at_all(tmp_path, refused):
    assert "There is no folder" in refused(read_ilias, tmp_path / "nowhere")
    (tmp_path / "ilias_core").mkdir()
    assert "unpack ilias_core.tar" in refused(read_ilias, tmp_path)
    assert "subsets all, core, mini" in refused(read_ilias, tmp_path, "huge")


def jpg(seed):
    stream = io.BytesIO()
    picture(seed, (WIDTH, HEIGHT)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def packed(lists):
    """Distractors in two archives, as they are published, with the list of all of them."""
    shards = {"00000": ("aa11", "bb22"), "00001": ("cc33",)}
    for number, (shard, keys) in enumerate(shards.items()):
        files = {f"{key}.jpg": jpg(60 + number) for key in keys} | {f"{keys[0]}.json": b"{}"}
        write_tar(lists / "yfcc100m" / f"{shard}.tar", files)
    (lists / "image_ids" / "mini_ilias_yfcc100m_ids.txt").write_text("cc33\naa11\n")
    listed = [f"{shard}.tar/{key}\n" for shard, keys in shards.items() for key in keys] + ["00002.tar/zz99\n"]
    (lists / "image_ids" / "distractor_ids.txt.gz").write_bytes(gzip.compress("".join(listed).encode()))
    return lists


def test_packed_distractors_are_read_in_place(packed, tmp_path):
    gallery = read_ilias(packed)
    names = [image.file_name for image in gallery.images[3:]]
    assert names == ["yfcc100m/00000.tar/aa11.jpg", "yfcc100m/00000.tar/bb22.jpg", "yfcc100m/00001.tar/cc33.jpg"]
    assert [(i.width, i.height, i.path.read_bytes()) for i in gallery.images[3:4]] == [(WIDTH, HEIGHT, jpg(60))]
    mini = read_ilias(packed, "mini")
    assert [image.file_name for image in mini.images[3:]] == [names[0], names[2]]
    before = sorted(packed.rglob("*"))
    report = build_index(gallery, tmp_path / "idx", TinyEncoder(), Pyramid(2))
    assert report.images == 6 and report.skipped == () and report.embedded + report.reused == 6
    assert [path for path in sorted(packed.rglob("*")) if "idx" not in path.parts] == before  # nothing is unpacked
    index = PatchIndex.load(tmp_path / "idx")
    index.check_pictures(packed, content=True)
    assert [ilias_id(image.file_name) for image in index.images[2:4]] == [
        "bold_flep_001/pos/P001_00.jpg",
        "00000.tar/aa11",
    ]


def test_an_archive_that_was_unpacked_is_not_read_twice(packed):
    save(packed / "yfcc100m" / "00000" / "aa11.jpg", 60)
    save(packed / "yfcc100m" / "00000" / "bb22.jpg", 61)
    names = [image.file_name for image in read_ilias(packed).images[3:]]
    assert names == ["yfcc100m/00001.tar/cc33.jpg", "yfcc100m/00000/aa11.jpg", "yfcc100m/00000/bb22.jpg"]


def test_a_truncated_archive_is_named(packed, refused):
    shard = packed / "yfcc100m" / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:2048])
    assert "00001.tar'" in refused(read_ilias, packed) and len(read_ilias(packed, "core").images) == 3


def test_an_archive_with_two_pictures_of_one_name_is_named(packed, refused):
    with tarfile.open(packed / "yfcc100m" / "00001.tar", "a") as tar:
        info = tarfile.TarInfo("./cc33.jpg")
        info.size = len(jpg(70))
        tar.addfile(info, io.BytesIO(jpg(70)))
    assert "00001.tar' contains 2 files named 'cc33.jpg'" in refused(read_ilias, packed)


def test_distractors_are_compared_with_their_list(packed, refused):
    gz = packed / "image_ids" / "distractor_ids.txt.gz"
    whole = gz.read_bytes()
    gz.write_bytes(gzip.compress(b"00000.tar/aa11\n00000.tar/bb22\n"))
    assert "1 pictures in" in (said := refused(read_ilias, packed)) and "first: 'cc33'" in said
    gz.write_bytes(gzip.compress(gzip.decompress(whole) + b"00001.tar/dd44\n"))
    assert "1 distractors that" in (said := refused(read_ilias, packed)) and "'00001.tar/dd44'" in said
    for content in (whole[:-9], whole[:20], b"no gzip"):
        gz.write_bytes(content)
        assert "distractor_ids.txt.gz' is cut short" in refused(read_ilias, packed)


def test_text_queries(lists, refused):
    (lists / "image_ids" / "text_query_ids.txt").write_text(f"{BIMP}/query/T000.txt\n{FLEP}/query/T001.txt\n")
    (lists / "ilias_core" / FLEP / "query" / "T001.txt").write_bytes("\ufeffein blauer Krug \n".encode("utf-16-le"))
    gallery = read_ilias(lists, text=True)
    assert [(query.text, query.box, query.instance) for query in gallery.queries] == [
        ("a toy with a hat", None, 1),
        ("ein blauer Krug", None, 2),
    ]
    assert gallery.queries[0].file_name == f"ilias_core/{BIMP}/query/T000.txt" and len(gallery.images) == 3
    assert len(read_dataset(lists, text=True).queries) == 2
    assert "Only ILIAS has text queries" in refused(read_dataset, lists, "folder", text=True)
    (lists / "ilias_core" / FLEP / "query" / "T001.txt").write_bytes(b" \n")
    assert "T001.txt' describes nothing" in refused(read_ilias, lists, text=True)
    (lists / "ilias_core" / FLEP / "query" / "T001.txt").write_bytes(b"\x80\x81")
    assert "T001.txt' cannot be read as text" in refused(read_ilias, lists, text=True)
    os.remove(lists / "ilias_core" / FLEP / "query" / "T001.txt")
    assert "text_query_ids.txt" in refused(read_ilias, lists, text=True)
    os.remove(lists / "image_ids" / "text_query_ids.txt")
    assert f"no description or picture, first: 'ilias_core/{FLEP}/query'" in refused(read_ilias, lists, text=True)


def test_missing_mini_distractors(distractors, refused):
    os.remove(distractors / "yfcc100m" / "00001" / "cc33.jpg")
    message = refused(read_ilias, distractors, "mini")
    assert "1 of the 2 distractors" in message and "'cc33'" in message
    os.remove(distractors / "image_ids" / "mini_ilias_yfcc100m_ids.txt")
    assert "There is no file" in refused(read_ilias, distractors, "mini")


def test_a_broken_picture(core, refused):
    (core / "ilias_core" / POSITIVES[2]).write_bytes(b"no")
    assert "1 of 6 pictures" in refused(read_ilias, core)
