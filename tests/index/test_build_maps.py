"""index.build with pooled features and feature maps."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.features import extract
from patchify_core.features.maps import KeptMaps
from patchify_core.features.pooled import describe_boxes, picture_cells
from patchify_core.gallery import read_folder
from patchify_core.index.build import recode
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.folder import MAPS_NAME
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import IndexedImage
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards.describe import Embedded
from patchify_core.index.shards.folder import GrowingShards
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid, parse_regions
from tests.index.test_build import (
    REGIONS,
    _cut,
    _first_shard,
    _flip,
    _Killer,
    indexed,
    nothing_beside,
    snapshot,
    stop_at,
)
from tests.tiny import INFO, TinyEncoder, picture, write_pictures

POOLED = {"features": "pooled:64"}
KEPT = POOLED | {"keep_maps": True}
COUNT = 9


@pytest.fixture
def photos(tmp_path):
    return write_pictures(tmp_path / "photos", range(COUNT))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "idx"


@pytest.fixture
def whole(photos, tmp_path):
    """The folder that a build without interruption makes."""
    indexed(read_folder(photos), tmp_path / "whole", **KEPT)
    return snapshot(tmp_path / "whole")


# What is built --------------------------------------------------------------------------------------------


def test_an_index_remembers_how_it_was_made(photos, out, tiny):
    report = indexed(read_folder(photos), out, tiny, **KEPT)
    assert (report.embedded, len(tiny.maps), tiny.batches) == (COUNT, COUNT, [])  # one pass per picture
    index = PatchIndex.load(out)
    assert index.features == "pooled:64" and len(index.maps) == COUNT
    for row in range(COUNT):
        cells = picture_cells(picture(row), TinyEncoder(), 64)
        expected = describe_boxes(cells, REGIONS.boxes(1, 1), TinyEncoder())
        np.testing.assert_allclose(index.descriptors_of(row), expected, atol=1e-6)
        kept = index.maps[row].cells
        assert np.abs(kept - cells).max() <= np.ptp(cells) / 255 / 2 * 1.001
    assert nothing_beside(out)


def test_keeping_maps_changes_no_descriptor(photos, out):
    indexed(read_folder(photos), out, **KEPT)
    indexed(read_folder(photos), out.with_name("without"), **POOLED)
    kept, without = snapshot(out), snapshot(out.with_name("without"))
    assert kept[Path("index.faiss")] == without[Path("index.faiss")]
    assert kept.keys() - without.keys() == {Path(MAPS_NAME)}
    assert PatchIndex.load(out.with_name("without")).maps is None


def test_an_index_of_crops_says_so_and_has_no_maps(photos, out):
    indexed(read_folder(photos), out)
    index = PatchIndex.load(out)
    assert index.features == "crop" and index.maps is None and not (out / MAPS_NAME).exists()


def test_identical_pictures_share_their_map(photos, out, tiny):
    (photos / "copy.png").write_bytes((photos / "0002.png").read_bytes())
    assert indexed(read_folder(photos), out, tiny, **KEPT).reused == 1
    index = PatchIndex.load(out)
    assert index.images[-1].file_name == "copy.png"
    assert index.maps.packed(COUNT) == index.maps.packed(2)


def test_the_bundled_indexes_say_how_they_were_made(sample_db):
    assert PatchIndex.load(sample_db / "index").features == "crop"
    folder = sample_db / "indexes" / "pooled"
    if not folder.exists():
        pytest.skip("no pooled index is bundled")
    index = PatchIndex.load(folder)
    assert index.features == "pooled:640" and len(index.maps) == len(index.images)
    assert index.maps.size / len(index.maps) < 200_000
    assert index.maps[0].cells.shape[2] == 1280


def test_codes_made_anew_remember_how_queries_are_described(photos, out):
    """A query described as a crop would be compared with descriptors of another kind, and nobody would notice."""
    indexed(read_folder(photos), out, **POOLED)
    again = recode(PatchIndex.load(out), CodeSettings("SQ8"))
    assert again.features == "pooled:64" == Patchify(again, TinyEncoder()).extractor.spec


# Adding and removing --------------------------------------------------------------------------------------


def test_old_maps_are_taken_over(photos, out, tiny):
    indexed(read_folder(photos), out, **KEPT)
    before = PatchIndex.load(out)
    old = {image.sha256: before.maps.packed(row) for row, image in enumerate(before.images)}
    write_pictures(photos, [500, 501])
    (photos / "0003.png").unlink()
    (photos / "0001.png").rename(photos / "zebra.png")
    report = indexed(read_folder(photos), out, tiny, **KEPT)
    assert (report.images, report.embedded, report.reused, len(tiny.maps)) == (COUNT + 1, 2, COUNT - 1, 2)
    after = PatchIndex.load(out)
    assert len(after.maps) == COUNT + 1
    assert sum(after.maps.packed(row) == old.get(image.sha256) for row, image in enumerate(after.images)) == COUNT - 1
    fresh = out.with_name("fresh")
    indexed(read_folder(photos), fresh, **KEPT)
    assert snapshot(out) == snapshot(fresh)


def test_nothing_new_embeds_nothing(photos, out, whole, tiny):
    for _ in range(2):
        indexed(read_folder(photos), out, tiny, **KEPT)
    assert len(tiny.maps) == COUNT and snapshot(out) == whole


def test_an_update_that_is_interrupted_goes_on(photos, out, tiny):
    indexed(read_folder(photos), out, **KEPT)
    before = snapshot(out)
    write_pictures(photos, range(100, 106))
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, progress=stop_at(COUNT + 3), shard_images=2, **KEPT)
    assert snapshot(out) == before
    assert indexed(read_folder(photos), out, tiny, **KEPT).embedded == len(tiny.maps) <= 4
    indexed(read_folder(photos), out.with_name("fresh"), **KEPT)
    assert snapshot(out) == snapshot(out.with_name("fresh"))


def test_salient_boxes_stay_with_their_maps(photos, out, tiny):
    regions = parse_regions("pyramid:1+salient:2")
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, regions=regions, progress=stop_at(5), shard_images=2, **KEPT)
    indexed(read_folder(photos), out, tiny, regions=regions, **KEPT)
    index = PatchIndex.load(out)
    for row in range(COUNT):
        np.testing.assert_allclose(index.boxes_of(row), regions.boxes_in(picture(row)), atol=1e-4)
        expected = describe_boxes(
            picture_cells(picture(row), TinyEncoder(), 64), index.boxes_of(row) / (24, 18, 24, 18), TinyEncoder()
        )
        np.testing.assert_allclose(index.descriptors_of(row), expected, atol=1e-5)


# Stopped and resumed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_images", [1, 2, 64])
@pytest.mark.parametrize("number", [1, 2, 5, COUNT])
def test_an_interrupted_build_goes_on(photos, out, whole, tiny, number, shard_images):
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, progress=stop_at(number), shard_images=shard_images, **KEPT)
    report = indexed(read_folder(photos), out, tiny, **KEPT)
    assert (report.embedded, report.reused) == (COUNT - number, number) and len(tiny.maps) == COUNT - number
    assert snapshot(out) == whole and nothing_beside(out)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(1, COUNT), st.integers(1, 4)), min_size=1, max_size=4))
def test_a_build_interrupted_again_and_again_ends(tmp_path_factory, stops):
    folder = tmp_path_factory.mktemp("again")
    photos = write_pictures(folder / "photos", range(COUNT))
    indexed(read_folder(photos), folder / "whole", **KEPT)
    for number, shard_images in stops:
        with pytest.raises(KeyboardInterrupt):
            indexed(read_folder(photos), folder / "idx", progress=stop_at(number), shard_images=shard_images, **KEPT)
    indexed(read_folder(photos), folder / "idx", **KEPT)
    assert snapshot(folder / "idx") == snapshot(folder / "whole")


KILLED = """
import os, sys
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.gallery import read_folder
from patchify_core.regions import Pyramid
from tests.tiny import TinyEncoder

def progress(done, total):
    if done == 8:
        os._exit(9)  # no finally, no flush: as kill -9 or a power cut

settings = BuildSettings(shard_images=3, features="pooled:64", keep_maps=True)
build_index(read_folder(sys.argv[1]), sys.argv[2], TinyEncoder(), Pyramid(2), settings, progress)
"""


def test_a_killed_build_goes_on(photos, out, whole):
    done = subprocess.run([sys.executable, "-c", KILLED, photos, out], cwd=Path(__file__).parents[2])
    assert done.returncode == 9 and not out.exists()
    report = indexed(read_folder(photos), out, **KEPT)
    assert (report.embedded, report.reused) == (COUNT - 6, 6)  # two shards of three were on the disk
    assert snapshot(out) == whole


@pytest.fixture(scope="module")
def killer():
    return _Killer()


@pytest.mark.parametrize("before", [0, 3])
def test_a_build_killed_at_any_write_goes_on(tmp_path, killer, before):
    photos = write_pictures(tmp_path / "photos", range(before))
    if before:
        indexed(read_folder(photos), tmp_path / "before" / "idx", **KEPT)
    write_pictures(photos, range(5))
    indexed(read_folder(photos), tmp_path / "whole" / "idx", **KEPT)
    number, killed = 0, True
    while killed:
        out = tmp_path / str(number) / "idx"
        if before:
            indexed(read_folder(write_pictures(tmp_path / "few", range(before))), out, **KEPT)
        else:
            out.parent.mkdir()
        killed = killer.kills(number, lambda out=out: indexed(read_folder(photos), out, shard_images=2, **KEPT))
        indexed(read_folder(photos), out, **KEPT)
        assert snapshot(out.parent) == snapshot(tmp_path / "whole")  # and nothing beside it
        number += 1
    assert number > 12


# Torn shards ----------------------------------------------------------------------------------------------


def _swap(path):
    """The maps of another shard: whole, and of other pictures."""
    others = sorted(path.parent.glob("shard-*.maps"))
    path.write_bytes(others[-1].read_bytes())


def _forget(path):
    """A list that was edited: the shard's maps are not mentioned any more."""
    listed = json.loads(path.read_text())
    del listed["files"]["maps"]
    path.write_text(json.dumps(listed))


TEAR = {
    "maps missing": lambda j: _first_shard(j, ".maps").unlink(),
    "maps empty": lambda j: _first_shard(j, ".maps").write_bytes(b""),
    "maps cut": lambda j: _cut(_first_shard(j, ".maps"), 0.7),
    "one bit of the maps flipped": lambda j: _flip(_first_shard(j, ".maps")),
    "maps of others": lambda j: _swap(_first_shard(j, ".maps")),
    "numbers missing": lambda j: _first_shard(j, ".descriptors").unlink(),
    "list missing": lambda j: _first_shard(j, ".json").unlink(),
    "list without maps": lambda j: _forget(_first_shard(j, ".json")),
}


@pytest.mark.parametrize("tear", TEAR.values(), ids=TEAR.keys())
def test_a_torn_shard_is_embedded_again(photos, out, whole, tiny, tear):
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, progress=stop_at(7), shard_images=3, **KEPT)
    journal = out.with_name("idx.partial")
    assert len(list(journal.glob("shard-*.maps"))) == 3
    tear(journal)
    # Stopped once more, so that new shards are written beside the torn one, and must not mix with it.
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, progress=stop_at(8), shard_images=1, **KEPT)
    report = indexed(read_folder(photos), out, tiny, **KEPT)
    assert report.embedded + report.reused == COUNT
    assert snapshot(out) == whole and nothing_beside(out)


def test_growing_shards_give_back_what_they_were_given(tmp_path):
    rng = np.random.default_rng(0)
    recipe = Recipe(INFO, parse_regions("salient:3"), "pooled:64", maps=True)
    given = [
        Embedded(
            IndexedImage(number, f"{number}.png", 24, 18, 9, f"{number:064x}"),
            rng.random((3, INFO.dim), np.float32),
            rng.random((3, 4), np.float32),
            rng.bytes(int(rng.integers(1, 90))),
        )
        for number in range(7)
    ]
    shards = GrowingShards(tmp_path, recipe)
    for at, new in enumerate(given):
        shards.add(new)
        if at % 3 == 2:
            shards.flush()
    shards.flush()
    (tmp_path / "shard-00007.maps.0.tmp").write_bytes(b"half of it")
    shards = GrowingShards(tmp_path, recipe)
    assert list(shards.known) == [new.image.sha256 for new in given] and not list(tmp_path.glob("*.tmp"))
    for new in given:
        digest = new.image.sha256
        np.testing.assert_array_equal(shards.descriptors(digest), new.descriptors)
        np.testing.assert_array_equal(shards.boxes(digest), new.boxes)
        assert shards.packed(digest) == new.packed
    assert not GrowingShards(tmp_path, Recipe(INFO, recipe.regions, "pooled:64")).known  # they have maps


@pytest.mark.parametrize("other", [{}, POOLED, {"features": "pooled:96", "keep_maps": True}])
def test_a_journal_of_other_features_is_of_no_use(photos, out, whole, tiny, other):
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, progress=stop_at(5), **other)
    assert indexed(read_folder(photos), out, tiny, **KEPT).embedded == COUNT
    assert snapshot(out) == whole


# Refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ({}, POOLED, "features crop, not pooled:64"),
        (POOLED, {}, "features pooled:64, not crop"),
        (POOLED, {"features": "pooled:96"}, "features pooled:64, not pooled:96"),
        (POOLED, KEPT, "without feature maps, not with (--keep-maps)"),
        (KEPT, POOLED, "with feature maps, not without (--keep-maps)"),
    ],
)
def test_an_index_made_otherwise_is_refused(photos, out, refused, first, then, said):
    indexed(read_folder(photos), out, **first)
    before = snapshot(out)
    assert said in refused(indexed, read_folder(photos), out, **then)
    assert snapshot(out) == before and nothing_beside(out)


@pytest.mark.parametrize("change", ["flip", "cut", "missing", "empty"])
def test_an_index_with_damaged_maps_is_refused(photos, out, refused, change):
    indexed(read_folder(photos), out, **KEPT)
    path = out / MAPS_NAME
    if change == "flip":
        _flip(path)
    elif change == "cut":
        _cut(path, 0.9)
    elif change == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    assert MAPS_NAME in refused(PatchIndex.load, out)
    assert MAPS_NAME in refused(indexed, read_folder(photos), out, **KEPT)


def _described(folder, files=None, **changes):
    """Writes meta.json anew, sealed as if the program had: what is told and what is there do not fit together."""
    from patchify_core.files import sha256_of_file, sha256_of_json

    meta = json.loads((folder / "meta.json").read_text())
    meta.pop("digest")
    meta |= changes
    for name in files or ():
        if (folder / name).exists():
            size = (folder / name).stat().st_size
            meta["files"][name] = {"bytes": size, "sha256": sha256_of_file(folder / name)}
        else:
            meta["files"].pop(name)
    meta["digest"] = sha256_of_json(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("wrong", ["other count", "crops", "no maps file", "unknown features", "features no text"])
def test_parts_that_do_not_fit_together_are_refused(photos, out, refused, wrong):
    indexed(read_folder(photos), out, **KEPT)
    if wrong == "other count":
        few = write_pictures(out.with_name("few"), range(3))
        indexed(read_folder(few), out.with_name("other"), **KEPT)
        (out / MAPS_NAME).write_bytes((out.with_name("other") / MAPS_NAME).read_bytes())
        assert len(KeptMaps(out / MAPS_NAME)) == 3
        _described(out, [MAPS_NAME])
    elif wrong == "crops":
        _described(out, features="crop")
    elif wrong == "no maps file":
        (out / MAPS_NAME).write_bytes(b"something else entirely")
        _described(out, [MAPS_NAME])
    elif wrong == "unknown features":
        _described(out, features="poold")
    else:
        _described(out, features=7)
    refused(PatchIndex.load, out)


def test_maps_may_be_taken_away_with_their_mention(photos, out):
    """Without maps the index still answers: they are a supplement."""
    indexed(read_folder(photos), out, **KEPT)
    (out / MAPS_NAME).unlink()
    _described(out, [MAPS_NAME])
    index = PatchIndex.load(out)
    assert index.maps is None and index.features == "pooled:64"


def test_memory_does_not_grow_with_the_gallery(tmp_path, out, monkeypatch):
    folder = write_pictures(tmp_path / "many", range(150), (8, 6))
    real, add, given, waiting, most = extract.read_reduced, GrowingShards.add, [], [], 0

    def read(data, side, name):
        reduced = real(data, side, name=name)
        given.append(weakref.ref(reduced.picture))
        return reduced

    def adding(self, new):
        add(self, new)
        waiting.append(len(self))

    def progress(done, total):
        nonlocal most
        most = max(most, sum(picture() is not None for picture in given))

    monkeypatch.setattr(extract, "read_reduced", read)
    monkeypatch.setattr(GrowingShards, "add", adding)
    indexed(read_folder(folder), out, regions=Pyramid(1), progress=progress, shard_images=16, **KEPT)
    assert len(given) == 150 and max(waiting) == 16
    assert 1 <= most <= 2  # the one on its way into the network, and the next one while it is read
