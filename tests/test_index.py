"""patchify_core.index: search against a slow reference, and every way in which a folder does not fit together."""

from __future__ import annotations

import dataclasses
import json
import shutil

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.digests import sha256_of_bytes, sha256_of_json
from patchify_core.encoders import EncoderInfo
from patchify_core.errors import IndexFolderError
from patchify_core.index import FACTORIES, IndexedImage, PatchIndex, read_meta
from patchify_core.regions import Pyramid, patches_up_to

PROPERTY = settings(max_examples=80, deadline=None)
DIM = 16
ENCODER = EncoderInfo("tiny", DIM, 8, "0" * 64, "mean", "none")


def unit_rows(rng, count):
    rows = rng.normal(size=(count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def index_of(ids, levels, vectors, factory="Flat", root=None):
    """An index of pictures `ids` with the (len(ids) * P, DIM) descriptors given."""
    codes = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    codes.train(vectors)
    codes.add(vectors)
    images = [IndexedImage(int(i), f"{i}.png", 40 + n, 30 + n, 7, f"{i:064d}") for n, i in enumerate(ids)]
    return PatchIndex(ENCODER, Pyramid(levels), images, codes, factory, root)


def random_index(levels=2, pictures=5, factory="Flat", seed=0, root=None):
    count = pictures * patches_up_to(levels)
    return index_of(range(1, pictures + 1), levels, unit_rows(np.random.default_rng(seed), count), factory, root)


def slow_search(index, query, top, level):
    """[(row, score, cell)]: every patch of every picture, one at a time; equal descriptors get equal scores."""
    scores: dict[bytes, float] = {}
    found = []
    for row, image in enumerate(index.images):
        stored = index.codes.reconstruct_n(row * index.regions.patches_per_image, index.regions.patches_per_image)
        best = None
        for cell in range(patches_up_to(level or index.regions.levels)):
            key = stored[cell].tobytes()
            if key not in scores:
                scores[key] = float(stored[cell].astype(np.float64) @ query.astype(np.float64))
            if best is None or scores[key] > best[0]:  # a later, finer cell must be better, not as good
                best = (scores[key], cell)
        found.append((-best[0], image.id, row, best[1]))
    return [(row, -score, cell) for score, _, row, cell in sorted(found)[:top]]


# Search ---------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    st.data(),
    st.sampled_from(FACTORIES),
    st.integers(1, 4),
    st.lists(st.integers(-5, 10**12), min_size=1, max_size=9, unique=True),  # ids need not be in order
    st.integers(0, 2**32 - 1),
)
def test_search_is_the_slow_search(data, factory, levels, ids, seed):
    rng = np.random.default_rng(seed)
    # Few different descriptors for many patches: ties within a picture, between pictures, and at the cut.
    pool = unit_rows(rng, data.draw(st.sampled_from([1, 2, 5, 1000])))
    index = index_of(ids, levels, pool[rng.integers(len(pool), size=len(ids) * patches_up_to(levels))], factory)
    query = unit_rows(rng, 1)[0]
    top = data.draw(st.none() | st.integers(1, len(ids) + 2))
    level = data.draw(st.none() | st.integers(1, levels))
    hits = index.search(query, top, level)
    expected = slow_search(index, query, top, level)
    assert list(zip(hits.rows.tolist(), hits.cells.tolist(), strict=True)) == [(r, c) for r, _, c in expected]
    np.testing.assert_allclose(hits.scores, [score for _, score, _ in expected], atol=2e-6)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("top", [1, 2, 3, None])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_ties_at_the_cut_go_to_the_smallest_id(factory, top, level):
    # One descriptor everywhere, ids descending: what the search meets first is what it may not return first.
    same = np.tile(unit_rows(np.random.default_rng(0), 1), (40 * patches_up_to(3), 1))
    index = index_of(range(40, 0, -1), 3, same, factory)
    hits = index.search(same[0], top, level)
    assert index.image_ids[hits.rows].tolist() == list(range(1, (top or 40) + 1))
    assert not hits.cells.any()  # the whole picture goes before its cells


@pytest.mark.parametrize("factory", FACTORIES)
def test_ties_at_the_cut_among_other_scores(factory):
    # The fourth place is shared by pictures 1..30 (last in the index) in all of their patches; three others are
    # better. A search that stopped at the first 4 * P patches would have met only some of the thirty.
    rng = np.random.default_rng(1)
    query, patches = unit_rows(rng, 1)[0], patches_up_to(2)
    other = unit_rows(rng, 1)[0]
    worse = query + 2 * other / np.linalg.norm(other)
    tied = np.tile(worse / np.linalg.norm(worse), (30 * patches, 1))
    better = np.tile(query, (3 * patches, 1))
    index = index_of([*range(101, 104), *range(30, 0, -1)], 2, np.concatenate([better, tied]), factory)
    hits = index.search(query, top=6)
    assert index.image_ids[hits.rows].tolist() == [101, 102, 103, 1, 2, 3]


def test_each_picture_appears_once_and_all_do():
    index = random_index(levels=4, pictures=12)
    hits = index.search(unit_rows(np.random.default_rng(9), 1)[0])
    assert sorted(hits.rows.tolist()) == list(range(12))
    assert (np.diff(hits.scores) <= 0).all()
    assert hits.rows.dtype == np.int64 and hits.scores.dtype == np.float32 and hits.cells.dtype == np.int64


@pytest.mark.parametrize("factory", FACTORIES)
def test_cell_scores_hold_the_score(factory):
    index = random_index(levels=3, pictures=6, factory=factory)
    query = unit_rows(np.random.default_rng(2), 1)[0]
    hits = index.search(query)
    for row, score, cell in zip(hits.rows, hits.scores, hits.cells, strict=True):
        cells = index.cell_scores(query, int(row))
        assert cells.shape == (14,)
        assert cells[cell] == score  # to the last bit, or a look into a match could name another cell than the match
        assert cells.argmax() == cell
        np.testing.assert_allclose(cells, index.descriptors_of(int(row)) @ query, atol=2e-6)


@pytest.mark.parametrize(
    ("factory", "bytes_per_number", "error"), [("Flat", 4, 0), ("SQfp16", 2, 5e-4), ("SQ8", 1, 5e-3)]
)
def test_codes_are_as_small_and_as_exact_as_they_say(factory, bytes_per_number, error):
    vectors = unit_rows(np.random.default_rng(0), 5 * 4)
    index = index_of(range(4), 2, vectors, factory)
    assert index.bytes_per_image == 5 * DIM * bytes_per_number
    for row in range(4):
        np.testing.assert_allclose(index.descriptors_of(row), vectors[5 * row : 5 * row + 5], atol=error)


def test_boxes_are_those_of_the_pictures_own_size():
    index = random_index(levels=2)
    assert index.boxes_of(3)[0].tolist() == [0, 0, 43, 33]
    np.testing.assert_array_equal(index.boxes_of(3), Pyramid(2).boxes(43, 33))


@pytest.mark.parametrize("top", [0, -1])
def test_at_least_one_result(top, refused):
    assert str(top) in refused(random_index().search, np.ones(DIM), top)


@pytest.mark.parametrize("level", [0, -1, 3])
def test_only_levels_that_the_index_has(level, refused):
    assert "levels 1 to 2" in refused(random_index(levels=2).search, np.ones(DIM), None, level)


@pytest.mark.parametrize(
    "query",
    [np.ones(DIM - 1), np.ones((2, DIM)), np.zeros(0), np.full(DIM, np.nan), np.r_[np.ones(DIM - 1), np.inf]],
)
def test_a_query_of_another_encoder_is_refused(query, refused):
    assert f"{DIM} finite numbers" in refused(random_index().search, query)


# Saving and loading ---------------------------------------------------------------------------------------


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
        '{"format": 1, "digest": "", "x": ' + "[" * 900 + "]" * 900 + "}"
    ),
    "not a number": lambda folder: edit(folder, lambda meta: meta["images"][0].update(width=float("nan"))),
    "format 2": lambda folder: edit(folder, lambda meta: meta.update(format=2), seal=True),
    "no format": without("format"),
    "regions": lambda folder: edit(folder, lambda meta: meta.update(regions="pyramid:1")),
    "encoder": lambda folder: edit(folder, lambda meta: meta["encoder"].update(pooling="gem:4")),
    "an image's size": lambda folder: edit(folder, lambda meta: meta["images"][2].update(width=41)),
    "an image's name": lambda folder: edit(folder, lambda meta: meta["images"][0].update(file_name="../x")),
    "images in another order": lambda folder: edit(folder, lambda meta: meta["images"].reverse()),
    "root": lambda folder: edit(folder, lambda meta: meta.update(root="/")),
    "digest of the faiss": lambda folder: edit(folder, lambda meta: meta["faiss"].update(sha256="0" * 64)),
    "digest of no text": lambda folder: edit(folder, lambda meta: meta.update(digest=None)),
    "fewer images, sealed": fewer_images,
    "wider encoder, sealed": wider_encoder,
    "other regions, sealed": other_regions,
    "encoder of numbers, sealed": lambda folder: edit(folder, lambda meta: meta.update(encoder=[1]), seal=True),
    "images of text, sealed": lambda folder: edit(folder, lambda meta: meta.update(images=["a"]), seal=True),
    **{f"without {key}, sealed": without(key) for key in ("faiss", "encoder", "images", "root", "factory")},
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


def test_a_format_of_the_future_is_named(folder, refused):
    edit(folder, lambda meta: meta.update(format=2), seal=True)
    assert "format 2" in refused(read_meta, folder)


# What it was made of --------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"weights_sha256": "1" * 64}, {"pooling": "max"}, {"input_size": 9}])
def test_other_settings_of_the_same_encoder_are_refused(change, refused):
    message = refused(random_index().check_encoder, dataclasses.replace(ENCODER, **change))
    assert "of the same encoder" in message


def test_another_encoder_is_refused_by_name(refused):
    message = refused(random_index().check_encoder, dataclasses.replace(ENCODER, spec="huge"))
    assert "'tiny'" in message and "'huge'" in message


def test_the_same_encoder_passes():
    random_index().check_encoder(dataclasses.replace(ENCODER))


@pytest.fixture
def with_pictures(tmp_path):
    """An index of two files that are there."""
    images = []
    for number in (1, 2):
        data = bytes([number]) * 10
        (tmp_path / f"{number}.png").write_bytes(data)
        images.append(IndexedImage(number, f"{number}.png", 4, 3, 10, sha256_of_bytes(data)))
    index = random_index(levels=1, pictures=2)
    index.images = tuple(images)
    return index, tmp_path


@pytest.mark.parametrize("content", [False, True])
def test_pictures_that_are_there_pass(with_pictures, content):
    index, root = with_pictures
    (root / "more.png").write_bytes(b"not indexed, not missed")
    index.check_pictures(root, content=content)


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize(
    "change", [lambda p: p.unlink(), lambda p: p.write_bytes(b"longer than it was"), lambda p: p.write_bytes(b"")]
)
def test_pictures_that_are_not_the_indexed_ones(with_pictures, content, change, refused):
    index, root = with_pictures
    change(root / "2.png")
    assert "2.png" in refused(index.check_pictures, root, content=content)


def test_another_picture_of_the_same_size_is_found_by_its_content(with_pictures, refused):
    index, root = with_pictures
    (root / "1.png").write_bytes(b"x" * 10)
    index.check_pictures(root)  # sizes alone cannot tell
    assert "1.png" in refused(index.check_pictures, root, content=True)
