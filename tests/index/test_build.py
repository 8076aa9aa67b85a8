"""index.build: only new pictures are embedded, interrupted builds resume, and nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from PIL import Image

from patchify_core.encoders.devices import CPU_BATCH
from patchify_core.features import extract
from patchify_core.features.crop import FeatureSettings, describe
from patchify_core.gallery import Gallery, GalleryImage, read_coco, read_folder
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.shards.folder import GrowingShards
from patchify_core.index.swap import OLD_NAME
from patchify_core.regions import Pyramid, parse_regions
from tests.bad_pictures import text, truncated_jpeg
from tests.tiny import INFO, TinyEncoder, picture, write_dataset, write_pictures

ROOT = Path(__file__).parents[2]
REGIONS = Pyramid(2)
PATCHES = REGIONS.patches_per_image


def snapshot(folder):
    """Everything that stands in a folder, byte for byte."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def indexed(gallery, out, encoder=None, regions=REGIONS, **settings):
    progress = settings.pop("progress", None)
    return build_index(gallery, out, encoder or TinyEncoder(), regions, BuildSettings(**settings), progress)


def stop_at(number, error=KeyboardInterrupt):
    def progress(done, total):
        if done == number:
            raise error

    return progress


def nothing_beside(out):
    """No journal, no half-written index, no old one."""
    return [path.name for path in out.parent.iterdir() if path.name.startswith(out.name) and path != out] == []


@pytest.fixture
def photos(tmp_path):
    return write_pictures(tmp_path / "photos", range(12))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "idx"


# What is built --------------------------------------------------------------------------------------------


def test_the_index_holds_every_picture_described(photos, out, tiny):
    gallery = read_folder(photos)
    calls = []
    report = indexed(gallery, out, tiny, progress=lambda done, total: calls.append((done, total)))
    assert (report.images, report.embedded, report.reused, report.skipped) == (12, 12, 0, ())
    assert tiny.encoded == 12 * PATCHES
    assert calls == [(n, 12) for n in range(1, 13)]
    index = PatchIndex.load(out)
    assert (index.encoder, index.regions, index.factory) == (INFO, REGIONS, "Flat")
    assert index.root == photos
    assert [(i.id, i.file_name, i.width, i.height) for i in index.images] == [
        (i.id, i.file_name, i.width, i.height) for i in gallery.images
    ]
    for row, image in enumerate(gallery.images):
        with Image.open(image.path) as opened:
            expected = describe(opened, REGIONS.boxes(*opened.size), TinyEncoder(), FeatureSettings(1))
        np.testing.assert_array_equal(index.descriptors_of(row), expected)
    index.check_pictures(photos, content=True)
    assert nothing_beside(out)


@pytest.mark.parametrize("levels", [1, 6])
def test_other_pyramids(photos, out, levels):
    indexed(read_folder(photos), out, regions=Pyramid(levels))
    index = PatchIndex.load(out)
    assert index.regions == Pyramid(levels) and index.codes.ntotal == 12 * Pyramid(levels).patches_per_image


def test_boxes_and_sizes_are_those_of_the_upright_picture(tmp_path, out):
    # A phone's portrait: stored lying, to be turned by 90 degrees.
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = tmp_path / "phone"
    folder.mkdir()
    picture(1, (40, 20)).save(folder / "a.jpg", exif=exif, quality=95)
    indexed(read_folder(folder), out)
    image = PatchIndex.load(out).images[0]
    assert (image.width, image.height) == (20, 40)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000)])
def test_thin_pictures(tmp_path, out, size):
    write_pictures(tmp_path / "thin", [1, 2], size)
    indexed(read_folder(tmp_path / "thin"), out, regions=Pyramid(6))
    index = PatchIndex.load(out)
    assert (index.images[0].width, index.images[0].height) == size
    assert np.isfinite(index.descriptors_of(1)).all()


@pytest.mark.parametrize("factory", ["SQ8", "SQfp16"])
def test_a_codec_is_trained_and_filled_in_order(photos, out, factory):
    indexed(read_folder(photos), out, factory=factory)
    plain = out.with_name("plain")
    indexed(read_folder(photos), plain)
    codes, exact = PatchIndex.load(out), PatchIndex.load(plain)
    assert codes.bytes_per_image < exact.bytes_per_image
    for row in range(12):
        np.testing.assert_allclose(codes.descriptors_of(row), exact.descriptors_of(row), atol=6e-3)


def test_out_may_be_an_empty_folder_or_lie_below_new_ones_or_in_the_gallery(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "new" / "deep" / "idx", photos / "idx"):
        assert indexed(read_folder(photos), out).images == 12
        assert PatchIndex.load(out).root == photos
    assert len(read_folder(photos).images) == 12  # an index is no picture


def test_out_may_be_named_by_dots_and_links(photos, tmp_path, monkeypatch):
    real = tmp_path / "real"
    indexed(read_folder(photos), real)
    (tmp_path / "link").symlink_to(real)
    write_pictures(photos, [20])
    assert indexed(read_folder(photos), tmp_path / "link").reused == 12
    assert (tmp_path / "link").is_symlink() and len(PatchIndex.load(real).images) == 13
    monkeypatch.chdir(real)
    assert indexed(read_folder(photos), ".").embedded == 0
    assert len(PatchIndex.load(real).images) == 13
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "photos", "real"]


# Adding and removing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["Flat", "SQ8", "SQfp16"])
def test_only_new_pictures_are_embedded(photos, out, tiny, factory):
    indexed(read_folder(photos), out, factory=factory)
    before = PatchIndex.load(out)
    write_pictures(photos, [5000, 5001, 5002])
    report = indexed(read_folder(photos), out, tiny, factory=factory)
    assert (report.images, report.embedded, report.reused) == (15, 3, 12)
    assert tiny.encoded == 3 * PATCHES
    after = PatchIndex.load(out)
    for row in range(12):  # not embedded again, and the codec's second coding changes nothing
        np.testing.assert_array_equal(after.descriptors_of(row), before.descriptors_of(row))
    with Image.open(photos / "5001.png") as new:
        np.testing.assert_allclose(
            after.descriptors_of(13),
            describe(new, REGIONS.boxes(*new.size), tiny),
            atol=0 if factory == "Flat" else 0.2,
        )


def test_nothing_new_embeds_nothing(photos, out, tiny):
    indexed(read_folder(photos), out)
    before = snapshot(out)
    report = indexed(read_folder(photos), out, tiny)
    assert (report.embedded, report.reused, tiny.batches, report.images_per_s) == (0, 12, [], None)
    assert snapshot(out) == before


def test_a_renamed_picture_is_known(photos, out, tiny):
    indexed(read_folder(photos), out)
    was = PatchIndex.load(out).descriptors_of(0)
    (photos / "0000.png").rename(photos / "zebra.png")
    report = indexed(read_folder(photos), out, tiny)
    assert (report.embedded, report.reused) == (0, 12)
    index = PatchIndex.load(out)
    assert index.images[-1].file_name == "zebra.png"
    np.testing.assert_array_equal(index.descriptors_of(11), was)
    index.check_pictures(photos, content=True)


def test_a_removed_picture_is_gone_and_a_changed_one_is_new(photos, out, tiny):
    indexed(read_folder(photos), out)
    (photos / "0003.png").unlink()
    picture(99).save(photos / "0007.png")
    report = indexed(read_folder(photos), out, tiny)
    assert (report.images, report.embedded, report.reused) == (11, 1, 10)
    index = PatchIndex.load(out)
    assert "0003.png" not in {image.file_name for image in index.images}
    fresh = out.with_name("fresh")
    indexed(read_folder(photos), fresh)
    assert snapshot(out) == snapshot(fresh)


def test_identical_pictures_are_embedded_once(photos, out, tiny):
    for name in ("copy.png", "another.png"):
        shutil.copy(photos / "0002.png", photos / name)
    report = indexed(read_folder(photos), out, tiny)
    assert (report.images, report.embedded, report.reused) == (14, 12, 2)
    assert tiny.encoded == 12 * PATCHES
    index = PatchIndex.load(out)
    rows = [row for row, image in enumerate(index.images) if image.file_name in ("0002.png", "copy.png", "another.png")]
    for row in rows[1:]:
        np.testing.assert_array_equal(index.descriptors_of(row), index.descriptors_of(rows[0]))


COMPRESSED = {
    "SQ8": {"factory": "SQ8"},
    "PQ": {"factory": "PQ4x4"},
    "projection, PQ": {"factory": "PCAH12,PQ4x4"},
    "IVF, PQ": {"factory": "IVF2,PQ4x4"},
    "finer": {"factory": "PCAH12,PQ4x4", "rescore": "SQfp16"},
    "distinctive": {"factory": "PQ4x4", "codebook": "distinctive"},
}


@pytest.mark.parametrize("change", COMPRESSED.values(), ids=COMPRESSED.keys())
def test_an_update_keeps_the_codes_of_old_pictures(photos, out, tiny, change):
    indexed(read_folder(photos), out, **change)
    before = PatchIndex.load(out)
    projections = {path.name: path.read_bytes() for path in out.glob("projection.npy")}
    (photos / "0003.png").unlink()
    (photos / "0001.png").rename(photos / "zebra.png")
    picture(77).save(photos / "0000a.png")
    report = indexed(read_folder(photos), out, tiny, **change)
    assert (report.images, report.embedded, report.reused) == (12, 1, 11) and tiny.encoded == PATCHES
    after = PatchIndex.load(out)
    was = {image.sha256: row for row, image in enumerate(before.images)}
    for row, image in enumerate(after.images):
        if image.sha256 in was:
            np.testing.assert_array_equal(after.descriptors_of(row), before.descriptors_of(was[image.sha256]))
            first = was[image.sha256] * PATCHES
            np.testing.assert_array_equal(
                after.codes.reconstruct_n(row * PATCHES, PATCHES), before.codes.reconstruct_n(first, PATCHES)
            )
    assert {path.name: path.read_bytes() for path in out.glob("projection.npy")} == projections
    assert (after.codebook, after.rescore) == (change.get("codebook", "uniform"), change.get("rescore"))
    kept = snapshot(out)
    assert indexed(read_folder(photos), out, tiny, **change).embedded == 0
    assert snapshot(out) == kept


@pytest.mark.parametrize("factory", ["PCAH12,PQ4x4", "IVF2,SQ8"])
def test_an_interrupted_build_makes_the_same_codes(photos, out, factory):
    indexed(read_folder(photos), out.with_name("whole"), factory=factory)
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, factory=factory, progress=stop_at(7))
    assert indexed(read_folder(photos), out, factory=factory).embedded == 5
    assert snapshot(out) == snapshot(out.with_name("whole"))


@pytest.mark.parametrize(
    ("factory", "said"), [("PQ4", "needs at least 256 patches"), ("PCAH24,SQ8", None), ("IVF64,Flat", "at least 64")]
)
def test_too_few_pictures_are_refused_before_the_work(photos, out, tiny, refused, factory, said):
    if said is None:
        indexed(read_folder(photos), out, tiny, factory=factory)  # 60 patches are enough for 24 axes
        return
    message = refused(indexed, read_folder(photos), out, tiny, factory=factory)
    assert said in message and "has 60" in message
    assert tiny.batches == [] and not out.exists() and nothing_beside(out)


def test_pictures_that_cannot_be_read_leave_too_few_and_what_was_embedded_is_kept(photos, out, tiny, refused):
    for number in range(3):
        _cut(photos / f"{number:04d}.png", 0.5)
    gallery = read_folder(photos)
    assert len(gallery.images) == 12  # their headers are whole
    assert "at least 50 patches to train on and has 45" in refused(indexed, gallery, out, factory="IVF50,Flat")
    assert not out.exists()
    assert indexed(gallery, out, tiny, factory="SQ8").images == 9
    assert tiny.batches == []


def test_an_update_may_be_of_fewer_pictures_than_a_codec_is_trained_on(photos, out):
    indexed(read_folder(photos), out, factory="PCAH12,PQ4x4")
    for number in range(1, 12):
        (photos / f"{number:04d}.png").unlink()
    assert indexed(read_folder(photos), out, factory="PCAH12,PQ4x4").images == 1


@pytest.mark.parametrize("regions", ["salient:3", "pyramid:1+salient:2"])
def test_boxes_that_depend_on_the_pixels_are_kept_with_the_descriptors(photos, out, tiny, regions):
    regions = parse_regions(regions)
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, regions=regions, progress=stop_at(5), shard_images=2)
    assert indexed(read_folder(photos), out, tiny, regions=regions, factory="SQ8").reused == 5
    write_pictures(photos, [3000, 4])
    (photos / "0000.png").rename(photos / "zebra.png")
    report = indexed(read_folder(photos), out, tiny, regions=regions, factory="SQ8")
    assert (report.embedded, report.reused) == (1, 12)
    index = PatchIndex.load(out)
    for row, image in enumerate(index.images):
        with Image.open(photos / image.file_name) as opened:
            expected = regions.boxes_in(opened.convert("RGB"))
            fresh = describe(opened, expected, TinyEncoder())
        np.testing.assert_allclose(index.boxes_of(row), expected, atol=1e-5)
        np.testing.assert_array_equal(index.box_of(row, 2), index.boxes_of(row)[2])
        if image.file_name != "3000.png":  # what the codec was not trained on may lie outside its range
            np.testing.assert_allclose(index.descriptors_of(row), fresh, atol=0.01)


# Stopped and resumed --------------------------------------------------------------------------------------


@pytest.fixture
def whole(photos, tmp_path):
    """The folder that a build without interruption makes."""
    indexed(read_folder(photos), tmp_path / "whole")
    return snapshot(tmp_path / "whole")


@pytest.mark.parametrize("shard_images", [1, 5, 64])
@pytest.mark.parametrize("number", [1, 2, 6, 7, 11, 12])
def test_an_interrupted_build_goes_on(photos, out, whole, tiny, number, shard_images):
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, progress=stop_at(number), shard_images=shard_images)
    assert not out.exists()
    report = indexed(read_folder(photos), out, tiny)
    # What progress had reported is not embedded again, not even what no shard had been written for.
    assert (report.embedded, report.reused) == (12 - number, number)
    assert tiny.encoded == (12 - number) * PATCHES
    assert snapshot(out) == whole
    assert nothing_beside(out)


def test_a_build_interrupted_again_and_again_ends(photos, out, whole):
    for number in (3, 5, 5, 9, 12):  # at the second 5 it stops among pictures that are known already
        with pytest.raises(KeyboardInterrupt):
            indexed(read_folder(photos), out, progress=stop_at(number))
    report = indexed(read_folder(photos), out)
    assert (report.embedded, report.reused) == (0, 12)
    assert snapshot(out) == whole


def test_an_error_of_the_encoder_keeps_what_was_done(photos, out, whole):
    class Failing(TinyEncoder):
        def encode(self, crops):
            if self.batches:
                raise MemoryError
            return super().encode(crops)

    with pytest.raises(MemoryError):
        indexed(read_folder(photos), out, Failing())
    report = indexed(read_folder(photos), out)
    assert report.reused == CPU_BATCH // PATCHES > 0  # the pictures that the first batch completed
    assert snapshot(out) == whole


KILLED = """
import os, sys
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.gallery import read_folder
from patchify_core.regions import Pyramid
from tests.tiny import TinyEncoder

def progress(done, total):
    if done == 8:
        os._exit(9)  # no finally, no flush: as kill -9 or a power cut

build_index(read_folder(sys.argv[1]), sys.argv[2], TinyEncoder(), Pyramid(2), BuildSettings(shard_images=3), progress)
"""


def test_a_killed_build_goes_on(photos, out, whole):
    done = subprocess.run([sys.executable, "-c", KILLED, photos, out], cwd=ROOT)
    assert done.returncode == 9 and not out.exists()
    report = indexed(read_folder(photos), out)
    assert (report.embedded, report.reused) == (6, 6)  # two shards of three were on the disk
    assert snapshot(out) == whole


class _Killer:
    """Ends what is running at its n-th change to the disk, by an audit hook: those hear of every change."""

    CHANGES = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir"})

    def __init__(self):
        self.left = None
        sys.addaudithook(self.hear)  # for good; it hears nothing while `left` is None

    def hear(self, event, arguments):
        if self.left is None or (
            event not in self.CHANGES
            and not (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
        ):
            return
        if self.left == 0:
            raise SystemExit("killed")
        self.left -= 1

    def kills(self, number, work):
        """Whether `work` got as far as its write number `number` (from 0), where it ends."""
        self.left = number
        try:
            work()
        except SystemExit:
            return True
        finally:
            self.left = None
        return False


@pytest.fixture(scope="module")
def killer():
    return _Killer()


@pytest.mark.parametrize("change", ["none before", "more pictures", "fewer pictures"])
def test_a_build_killed_at_any_write_goes_on(tmp_path, killer, monkeypatch, change):
    photos = write_pictures(tmp_path / "photos", range(5))
    if change != "none before":
        indexed(read_folder(photos), tmp_path / "before", regions=Pyramid(1))
    if change == "more pictures":
        write_pictures(photos, [20, 21, 22])
    elif change == "fewer pictures":
        (photos / "0001.png").unlink()
    gallery = read_folder(photos)
    (tmp_path / "whole").mkdir()
    indexed(gallery, tmp_path / "whole" / "idx", regions=Pyramid(1))
    real = os.scandir
    # Some file systems list folders by name, so that the journal's head is what rmtree() deletes first.
    monkeypatch.setattr(os, "scandir", lambda path: contextlib.nullcontext(sorted(real(path), key=lambda e: e.name)))

    number, killed = 0, True
    while killed:
        out = tmp_path / str(number) / "idx"
        out.parent.mkdir()
        if change != "none before":
            shutil.copytree(tmp_path / "before", out)
        killed = killer.kills(number, lambda out=out: indexed(gallery, out, regions=Pyramid(1), shard_images=2))
        if change != "none before":
            assert len(PatchIndex.load(out).images) in (5, len(gallery.images))  # readers always find one
        indexed(gallery, out, regions=Pyramid(1))
        assert snapshot(out.parent) == snapshot(tmp_path / "whole")  # and nothing beside it
        number += 1
    assert number > 10


def test_two_builds_at_once_are_refused(photos, out, whole, refused):
    def meanwhile(done, total):
        if done == 5:
            assert "Another index command" in refused(indexed, read_folder(photos), out)

    assert indexed(read_folder(photos), out, progress=meanwhile, shard_images=2).embedded == 12
    assert snapshot(out) == whole
    assert nothing_beside(out)


def _first_shard(journal, suffix):
    return sorted(journal.glob(f"shard-*{suffix}"))[0]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def _cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def _save_as(path, array):
    with open(path, "wb") as file:  # by its path numpy would give it another suffix
        np.save(file, array, allow_pickle=True)


TEAR = {
    "list missing": lambda j: _first_shard(j, ".json").unlink(),
    "list cut": lambda j: _cut(_first_shard(j, ".json"), 0.6),
    "list empty": lambda j: _first_shard(j, ".json").write_text(""),
    "list of another length": lambda j: _first_shard(j, ".json").write_text('["a"]'),
    "list is an object": lambda j: _first_shard(j, ".json").write_text('{"a": 1, "b": 2, "c": 3}'),
    "list too deep": lambda j: _first_shard(j, ".json").write_text("[" * 200_000),
    "numbers missing": lambda j: _first_shard(j, ".descriptors").unlink(),
    "numbers empty": lambda j: _first_shard(j, ".descriptors").write_bytes(b""),
    "numbers cut": lambda j: _cut(_first_shard(j, ".descriptors"), 0.5),
    "one bit of a number flipped": lambda j: _flip(_first_shard(j, ".descriptors")),
    "numbers are text": lambda j: _first_shard(j, ".descriptors").write_bytes(b"no array" * 99),
    "numbers of other precision": lambda j: _save_as(_first_shard(j, ".descriptors"), np.ones((3, PATCHES, INFO.dim))),
    "numbers of another shape": lambda j: _save_as(
        _first_shard(j, ".descriptors"), np.ones((3, 1, INFO.dim), np.float32)
    ),
    # Loading this one would run code of whoever wrote it.
    "numbers are pickled": lambda j: _save_as(_first_shard(j, ".descriptors"), np.array([{}, {}, {}], dtype=object)),
}


@pytest.mark.parametrize("tear", TEAR.values(), ids=TEAR.keys())
def test_a_torn_shard_is_embedded_again(photos, out, whole, tear):
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, progress=stop_at(9), shard_images=3)
    journal = out.with_name("idx.partial")
    assert len(list(journal.glob("shard-*.descriptors"))) == 3
    tear(journal)
    # Stopped once more, so that new shards are written beside the torn one, and must not mix with it.
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, progress=stop_at(10), shard_images=1)
    report = indexed(read_folder(photos), out)
    assert report.embedded + report.reused == 12 and report.reused >= 9
    assert snapshot(out) == whole


def test_a_journal_of_another_encoder_is_of_no_use(photos, out, whole, tiny):
    other = TinyEncoder(INFO.__class__(**(INFO.as_dict() | {"weights_sha256": "1" * 64})))
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, other, progress=stop_at(9))
    assert indexed(read_folder(photos), out, tiny).embedded == 12
    assert snapshot(out) == whole


def test_a_journal_of_other_regions_is_of_no_use(photos, out, whole):
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, regions=Pyramid(3), progress=stop_at(9))
    assert indexed(read_folder(photos), out).embedded == 12
    assert snapshot(out) == whole


# The old index stays whole --------------------------------------------------------------------------------


def test_a_failing_update_leaves_the_old_index(photos, out, whole):
    small = write_pictures(out.with_name("small"), range(3))
    indexed(read_folder(small), out)
    before = snapshot(out)
    with pytest.raises(KeyboardInterrupt):
        indexed(read_folder(photos), out, progress=stop_at(10))
    assert snapshot(out) == before
    assert len(PatchIndex.load(out).images) == 3
    assert indexed(read_folder(photos), out).embedded == 2
    assert snapshot(out) == whole


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("had_one", [True, False])
def test_a_failing_swap_leaves_the_old_index(photos, out, whole, monkeypatch, refused, step, had_one):
    if had_one:
        indexed(read_folder(write_pictures(out.with_name("small"), range(3))), out)
    before = snapshot(out) if had_one else {}
    real, calls = os.replace, []

    def replace(source, target):
        if Path(target) == out or Path(source) == out:
            calls.append(target)
            if len(calls) == (step if had_one else 1):
                raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert "run the same command again" in refused(indexed, read_folder(photos), out)
    monkeypatch.undo()
    assert (snapshot(out) if had_one else {}) == before
    assert out.exists() == had_one
    assert indexed(read_folder(photos), out).embedded == 0  # all of it had been journalled
    assert snapshot(out) == whole
    assert nothing_beside(out)


def test_a_swap_cut_between_its_two_renames_is_healed(photos, out, tiny):
    indexed(read_folder(photos), out)
    before = snapshot(out)
    # What a kill there leaves behind: the old index moved away, the new one not yet in its place.
    (out.parent / "idx.partial").mkdir()
    (out.parent / "idx.partial" / "maker.json").touch()
    out.rename(out.parent / "idx.partial" / OLD_NAME)
    report = indexed(read_folder(photos), out, tiny)
    assert (report.embedded, report.reused) == (0, 12)
    assert snapshot(out) == before and nothing_beside(out)


def test_folders_that_only_look_like_ours_are_left_alone(photos, out, refused):
    # A person's own backup beside the index is not ours to move or delete.
    for name in ("idx.old", "idx.new", "idx.bak"):
        (out.parent / name).mkdir()
        (out.parent / name / "mine.txt").write_text("mine")
    indexed(read_folder(photos), out)
    write_pictures(photos, [20])
    indexed(read_folder(photos), out)
    for name in ("idx.old", "idx.new", "idx.bak"):
        assert (out.parent / name / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_something_else_where_the_journal_goes_is_refused(photos, out, refused, kind):
    private = out.with_name("idx.partial")
    if kind == "folder":
        private.mkdir()
        (private / "mine.txt").write_text("mine")
    else:
        private.write_text("mine")
    assert "idx.partial is in the way" in refused(indexed, read_folder(photos), out)
    assert (private / "mine.txt" if kind == "folder" else private).read_text() == "mine"
    assert not out.exists()


# Refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder": TinyEncoder(INFO.__class__(**(INFO.as_dict() | {"spec": "huge"})))}, "tiny, not huge"),
        ({"encoder": TinyEncoder(INFO.__class__(**(INFO.as_dict() | {"pooling": "max"})))}, "encoder tiny"),
        ({"regions": Pyramid(3)}, "pyramid:2, not pyramid:3"),
        ({"factory": "SQ8"}, "Flat, not SQ8"),
        ({"rescore": "SQ8"}, "rescore none, not SQ8"),
    ],
    ids=["encoder", "encoder settings", "regions", "factory", "rescore"],
)
def test_an_index_made_otherwise_is_refused(photos, out, refused, change, said):
    indexed(read_folder(photos), out)
    before = snapshot(out)
    assert said in refused(indexed, read_folder(photos), out, **change)
    assert snapshot(out) == before and nothing_beside(out)


def test_another_codebook_is_refused_where_it_was_learned_from(photos, out, refused):
    indexed(read_folder(photos), out, factory="SQ8")
    said = refused(indexed, read_folder(photos), out, factory="SQ8", codebook="distinctive")
    assert "codebook uniform, not distinctive" in said


def test_another_codebook_is_nothing_where_nothing_is_learned(photos, out, tiny):
    indexed(read_folder(photos), out, codebook="distinctive")
    assert indexed(read_folder(photos), out, tiny, codebook="informative").embedded == 0


def test_presets_are_their_factory_strings(photos, out, tiny):
    indexed(read_folder(photos), out, factory="exact", rescore="exact")
    assert PatchIndex.load(out).meta()["factory"] == PatchIndex.load(out).meta()["rescore"] == "Flat"
    assert indexed(read_folder(photos), out, tiny, factory="Flat", rescore="Flat").embedded == 0


def test_a_damaged_index_is_refused_not_replaced(photos, out, refused):
    indexed(read_folder(photos), out)
    _cut(out / "index.faiss", 0.5)
    before = snapshot(out)
    refused(indexed, read_folder(photos), out)
    assert snapshot(out) == before


def test_an_unknown_factory_is_refused(photos, out, refused):
    tiny = TinyEncoder()
    assert "'HNSW16' is not known" in refused(indexed, read_folder(photos), out, tiny, factory="HNSW16")
    assert tiny.batches == [] and not out.exists() and nothing_beside(out)


def test_a_file_is_refused(photos, out, refused):
    out.write_text("mine")
    assert "not an index folder" in refused(indexed, read_folder(photos), out)
    assert out.read_text() == "mine" and nothing_beside(out)


@pytest.mark.parametrize("name", ["photo.jpg", "meta.json", "deep/file"])
def test_a_folder_with_other_content_is_refused(photos, out, refused, name):
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("{}")
    before = snapshot(out)
    assert "not an index folder" in refused(indexed, read_folder(photos), out)
    assert snapshot(out) == before and nothing_beside(out)


@pytest.mark.parametrize("name", ["notes.txt", "pictures/photo.jpg"])
def test_what_somebody_put_into_an_index_folder_is_not_deleted_with_the_old_index(photos, out, refused, name):
    tiny = TinyEncoder()
    indexed(read_folder(photos), out, tiny)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    write_pictures(photos, range(12, 14))
    before, batches = snapshot(out), len(tiny.batches)
    assert "move it elsewhere" in refused(indexed, read_folder(photos), out, tiny)
    assert snapshot(out) == before and len(tiny.batches) == batches and nothing_beside(out)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._meta.json", "meta.json.tmp"])
def test_what_desktops_and_cut_commands_leave_in_a_folder_stops_nothing(photos, out, name):
    indexed(read_folder(photos), out)
    (out / name).write_text("litter")
    write_pictures(photos, range(12, 14))
    assert indexed(read_folder(photos), out).images == 14


@pytest.mark.parametrize("where", ["the gallery itself", "/"])
def test_the_gallery_and_the_root_are_refused(photos, refused, where):
    before = snapshot(photos)
    refused(indexed, read_folder(photos), photos if where == "the gallery itself" else Path("/"))
    assert snapshot(photos) == before


def test_a_picture_of_another_size_than_annotated_is_refused(photos, out, refused):
    gallery = read_folder(photos)
    images = [*gallery.images]
    images[4] = GalleryImage(5, images[4].file_name, images[4].path, 25, 18)
    wrong = Gallery(photos, tuple(images))
    message = refused(indexed, wrong, out)
    assert "0004.png is 24x18" in message and "25x18" in message
    # Also when its descriptors are known: its boxes would still be wrong.
    indexed(gallery, out)
    before = snapshot(out)
    assert "0004.png is 24x18" in refused(indexed, wrong, out)
    assert snapshot(out) == before


def test_a_dataset_is_indexed_with_its_own_ids(tmp_path, out):
    gallery = read_coco(write_dataset(tmp_path / "dataset"))
    indexed(gallery, out)
    index = PatchIndex.load(out)
    assert index.image_ids.tolist() == [image.id for image in gallery.images]
    assert not any("queries" in image.file_name for image in index.images)


# Pictures that cannot be read -----------------------------------------------------------------------------


def test_unreadable_pictures_are_skipped_and_listed(photos, out):
    text(photos)  # text.jpg: no picture, found when the folder is read
    truncated_jpeg(photos)  # half.jpg: its header is whole, found only when its pixels are read
    gallery = read_folder(photos)
    (photos / "0001.png").unlink()  # gone between listing and indexing
    calls = []
    report = indexed(gallery, out, progress=lambda done, total: calls.append((done, total)))
    assert report.images == 11
    reasons = dict(report.skipped)
    assert sorted(reasons) == ["0001.png", "half.jpg", "text.jpg"]
    assert "not a picture" in reasons["text.jpg"]
    assert "cut short" in reasons["half.jpg"]
    assert "cannot be read" in reasons["0001.png"]
    assert calls[-1] == (13, 13)  # skipped ones are settled too, or the bar would never be full
    names = [image.file_name for image in PatchIndex.load(out).images]
    assert names == [f"{n:04d}.png" for n in range(12) if n != 1]


def test_a_picture_that_became_unreadable_leaves_the_index(photos, out):
    indexed(read_folder(photos), out)
    gallery = read_folder(photos)
    _cut(photos / "0005.png", 0.5)
    report = indexed(gallery, out)
    assert report.images == 11 and [name for name, _ in report.skipped] == ["0005.png"]


def test_nothing_but_unreadable_pictures(tmp_path, out, refused):
    folder = tmp_path / "bad"
    folder.mkdir()
    truncated_jpeg(folder)
    message = refused(indexed, read_folder(folder), out)
    assert "nothing was indexed" in message and "half.jpg" in message
    assert not out.exists() and nothing_beside(out)


def test_an_old_index_outlives_a_gallery_that_cannot_be_read(photos, out, refused):
    indexed(read_folder(photos), out)
    before, gallery = snapshot(out), read_folder(photos)
    shutil.rmtree(photos)
    refused(indexed, gallery, out)
    assert snapshot(out) == before and nothing_beside(out)


# The disk -------------------------------------------------------------------------------------------------


LIMITED = """
import resource, sys
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.errors import IndexFolderError
from patchify_core.gallery import read_folder
from patchify_core.regions import Pyramid
from tests.tiny import TinyEncoder

import faiss  # whatever it writes when it is first imported is not what is tested here
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    build_index(read_folder(sys.argv[1]), sys.argv[2], TinyEncoder(), Pyramid(2), BuildSettings(shard_images=4))
except IndexFolderError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (100, 0),  # not even the journal's first line
        (1000, 0),  # the first shard does not fit (4 pictures x 5 patches x 24 numbers x 4 bytes)
        (4000, 12),  # shards of four pictures do, the index of twelve does not
    ],
)
@pytest.mark.parametrize("had_one", [True, False])
def test_a_full_disk(photos, out, whole, limit, kept, had_one):
    known = 2 if had_one else 0
    if had_one:
        indexed(read_folder(write_pictures(out.with_name("small"), range(known))), out)
    before = snapshot(out) if had_one else None
    command = [sys.executable, "-B", "-c", LIMITED, str(photos), str(out), str(limit)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("There is no room left to write") and done.stdout.count("\n") == 1
    assert (snapshot(out) if out.exists() else None) == before
    report = indexed(read_folder(photos), out)
    assert report.embedded == 12 - max(kept, known)
    assert snapshot(out) == whole and nothing_beside(out)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="a folder cannot be made read-only here")
@pytest.mark.parametrize("had_one", [True, False])
def test_a_folder_that_may_not_be_written(photos, whole, refused, had_one):
    # Not below tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        shelf = Path(name)
        shutil.copytree(photos, shelf / "photos")
        if had_one:
            indexed(read_folder(write_pictures(shelf / "small", range(3))), shelf / "idx")
        before = snapshot(shelf)
        shelf.chmod(0o555)
        root = os.geteuid() == 0
        try:
            if root:  # who may write everywhere: be nobody for a moment
                os.seteuid(65534)
            message = refused(indexed, read_folder(shelf / "photos"), shelf / "idx")
        finally:
            if root:
                os.seteuid(0)
            shelf.chmod(0o755)
        assert "read-only or no permission" in message
        assert snapshot(shelf) == before


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EROFS, "read-only"), (errno.EDQUOT, "no room left"), (errno.EIO, "Input/output error")],
)
def test_what_else_a_disk_may_say(photos, out, monkeypatch, refused, number, said):
    def fail(self, folder, root, packed=None):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(PatchIndex, "write", fail)
    assert said in refused(indexed, read_folder(photos), out)
    assert not out.exists()


# Memory ---------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_gallery(tmp_path, out, monkeypatch):
    folder = write_pictures(tmp_path / "many", range(300), (8, 6))
    real, given, most = extract.read_picture, [], 0

    def read(data, name):
        image = real(data, name=name)
        given.append(weakref.ref(image))
        return image

    journals = []
    add = GrowingShards.add

    def counting(self, new):
        add(self, new)
        journals.append(len(self))

    def progress(done, total):
        nonlocal most
        most = max(most, sum(image() is not None for image in given))

    monkeypatch.setattr(extract, "read_picture", read)
    monkeypatch.setattr(GrowingShards, "add", counting)
    indexed(read_folder(folder), out, regions=Pyramid(1), progress=progress, shard_images=16)
    assert len(given) == 300
    assert 1 <= most <= 2  # the one being cut into crops, and the next one while it is read
    assert max(journals) == 16  # descriptors waiting for the disk
    assert faiss.read_index(str(out / "index.faiss")).ntotal == 300


def test_memory_does_not_grow_with_what_a_codec_is_trained_on(photos, out, monkeypatch):
    # Each picture's descriptors are a file mapped into memory, which must be let go before the next one.
    real, given, most = GrowingShards.descriptors, [], 0

    def descriptors(self, digest):
        nonlocal most
        found = real(self, digest)
        given.append(weakref.ref(found))
        most = max(most, sum(array() is not None for array in given))
        return found

    monkeypatch.setattr(GrowingShards, "descriptors", descriptors)
    indexed(read_folder(photos), out, factory="SQ8")
    assert len(given) == 2 * 12  # to train, and to fill
    assert most <= 2


# Made like another index ------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["Flat", "SQ8", "PCAH8,SQ8", "PCAH8,PQ4x4"])
def test_like_takes_projection_and_codec_over_from_another_index(tmp_path, tiny, factory) -> None:
    settings = BuildSettings(factory)
    build_index(read_folder(write_pictures(tmp_path / "many", range(20))), tmp_path / "like", tiny, settings=settings)
    like = PatchIndex.load(tmp_path / "like")
    few = read_folder(write_pictures(tmp_path / "few", (3, 100, 101)))  # far too few to learn from; one is known
    before = tiny.encoded
    report = build_index(few, tmp_path / "out", tiny, like=like)
    assert (report.embedded, report.reused) == (2, 1) and tiny.encoded - before == 2 * like.patches_per_image
    made = PatchIndex.load(tmp_path / "out")
    assert made.factory == like.factory and made.regions.spec == like.regions.spec
    assert (made.projection is None) == (like.projection is None)
    # The slow way: the same codec over descriptors that are computed anew.
    exact = PatchIndex.load(build_and(few, tmp_path / "exact", tiny))
    for row in range(3):
        vectors = np.ascontiguousarray(like.project(exact.descriptors_of(row)))
        expected = like.codes.sa_decode(like.codes.sa_encode(vectors))
        np.testing.assert_allclose(made.descriptors_of(row), expected, atol=1e-6)


def build_and(gallery, out, encoder):
    build_index(gallery, out, encoder)
    return out


def test_like_must_be_of_the_same_kind(tmp_path, tiny, refused) -> None:
    build_index(
        read_folder(write_pictures(tmp_path / "many", range(20))), tmp_path / "like", tiny, parse_regions("pyramid:2")
    )
    like, few = PatchIndex.load(tmp_path / "like"), read_folder(write_pictures(tmp_path / "few", (3, 100)))
    out = tmp_path / "out"
    for regions, settings, word in (
        (parse_regions("pyramid:3"), None, "regions"),
        (None, BuildSettings("SQ8"), "factory"),
        (None, BuildSettings(rescore="SQ8"), "rescore"),
        (None, BuildSettings(features="pooled:96"), "features"),
        (None, BuildSettings(features="crop", keep_maps=False, factory="PQ4x4"), "factory"),
    ):
        assert word in refused(build_index, few, out, tiny, regions, settings, None, like)
    other = TinyEncoder(replace(tiny.info, spec="other"))
    assert "other" in refused(build_index, few, out, other, None, None, None, like)
    build_index(few, out, tiny, like=like)
    assert len(PatchIndex.load(out).images) == 2
