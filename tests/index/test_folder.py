"""index.folder: round trips, and every inconsistency of a folder."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil

import faiss
import numpy as np
import pytest

from patchify_core.cli.check import verify
from patchify_core.errors import IndexFolderError
from patchify_core.files import sha256_of_bytes, sha256_of_json
from patchify_core.index.codec.codes import Codes, CodeSettings, encode_codes
from patchify_core.index.codec.factory import parse_factory
from patchify_core.index.folder import FORMAT, read_meta
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import IndexedImage, Pictures
from patchify_core.index.recipe import Recipe
from patchify_core.regions import parse_regions
from tests.index.test_patch_index import DIM, ENCODER, FACTORIES, coded_index, random_index, unit_rows


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "idx").mkdir()
    random_index().write(tmp_path / "idx", "../pictures")
    return tmp_path / "idx"


@pytest.mark.parametrize("factory", FACTORIES)
def test_round_trip(factory, tmp_path):
    index = random_index(levels=3, factory=factory)
    index.write(tmp_path, "../pictures")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.faiss", "meta.json"]
    loaded = PatchIndex.load(tmp_path)
    assert loaded.meta() == index.meta()
    assert (loaded.encoder, loaded.regions, loaded.images) == (index.encoder, index.regions, index.images)
    assert loaded.row_of == {n: n - 1 for n in range(1, 6)}
    np.testing.assert_array_equal(faiss.serialize_index(loaded.codes), faiss.serialize_index(index.codes))
    query = unit_rows(np.random.default_rng(3), 1)[0]
    hits, again = index.search(query), loaded.search(query)
    for part in ("rows", "scores", "cells"):
        np.testing.assert_array_equal(getattr(again, part), getattr(hits, part))


@pytest.mark.parametrize("name", ["small", "tiny"])
@pytest.mark.parametrize("pictures", [1, 10, 20])
def test_a_preset_of_any_number_of_pictures_is_written_read_and_added_to(name, pictures, tmp_path):
    dim, regions, settings = 272, parse_regions("pyramid:3"), CodeSettings(name)
    encoder = dataclasses.replace(ENCODER, dim=dim)
    vectors = np.random.default_rng(0).normal(size=(30, 14, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)

    def written(codes, count):
        images = [IndexedImage(n + 1, f"{n}.png", 40, 30, 7, f"{n:064d}") for n in range(count)]
        recipe = Recipe(encoder, regions, factory=codes.factory)
        folder = tmp_path / str(count)
        folder.mkdir()
        PatchIndex(recipe, Pictures(images), codes).write(folder, "../pictures")
        assert verify(folder).damage == ()
        return PatchIndex.load(folder)

    settings.check(dim, regions, pictures)
    settings.check_enough(dim, regions, pictures)
    made = encode_codes(vectors.__getitem__, pictures, regions, dim, settings)
    assert made.factory == parse_factory(name, pictures * 14, dim).factory
    index = written(made, pictures)
    grown = encode_codes(
        vectors.__getitem__, 30, regions, dim, settings, made, lambda row: row if row < pictures else None
    )
    more = written(grown, 30)
    assert more.factory == index.factory == settings.factory_for(index.factory)
    for row in {0, pictures - 1}:
        np.testing.assert_array_equal(more.descriptors_of(row), index.descriptors_of(row))
        for one in (index, more):
            query = one.project(vectors[row, 3:4])[0]
            hits = one.search(query)
            assert (hits.rows[0], hits.cells[0]) == (row, 3)
            assert hits.scores[0] == one.cell_scores(query, row)[3]


def test_index_and_pictures_can_move_together(folder, tmp_path):
    assert PatchIndex.load(folder).root == (tmp_path / "pictures").resolve()
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "idx")
    assert PatchIndex.load(str(moved)).root == (tmp_path / "elsewhere" / "pictures").resolve()


def test_there_is_no_pickle_in_it(folder):
    json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert (folder / "index.faiss").read_bytes()[:4] == b"IxFI"  # FAISS's own mark of a flat inner-product index


def edit(folder, change, seal=False):
    """Changes meta.json; with `seal` its digest is made to fit, as a program with other ideas would."""
    path = folder / "meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    change(meta)
    if seal:
        meta["digest"] = sha256_of_json({key: value for key, value in meta.items() if key != "digest"})
    path.write_text(json.dumps(meta), encoding="utf-8")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def another_faiss(folder):
    """A file of the very same size and kind, from another gallery."""
    other = folder.parent / "other"
    other.mkdir()
    random_index(seed=1).write(other, ".")
    assert (other / "index.faiss").stat().st_size == (folder / "index.faiss").stat().st_size
    shutil.copy(other / "index.faiss", folder / "index.faiss")


def fewer_images(folder):
    edit(folder, lambda meta: meta["images"].pop(), seal=True)


def wider_encoder(folder):
    edit(folder, lambda meta: meta["encoder"].update(dim=DIM + 1), seal=True)


def other_regions(folder):
    edit(folder, lambda meta: meta.update(regions="pyramid:3"), seal=True)


def without(key):
    return lambda folder: edit(folder, lambda meta: meta.pop(key), seal=True)


DAMAGE = {
    "no meta": lambda folder: (folder / "meta.json").unlink(),
    "no faiss": lambda folder: (folder / "index.faiss").unlink(),
    "meta is a folder": lambda folder: ((folder / "meta.json").unlink(), (folder / "meta.json").mkdir()),
    "faiss is a folder": lambda folder: ((folder / "index.faiss").unlink(), (folder / "index.faiss").mkdir()),
    "empty faiss": lambda folder: cut(folder / "index.faiss", 0),
    "half a faiss": lambda folder: cut(folder / "index.faiss", 0.5),
    "faiss too long": lambda folder: (folder / "index.faiss").open("ab").write(b"\0"),
    "first byte": lambda folder: flip(folder / "index.faiss", 0),
    "count in the header": lambda folder: flip(folder / "index.faiss", 12),
    "one number": lambda folder: flip(folder / "index.faiss", -5),
    "another index's faiss": another_faiss,
    "empty meta": lambda folder: cut(folder / "meta.json", 0),
    "half a meta": lambda folder: cut(folder / "meta.json", 0.5),
    "text": lambda folder: (folder / "meta.json").write_text("not JSON"),
    "not text": lambda folder: (folder / "meta.json").write_bytes(b"\xff\xfe\0\x80"),
    "not an object": lambda folder: (folder / "meta.json").write_text("[1, 2]"),
    "another program's": lambda folder: (folder / "meta.json").write_text('{"name": "mine"}'),
    "deep": lambda folder: (folder / "meta.json").write_text("[" * 200_000),
    "deep inside": lambda folder: (folder / "meta.json").write_text(
        '{"format": 2, "digest": "", "x": ' + "[" * 900 + "]" * 900 + "}"
    ),
    "not a number": lambda folder: edit(folder, lambda meta: meta["images"][0].update(width=float("nan"))),
    "format 1": lambda folder: edit(folder, lambda meta: meta.update(format=1), seal=True),
    "format 3": lambda folder: edit(folder, lambda meta: meta.update(format=3), seal=True),
    "no format": without("format"),
    "regions": lambda folder: edit(folder, lambda meta: meta.update(regions="pyramid:1")),
    "encoder": lambda folder: edit(folder, lambda meta: meta["encoder"].update(pooling="gem:4")),
    "an image's size": lambda folder: edit(folder, lambda meta: meta["images"][2].update(width=41)),
    "an image's name": lambda folder: edit(folder, lambda meta: meta["images"][0].update(file_name="../x")),
    "images in another order": lambda folder: edit(folder, lambda meta: meta["images"].reverse()),
    "root": lambda folder: edit(folder, lambda meta: meta.update(root="/")),
    "digest of the faiss": lambda folder: edit(
        folder, lambda meta: meta["files"]["index.faiss"].update(sha256="0" * 64)
    ),
    "digest of no text": lambda folder: edit(folder, lambda meta: meta.update(digest=None)),
    "fewer images, sealed": fewer_images,
    "wider encoder, sealed": wider_encoder,
    "other regions, sealed": other_regions,
    "encoder of numbers, sealed": lambda folder: edit(folder, lambda meta: meta.update(encoder=[1]), seal=True),
    **{
        f"an image with {field} {value!r}, sealed": lambda folder, field=field, value=value: edit(
            folder, lambda meta: meta["images"][1].update({field: value}), seal=True
        )
        for field, value in [
            ("id", "2"),
            ("id", 2.0),
            ("id", True),
            ("id", 1 << 70),
            ("width", 0),
            ("height", -3),
            ("height", 1 << 64),
            ("bytes", -1),
            ("file_name", None),
            ("file_name", ["a"]),
            ("file_name", "../../up.png"),
            ("file_name", "/etc/up.png"),
            ("file_name", "a\0.png"),
            ("file_name", "\ud800.png"),
            ("sha256", 7),
            ("more", 1),
        ]
    },
    **{
        f"an encoder with {field} {value!r}, sealed": lambda folder, field=field, value=value: edit(
            folder, lambda meta: meta["encoder"].update({field: value}), seal=True
        )
        for field, value in [("dim", "16"), ("dim", 16.0), ("dim", None), ("spec", 1), ("input_size", [8])]
    },
    "images as an object, sealed": lambda folder: edit(folder, lambda meta: meta.update(images={"a": 1}), seal=True),
    "images as a number, sealed": lambda folder: edit(folder, lambda meta: meta.update(images=7), seal=True),
    "images of text, sealed": lambda folder: edit(folder, lambda meta: meta.update(images=["a"]), seal=True),
    **{
        f"without {key}, sealed": without(key)
        for key in ("files", "encoder", "images", "root", "factory", "codebook", "rescore")
    },
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_every_kind_of_damage_is_refused(damage, folder, refused):
    assert PatchIndex.load(folder).meta() == random_index().meta()  # whole so far
    damage(folder)
    message = refused(PatchIndex.load, folder)
    assert str(folder) in message
    with pytest.raises(IndexFolderError):
        PatchIndex.load(folder)


def test_white_space_and_key_order_are_no_damage(folder):
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    (folder / "meta.json").write_text(json.dumps(dict(reversed(meta.items()))), encoding="utf-8")
    assert PatchIndex.load(folder).meta() == random_index().meta()


@pytest.mark.parametrize("name", ["nowhere", "picture.jpg", "picture.jpg/idx"])
def test_what_is_no_folder_is_no_index(name, tmp_path, refused):
    (tmp_path / "picture.jpg").write_bytes(b"x")
    message = refused(PatchIndex.load, tmp_path / name)
    # "Delete it and build it again" would be bad advice about somebody's picture.
    assert "not an index folder" in message and "delete" not in message


def test_advice_spares_folders_of_other_programs(tmp_path, refused):
    (tmp_path / "meta.json").write_text('{"name": "somebody\'s own data"}')
    assert "delete" not in refused(PatchIndex.load, tmp_path)


@pytest.mark.parametrize("number", [FORMAT + 1, 99])
def test_an_index_of_a_newer_version_asks_for_an_upgrade(folder, refused, number):
    edit(folder, lambda meta: meta.update(format=number, more={}), seal=True)
    said = refused(read_meta, folder)
    assert f"newer version of this program (index format {number}, this version reads {FORMAT}): upgrade" in said
    assert "build it again" not in said and "delete" not in said and refused(PatchIndex.load, folder) == said


@pytest.mark.parametrize("number", [1, None, "2"])
def test_another_format_is_named(folder, refused, number):
    edit(folder, lambda meta: meta.update(format=number), seal=True)
    assert f"format {number}, this version reads {FORMAT}: build it again in a new folder" in refused(read_meta, folder)


# All files ------------------------------------------------------------------------------------------------

EVERY = ["boxes.npy", "fine.faiss", "index.faiss", "projection.npy"]


def full_index(seed=0):
    """An index that has every file there is."""
    index, _ = coded_index("PCAH8,SQ8", "SQfp16", pictures=12, levels=1, seed=seed)
    boxes = np.random.default_rng(seed).uniform(0, 30, (12, 1, 4)).astype(np.float32)
    recipe = dataclasses.replace(index.recipe, regions=parse_regions("salient:1"))
    codes = Codes(index.factory, index.codes, index.projection, index.fine)
    return PatchIndex(recipe, Pictures(index.images, boxes=boxes), codes)


def written(index, folder):
    folder.mkdir()
    index.write(folder, ".")
    return folder


@pytest.fixture
def full(tmp_path):
    return written(full_index(), tmp_path / "full")


def test_every_file_makes_the_round_trip(full):
    assert sorted(path.name for path in full.iterdir()) == sorted([*EVERY, "meta.json"])
    index, loaded = full_index(), PatchIndex.load(full)
    assert loaded.meta() == index.meta()
    assert (loaded.dim, loaded.bytes_per_patch) == (8, 8 + 16)
    np.testing.assert_array_equal(loaded.boxes, index.boxes)
    np.testing.assert_array_equal(loaded.box_of(4, 0), index.boxes[4, 0])
    np.testing.assert_array_equal(loaded.boxes_of(2), index.boxes[2])
    raw = unit_rows(np.random.default_rng(1), 3)
    np.testing.assert_array_equal(loaded.project(raw), index.project(raw))
    hits, again = (one.search(index.project(raw)[0]) for one in (index, loaded))
    np.testing.assert_array_equal(hits.rows, again.rows)
    np.testing.assert_array_equal(hits.scores, again.scores)


@pytest.mark.parametrize("factory", ["PQ4x4", "PQ4x4fs", "IVF4,PQ4x4", "OPQ2_8,IVF2,SQ8", "PCAH8,IVF4_HNSW4,SQ8"])
def test_approximate_codecs_make_the_round_trip(factory, tmp_path):
    index, vectors = coded_index(factory)
    loaded = PatchIndex.load(written(index, tmp_path / "idx"))
    query = index.project(vectors[3, :1])[0]
    hits, again = index.search(query, 7), loaded.search(query, 7)
    np.testing.assert_array_equal(hits.rows, again.rows)
    np.testing.assert_array_equal(hits.scores, again.scores)
    np.testing.assert_array_equal(loaded.descriptors_of(5), index.descriptors_of(5))


def reseal(folder, name, data):
    """Another file under a digest that fits, as a program with other ideas would write it."""
    (folder / name).write_bytes(data)
    listed = {"bytes": len(data), "sha256": sha256_of_bytes(data)}
    edit(folder, lambda meta: meta["files"].update({name: listed}), seal=True)


def npy(array, **more):
    stream = io.BytesIO()
    np.save(stream, array, **more)
    return stream.getvalue()


def of_another_index(folder, name):
    other = written(full_index(seed=1), folder.parent / "other")
    assert (other / name).stat().st_size == (folder / name).stat().st_size
    shutil.copy(other / name, folder / name)


FILE_DAMAGE = {
    "missing": lambda folder, name: (folder / name).unlink(),
    "a folder": lambda folder, name: ((folder / name).unlink(), (folder / name).mkdir()),
    "empty": lambda folder, name: cut(folder / name, 0),
    "cut": lambda folder, name: cut(folder / name, 0.9),
    "longer": lambda folder, name: (folder / name).open("ab").write(b"x"),
    "flipped at its start": lambda folder, name: flip(folder / name, 1),
    "flipped at its end": lambda folder, name: flip(folder / name, -2),
    "another index's": of_another_index,
    "not listed, sealed": lambda folder, name: edit(folder, lambda meta: meta["files"].pop(name), seal=True),
    "not there nor listed": lambda folder, name: (
        (folder / name).unlink(),
        edit(folder, lambda meta: meta["files"].pop(name), seal=True),
    ),
    "another kind, sealed": lambda folder, name: reseal(folder, name, b"no such thing" * 9),
    "empty, sealed": lambda folder, name: reseal(folder, name, b""),
    "cut, sealed": lambda folder, name: reseal(folder, name, (folder / name).read_bytes()[:-7]),
    "pickled, sealed": lambda folder, name: reseal(folder, name, npy(np.array([{}], object), allow_pickle=True)),
    "of another shape, sealed": lambda folder, name: reseal(folder, name, npy(np.ones((2, 2), np.float32))),
    "not finite, sealed": lambda folder, name: reseal(
        folder, name, npy(np.full_like(np.load(folder / name), np.nan)) if name.endswith(".npy") else b"\xff" * 500
    ),
    "of other precision, sealed": lambda folder, name: reseal(folder, name, npy(np.ones((12, 1, 4)))),
    "listed as text, sealed": lambda folder, name: edit(folder, lambda m: m["files"].update({name: "x"}), seal=True),
    "listed without size, sealed": lambda folder, name: edit(
        folder, lambda m: m["files"][name].pop("bytes"), seal=True
    ),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("damage", FILE_DAMAGE.values(), ids=FILE_DAMAGE.keys())
def test_every_kind_of_damage_to_every_file_is_refused(damage, name, full, refused):
    PatchIndex.load(full)  # whole so far
    damage(full, name)
    assert str(full) in refused(PatchIndex.load, full)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "more.npy", "meta.json", "", "./index.faiss"])
def test_only_files_with_known_names_are_read(name, full, refused):
    (full.parent / "x").write_bytes(b"x")
    listed = {"bytes": 1, "sha256": sha256_of_bytes(b"x")}
    edit(full, lambda meta: meta["files"].update({name: listed}), seal=True)
    assert "meta.json is missing, truncated or not the file" in refused(PatchIndex.load, full)


@pytest.mark.parametrize("name", ["projection.npy", "fine.faiss", "boxes.npy"])
def test_a_file_that_the_index_has_no_use_for_is_refused(name, folder, full, refused):
    reseal(folder, name, (full / name).read_bytes())
    assert str(folder) in refused(PatchIndex.load, folder)


@pytest.mark.parametrize(
    "change", [{"factory": 3}, {"factory": "PCAH8,Flat"}, {"factory": ""}, {"rescore": "SQ8"}, {"files": []}]
)
def test_what_does_not_fit_the_files_is_refused(change, folder, refused):
    edit(folder, lambda meta: meta.update(change), seal=True)
    assert "delete" in refused(PatchIndex.load, folder)
