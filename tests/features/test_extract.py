"""features.extract: two ways to the same kind of result, named by a spec, and never mixed."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from patchify_core.errors import EncoderError, PatchifyError
from patchify_core.features import extract
from patchify_core.features.crop import describe
from patchify_core.features.extract import CROP, Crops, Pooled, checked_features, load_extractor
from patchify_core.features.maps import thumbnail, unpack
from patchify_core.features.pooled import PooledSettings, describe_boxes, fractions, picture_cells
from patchify_core.gallery import read_folder
from patchify_core.imaging.boxes import iou
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.regions import Pyramid, Salient
from tests.tiny import INFO, TinyEncoder, picture

BOXES = np.array([[0.0, 0, 60, 48], [10, 5, 40, 30], [59.5, 47.5, 60, 48]])


class OnlyCrops:
    """An encoder that cannot run over whole pictures."""

    info = INFO

    def prepare(self, picture, box):
        return TinyEncoder().prepare(picture, box)

    def encode(self, crops):
        return TinyEncoder().encode(crops)


def jpeg(size, seed=1):
    file = BytesIO()
    picture(seed, size).save(file, "JPEG", quality=92)
    return file.getvalue()


# Specs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("crop", "crop"),
        ("pooled", "pooled:640"),
        ("pooled:640", "pooled:640"),
        ("pooled:0640", "pooled:640"),
        ("pooled:64", "pooled:64"),
        ("pooled:4096", "pooled:4096"),
    ],
)
def test_a_spec_has_one_canonical_form(spec, canonical):
    assert checked_features(spec) == canonical == checked_features(canonical)
    assert load_extractor(spec, TinyEncoder()).spec == canonical


WRONG = [
    "",
    "crops",
    "Crop",
    "crop:640",
    "pooled:",
    "pooled:x",
    "pooled:-640",
    "pooled:6.4",
    "pooled:640 ",
    "pooled:640:2",
]
WRONG += ["pooled: 640", "pooled:٦٤٠", "pooled:123456", "crop\n", "pooled:640\n"]


@pytest.mark.parametrize("spec", WRONG)
def test_other_specs_are_refused(spec):
    with pytest.raises(PatchifyError, match="choose crop"):
        checked_features(spec)
    with pytest.raises(PatchifyError, match="choose crop"):
        load_extractor(spec, TinyEncoder())


@pytest.mark.parametrize("spec", ["pooled:63", "pooled:4097", "pooled:0", "pooled:99999"])
def test_sizes_out_of_range_are_refused(spec, refused):
    assert "choose 64 to 4096" in refused(checked_features, spec)


def test_crops_leave_no_map_to_keep(refused):
    assert "--features pooled" in refused(load_extractor, CROP, TinyEncoder(), True)


def test_an_encoder_of_crops_only_is_refused(refused):
    assert load_extractor("crop", OnlyCrops()).spec == "crop"
    assert "--features crop" in refused(load_extractor, "pooled", OnlyCrops())
    with pytest.raises(EncoderError):
        load_extractor("pooled", OnlyCrops())


# What is described ----------------------------------------------------------------------------------------


def test_crops_are_what_features_describes():
    scene, tiny = picture(3, (60, 48)), TinyEncoder()
    [found] = Crops(tiny).describe_many([("key", scene, BOXES)])
    np.testing.assert_array_equal(found.descriptors, describe(scene, BOXES, TinyEncoder()))
    assert found.key == "key" and found.packed is None and tiny.maps == []
    np.testing.assert_array_equal(
        Crops(tiny).query_features(scene, BOXES[1].tolist()).views, describe(scene, BOXES[1], tiny)
    )
    assert Crops(tiny).query_features(scene, BOXES[1].tolist()).parts is None


def test_pooled_runs_once_over_each_picture():
    scene, tiny = picture(3, (60, 48)), TinyEncoder()
    [found] = Pooled(tiny, PooledSettings(64)).describe_many([("key", scene, BOXES)])
    assert tiny.maps == [(13, 16)] and tiny.batches == []
    cells = picture_cells(scene, TinyEncoder(), 64)
    np.testing.assert_array_equal(found.descriptors, describe_boxes(cells, fractions(BOXES, 60, 48), TinyEncoder()))
    assert found.packed is None


def test_maps_are_packed_if_they_are_kept():
    scene, pooled = picture(3, (60, 48)), Pooled(TinyEncoder(), PooledSettings(64), keep_maps=True)
    [found] = pooled.describe_many([("key", scene, BOXES)])
    kept, fresh = unpack(found.packed), pooled.picture_map(scene)
    step = (fresh.cells.max() - fresh.cells.min()) / 255
    assert np.abs(kept.cells - fresh.cells).max() <= step / 2 * 1.001
    np.testing.assert_array_equal(fresh.thumbnail, thumbnail(scene))
    assert np.abs(kept.thumbnail.astype(int) - fresh.thumbnail).mean() < 6
    [without] = Pooled(TinyEncoder(), PooledSettings(64)).describe_many([("key", scene, BOXES)])
    np.testing.assert_array_equal(found.descriptors, without.descriptors)  # keeping changes nothing else


@pytest.mark.parametrize("how", ["crop", "pooled:64"])
def test_the_order_stays_and_pictures_are_read_one_ahead_at_most(how):
    read, tiny = [], TinyEncoder()

    def pictures():
        for seed in range(8):
            read.append(seed)
            yield seed, picture(seed, (60, 48)), BOXES

    for done, found in enumerate(load_extractor(how, tiny).describe_many(pictures())):
        assert found.key == done
        if how != "crop":  # crops fill a batch first
            assert len(read) <= done + 2
        expected = next(iter(load_extractor(how, TinyEncoder()).describe_many([(0, picture(done, (60, 48)), BOXES)])))
        np.testing.assert_array_equal(found.descriptors, expected.descriptors)
    assert done == 7 and list(load_extractor(how, tiny).describe_many([])) == []


def test_a_stream_that_is_closed_early_reads_no_further():
    read = []

    def pictures():
        for seed in range(100):
            read.append(seed)
            yield seed, picture(seed, (60, 48)), BOXES

    stream = Pooled(TinyEncoder(), PooledSettings(64)).describe_many(pictures())
    assert next(stream).key == 0
    stream.close()
    assert len(read) <= 2


def test_an_error_of_the_encoder_comes_after_what_was_done():
    class Failing(TinyEncoder):
        def feature_map(self, pixels):
            if len(self.maps) == 3:
                raise EncoderError("The network gave up.")
            return super().feature_map(pixels)

    done = []
    with pytest.raises(EncoderError, match="gave up"):
        for found in Pooled(Failing(), PooledSettings(64)).describe_many(
            (n, picture(n, (60, 48)), BOXES) for n in range(9)
        ):
            done.append(found.key)
    assert done == [0, 1, 2]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (3, 2)])
def test_pictures_of_any_shape(size):
    pooled = Pooled(TinyEncoder(), PooledSettings(64), keep_maps=True)
    [found] = pooled.describe_many([(0, picture(1, size), Pyramid(6).boxes(*size))])
    assert found.descriptors.shape == (91, 24) and np.isfinite(found.descriptors).all()
    assert unpack(found.packed).cells.shape[2] == 24


def test_a_query_finds_its_own_box():
    """Query and gallery are described differently, and have to fit together all the same."""
    scene, pooled = picture(6, (120, 96)), Pooled(TinyEncoder(), PooledSettings(128, (64, 96)))
    boxes = Pyramid(3).boxes(120, 96)
    [found] = pooled.describe_many([(0, scene, boxes)])
    for cell in range(len(boxes)):
        mean = pooled.query_features(scene, boxes[cell].tolist()).views.mean(axis=0)
        assert int((found.descriptors @ mean).argmax()) == cell


# Reduced reading ------------------------------------------------------------------------------------------


def test_crops_read_all_pixels_and_pooled_what_it_needs():
    data = jpeg((1000, 700))
    assert Crops(TinyEncoder()).read(data)[0].size == (1000, 700)
    reduced, size = Pooled(TinyEncoder(), PooledSettings(200)).read(data)
    assert size == (1000, 700) and reduced.size == (250, 175)
    whole, size = Pooled(TinyEncoder(), PooledSettings(640)).read(data)
    assert size == whole.size == (1000, 700)


def test_a_turned_photograph_is_reduced_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = BytesIO()
    picture(1, (1000, 700)).save(file, "JPEG", exif=exif)
    reduced, size = Pooled(TinyEncoder(), PooledSettings(200)).read(file.getvalue())
    assert size == (700, 1000) and reduced.size == (175, 250)


@pytest.mark.parametrize("size", [(1000, 700), (1001, 703)])  # also where an eighth is no whole number of pixels
def test_boxes_are_in_pixels_of_the_whole_picture(tmp_path, size):
    """A large JPEG is decoded at an eighth; nobody must notice but for the time."""
    (tmp_path / "photos").mkdir()
    scene = Image.new("RGB", size, (90, 100, 90))
    scene.paste((220, 40, 30), (500, 200, 830, 500))
    scene.save(tmp_path / "photos" / "large.jpg", quality=95)
    for features in ("crop", "pooled:64"):
        out = tmp_path / features.replace(":", "-")
        build_index(read_folder(tmp_path / "photos"), out, TinyEncoder(), Salient(5), BuildSettings(features=features))
        index = PatchIndex.load(out)
        assert (index.images[0].width, index.images[0].height) == size
        boxes = index.boxes_of(0)
        assert (boxes >= 0).all() and (boxes[:, 2:] <= np.array(size) + 1e-3).all()
        assert iou(boxes, [500, 200, 830, 500]).max() > 0.5


def test_descriptors_of_a_reduced_picture_are_nearly_those_of_the_whole_one():
    data = jpeg((1000, 700))
    pooled, boxes = Pooled(TinyEncoder(), PooledSettings(120)), Pyramid(3)
    reduced, size = pooled.read(data)
    assert reduced.size == (125, 88)
    with Image.open(BytesIO(data)) as whole:
        [exact] = pooled.describe_many([(0, whole.convert("RGB"), boxes.boxes(*size))])
    [found] = pooled.describe_many([(0, reduced, boxes.boxes_in(reduced))])
    assert (found.descriptors * exact.descriptors).sum(axis=1).min() > 0.97


def test_the_encoder_is_asked_before_any_picture_is_read(tmp_path, monkeypatch, refused):
    (tmp_path / "photos").mkdir()
    picture(1).save(tmp_path / "photos" / "a.png")
    gallery = read_folder(tmp_path / "photos")
    monkeypatch.setattr(extract, "read_reduced", lambda *_, **__: pytest.fail("read"))
    for settings in (BuildSettings(features="pooled"), BuildSettings(features="poold"), BuildSettings(keep_maps=True)):
        refused(build_index, gallery, tmp_path / "idx", OnlyCrops(), Pyramid(1), settings)
        assert not (tmp_path / "idx").exists() and not (tmp_path / "idx.partial").exists()
