"""`python -m patchify_core verify`: says what is damaged, what has vanished and what has changed, and nothing else."""

from __future__ import annotations

import json
import shutil

import pytest

from patchify_core.cli import check, verify
from patchify_core.cli.main import main
from patchify_core.errors import IndexFolderError
from patchify_core.gallery import read_folder
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.swap import OLD_NAME, PRIVATE
from patchify_core.regions import Pyramid
from tests.index.test_folder import edit, flip
from tests.tiny import TinyEncoder, picture, write_pictures

FILES = ["fine.faiss", "index.faiss", "maps.bin", "projection.npy"]
WHOLE, CHANGED, DAMAGED = 0, 1, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An index with many files, beside its pictures."""
    home = tmp_path_factory.mktemp("made")
    photos = write_pictures(home / "photos", range(12), (64, 48))
    settings = BuildSettings("PCAH8,SQ8", rescore="SQfp16", features="pooled:64", keep_maps=True)
    build_index(read_folder(photos), home / "idx", TinyEncoder(), Pyramid(2), settings)
    return home


@pytest.fixture
def home(made, tmp_path):
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main(["verify", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_whole_index(home, run):
    code, said, progress = run(home / "idx")
    assert (code, progress) == (WHOLE, "")
    assert said.count("\n") == 1 and "whole (4 files" in said and "all of its pictures (12) are those" in said
    code, said, _ = run(home / "idx", "--json")
    found = json.loads(said)
    assert code == WHOLE and found["whole"] and found["files"] == FILES and found["images"] == 12
    assert found["damage"] == found["pictures"] == [] and found["gallery"] == str((home / "photos").resolve())
    assert found["bytes"] == sum((home / "idx" / name).stat().st_size for name in FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["a bit", "cut", "longer", "missing", "a folder", "empty"])
def test_each_damaged_file_is_named_in_one_sentence(home, run, name, how):
    path = home / "idx" / name
    if how == "a bit":
        flip(path, -9)
    elif how in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: -1 if how == "cut" else 0])
    elif how == "longer":
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        path.unlink()
        if how == "a folder":
            path.mkdir()
    code, said, _ = run(home / "idx")
    first, last = said.splitlines()
    assert code == DAMAGED and first.startswith(str(path)) and first.endswith("build it again.")
    assert "damaged (4 files" in last
    found = json.loads(run(home / "idx", "--json")[1])
    assert found["damage"] == [first] and not found["whole"] and found["pictures"] == []


def test_all_damage_is_told_at_once_and_outweighs_the_pictures(home, run):
    for name in FILES:
        flip(home / "idx" / name, -9)
    (home / "photos" / "0003.png").unlink()
    code, said, _ = run(home / "idx")
    assert code == DAMAGED and said.count("not the file that was written") == 4 and "0003.png has vanished" in said


def test_vanished_and_changed_pictures(home, run):
    (home / "photos" / "0003.png").unlink()
    picture(99, (64, 48)).save(home / "photos" / "0005.png")
    data = (home / "photos" / "0007.png").read_bytes()
    (home / "photos" / "0007.png").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # of the same length
    (home / "photos" / "0009.png").unlink()
    (home / "photos" / "0009.png").mkdir()
    code, said, _ = run(home / "idx")
    first, second, third, fourth, last = said.splitlines()
    root = (home / "photos").resolve()
    assert code == CHANGED
    assert first == f"0003.png has vanished from {root}."
    assert second == f"0005.png in {root} is not the picture that was indexed."
    assert third == f"0007.png in {root} is not the picture that was indexed."
    assert fourth.startswith("0009.png in ") and fourth.endswith(".")
    assert "whole" in last and "4 of 12 pictures vanished or changed: run the index command again." in last
    found = json.loads(run(home / "idx", "--json")[1])
    assert found["whole"] and found["pictures"] == [first, second, third, fourth]


def test_many_vanished_pictures_are_counted(home, run, monkeypatch):
    monkeypatch.setattr(verify, "SHOWN", 5)
    for path in (home / "photos").iterdir():
        path.unlink()
    code, said, _ = run(home / "idx")
    assert code == CHANGED and said.count("vanished from") == 5 and "\n7 more pictures vanished" in said
    assert len(json.loads(run(home / "idx", "--json")[1])["pictures"]) == 12


def test_an_index_without_its_pictures(home, run):
    shutil.rmtree(home / "photos")
    code, said, _ = run(home / "idx")
    assert code == WHOLE and "not there, so they were not checked" in said
    assert json.loads(run(home / "idx", "--json")[1])["gallery"] is None


@pytest.mark.parametrize("change", [{"regions": "pyramid:3"}, {"factory": "Flat"}])
def test_parts_that_do_not_fit_together_are_damage_though_each_is_whole(home, run, change):
    edit(home / "idx", lambda meta: meta.update(change), seal=True)
    code, said, _ = run(home / "idx")
    assert code == DAMAGED and "meta.json" in said.splitlines()[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: flip(folder / "meta.json", 300), "damaged after it was written"),
        (lambda folder: (folder / "meta.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "meta.json").unlink(), "not an index folder"),
        (lambda folder: edit(folder, lambda meta: meta.update(format=7), seal=True), "newer version"),
        (lambda folder: edit(folder, lambda meta: meta.update(images=[3]), seal=True), "meta.json is missing, trunc"),
        (lambda folder: edit(folder, lambda meta: meta.update(files={}), seal=True), "meta.json is missing, trunc"),
        (
            lambda folder: edit(folder, lambda m: m["files"].update({"index.faiss": {"bytes": "x"}}), seal=True),
            "meta.json is missing, trunc",
        ),
        (
            lambda folder: edit(folder, lambda m: m["files"]["index.faiss"].pop("sha256"), seal=True),
            "meta.json is missing, trunc",
        ),
        (lambda folder: shutil.rmtree(folder), "not an index folder"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_describes_no_index_is_refused(home, run, change, said, options):
    change(home / "idx")
    code, printed, sentence = run(home / "idx", *options)
    assert (code, printed) == (DAMAGED, "")
    assert sentence.startswith("error: ") and said in sentence and sentence.count("\n") == 1


def test_a_large_index_shows_how_far_it_is(home, run, monkeypatch):
    monkeypatch.setattr(check, "LARGE_BYTES", 1000)
    monkeypatch.setattr(check, "MB", 1000)
    code, said, progress = run(home / "idx", "--json")
    assert code == WHOLE and json.loads(said)["whole"] and "verifying" in progress and "MB" in progress


def test_an_index_whose_swap_was_cut(home, run):
    (home / f"idx{PRIVATE}").mkdir()
    (home / "idx").rename(home / f"idx{PRIVATE}" / OLD_NAME)
    assert run(home / "idx")[0] == WHOLE


def test_a_build_that_ends_meanwhile_is_no_damage(home, monkeypatch):
    """The index is swapped after its description was read: it is looked at again, as it is then."""
    real, calls = check.is_intact, []

    def swapping(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            write_pictures(home / "photos", [50], (64, 48))
            settings = BuildSettings("PCAH8,SQ8", rescore="SQfp16", features="pooled:64", keep_maps=True)
            build_index(read_folder(home / "photos"), home / "idx", TinyEncoder(), Pyramid(2), settings)
        return real(*arguments)

    monkeypatch.setattr(check, "is_intact", swapping)
    found = check.verify(home / "idx")
    assert found.damage == () and found.images == 13 and found.pictures == ()


def test_verify_raises_nothing_else_for_what_is_no_index(tmp_path):
    with pytest.raises(IndexFolderError):
        check.verify(tmp_path)
