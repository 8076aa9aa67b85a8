"""A visitor's own pictures, without a browser: what is taken, indexed, boxed, scored, taken home and brought back."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.own import indexing, registry
from patchify_core.demo.own.collection import LONGEST, clean, unused
from patchify_core.demo.own.gallery import PREFIX, OwnGallery, own_picture_url, own_token
from patchify_core.demo.own.indexing import CANCELLED, DONE, FAILED, INDEXING
from patchify_core.demo.own.registry import Registry, Visitor
from patchify_core.demo.queueing import FairLock
from patchify_core.demo.results import UNMARKED, WRONG
from patchify_core.demo.server_folders import STALE_S, delete_abandoned
from patchify_core.demo.settings import PageSettings
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.run import evaluate
from patchify_core.features.maps import PictureMap, pack
from patchify_core.files import sha256_of_bytes, sha256_of_json
from patchify_core.gallery import read_coco, read_folder
from patchify_core.imaging.boxes import checked_box
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.regions import parse_regions
from patchify_core.retrieval.searcher import QueryView
from patchify_core.web import own_pictures as addresses
from patchify_core.web import visits
from patchify_core.web.events import SearchRequest
from patchify_core.web.own_pictures import own_routes
from patchify_core.web.tabs.sharing import Sharing
from patchify_core.web.visits import file_url
from tests.tiny import TinyEncoder, picture, write_dataset, write_pictures, zipped

LIMITS = PageSettings(own_pictures=40, own_mb=1, own_total_mb=2, upload_mb=1, archive_mb=2, forget_s=600)


def png(seed: int, size: tuple[int, int] = (24, 18)) -> bytes:
    stream = io.BytesIO()
    picture(seed, size).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def bundled(tmp_path_factory) -> ExampleGallery:
    """A gallery whose index keeps maps and is coded, as the bundled one that a visit begins with."""
    gallery = read_coco(write_dataset(tmp_path_factory.mktemp("own") / "set"))
    settings = BuildSettings("PCAH16,SQ8", features="pooled:96", keep_maps=True)
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions("pyramid:3"), settings)
    return ExampleGallery(gallery.root, TinyEncoder())


@pytest.fixture
def all_visitors(bundled, tmp_path) -> Iterator[Registry]:
    made = Registry(bundled, LIMITS, tmp_path / f"{PREFIX}test")
    yield made
    made.close()
    assert not (tmp_path / f"{PREFIX}test").exists()


@pytest.fixture
def visitor(all_visitors) -> Visitor:
    return all_visitors.visitor(all_visitors.create())


def indexed(visitor: Visitor) -> Visitor:
    visitor.indexer.start()
    visitor.indexer.join(60)
    return visitor


# Names ----------------------------------------------------------------------------------------------------


@given(st.text(max_size=300))
def test_cleaned_names_stay_inside_and_fit_any_file_system(name) -> None:
    cleaned = clean(name)
    parts = cleaned.split("/")
    assert parts and all(part and part not in (".", "..") for part in parts)
    assert not set(cleaned) & set('<>:"\\|?*\0') and all(part == part.strip(" .") or "." in part for part in parts)
    assert all(len(part) <= LONGEST and len(part.encode()) <= 255 for part in parts)
    assert clean(cleaned) == cleaned or len(name) > 50  # what is clean stays as it is


@pytest.mark.parametrize(
    "name",
    [
        "50% off #1 [sofa];$5.jpg",
        "รูปภาพ/โซฟา.png",
        "हिन्दी.jpg",
        "۱۲ عکس\u200cها.jpg",
        "👨\u200d👩\u200d👧 –…’°①.png",
        "κ{a}^`.png",
    ],
)
def test_what_any_file_system_takes_is_the_visitors_own(name) -> None:
    assert clean(name) == name


@pytest.mark.parametrize(
    "letter", ["\u202e", "\u200b", "\0", "\n", "\x7f", "\ud800", "\ue000", "\u0378", ":", "\u2028"]
)
def test_letters_that_deceive_or_are_none_are_replaced(letter) -> None:
    assert clean(f"a{letter}b.png") == "a_b.png"


@given(st.lists(st.sampled_from(["a.jpg", "A.JPG", "b", "b (2)", "c.tar.gz"]), max_size=12))
def test_unused_names_differ_on_every_file_system(names) -> None:
    taken: set[str] = set()
    for name in names:
        taken.add(unused(name, taken.__contains__).casefold())
    assert len(taken) == len(names)


def test_turns_go_to_whoever_waited_longest() -> None:
    turns, order = FairLock(), []
    turns.acquire()

    def wait(number: int) -> None:
        with turns:
            order.append(number)

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        while turns.waiting <= number:
            time.sleep(0.001)
    turns.release()
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 3, 4] and turns.waiting == 0


# Taking pictures ------------------------------------------------------------------------------------------


def test_pictures_are_taken_under_safe_names(visitor) -> None:
    assert visitor.collection.add("../../etc/pass<wd.png", png(1))
    assert visitor.collection.add("a/b.png", png(2))
    assert visitor.collection.add("A/B.png", png(3))
    names = [p.name for p in visitor.collection.pictures]
    assert names == ["etc/pass_wd.png", "a/b.png", "A/B (2).png"]
    root = visitor.collection.pictures_folder.resolve()
    assert all(root in p.path.resolve().parents and p.path.is_file() for p in visitor.collection.pictures)


def test_a_picture_named_like_another_ones_folder(visitor) -> None:
    assert visitor.collection.add("a", png(1)) and visitor.collection.add("a/b.png", png(2))
    assert len({p.path for p in visitor.collection.pictures}) == 2


def test_what_is_no_picture_or_too_much_is_named(visitor) -> None:
    collection = visitor.collection
    assert not collection.add("notes.txt", b"no picture")
    assert collection.add("a.png", png(1)) and not collection.add("b.png", png(1))
    assert not collection.add("large.png", bytes(1_000_001))
    for seed in range(2, 41):
        assert collection.add(f"{seed}.png", png(seed))
    assert not collection.add("more.png", png(99))
    said = dict(collection.skipped)
    assert "already, as a.png" in said["b.png"] and "1 MB" in said["large.png"] and "40 pictures" in said["more.png"]
    assert collection.skipped_in_all == 4 and len(collection.pictures) == 40


def test_bytes_are_bounded_for_one_and_for_all(all_visitors) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 300, 300, 3), np.uint8)

    def bmp(number: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(noise[number]).save(stream, "BMP")
        return stream.getvalue()  # 270 kB

    visitors = [all_visitors.visitor(all_visitors.create()).collection for _ in range(3)]
    taken = [[one.add(f"{at}.bmp", bmp(4 * number + at)) for at in range(4)] for number, one in enumerate(visitors)]
    assert taken == [[True, True, True, False], [True, True, True, False], [True, False, False, False]]
    assert "1 MB" in visitors[0].skipped[0][1] and "Other visitors" in visitors[2].skipped[0][1]
    all_visitors.delete(visitors[0].token)
    assert visitors[2].add("now.bmp", bmp(11))


def test_archives_are_unpacked_as_far_as_they_may(visitor, tmp_path, refused) -> None:
    data = zipped(
        {
            "good/a.png": png(1),
            "../up.png": png(2),
            "__MACOSX/._a.png": b"rubbish",
            "good/.DS_Store": b"rubbish",
            "good/@eaDir/a.png": png(4),
            "$RECYCLE.BIN/a.png": png(5),
            "good/.hidden.png": png(6),
            "good/a.xmp": b"<x:xmpmeta/>",
            "good\\empty\\": b"",
            "inner.zip": zipped({"b.png": png(3)}),
            "words.txt": b"words",
        }
    )
    (tmp_path / "a.zip").write_bytes(data)
    assert visitor.collection.add_archive(tmp_path / "a.zip") == 1
    said = dict(visitor.collection.skipped)
    assert set(said) == {"up.png", "inner.zip", "words.txt"} and "within the archive" in said["inner.zip"]
    (tmp_path / "many.zip").write_bytes(zipped({f"{seed}.png": png(seed) for seed in range(100, 160)}))
    assert "40 pictures" in refused(visitor.collection.add_archive, tmp_path / "many.zip")
    assert len(visitor.collection.pictures) == 40  # what there was room for stays


@pytest.mark.parametrize("names", [["a", "a/b.png"], ["a/b.png", "a"], ["x/a.png/b.png", "X/A.png"]])
def test_a_picture_that_is_called_like_a_folder_is_taken(visitor, tmp_path, names) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({name: png(seed) for seed, name in enumerate(names)}))
    assert visitor.collection.add_archive(tmp_path / "a.zip") == 2
    assert visitor.collection.skipped == []
    assert [picture.path.read_bytes() for picture in visitor.collection.pictures] == [png(0), png(1)]


@pytest.mark.parametrize("files", [{}, {"a/": b"", "a/b/": b""}, {"__MACOSX/._a.jpg": b"x", ".hidden/b.png": png(1)}])
def test_a_zip_with_nothing_in_it_is_called_that(client, files) -> None:
    address = f"/own/{client.post('/own').json()['token']}/files"
    sent = client.post(address, params={"name": "a.zip"}, content=zipped(files))
    assert sent.status_code == 400 and "contains no picture" in sent.json()["error"]


def test_a_folder_that_is_sent_is_read_as_one_on_the_command_line(client) -> None:
    """File by file, with their paths: thumbnails, deleted and hidden files are passed over, empty ones are named."""
    base = f"/own/{client.post('/own').json()['token']}"
    sent = {
        "photo/1.JPG": png(1),
        "photo/@eaDir/1.JPG/SYNOPHOTO_THUMB_XL.jpg": png(2),
        "photo/#recycle/2.png": png(3),
        "photo\\.git\\3.png": png(4),
        "photo/._1.JPG": b"\0\5\x16\7",
        "photo/Thumbs.db": b"x",
        "photo/empty.jpg": b"",
    }
    added = [client.post(f"{base}/files", params={"name": n}, content=d).json()["added"] for n, d in sent.items()]
    assert added == [1, 0, 0, 0, 0, 0, 0]
    assert [picture["name"] for picture in client.get(f"{base}/pictures").json()] == ["photo/1.JPG"]
    skipped = client.get(base).json()["skipped"]
    assert skipped["count"] == 1 and "'empty.jpg' is empty (0 bytes)" in skipped["files"][0]["reason"]


def test_what_is_no_picture_is_counted_by_ending_and_what_may_be_one_is_named(visitor, tmp_path) -> None:
    documents = {f"{number}.TXT": b"words" for number in range(300)} | {"v.mp4": b"\0\0\0\x18ftypmp42", "README": b"r"}
    office = zipped({"[Content_Types].xml": b"<x/>"})
    pictures = {"day/torn.png": png(1)[:20], "scan.psd": b"8BPS", "empty.jpg": b""}
    others = {f"{number}.pdf": b"%PDF-1.7" for number in range(2)} | {
        "in.zip": zipped({"a.png": png(2)}),
        "in.rar": b"Rar!\x1a\x07\1\0",
    }
    packed = documents | {"a.docx": office, "b.docx": office} | pictures | others | {"good.png": png(3)}
    (tmp_path / "a.zip").write_bytes(zipped(packed))
    assert visitor.collection.add_archive(tmp_path / "a.zip") == 1
    said = visitor.collection.skipped
    assert visitor.collection.skipped_in_all == len(packed) - 1
    assert {name for name, _ in said} == {*pictures, *others, "300 .txt files", "2 .docx files", "v.mp4", "README"}
    for name, why in said:
        named = name in ("in.zip", "in.rar", "300 .txt files", "2 .docx files") or name.rpartition("/")[2] in why
        assert named and "The picture" not in why
    assert visitor.status()["skipped"]["count"] == len(packed) - 1


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.rar", b"Rar!\x1a\x07\1\0" + bytes(2_000_000), "a.rar is a RAR archive: pack the pictures as a zip."),
        ("a.zip", b"7z\xbc\xaf\x27\x1c", "a.zip is a 7-Zip archive: pack the pictures as a zip."),
        ("a.zip", b"PK\3\4" + bytes(2_000), "is cut short"),
        ("a.zip", b"PK\7\x08PK\3\4" + bytes(2_000), "one of several parts"),
    ],
)
def test_what_is_sent_instead_of_a_zip_is_named(client, name, data, said) -> None:
    sent = client.post(f"/own/{client.post('/own').json()['token']}/files", params={"name": name}, content=data)
    assert sent.status_code == 400 and said in sent.json()["error"]


def test_endings_without_end_are_not_all_shown(visitor) -> None:
    for number in range(500):
        assert not visitor.collection.add(f"a.x{number}", b"words")
    assert visitor.collection.skipped_in_all == 500 and len(visitor.collection.skipped) < 10


def test_names_in_a_zip_are_the_visitors(visitor, tmp_path) -> None:
    """Two that become equal stay two pictures."""
    files = {"Küche/é.png": png(1), "Küche\\é.png": png(2), "Küche/e\u0301.png": png(3)}
    (tmp_path / "a.zip").write_bytes(zipped(files))
    assert visitor.collection.add_archive(tmp_path / "a.zip") == 3
    assert [p.name for p in visitor.collection.pictures] == ["Küche/é.png", "Küche/é (2).png", "Küche/é (3).png"]
    assert [p.path.read_bytes() for p in visitor.collection.pictures] == list(files.values())


# Indexing -------------------------------------------------------------------------------------------------


def test_indexed_like_the_command_line_would(visitor, bundled, tmp_path) -> None:
    folder = write_pictures(tmp_path / "same", range(20))
    for path in sorted(folder.iterdir()):
        visitor.collection.add(path.name, path.read_bytes())
    indexed(visitor)
    assert visitor.indexer.progress.state == DONE and visitor.indexer.progress.indexed == 20
    build_index(read_folder(folder), tmp_path / "index", TinyEncoder(), like=bundled.index)
    plain = PatchIndex.load(tmp_path / "index")
    own = visitor.gallery.engine.index
    query = own.descriptors_of(3)[0]
    for index in (plain, own):
        assert [image.file_name for image in index.images] == [p.name for p in visitor.collection.pictures]
    np.testing.assert_array_equal(plain.search(query).rows, own.search(query).rows)
    np.testing.assert_array_equal(plain.search(query).scores, own.search(query).scores)
    assert [plain.maps.packed(row) for row in range(20)] == [own.maps.packed(row) for row in range(20)]


def test_searchable_while_the_rest_is_indexed_cancelled_and_gone_on_with(visitor, bundled, monkeypatch) -> None:
    encoder = TinyEncoder()
    monkeypatch.setitem(bundled.indexes._engines, bundled.indexes.first, Patchify(bundled.index, encoder))
    monkeypatch.setattr(indexing, "FIRST_PART", 4)
    for seed in range(30):
        visitor.collection.add(f"{seed}.png", png(seed))
    pause, plain = 0.2, TinyEncoder.feature_map

    def slow(self: TinyEncoder, pixels: np.ndarray) -> np.ndarray:
        time.sleep(pause)
        return plain(self, pixels)

    monkeypatch.setattr(TinyEncoder, "feature_map", slow)
    visitor.indexer.start()
    visitor.indexer.start()  # a second tab
    deadline = time.monotonic() + 60
    while not visitor.searchable or visitor.indexer.progress.done < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    progress = visitor.indexer.progress
    assert progress.state == INDEXING and progress.total == 30 and 4 <= progress.indexed < 30
    assert progress.seconds_left is not None and progress.seconds_left > 0
    query = visitor.gallery.picture(2)
    assert visitor.gallery.ranking(query, 3)[0].image_id == 2
    visitor.indexer.cancel()
    pause = 0
    visitor.indexer.join(60)
    progress = visitor.indexer.progress
    assert progress.state == CANCELLED and 5 <= progress.indexed < 30
    done = len(encoder.maps)
    visitor.indexer.start()
    visitor.indexer.join(60)
    progress = visitor.indexer.progress
    assert (progress.state, progress.indexed) == (DONE, 30)
    # One look at the question; the picture that was on its way when it was cancelled may have been embedded twice.
    assert 30 <= len(encoder.maps) <= 36 and len(encoder.maps) > done
    assert sorted(p.name for p in visitor.collection.folder.iterdir() if p.name.endswith(".partial")) == []


def test_unreadable_pictures_are_taken_out_even_where_there_are_no_others(visitor) -> None:
    whole = png(1, (200, 200))
    visitor.collection.add("torn.png", whole[: len(whole) // 2])
    indexed(visitor)
    assert visitor.indexer.progress.state == DONE and visitor.collection.pictures == ()
    assert [name for name, _ in visitor.collection.skipped] == ["torn.png"]
    visitor.collection.add("good.png", png(2))
    visitor.collection.add("torn again.png", whole[: len(whole) // 3])
    indexed(visitor)
    assert [p.name for p in visitor.collection.pictures] == ["good.png"] and visitor.indexer.progress.indexed == 1


def test_failures_are_one_sentence(visitor, monkeypatch) -> None:
    def fail(*args: object, **named: object) -> None:
        raise RuntimeError("whatever")

    visitor.collection.add("a.png", png(1))
    monkeypatch.setattr(indexing, "build_index", fail)
    indexed(visitor)
    assert visitor.indexer.progress.state == FAILED
    assert visitor.status()["error"] == "Your pictures could not be indexed: try again."
    monkeypatch.undo()
    indexed(visitor)
    assert visitor.indexer.progress.state == DONE


# Boxes and scores -----------------------------------------------------------------------------------------


@pytest.fixture
def boxed(visitor, tmp_path) -> Visitor:
    """The pictures of a dataset, indexed, with its boxes."""
    gallery = read_coco(write_dataset(tmp_path / "set"))
    for image in gallery.images:
        visitor.collection.add(Path(image.file_name).name, image.path.read_bytes())
    indexed(visitor)
    for instance, name in gallery.instances.items():
        for image_id, boxes in gallery.positives(instance).items():
            visitor.add_box(Path(gallery.image(image_id).file_name).name, name, boxes[0].tolist())
    return visitor


def test_score_is_that_of_evaluate(boxed, tmp_path) -> None:
    boxed.start_score()
    boxed._scoring.join(60)
    assert boxed.score["state"] == "done"
    rows = {row["way"]: row for row in boxed.score["rows"]}
    assert set(rows) == {"global", "patches", "map"} and rows["global"]["queries"] == 6
    engine = boxed.gallery.engine
    reports = {report.level: report.report for report in evaluate(boxed.dataset(True), engine, [1, 3])}
    assert rows["global"]["map"] == reports[1].map and rows["patches"]["locscore"] == reports[3].locscore
    refined = evaluate(boxed.dataset(True), engine, [3], refiner=engine.refiner("map"))[0].report
    assert rows["map"]["locscore"] == refined.locscore and rows["map"]["map"] == reports[3].map


def test_boxes_taken_home_are_read_by_evaluate(boxed, tmp_path) -> None:
    home = tmp_path / "home"
    for one in boxed.collection.pictures:
        (home / one.name).parent.mkdir(parents=True, exist_ok=True)
        (home / one.name).write_bytes(one.path.read_bytes())
    (home / "annotations.json").write_bytes(boxed.annotations())
    gallery = read_coco(home)
    ours = boxed.dataset(True)
    assert [q.exclude for q in gallery.queries] == [q.exclude for q in ours.queries]
    engine = boxed.gallery.engine
    for a, b in zip(evaluate(gallery, engine), evaluate(ours, engine), strict=True):
        assert a.report.map == b.report.map and a.report.locscore == b.report.locscore


def test_nothing_to_score_is_said(visitor, refused) -> None:
    refused(visitor.start_score)
    visitor.collection.add("a.png", png(1))
    indexed(visitor)
    visitor.add_box("a.png", "mug", [1, 2, 10, 12])
    visitor.start_score()
    visitor._scoring.join(60)
    assert visitor.score["state"] == "failed" and "at least two" in visitor.score["error"]


@pytest.mark.parametrize(
    ("name", "box"),
    [
        ("", [1, 1, 5, 5]),
        ("   ", [1, 1, 5, 5]),
        (7, [1, 1, 5, 5]),
        ("x" * 61, [1, 1, 5, 5]),
        ("\udcff", [1, 1, 5, 5]),
        ("mug", None),
        ("mug", [1, 2, 3]),
        ("mug", ["1", 1, 5, 5]),
        ("mug", [1, 1, float("nan"), 5]),
        ("mug", [100, 100, 200, 200]),
        ("mug", [5, 5, 1, 1]),
        ("mug", [10**400, 1, 5, 5]),
        ("m\x01g", [1, 1, 5, 5]),
    ],
)
def test_boxes_that_are_none_are_refused(visitor, refused, name, box) -> None:
    visitor.collection.add("a.png", png(1))
    refused(visitor.add_box, "a.png", name, box)
    assert len(visitor.boxes) == 0
    refused(visitor.add_box, "gone.png", "mug", [1, 1, 5, 5])


def test_pictures_without_a_box_are_not_called_wrong(boxed) -> None:
    place = boxed.gallery
    query = place.picture(1)
    assert query.instance is not None and query.itself == 1
    verdicts = [result.verdict for result in place.answer(query, 3, 7).results]
    assert WRONG not in verdicts and UNMARKED in verdicts and "itself" in verdicts
    boxed.remove_box(boxed.collection.pictures[0].name, "rug")
    assert boxed.gallery.picture(1).instance is None


# Taken home and brought back ------------------------------------------------------------------------------


@pytest.fixture
def home(boxed) -> bytes:
    return b"".join(boxed.archive()[1])


def returned(all_visitors: Registry, data: bytes, path: Path) -> Visitor:
    path.write_bytes(data)
    again = all_visitors.visitor(all_visitors.create())
    again.restore(path)
    return again


def test_index_that_was_taken_home_opens_with_the_library(home, boxed, tmp_path) -> None:
    with zipfile.ZipFile(io.BytesIO(home)) as archive:
        archive.extractall(tmp_path / "index")
    plain = PatchIndex.load(tmp_path / "index")
    query = plain.descriptors_of(0)[0]
    np.testing.assert_array_equal(plain.search(query).rows, boxed.gallery.engine.index.search(query).rows)


def test_pictures_of_an_index_that_came_back_are_not_embedded_again(
    home, boxed, all_visitors, tmp_path, monkeypatch
) -> None:
    pictures = [(p.name, p.path.read_bytes()) for p in boxed.collection.pictures]
    before = boxed.gallery.engine.index
    again = returned(all_visitors, home, tmp_path / "home.zip")
    assert again.status()["known"] == len(pictures)

    def embed(self: TinyEncoder, pixels: np.ndarray) -> np.ndarray:
        raise AssertionError("embedded again")

    monkeypatch.setattr(TinyEncoder, "feature_map", embed)
    for name, data in reversed(pictures):
        again.collection.add(name, data)
    indexed(again)
    after = again.gallery.engine.index
    rows = {image.file_name: row for row, image in enumerate(before.images)}
    for row, image in enumerate(after.images):
        np.testing.assert_array_equal(after.descriptors_of(row), before.descriptors_of(rows[image.file_name]))
        assert after.maps.packed(row) == before.maps.packed(rows[image.file_name])
    assert again.indexer.progress.state == DONE


def test_boxes_come_back_with_the_index_and_their_pictures(home, boxed, all_visitors, tmp_path) -> None:
    again = returned(all_visitors, home, tmp_path / "home.zip")
    first, *others = boxed.collection.pictures
    assert len(again.restored_boxes) == len(boxed.boxes) and len(again.boxes) == 0
    again.collection.add("renamed.png", first.path.read_bytes())  # known by what is in it
    indexed(again)
    assert {(mark.object, tuple(mark.box.tolist())) for mark in again.boxes.all} == {
        (mark.object, tuple(mark.box.tolist())) for mark in boxed.boxes.all if mark.picture == first.id
    }
    for one in others:
        again.collection.add(one.name, one.path.read_bytes())
    indexed(again)
    assert len(again.boxes) == len(boxed.boxes) and again.restored_boxes == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"{",
        lambda data: b"[" * 100_000,
        lambda data: b"[1]",
        lambda data: data.replace(b'"bbox": [', b'"bbox": ["x",'),
        lambda data: data.replace(b'"category_id"', b'"category"'),
        lambda data: data.replace(b'.png"', b'.jpg"'),
    ],
)
def test_boxes_that_were_edited_are_refused_with_their_index(home, all_visitors, tmp_path, refused, damage) -> None:
    with zipfile.ZipFile(io.BytesIO(home)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    changed = damage(files["annotations.json"])
    assert changed != files["annotations.json"]
    bad = zipped(files | {"annotations.json": changed})
    assert "damaged or was edited" in refused(returned, all_visitors, bad, tmp_path / "bad.zip")
    assert list(all_visitors.folder.rglob("restored-*")) == []


def test_boxes_outside_their_picture_are_left_out(home, all_visitors, boxed, tmp_path) -> None:
    with zipfile.ZipFile(io.BytesIO(home)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(files["annotations.json"])
    for row in data["annotations"]:
        row["bbox"] = [1e300, -5, float("nan"), 9]
    again = returned(all_visitors, zipped(files | {"annotations.json": json.dumps(data).encode()}), tmp_path / "x.zip")
    for one in boxed.collection.pictures:
        again.collection.add(one.name, one.path.read_bytes())
    indexed(again)
    assert len(again.boxes) == 0 and again.gallery.picture(1).instance is None


def test_foreign_and_damaged_indexes_are_refused(home, all_visitors, tmp_path, refused) -> None:
    files = {}
    with zipfile.ZipFile(io.BytesIO(home)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert set(files) == {"meta.json", "index.faiss", "projection.npy", "maps.bin", "annotations.json"}
    meta = json.loads(files["meta.json"])
    cases = {
        "no codes": {k: v for k, v in files.items() if k != "index.faiss"},
        "no maps": {k: v for k, v in files.items() if k != "maps.bin"},
        "cut codes": files | {"index.faiss": files["index.faiss"][:-7]},
        "longer codes": files | {"index.faiss": files["index.faiss"] + b"x"},
        "other header": files | {"index.faiss": b"IxPT" + files["index.faiss"][4:]},
        "other projection": files | {"projection.npy": files["projection.npy"][:-1] + b"\x00"},
        "cut maps": files | {"maps.bin": files["maps.bin"][:-9]},
        "edited meta": files | {"meta.json": json.dumps(meta | {"regions": "pyramid:2"}).encode()},
        "no json": files | {"meta.json": b"{"},
        "huge meta": files | {"meta.json": b"[" + b"[]," * 500_000 + b"[]]"},
        "huge projection": files | {"projection.npy": files["projection.npy"] + bytes(2_000_000)},
    }
    for case, changed in cases.items():
        said = refused(returned, all_visitors, zipped(changed), tmp_path / "bad.zip")
        assert "index" in said, case
    leftovers = [p for p in all_visitors.folder.rglob("restored-*")]
    assert leftovers == []


def bomb(height: int, width: int, channels: int) -> bytes:
    """A packed map of zeros, which are as good as nothing once they are packed."""
    kept = pack(PictureMap(np.zeros((1, 1, 1), np.float32), np.zeros((96, 96, 3), np.uint8)))
    size = int.from_bytes(kept[14:18], "little")
    packer = zlib.compressobj(9)
    zeros = packer.compress(bytes(height * width * channels)) + packer.flush()
    return struct.pack("<HHH", height, width, channels) + kept[6 : 18 + size] + zeros


def test_small_files_do_not_become_large_arrays(home, all_visitors, tmp_path, refused) -> None:
    """Each claimed size is compared with what the page's own index has before anything is allocated."""
    with zipfile.ZipFile(io.BytesIO(home)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    meta = json.loads(files["meta.json"])
    count = len(meta["images"])
    ends = np.frombuffer(files["maps.bin"], "<u8", count + 1, 16)
    first = files["maps.bin"][ends[0] : ends[1]]
    channels = int.from_bytes(first[4:6], "little")

    def with_map(data: bytes) -> dict[str, bytes]:
        moved = np.concatenate([ends[:1], ends[1:] + len(data) - len(first)]).astype("<u8")
        maps = files["maps.bin"][:16] + moved.tobytes() + data + files["maps.bin"][ends[1] :]
        return sealed(files | {"maps.bin": maps})

    def sealed(changed: dict[str, bytes]) -> dict[str, bytes]:
        said = {name: {"bytes": len(changed[name]), "sha256": sha256_of_bytes(changed[name])} for name in meta["files"]}
        new = {key: value for key, value in meta.items() if key != "digest"} | {"files": said}
        return changed | {"meta.json": json.dumps(new | {"digest": sha256_of_json(new)}).encode()}

    returned(all_visitors, zipped(with_map(first)), tmp_path / "good.zip")  # sealed like this it is taken
    empty = b'{"digest": "", "format": 2, "x": '
    cases = {
        "a map of many cells": with_map(bomb(2500, 2500, channels)),
        "a map that says so": with_map(struct.pack("<HHH", 65535, 65535, channels) + first[6:]),
        "a map of many channels": with_map(bomb(2, 2, 65535)),
        "codes of zeros": sealed(files | {"index.faiss": files["index.faiss"] + bytes(9_000_000)}),
        "maps of zeros": sealed(files | {"maps.bin": files["maps.bin"] + bytes(7_000_000)}),
        "a meta of brackets": files | {"meta.json": empty + b"[" + b"[]," * 20_000 + b"[]]}"},
        "a deep meta": files | {"meta.json": empty + b"[" * 30_000 + b"]" * 30_000 + b"}"},
    }
    for case, changed in cases.items():
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in changed.items():
                archive.writestr(name, data)
        data = stream.getvalue()
        assert len(data) < 400_000, (case, len(data))
        tracemalloc.start()
        said = refused(returned, all_visitors, data, tmp_path / "bad.zip")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "index" in said and peak < 25_000_000, (case, said, peak)


def test_flipped_bytes_of_an_index_are_harmless(home, all_visitors, tmp_path) -> None:
    """FAISS trusts what it reads; so it must not get to read what a stranger may have changed."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(home)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for name in ("index.faiss", "maps.bin", "meta.json"):
        for _ in range(12):
            data = bytearray(files[name])
            data[random.integers(len(data))] ^= 1 << random.integers(8)
            again = None
            try:
                again = returned(all_visitors, zipped(files | {name: bytes(data)}), tmp_path / "bad.zip")
            except PatchifyError as error:
                assert str(error).endswith(".")
            if again is not None:  # codes and maps are numbers, and other numbers do no harm
                index = again.indexer.template
                assert len(index.search(index.descriptors_of(0)[0]).rows) == len(index.images)
                all_visitors.delete(again.collection.token)


# Who may see what, and when it ends -----------------------------------------------------------------------


def test_only_the_token_opens_a_collection(all_visitors, visitor, refused) -> None:
    for token in ("", "x", None, 7, visitor.collection.token[:-1]):
        refused(all_visitors.visitor, token)
    assert own_token(f"own:{visitor.collection.token}:3") == visitor.collection.token and own_token("index") is None
    refused(all_visitors.gallery_of, f"own:{visitor.collection.token}:1")  # nothing is indexed yet
    assert all_visitors.gallery_of("pooled") is None


def test_addresses_of_pictures_have_the_token_in_them(visitor, bundled) -> None:
    visitor.collection.add("folder/a b.png", png(1))
    path = visitor.collection.pictures[0].path
    assert own_picture_url(path) == f"own/{visitor.collection.token}/picture/folder/a%20b.png" == file_url(path)
    assert file_url(bundled.gallery.images[0].path).startswith("gradio_api/file=")


def test_visits_end_when_the_last_tab_closes_or_nothing_is_heard(all_visitors) -> None:
    now = time.monotonic()
    token = all_visitors.create()
    all_visitors.open_tab(token, "one").collection.add("a.png", png(1))
    all_visitors.open_tab(token, "two")
    all_visitors.close_tab(token, "one")
    all_visitors.sweep(now + registry.CLOSED_S + 100)
    all_visitors.close_tab(token, "two")
    all_visitors.open_tab(token, "two")  # loaded anew
    all_visitors.sweep(now + registry.CLOSED_S + 100)
    assert token in all_visitors.tokens
    all_visitors.close_tab(token, "two")
    folder = all_visitors.visitor(token).collection.folder
    all_visitors.sweep(time.monotonic() + registry.CLOSED_S + 1)
    assert token not in all_visitors.tokens and not folder.exists()
    idle, empty = all_visitors.create(), all_visitors.create()
    all_visitors.visitor(idle).collection.add("a.png", png(1))
    all_visitors.sweep(time.monotonic() + registry.UNUSED_S + 1)
    assert empty not in all_visitors.tokens and idle in all_visitors.tokens
    all_visitors.sweep(time.monotonic() + LIMITS.forget_s + 1)
    assert len(all_visitors) == 0 and list(all_visitors.folder.iterdir()) == []


def test_deleted_in_the_middle_of_indexing_leaves_nothing(all_visitors, visitor, monkeypatch) -> None:
    started, plain = threading.Event(), TinyEncoder.feature_map

    def slow(self: TinyEncoder, pixels: np.ndarray) -> np.ndarray:
        started.set()
        time.sleep(0.02)
        return plain(self, pixels)

    monkeypatch.setattr(TinyEncoder, "feature_map", slow)
    for seed in range(30):
        visitor.collection.add(f"{seed}.png", png(seed))
    visitor.indexer.start()
    assert started.wait(60)
    all_visitors.delete(visitor.collection.token)
    visitor.indexer.join(60)
    assert not visitor.searchable and not visitor.collection.folder.exists()
    assert not visitor.collection.add("late.png", png(99))


def test_stale_folders_of_dead_servers_are_deleted(tmp_path) -> None:
    dead, living, other = (tmp_path / name for name in (f"{PREFIX}dead", f"{PREFIX}living", "somebody-elses"))
    for folder in (dead, living, other):
        (folder / "token").mkdir(parents=True)
    long_ago = time.time() - STALE_S - 10
    os.utime(dead, (long_ago, long_ago))
    os.utime(other, (long_ago, long_ago))
    delete_abandoned(tmp_path)
    assert not dead.exists() and living.exists() and other.exists()


def test_more_pictures_renew_a_question(visitor) -> None:
    for seed in range(3):
        visitor.collection.add(f"{seed}.png", png(seed))
    place = indexed(visitor).gallery
    query = place.picture(1)
    assert place.adopt(query) is query and len(place.ranking(query, 3)) == 3
    visitor.collection.add("more.png", png(9))
    later = indexed(visitor).gallery
    renewed = later.adopt(query)
    assert renewed is not query and len(later.ranking(renewed, 3)) == 4
    np.testing.assert_array_equal(renewed.descriptor, query.descriptor)
    assert isinstance(later, OwnGallery) and later.label == "your 4 pictures"


def test_nothing_that_is_shared_has_the_token_in_it(boxed, bundled, all_visitors) -> None:
    page = visits.Visits(bundled, LIMITS, all_visitors)
    asked = SearchRequest(boxed.gallery.picture(1), 3, 5, None, "map")
    for kind in ("svg", "csv", "json"):
        assert boxed.collection.token not in Sharing(page, frozenset({"search"})).file(asked, kind)


def test_the_box_that_was_drawn_is_searched_with(boxed, bundled, all_visitors) -> None:
    page = visits.Visits(bundled, LIMITS, all_visitors)
    asked = SearchRequest(bundled.first(), 3, 5, None, "map")
    picture = boxed.collection.pictures[0]
    data = {"token": boxed.collection.token, "name": picture.name, "box": [2, 3, 20, 18]}
    query = page.search_own(asked, SimpleNamespace(_data=data))["question"]
    assert query.box.tolist() == [2, 3, 20, 18] and query.itself == picture.id
    with pytest.raises(PatchifyError):
        page.search_own(asked, SimpleNamespace(_data=data | {"box": [900, 900, 990, 990]}))


def test_thumbnails_of_deleted_pictures_begin_anew(boxed, bundled, all_visitors, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(visits, "warn", said.append)
    page = visits.Visits(bundled, LIMITS, all_visitors)
    asked = SearchRequest(boxed.gallery.picture(1), 3, 5, None, "map")
    event = SimpleNamespace(_data={"id": visits.OWN_ID + 2})
    shown = page.pick_example(asked, event)
    assert shown["question"].itself == 2 and shown["question"].is_private and said == []
    all_visitors.delete(boxed.collection.token)
    shown = page.pick_example(replace(asked, query=bundled.first()), event)
    assert shown["question"] is bundled.first() and "no longer on the server" in said[0]


def test_a_bundled_question_is_described_anew(visitor, bundled) -> None:
    visitor.collection.add("a.png", png(1))
    place = indexed(visitor).gallery
    asked = place.adopt(replace(bundled.first(), itself=3))
    assert asked.instance is None and asked.itself is None and asked.example is None
    assert place.answer(asked, 3, 10).score is None and asked.is_private


# Addresses ------------------------------------------------------------------------------------------------


@pytest.fixture
def client(all_visitors) -> TestClient:
    return TestClient(Starlette(routes=own_routes(all_visitors)))


def wait(client: TestClient, base: str, state: str) -> dict:
    deadline = time.monotonic() + 60
    while (now := client.get(base).json())["state"] != state:
        assert time.monotonic() < deadline, now
        time.sleep(0.02)
    return now


def test_a_whole_visit(client, all_visitors) -> None:
    base = f"/own/{client.post('/own').json()['token']}"
    for seed in range(5):
        sent = client.post(f"{base}/files", params={"name": f"day/{seed}.png"}, content=png(seed))
        assert sent.json()["added"] == 1
    sent = client.post(f"{base}/files", params={"name": "b.zip"}, content=zipped({"x.png": png(9), "t.txt": b"t"}))
    assert sent.json()["added"] == 1
    assert client.get(f"{base}/pictures").json()[0] == {"id": 1, "name": "day/0.png", "width": 24, "height": 18}
    client.post(f"{base}/index")
    now = wait(client, base, DONE)
    assert (now["indexed"], now["total"], now["skipped"]["count"]) == (6, 6, 1)
    shown = client.get(f"{base}/picture/day/0.png", params={"side": 160})
    assert shown.headers["content-type"] == "image/jpeg" and "private" in shown.headers["cache-control"]
    assert Image.open(io.BytesIO(shown.content)).size == (24, 18)
    for name in ("day/0.png", "day/1.png"):
        marked = client.post(f"{base}/marks", json={"picture": name, "object": "mug", "box": [2, 2, 12, 12]})
        assert marked.status_code == 200
    client.post(f"{base}/score")
    deadline = time.monotonic() + 60
    while client.get(base).json()["score"]["state"] == "scoring":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [row["way"] for row in client.get(base).json()["score"]["rows"]] == ["global", "patches", "map"]
    home = client.get(f"{base}/index.zip")
    assert zipfile.is_zipfile(io.BytesIO(home.content)) and "attachment" in home.headers["content-disposition"]
    assert len(client.get(f"{base}/annotations.json").json()["categories"]) == 1
    folder = all_visitors.visitor(base.rpartition("/")[2]).collection.folder
    assert not [p for p in folder.iterdir() if p.suffix == ".zip" or p.name.startswith("incoming")]
    client.post(f"{base}/delete")
    assert client.get(base).status_code == 404 and not folder.exists()
    assert client.get(f"{base}/picture/day/0.png").status_code == 404


def test_bad_requests_are_one_sentence_and_leave_nothing(client, all_visitors) -> None:
    token = client.post("/own").json()["token"]
    base = f"/own/{token}"
    collection = all_visitors.visitor(token).collection

    def said(answer, status: int = 400) -> str:
        assert answer.status_code == status, answer.text
        text = answer.json()["error"]
        assert text.endswith(".") and "\n" not in text
        return text

    assert "1 MB" in said(client.post(f"{base}/files", content=bytes(1_500_000)))
    assert "2 MB" in said(client.post(f"{base}/files", content=b"PK\x03\x04" + bytes(2_000_050)))
    said(client.post(f"{base}/files", content=b"PK\x03\x04" + bytes(1000)))
    said(client.get(f"{base}/index.zip"))
    said(client.get(f"{base}/picture/gone.png"))
    said(client.post(f"{base}/marks", content=b"[" * 5000))
    said(client.post(f"{base}/marks", content=b"x" * 30_000))
    said(client.post(f"{base}/marks", json={"picture": "gone.png", "object": "mug", "box": [1, 2, 3, 4]}))
    said(client.post(f"{base}/score"))
    said(client.get("/own/unknown"), 404)
    said(client.post("/own", headers={"sec-fetch-site": "cross-site"}), 403)
    said(client.get(base, headers={"sec-fetch-site": "cross-site"}), 403)
    assert [p.name for p in collection.folder.iterdir()] == ["pictures"]
    assert client.post(f"{base}/files", content=b"").json()["added"] == 0


def test_strange_names_reach_no_other_file(client, all_visitors) -> None:
    token = client.post("/own").json()["token"]
    (all_visitors.folder / "secret.png").write_bytes(png(5))
    for name in ("%2e%2e/%2e%2e/secret.png", "..%2f..%2fsecret.png", "/etc/passwd", "%00"):
        answer = client.get(f"/own/{token}/picture/{name}")
        assert answer.status_code in (400, 404) and b"PNG" not in answer.content


def test_too_many_visitors_are_told_and_empty_collections_keep_nobody_out(client, all_visitors, monkeypatch) -> None:
    monkeypatch.setattr(registry, "MOST_VISITORS", 3)
    tokens = [client.post("/own").json()["token"] for _ in range(5)]
    assert set(all_visitors.tokens) == set(tokens[2:])
    for number, token in enumerate(tokens[2:]):
        client.post(f"/own/{token}/files", params={"name": "a.png"}, content=png(number))
    answer = client.post("/own")
    assert answer.status_code == 400 and "try again" in answer.json()["error"]


def test_what_is_shown_is_drawn_once(client, all_visitors, monkeypatch) -> None:
    base = f"/own/{client.post('/own').json()['token']}"
    client.post(f"{base}/files", params={"name": "a.png"}, content=png(1))
    first = client.get(f"{base}/picture/a.png").content
    monkeypatch.setattr(addresses, "_jpeg", None)
    assert client.get(f"{base}/picture/a.png").content == first


def test_index_that_is_asked_for_leaves_no_copy(client, all_visitors) -> None:
    token = client.post("/own").json()["token"]
    base = f"/own/{token}"
    client.post(f"{base}/files", params={"name": "a.png"}, content=png(1))
    client.post(f"{base}/index")
    wait(client, base, DONE)
    for asked in ({}, {"range": "bytes=foo"}, {"range": "bytes=5-2"}, {"range": "bytes=999999999-"}):
        assert zipfile.is_zipfile(io.BytesIO(client.get(f"{base}/index.zip", headers=asked).content))
    assert list(all_visitors.visitor(token).collection.folder.glob("*.zip")) == []


def test_uploads_are_counted_while_they_last(all_visitors, visitor, refused) -> None:
    visitor.uploads, visitor.incoming = 1, 3_000_000
    assert all_visitors.bytes == 3_000_000
    assert "Other visitors" in refused(all_visitors.check_upload, visitor)
    assert not visitor.collection.add("a.png", png(1))
    all_visitors.sweep(time.monotonic() + 10_000)  # a slow upload keeps its visitor
    assert visitor.collection.token in all_visitors.tokens
    visitor.uploads = visitor.incoming = 0
    all_visitors.delete(visitor.collection.token)
    assert "no longer on the server" in refused(all_visitors.check_upload, visitor)


def test_scoring_lets_others_have_their_turn(boxed, all_visitors, monkeypatch) -> None:
    other = all_visitors.visitor(all_visitors.create())
    other.collection.add("a.png", png(1))
    started, describe = threading.Event(), Patchify.view

    def slow(self: Patchify, *arguments: object) -> QueryView:
        started.set()
        time.sleep(0.15)
        return describe(self, *arguments)

    monkeypatch.setattr(Patchify, "view", slow)
    boxed.start_score()
    assert started.wait(60)
    indexed(other)
    assert other.indexer.progress.state == DONE and boxed.score["state"] == "scoring"
    boxed._scoring.join(60)
    assert boxed.score["state"] == "done"


# Tapped and tried ------------------------------------------------------------------------------------------


@pytest.fixture
def tried(client, all_visitors) -> tuple[TestClient, str]:
    """A visit with a query, whose object is in two of three other pictures: once large, once small."""
    base = f"/own/{client.post('/own').json()['token']}"
    thing = picture(77, (60, 60), cells=4)
    for name, side, place in (("query", 120, (70, 50)), ("large", 120, (20, 30)), ("small", 60, (160, 120))):
        scene = picture(len(name), (240, 180), cells=12)
        scene.paste(thing.resize((side, side)), place)
        stream = io.BytesIO()
        scene.save(stream, "PNG")
        assert client.post(f"{base}/files", params={"name": f"{name}.png"}, content=stream.getvalue()).json() == {
            "added": 1,
            "refused": None,
            "name": f"{name}.png",
        }
    client.post(f"{base}/files", params={"name": "none.png"}, content=png(5, (240, 180)))
    return client, base


def test_a_tap_proposes_a_box_before_anything_is_indexed(tried) -> None:
    client, base = tried
    sent = client.post(f"{base}/tap", json={"picture": "query.png", "point": [130, 110]})
    assert sent.status_code == 200
    x1, y1, x2, y2 = sent.json()["box"]
    assert 0 <= x1 <= 130 <= x2 <= 240 and 0 <= y1 <= 110 <= y2 <= 180
    outside = client.post(f"{base}/tap", json={"picture": "query.png", "point": [-50, 1e9]}).json()["box"]
    assert outside[0] <= 0.1 and outside[3] >= 179.9


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"picture": "gone.png", "point": [1, 1]}, "no longer among yours"),
        ({"picture": "query.png"}, "no point: tap the object again."),
        ({"picture": "query.png", "point": [1, 2, 3]}, "no point: tap the object again."),
        ({"picture": "query.png", "point": ["1", None]}, "no point: tap the object again."),
        ({"picture": "query.png", "point": [10**400, 1]}, "The point is outside of the picture: tap the object again."),
        ([], "not understood"),
    ],
)
def test_taps_that_are_none_are_refused_in_a_sentence(tried, sent, said) -> None:
    client, base = tried
    answer = client.post(f"{base}/tap", json=sent)
    assert answer.status_code == 400 and said in answer.json()["error"]
    for strange in (b'{"picture": "query.png", "point": [NaN, Infinity]}', b"[" * 5000):
        assert client.post(f"{base}/tap", content=strange).status_code == 400
    assert client.post("/own/strange/tap", json={"picture": "query.png", "point": [1, 1]}).status_code == 404


def test_a_point_that_is_no_number_is_none(tried) -> None:
    client, base = tried
    for point in (b"[NaN, 1]", b"[1, NaN]"):
        sent = client.post(f"{base}/tap", content=b'{"picture": "query.png", "point": ' + point + b"}")
        assert sent.status_code == 400 and "no point: tap the object again." in sent.json()["error"]
    far = client.post(f"{base}/tap", content=b'{"picture": "query.png", "point": [Infinity, -Infinity]}').json()["box"]
    assert far[2] >= 239.9 and far[1] <= 0.1


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3, 2)])
def test_a_tap_on_a_thin_picture_gives_a_box_to_search_with(tried, size) -> None:
    client, base = tried
    stream = io.BytesIO()
    Image.new("RGB", size, (90, 120, 60)).save(stream, "PNG")
    client.post(f"{base}/files", params={"name": "thin.png"}, content=stream.getvalue())
    point = [size[0] / 2, size[1] / 2]
    box = client.post(f"{base}/tap", json={"picture": "thin.png", "point": point}).json()["box"]
    assert checked_box(box, *size).tolist() == box


def test_an_encoder_without_maps_gives_a_square_at_the_tap(tried, monkeypatch) -> None:
    def fail(*arguments: object) -> None:
        raise PatchifyError("It has no maps.")

    monkeypatch.setattr("patchify_core.demo.own.phone.as_map_encoder", fail)
    client, base = tried
    box = client.post(f"{base}/tap", json={"picture": "query.png", "point": [120, 90]}).json()["box"]
    assert box == [84.0, 54.0, 156.0, 126.0]


def test_both_rankings_are_those_of_the_library(tried, all_visitors) -> None:
    client, base = tried
    asked = {"picture": "query.png", "box": [70, 50, 190, 170]}
    assert "None of your pictures is indexed" in client.post(f"{base}/search", json=asked).json()["error"]
    client.post(f"{base}/index")
    wait(client, base, DONE)
    found = client.post(f"{base}/search", json=asked).json()
    engine = all_visitors.visitor(base.removeprefix("/own/")).gallery.engine
    images = {image.id: image for image in engine.index.images}
    path = next(path for path in Path(all_visitors.folder).rglob("query.png") if path.parent.name == "pictures")
    query = engine.describe_query(path, asked["box"])
    for kind, level in (("whole", 1), ("patches", None)):
        matches = [m for m in engine.search_descriptor(query, None, level) if m.file_name != "query.png"]
        assert found[kind] == [match.file_name for match in matches]
        for match in matches:
            scores = found["pictures"][match.file_name]
            assert abs((scores["levels"][0] if level else max(scores["levels"])) - match.score) < 1e-3
            if level is None:
                image = images[match.image_id]
                np.testing.assert_allclose(scores["box"], match.box / ([image.width, image.height] * 2), atol=1e-4)
    assert found["grids"] == [1, 2, 3] and found["indexed"] == 3
    assert set(found["pictures"]) == {"large.png", "small.png", "none.png"} and found["patches"][-1] == "none.png"


def test_the_query_is_described_once_and_former_queries_stay_out(tried, all_visitors, monkeypatch) -> None:
    client, base = tried
    client.post(f"{base}/index")
    wait(client, base, DONE)
    described, plain = [], Patchify.describe_query
    monkeypatch.setattr(
        Patchify, "describe_query", lambda self, *asked: described.append(asked[1]) or plain(self, *asked)
    )
    for name, box in (("query.png", None), ("query.png", None), ("query.png", [1, 1, 50, 50]), ("large.png", None)):
        found = client.post(f"{base}/search", json={"picture": name, "box": box}).json()
    assert len(described) == 3
    assert set(found["whole"]) == set(found["patches"]) == {"small.png", "none.png"}  # the query before it is out too
    assert "outside" in client.post(f"{base}/search", json={"picture": "query.png", "box": [900, 900, 950, 950]}).text
    all_visitors.delete(base.removeprefix("/own/"))
    assert client.post(f"{base}/search", json={"picture": "query.png", "box": None}).status_code == 404


def test_the_same_photo_again_is_known_by_its_name(tried) -> None:
    client, base = tried
    again = client.post(f"{base}/files", params={"name": "again.png"}, content=png(5, (240, 180))).json()
    assert again["added"] == 0 and again["name"] == "none.png" and "already, as none.png" in again["refused"]
    bad = client.post(f"{base}/files", params={"name": "bad.jpg"}, content=b"no picture").json()
    assert bad["added"] == 0 and bad["name"] is None and bad["refused"].endswith(".")


def test_a_flood_of_taps_is_bounded_and_others_have_their_turn(tried, all_visitors, monkeypatch) -> None:
    """Of one address one is at work and 30 wait; the next is refused at once, another address is answered meanwhile."""
    _, base = tried
    monkeypatch.setattr(addresses, "caller_group", lambda request: request.headers.get("x-test", "flood"))
    held, at_work = threading.Event(), []

    def slow(visitor, name, point, address):
        at_work.append(address)
        if address == "flood":
            held.wait(60)
        return [0.0, 0.0, 1.0, 1.0]

    monkeypatch.setattr(addresses, "propose_box", slow)
    made = TestClient(Starlette(routes=own_routes(all_visitors)))
    sent = {"picture": "query.png", "point": [1, 1]}
    with made, ThreadPoolExecutor(40) as pool:
        flood = [pool.submit(made.post, f"{base}/tap", json=sent) for _ in range(36)]
        deadline = time.monotonic() + 60
        while sum(one.done() for one in flood) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        other = made.post(f"{base}/tap", json=sent, headers={"x-test": "other"})
        assert other.status_code == 200 and at_work.count("flood") == 1
        held.set()
        answers = [one.result() for one in flood]
    refused = [one.json()["error"] for one in answers if one.status_code != 200]
    assert refused == ["The server is busy: try again in a moment."] * 6
