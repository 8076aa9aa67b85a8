"""features.maps: what is kept of a picture comes back but for the rounding, and damage is told as damage."""

from __future__ import annotations

import gc
import os
import struct
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from patchify_core.features import maps as maps_module
from patchify_core.features.maps import (
    _HEAD,
    SMALL_THUMBNAIL,
    THUMBNAIL,
    KeptMaps,
    PictureMap,
    pack,
    packed_shape,
    thumbnail,
    unpack,
    write_maps,
)
from tests.tiny import picture

PROPERTY = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def small(seed=0):
    return thumbnail(picture(seed, (120, 90)))


def relu_cells(seed, height=15, width=20, channels=1280):
    """Nearly empty, as the last map of a network that ends in a rectifier."""
    rng = np.random.default_rng(seed)
    values = rng.exponential(1, (height, width, channels))
    return np.where(rng.random(values.shape) < 0.94, 0, values).astype(np.float32)


@pytest.fixture(scope="module")
def packed():
    return pack(PictureMap(relu_cells(1, 4, 5, 8), small(1)))


# Round trip -----------------------------------------------------------------------------------------------


@PROPERTY
@given(SEEDS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.floats(1e-3, 1e4), st.floats(-1e4, 1e4))
@example(0, 1, 1, 1, 1.0, 0.0)
def test_cells_come_back_within_half_a_step(seed, height, width, channels, spread, shift):
    cells = (np.random.default_rng(seed).random((height, width, channels)) * spread + shift).astype(np.float32)
    found = unpack(pack(PictureMap(cells, small()))).cells
    assert found.shape == cells.shape and found.dtype == np.float32
    step = (float(cells.max()) - float(cells.min())) / 255
    rounding = 4 * np.spacing(np.abs(cells).max())  # of single precision, where the shift is larger than the spread
    assert np.abs(found.astype(np.float64) - cells).max() <= step / 2 * 1.0001 + rounding


def test_what_was_zero_is_zero_again():
    cells = relu_cells(2, 6, 7, 50)
    found = unpack(pack(PictureMap(cells, small()))).cells
    assert not found[cells == 0].any() and (found[cells > found.max() / 255] > 0).all()


@pytest.mark.parametrize("value", [0.0, 1e-6, -3.5, 7e4])
def test_a_constant_map(value):
    cells = np.full((3, 4, 5), value, np.float32)
    np.testing.assert_array_equal(unpack(pack(PictureMap(cells, small()))).cells, cells)


@pytest.mark.parametrize("spread", [1e-45, 1e-44, 1e-40, 1e-37])
def test_differences_too_small_for_a_step(spread):
    """They are lost, and nothing else is."""
    cells = np.zeros((2, 2, 2), np.float32)
    cells[0, 0, 0] = spread
    found = unpack(pack(PictureMap(cells, small()))).cells
    assert np.isfinite(found).all() and np.abs(found - cells).max() <= 1e-37


@pytest.mark.parametrize(("size", "side"), [((120, 90), SMALL_THUMBNAIL), ((640, 480), THUMBNAIL)])
def test_the_thumbnail_comes_back_as_a_jpeg_of_good_quality(size, side):
    shown = thumbnail(picture(3, size))
    found = unpack(pack(PictureMap(relu_cells(1, 2, 2, 3), shown))).thumbnail
    assert found.shape == (side, side, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - shown).mean() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (4000, 3), (96, 96), (640, 191), (640, 480), (192, 5000)])
def test_a_thumbnail_is_a_square_whatever_the_picture(size):
    shown, side = thumbnail(Image.new("RGB", size, (200, 30, 10))), 192 if min(size) >= 192 else 96
    assert shown.shape == (side, side, 3) and shown.dtype == np.uint8
    assert (shown == (200, 30, 10)).all()


def test_a_map_is_small():
    """The promise is 200 KB a picture; at 640 pixels the default encoder's maps are 15 x 20 x 1280."""
    assert len(pack(PictureMap(relu_cells(3), small(3)))) < 60_000
    dense = np.random.default_rng(0).normal(size=(46, 46, 384)).astype(np.float32)  # a ViT's: nothing to leave out
    assert len(pack(PictureMap(dense, small(3)))) < 46 * 46 * 384 + 20_000  # a byte a value, and the thumbnail


def test_packing_is_deterministic():
    assert pack(PictureMap(relu_cells(4, 5, 5, 9), small(4))) == pack(PictureMap(relu_cells(4, 5, 5, 9), small(4)))


# Damage ---------------------------------------------------------------------------------------------------


def test_every_beginning_is_refused(packed):
    for length in range(len(packed)):
        with pytest.raises(ValueError):
            unpack(packed[:length])


def unpack_or_refuse(data):
    """Refused with ValueError, or a map of sound form: never another error, never much memory."""
    tracemalloc.start()
    try:
        found = unpack(bytes(data))
    except ValueError:
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30e6
    assert found.thumbnail.shape[0] in (SMALL_THUMBNAIL, THUMBNAIL) and found.thumbnail.dtype == np.uint8
    assert found.cells.ndim == 3 and found.cells.dtype == np.float32
    return found


def test_no_flipped_bit_of_the_head_or_the_jpegs_head_does_worse_than_be_refused(packed):
    for byte in range(_HEAD.size + 40):
        for bit in range(8):
            data = bytearray(packed)
            data[byte] ^= 1 << bit
            unpack_or_refuse(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_changed_bytes_do_worse_than_be_refused(packed, data):
    changed = bytearray(packed)
    for at in data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    unpack_or_refuse(changed)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_bit_of_the_cells_is_noticed(packed, data):
    size = _HEAD.unpack_from(packed)[5]
    changed = bytearray(packed)
    changed[data.draw(st.integers(_HEAD.size + size, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found = unpack_or_refuse(changed)  # zlib's own check of what it gives back
    assert found is None or np.array_equal(found.cells, unpack(packed).cells)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\0" * 18)
def test_foreign_bytes_are_refused(data):
    with pytest.raises(ValueError):
        unpack(data)


def forged(packed, height, width, channels, **jpeg):
    """The same bytes under a head that tells of another size."""
    old = _HEAD.unpack_from(packed)
    return _HEAD.pack(height, width, channels, *old[3:]) + packed[_HEAD.size :]


@pytest.mark.parametrize("shape", [(4, 5, 7), (4, 5, 9), (65535, 65535, 65535), (0, 5, 8), (0, 0, 0), (5, 4, 9)])
def test_a_head_of_another_size_is_refused(packed, shape):
    tracemalloc.start()
    with pytest.raises(ValueError):
        unpack(forged(packed, *shape))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["low", "step"])
def test_numbers_that_are_not_finite_are_refused(packed, number, field):
    head = list(_HEAD.unpack_from(packed))
    head[3 if field == "low" else 4] = number
    with pytest.raises(ValueError):
        unpack(_HEAD.pack(*head) + packed[_HEAD.size :])


def with_jpeg(packed, jpeg):
    head = list(_HEAD.unpack_from(packed))
    cells = packed[_HEAD.size + head[5] :]
    head[5] = len(jpeg)
    return _HEAD.pack(*head) + jpeg + cells


def jpeg_of(size, mode="RGB"):
    from io import BytesIO

    file = BytesIO()
    Image.new(mode, size).save(file, "JPEG")
    return file.getvalue()


def test_a_thumbnail_of_another_size_or_kind_is_refused(packed):
    for side in (SMALL_THUMBNAIL, THUMBNAIL):
        assert unpack(with_jpeg(packed, jpeg_of((side, side)))).thumbnail.shape == (side, side, 3)
    for jpeg in (
        jpeg_of((95, 96)),
        jpeg_of((96, 192)),
        jpeg_of((128, 128)),
        jpeg_of((96, 96), "L"),
        jpeg_of((96, 96), "CMYK"),
        b"",
        b"\xff\xd8\xff",
    ):
        with pytest.raises(ValueError):
            unpack(with_jpeg(packed, jpeg))


@pytest.mark.filterwarnings("error")
def test_a_thumbnail_that_claims_to_be_enormous_is_refused(packed):
    """Pillow has an error and a warning of its own for such; neither is what a damaged file may raise."""
    for side in (10_000, 60_000):
        jpeg = bytearray(jpeg_of((96, 96)))
        frame = jpeg.index(b"\xff\xc0") + 5
        jpeg[frame : frame + 4] = struct.pack(">HH", side, side)
        with pytest.raises(ValueError):
            unpack(with_jpeg(packed, bytes(jpeg)))


# The file -------------------------------------------------------------------------------------------------


class Listed:
    """Packed maps in memory."""

    def __init__(self, maps):
        self.maps = maps

    def __len__(self):
        return len(self.maps)

    def packed(self, row):
        return self.maps[row]


@pytest.fixture
def kept(tmp_path):
    maps = [pack(PictureMap(relu_cells(seed, 2, 3 + seed, 4), small(seed))) for seed in range(5)]
    write_maps(Listed(maps), tmp_path / "maps.bin")
    return tmp_path / "maps.bin", maps


def test_maps_come_back_in_order(kept):
    path, maps = kept
    found = KeptMaps(path)
    assert len(found) == 5 and found.size == sum(map(len, maps))
    for row in (4, 0, 2, 2, 1, 3):
        assert found.packed(row) == maps[row]
        assert found[row].cells.shape == (2, 3 + row, 4)
        np.testing.assert_array_equal(found[row].cells, unpack(maps[row]).cells)
        np.testing.assert_array_equal(found[row].thumbnail, unpack(maps[row]).thumbnail)
    assert [len(one) for one in (found.packed(row) for row in range(5))] == [len(one) for one in maps]


def test_kept_maps_may_be_written_again(kept, tmp_path):
    path, _ = kept
    write_maps(KeptMaps(path), tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("row", [-1, 5, 10**9])
def test_rows_that_are_not_there(kept, row):
    with pytest.raises(IndexError):
        KeptMaps(kept[0])[row]


def test_they_can_be_gone_through(kept):
    """`for` asks for one row after the other until there is none."""
    assert [found.cells.shape[1] for found in KeptMaps(kept[0])] == [3, 4, 5, 6, 7]


def test_no_maps_at_all(tmp_path):
    write_maps(Listed([]), tmp_path / "maps.bin")
    assert len(KeptMaps(tmp_path / "maps.bin")) == 0 and KeptMaps(tmp_path / "maps.bin").size == 0


def test_a_file_that_was_cut_is_refused_wherever_it_was(kept):
    path, _ = kept
    data = path.read_bytes()
    for length in [*range(80), len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError):
            KeptMaps(path)
    path.write_bytes(data + b"x")
    with pytest.raises(ValueError):
        KeptMaps(path)


def test_a_table_of_contents_that_was_changed_is_refused_or_leads_to_refused_maps(kept):
    path, maps = kept
    data = path.read_bytes()
    for byte in range(8 + 8 + 8 * 6):
        for bit in (0, 4, 7):
            changed = bytearray(data)
            changed[byte] ^= 1 << bit
            path.write_bytes(changed)
            try:
                found = KeptMaps(path)
            except ValueError:
                continue
            assert len(found) == 5
            torn = 0
            for row in range(5):
                assert len(found.packed(row)) <= sum(map(len, maps))
                try:
                    found[row]
                except ValueError:
                    torn += 1
            assert torn  # an end that moved tears the two maps that it parts, or at least one of them


@pytest.mark.parametrize(
    "data",
    [b"", b"PFYMAPS", b"PFYMAPS1", b"PFYMAPS1" + b"\xff" * 8, b"PFYMAPS1" + b"\xff" * 800, b"%PDF-1.7\n" * 99],
    ids=["empty", "cut magic", "magic alone", "very many", "very many, longer", "foreign"],
)
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "maps.bin").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ValueError):
        KeptMaps(tmp_path / "maps.bin")
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_file_that_is_not_there_is_the_systems_error(kept, tmp_path):
    with pytest.raises(OSError):
        KeptMaps(tmp_path / "nothing.bin")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows replaces no open file")
@pytest.mark.parametrize("change", ["vanished", "another in its place", "folder moved"])
def test_who_opened_a_file_reads_on_in_it(kept, tmp_path, change):
    path, maps = kept
    found = KeptMaps(path)
    if change == "vanished":
        path.unlink()
    elif change == "another in its place":
        write_maps(Listed(maps[::-1]), tmp_path / "other.bin")
        os.replace(tmp_path / "other.bin", path)
    else:
        path.rename(tmp_path / "elsewhere.bin")
    assert [found.packed(row) for row in range(5)] == maps


def test_threads_read_the_same_file_without_mixing(kept):
    path, maps = kept
    found = KeptMaps(path)
    rows = np.random.default_rng(0).integers(0, 5, 4000).tolist()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(found.packed, rows)) == [maps[row] for row in rows]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing tells what is open")
def test_a_file_is_closed_when_nobody_has_it_any_more(kept):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with open(kept[0], "rb") as file:
            KeptMaps(kept[0], file)[0]
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("change", ["vanished", "another in its place", "written over"])
def test_where_files_are_not_kept_open_another_one_is_refused(kept, monkeypatch, change):
    monkeypatch.setattr(maps_module, "_KEEPS_OPEN", False)
    path, maps = kept
    found = KeptMaps(path)
    assert found.packed(3) == maps[3]
    if change == "vanished":
        path.unlink()
    elif change == "another in its place":
        write_maps(Listed(maps[:3]), path)
    else:
        path.write_bytes(b"x" * path.stat().st_size)
        os.utime(path, ns=(0, 0))
    with pytest.raises(OSError):
        found.packed(0)


@pytest.mark.parametrize("shape", [(65535, 65535, 65535), (1 << 13, 1 << 13, 2), (0, 1, 1)])
def test_a_map_larger_than_any_is_refused_before_it_is_unpacked(packed, shape):
    zeros = zlib.compress(bytes(1 << 20))
    head = struct.pack("<HHH", *shape) + packed[6 : packed.index(b"\xff\xd9") + 2]
    with pytest.raises(ValueError, match="not a feature map"):
        unpack(head + zeros)
    with pytest.raises(ValueError, match="not a feature map"):
        packed_shape(head + zeros)


def test_the_shape_of_a_packed_map(packed):
    assert packed_shape(packed) == unpack(packed).cells.shape
    with pytest.raises(ValueError, match="not a feature map"):
        packed_shape(packed[:5])
