"""`search`: what it prints and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from patchify_core.patchify import Patchify
from tests.bad_pictures import BAD
from tests.cli import DONE, SKIPPED, process
from tests.tiny import picture, write_pictures

pytestmark = pytest.mark.usefixtures("tiny_everywhere")


def test_search_prints_a_table(run, photos, idx):
    code, printed, said = run("search", idx, photos / "0003.png", "--top", 3)
    assert code == DONE and said == ""
    header, first, *rest = printed.splitlines()
    assert header.split() == ["rank", "score", "box", "x1,y1,x2,y2", "file"]
    assert first.split() == ["1", "1.000", "0,0,60,42", str(photos / "0003.png")]
    assert len(rest) == 2


def test_search_json_is_what_the_engine_says(run, photos, idx):
    code, printed, _ = run("search", idx, photos / "0003.png", "--box", "0,0,30,21", "--json", "--level", 2)
    assert code == DONE
    rows = json.loads(printed)
    expected = Patchify.open(idx).search(photos / "0003.png", (0, 0, 30, 21), level=2)
    assert [row["image_id"] for row in rows] == [match.image_id for match in expected]
    assert [row["score"] for row in rows] == [match.score for match in expected]
    best = rows[0]
    assert (best["rank"], best["patch"], best["box"]) == (1, 1, [0, 0, 30, 21])
    assert Path(best["file"]) == photos / "0003.png"


def test_search_one_level_only(run, photos, idx):
    _, printed, _ = run("search", idx, photos / "0003.png", "--json", "--level", 1)
    assert {row["patch"] for row in json.loads(printed)} == {0}


def test_search_clips_a_box_that_sticks_out(run, photos, idx):
    inside = run("search", idx, photos / "0003.png", "--box", "30,21,60,42", "--json")
    assert run("search", idx, photos / "0003.png", "--box", "30,21,600,420", "--json") == inside


def test_search_reranks(run, refusal, photos, idx):
    query = photos / "0003.png"
    plain = json.loads(run("search", idx, query, "--json")[1])
    for name in ("qe", "patch-qe", "sift", "patch-qe+sift"):
        code, printed, said = run("search", idx, query, "--json", "--rerank", name)
        assert code == DONE and said == ""
        found = json.loads(printed)
        assert sorted(row["file"] for row in found) == sorted(row["file"] for row in plain)
        assert found[0]["file"] == str(query)
        scores = [row["score"] for row in found]
        assert scores == sorted(scores, reverse=True)
        assert [("verification" in row) for row in found] == ["sift" in name] * len(found)
    assert "inliers" in run("search", idx, query, "--rerank", "sift")[1]
    assert "inliers" not in run("search", idx, query, "--rerank", "qe")[1]
    assert "the nearest is sift" in refusal("search", idx, query, "--rerank", "SFIT")


def test_search_with_words_needs_an_encoder_that_reads(refusal, idx):
    assert "understands pictures only" in refusal("search", idx, "--text", "a red kettle")


def test_search_draws_into_a_file_or_says_why_not(run, refusal, photos, idx, tmp_path):
    assert run("search", idx, photos / "0003.png", "--rerank", "sift", "--draw", tmp_path / "sheet.png")[0] == DONE
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    there = tmp_path / "nowhere" / "sheet.png"
    assert f"{there} cannot be written (No such file or directory):" in refusal(
        "search", idx, photos / "0003.png", "--draw", there
    )


@pytest.mark.parametrize("name", BAD)
def test_search_with_what_is_no_picture(refusal, idx, name, tmp_path):
    (tmp_path / "bad").mkdir()
    make, said = BAD[name]
    assert said in refusal("search", idx, make(tmp_path / "bad"))


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ("100,100,120,120", "outside"),
        ("30,10,10,30", "inverted"),
        ("5,5,5,20", "no area"),
        ("5,5,20", "four"),
        ("a,b,c,d", "four"),
        ("nan,0,5,5", "four"),
        (",,,", "four"),
        ("", "four"),
    ],
)
def test_search_with_a_box_of_nothing(refusal, idx, photos, box, said):
    assert said in refusal("search", idx, photos / "0001.png", "--box", box)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--top", "0"], "at least 1"),
        (["--level", "3"], "levels 1 to 2"),
        (["--level", "0"], "levels 1 to 2"),
    ],
)
def test_search_for_what_is_not_there(refusal, idx, photos, more, said):
    assert said in refusal("search", idx, photos / "0001.png", *more)


def test_search_without_an_index(refusal, photos, tmp_path):
    for name in (tmp_path / "nowhere", photos, photos / "0001.png"):
        assert "is not an index folder" in refusal("search", name, photos / "0001.png")


def test_search_in_a_damaged_index(refusal, idx, photos):
    data = (idx / "index.faiss").read_bytes()
    (idx / "index.faiss").write_bytes(data[:-1])
    assert "truncated" in refusal("search", idx, photos / "0001.png")


def test_search_refuses_a_picture_that_was_replaced(tmp_path, capsys):
    photos = write_pictures(tmp_path / "photos", range(4))
    names = sorted(path.name for path in photos.iterdir())
    assert process("index", photos, "--out", tmp_path / "idx", "--regions", "pyramid:1").returncode == 0
    query = tmp_path / "query.png"
    shutil.copy(photos / names[0], query)
    assert process("search", tmp_path / "idx", query).returncode == 0
    shutil.copy(photos / names[1], photos / names[2])
    done = process("search", tmp_path / "idx", query)
    assert done.returncode == 2
    assert f"{names[2]} in" in done.stderr and "not the picture that was indexed" in done.stderr
    (photos / names[2]).unlink()
    done = process("search", tmp_path / "idx", query)
    assert done.returncode == 2
    assert "run the index command again" in done.stderr
    # A picture that is not shown is not looked at.
    assert process("search", tmp_path / "idx", query, "--top", 1).returncode == 0


def test_an_index_and_its_pictures_may_come_from_another_system(run, photos, idx, tmp_path):
    """Names of other letter case, Unicode form and separator: search, draw, verify and index find the pictures."""
    (photos / "sub").mkdir()
    picture(41, (60, 42)).save(photos / "sub" / "Größe é.png")
    assert run("index", photos, "--out", idx, "--regions", "pyramid:2")[0] == DONE
    (photos / "sub" / "Größe é.png").rename(photos / "sub" / "GRO\u0308SSE E\u0301.PNG")
    code, printed, _ = run("search", idx, photos / "sub" / "GRO\u0308SSE E\u0301.PNG", "--json", "--top", 1)
    assert code == DONE and json.loads(printed)[0]["file"] == str(photos / "sub" / "GRO\u0308SSE E\u0301.PNG")
    assert run("search", idx, photos / "0003.png", "--draw", tmp_path / "found.png")[0] == DONE
    assert run("verify", idx)[0] == DONE
    assert "0 embedded, 7 already known" in run("index", photos, "--out", idx, "--regions", "pyramid:2")[1]


def test_names_cannot_break_a_table_or_a_terminal(run, photos, tmp_path):
    (photos / "line\nbreak\x1b[2J.png").write_bytes((photos / "0003.png").read_bytes())
    (photos / "bad\nname.png").write_text("no picture")
    code, printed, said = run("index", photos, "--out", tmp_path / "odd", "--regions", "pyramid:1")
    assert code == SKIPPED and "  bad\\nname.png: " in said
    code, printed, _ = run("search", tmp_path / "odd", photos / "0003.png")
    assert len(printed.splitlines()) == 1 + 7 and "line\\nbreak\\x1b[2J.png" in printed
