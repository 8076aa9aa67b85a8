"""Side files of systems and photo programs are recognised; ordinary names of pictures never are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.gallery.folder import (
    SIDE_FILES,
    SIDE_FOLDERS,
    is_hidden,
    is_side_file,
    is_side_folder,
    is_skipped,
)


def in_any_case(names: list[str]) -> st.SearchStrategy[str]:
    """One of the names with each letter in either case."""
    return st.tuples(st.sampled_from(names), st.integers(0, 2**40)).map(
        lambda drawn: "".join(c.upper() if drawn[1] >> at & 1 else c for at, c in enumerate(drawn[0]))
    )


@given(in_any_case([*sorted(SIDE_FILES), "._a.jpg", "a.jpg.xmp", "img_1.aae", "mvi_1.thm", "synophoto_thumb_xl.jpg"]))
def test_side_files_in_any_case(name) -> None:
    assert is_side_file(name)


@given(in_any_case([*sorted(SIDE_FOLDERS), ".trash-1000"]))
def test_side_folders_in_any_case(name) -> None:
    assert is_side_folder(name)


@pytest.mark.parametrize("name", ["thumbs.jpg", "desktop.png", "xmp", "xmp.jpg", "a.aae.jpg", "_a.jpg", "IMG.HEIC", ""])
def test_pictures_are_not_side_files(name) -> None:
    assert not is_side_file(name)


@pytest.mark.parametrize("name", ["recycle", "thumbnails", "trash", "snapshots", "eaDir", "tmp", "2024", "#1", "@home"])
def test_ordinary_folders_are_not_side_folders(name) -> None:
    assert not is_side_folder(name)


def test_names_that_start_with_a_dot_are_hidden() -> None:
    assert [is_hidden(name) for name in (".a.jpg", ".git", "..a", "a.jpg", "a.", "", ".", "..")] == [True] * 3 + [
        False
    ] * 5


@pytest.mark.parametrize(
    "part", ["__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", ".thumbnails", ".hidden", ".Trash-1000"]
)
def test_a_file_anywhere_below_such_a_folder_is_skipped(part) -> None:
    assert all(is_skipped(path) for path in (f"{part}/a.jpg", f"x/{part}/a.jpg", f"{part}/x/a.jpg"))
    assert not is_skipped("x/a.jpg")
