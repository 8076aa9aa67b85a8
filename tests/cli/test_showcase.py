"""`showcase`: the folder of plain files, for the bundled gallery and for another one."""

from __future__ import annotations

import json

import pytest

from patchify_core.demo.gallery_info import FILE, stored_answers
from tests.tiny import TinyEncoder, write_dataset


def test_the_bundled_gallery_is_written_at_once(run, tmp_path):
    code, out, _ = run(
        "showcase", tmp_path / "site", "--live", "https://live.example", "--code", "https://code.example"
    )
    assert code == 0 and "36 queries over 164 pictures" in out
    html = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "https://live.example" in html and "https://code.example" in html
    assert run("showcase", tmp_path / "site")[0] == 0  # again, over the former one


def test_another_gallery_is_answered_first_and_kept_if_wanted(run, tmp_path, tiny_everywhere, monkeypatch):
    gallery = write_dataset(tmp_path / "set")
    monkeypatch.setattr("patchify_core.encoders.load_encoder", lambda spec="tiny", settings=None: TinyEncoder())
    assert run("index", gallery, "--out", gallery / "index", "--regions", "pyramid:2")[0] == 0
    assert run("showcase", tmp_path / "site", "--gallery", gallery)[0] == 0
    assert stored_answers(gallery) is None
    assert run("showcase", tmp_path / "site", "--gallery", gallery, "--prepare")[0] == 0
    kept = stored_answers(gallery)
    assert kept == json.loads((tmp_path / "site" / "paper" / FILE).read_text())
    assert [level["name"] for level in kept["levels"]] == ["Whole image", "2×2"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--live", "javascript:alert(1)"], "--live is 'javascript:alert(1)', but it takes an address"),
        (["--gallery", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(run, tmp_path, more, said):
    code, _, error = run("showcase", tmp_path / "site", *more)
    assert code == 2 and said in error and error.count("\n") == 1 and not (tmp_path / "site").exists()


def test_a_gallery_without_an_index_as_in_the_paper_is_one_sentence(run, tmp_path, tiny_everywhere, monkeypatch):
    gallery = write_dataset(tmp_path / "set")
    monkeypatch.setattr("patchify_core.encoders.load_encoder", lambda spec="tiny", settings=None: TinyEncoder())
    assert run("index", gallery, "--out", gallery / "index", "--regions", "sliding:0.5,0.5")[0] == 0
    code, _, error = run("showcase", tmp_path / "site", "--gallery", gallery)
    assert code == 2 and "pass per patch: build one" in error
