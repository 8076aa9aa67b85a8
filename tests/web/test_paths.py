"""web.paths: which files are public, and sentences without folders of this machine."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.files import ASSETS, SAMPLE_DB
from patchify_core.web import paths
from patchify_core.web.paths import ADDRESS, address_of, file_at


@pytest.fixture
def dataset(tmp_path) -> Path:
    folder = tmp_path / "data set"
    for name in ("gallery/a b/ü%41.jpg", "gallery/1.jpg", "queries/2.jpg", "index/manifest.json", "annotations.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    return folder


def test_the_address_of_a_picture_leads_to_it_and_says_nothing_of_this_machine(dataset):
    for name in ("gallery/a b/ü%41.jpg", "gallery/1.jpg", "queries/2.jpg"):
        address = address_of(dataset / name)
        assert address.startswith(ADDRESS) and "data" not in address and str(dataset.parent) not in unquote(address)
        assert file_at(dataset, unquote(address.removeprefix(ADDRESS))) == dataset / name
    for path in (ASSETS / "logo.svg", ASSETS / "study" / "regions.json"):
        assert file_at(dataset, unquote(address_of(path).removeprefix(ADDRESS))) == path


@pytest.mark.parametrize(
    "name",
    [
        "annotations.json", "index/manifest.json", "gallery", "gallery/", "gallery/../annotations.json",
        "gallery//1.jpg", "gallery/./1.jpg", "/gallery/1.jpg", "gallery/a b", "gallery/..", "gallery/\0",
        "gallery/" + "x" * 5000, "",
        "assets/../app.py", "gallery/\\..\\..\\annotations.json", "Gallery/1.jpg", "http://example.org/x.jpg", "C:/x",
        "gallery/C:/Windows/win.ini", "gallery/none.jpg",
    ],
)  # fmt: skip
def test_nothing_else_is_shown(dataset, name):
    assert file_at(dataset, name) is None


@given(st.text(max_size=30), st.sampled_from(["gallery", "queries", "assets", "study", "index", ".."]))
def test_no_name_leads_out_of_the_folders_that_are_shown(name, first):
    found = file_at(SAMPLE_DB, f"{first}/{name}")
    shown = (SAMPLE_DB / "gallery", SAMPLE_DB / "queries", ASSETS)
    assert found is None or any(found.resolve().is_relative_to(folder) for folder in shown)


def test_sentences_say_nothing_of_where_files_are(tmp_path):
    folder = tmp_path / "some where" / "my.gallery"
    paths.hide(folder)
    said = paths.without_folders(f"The picture {folder}/gallery/1.jpg is gone from {folder}: put it back.")
    assert said == "The picture gallery/1.jpg is gone from the folder: put it back."
    plain = "See /gradio_api/info, or send a picture of 3/4 MB."
    assert paths.without_folders(plain) == plain
