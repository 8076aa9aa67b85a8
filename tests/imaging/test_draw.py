from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from patchify_core.errors import PatchifyError, PictureError
from patchify_core.imaging.draw import box_on, frame, save, sheet
from patchify_core.retrieval.ranking import Match

GOLD = (255, 178, 36)


@pytest.mark.parametrize(
    ("size", "corner", "inner"), [((640, 480), (0, 0), (320, 240)), ((100, 400), (130, 0), (60, 240))]
)
def test_frame_keeps_the_shape(size, corner, inner):
    tile, scale, found = frame(Image.new("RGB", size, (200, 0, 0)), (320, 240))
    assert tile.shape == (240, 320, 3)
    assert found == corner
    assert scale == pytest.approx(inner[0] / size[0])
    red = (tile == (200, 0, 0)).all(axis=2)
    assert red.sum() == inner[0] * inner[1]
    assert red[corner[1], corner[0]]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_frame_of_a_thin_picture_shows_something(size):
    tile, _, _ = frame(Image.new("RGB", size, (200, 0, 0)), (320, 240))
    assert (tile == (200, 0, 0)).all(axis=2).any()


def test_box_has_its_colour_on_the_line_and_leaves_the_rest():
    blank = np.full((100, 100, 3), 128, np.uint8)
    drawn = box_on(blank, (20, 30, 60, 70), GOLD)
    assert tuple(drawn[30, 40]) == GOLD
    assert tuple(drawn[69, 40]) == GOLD
    assert tuple(drawn[50, 20]) == GOLD
    assert tuple(drawn[50, 40]) == (128, 128, 128)
    assert (blank == 128).all()


def matches_in(folder, count):
    for number in range(count):
        Image.new("RGB", (64, 48), (number, 90, 90)).save(folder / f"{number}.png")
    box = np.array([32.0, 24.0, 64.0, 48.0])
    return [Match(n + 1, 0.9 - n / 100, box, 4, f"{n}.png") for n in range(count)]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (5, 5, 1), (7, 5, 2)])
def test_sheet_has_a_tile_for_every_match(tmp_path, count, columns, rows):
    page = sheet(matches_in(tmp_path, count), tmp_path)
    assert page.shape == (rows * 278 + 8, columns * 328 + 8, 3)
    # Each tile shows its own picture at a point outside the box, and the box's colour on its left edge.
    for number in range(count):
        row, column = divmod(number, columns)
        top, left = 8 + row * 278, 8 + column * 328
        assert tuple(page[top + 60, left + 60]) == (number, 90, 90)
        assert tuple(page[top + 180, left + 160]) == GOLD


def test_sheet_of_a_picture_that_is_gone(tmp_path):
    matches = matches_in(tmp_path, 2)
    (tmp_path / "1.png").unlink()
    with pytest.raises(PictureError):
        sheet(matches, tmp_path)


def test_save_writes_and_refuses(tmp_path):
    picture = np.zeros((4, 5, 3), np.uint8)
    save(picture, tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (5, 4)
    for bad in (tmp_path / "a.xyz", tmp_path / "none", tmp_path / "missing" / "a.png"):
        with pytest.raises(PatchifyError, match=r"name a \.jpg or \.png"):
            save(picture, bad)
