"""demo.gallery_info: titles, sources of pictures, and stored answers that fit their gallery."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.demo.gallery_info import BUNDLED, gallery_titles, pictures_note
from patchify_core.files import SAMPLE_DB


def test_the_bundled_gallery_is_called_what_it_shows_and_others_by_their_folders(tmp_path):
    assert gallery_titles([SAMPLE_DB, tmp_path / "Old town", tmp_path / "x" / "old-town"]) == {
        "rendered-scenes": BUNDLED,
        "old-town": "Old town",
        "old-town-2": "old-town (2)",
    }


def test_a_folder_that_is_called_like_a_numbered_one_keeps_its_name(tmp_path):
    found = gallery_titles([tmp_path / name for name in ("town-2", "town", "a/town", "photos-2024", "photos")])
    assert found == {
        "town-2": "town-2", "town": "town", "town-3": "town (3)", "photos-2024": "photos-2024", "photos": "photos",
    }  # fmt: skip


@given(st.lists(st.text(string.printable.replace("/", "").replace("\\", ""), min_size=1, max_size=9), max_size=6))
def test_each_gallery_has_a_name_of_its_own_that_an_address_can_carry(names):
    folders = [Path("/nowhere") / str(at) / name for at, name in enumerate(names)]
    found = gallery_titles(folders)
    assert len(found) == len(folders) == len(set(found.values()))
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in found)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"description": "Street signs", "license": "CC0"}, "The pictures are those of Street signs; licence: CC0."),
        (
            {"description": "Signs", "url": "https://example.org/s"},
            "The pictures are those of Signs (https://example.org/s); its annotations state no licence.",
        ),
        ({}, "The pictures are those of signs; its annotations state no licence."),
        ("by me", "The pictures are those of signs; its annotations state no licence."),
        (None, "The pictures are those of signs; its annotations state no licence."),
    ],
)
def test_what_is_said_of_pictures_is_what_their_annotations_say(tmp_path, info, said):
    folder = tmp_path / "signs"
    folder.mkdir()
    (folder / "annotations.json").write_text(json.dumps({"images": []} | ({} if info is None else {"info": info})))
    assert pictures_note(folder) == said
    assert "renders" in pictures_note(SAMPLE_DB)
