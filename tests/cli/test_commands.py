"""The command line: what it prints, what it returns, and one line for everything that it refuses."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from patchify_core import __version__
from patchify_core.cli import options, shared
from patchify_core.cli.main import COMMANDS, main, parser
from patchify_core.encoders import DEFAULT_ENCODER
from patchify_core.evaluation import run as evaluation
from patchify_core.evaluation.run import evaluate
from patchify_core.evaluation.study.plans import PLANS
from patchify_core.gallery import read_coco
from patchify_core.index.big.tune import tune
from patchify_core.index.build import BuildSettings
from patchify_core.index.codec.factory import CODEBOOKS, PRESETS
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.shards import EmbedSettings, RaySettings
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from patchify_core.retrieval.searcher import SearchSettings
from tests.bad_pictures import BAD, text, truncated_jpeg
from tests.tiny import picture, write_dataset, write_pictures

ROOT = Path(__file__).parents[2]
DONE, SKIPPED, REFUSED, INTERRUPTED = 0, 1, 2, 130


pytestmark = pytest.mark.usefixtures("tiny_everywhere")


@pytest.fixture
def refusal(run):
    """refusal("index", ...): the one line that says why not; nothing else may be printed."""

    def call(*arguments):
        code, printed, said = run(*arguments)
        assert code == REFUSED and printed == ""
        assert said.startswith("error: ") and said.endswith(".\n") and said.count("\n") == 1, said
        return said

    return call


@pytest.fixture
def photos(tmp_path):
    return write_pictures(tmp_path / "photos", range(6), (60, 42))


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "dataset")


@pytest.fixture
def idx(run, photos, tmp_path):
    """An index of the folder `photos`, pyramid:2."""
    assert run("index", photos, "--out", tmp_path / "idx", "--regions", "pyramid:2")[0] == DONE
    return tmp_path / "idx"


# index ----------------------------------------------------------------------------------------------------


def test_index_a_folder(run, photos, tmp_path):
    code, printed, said = run("index", photos, "--out", tmp_path / "idx")
    assert code == DONE
    assert "6 pictures x 30 patches" in printed and "6 embedded, 0 already known" in printed
    assert re.search(r"[\d.]+ pictures/s", printed)
    assert "indexing" in said and "6/6" in said  # the bar
    index = PatchIndex.load(tmp_path / "idx")
    assert (index.regions.spec, index.factory) == ("pyramid:4", "Flat")


def test_index_again_embeds_only_what_is_new(run, photos, idx):
    write_pictures(photos, [77], (60, 42))
    code, printed, _ = run("index", photos, "--out", idx, "--regions", "pyramid:2")
    assert code == DONE and "1 embedded, 6 already known" in printed


def test_index_a_dataset_by_folder_or_by_file(run, dataset, tmp_path):
    for number, name in enumerate((dataset, dataset / "annotations.json")):
        out = tmp_path / f"idx{number}"
        code, printed, _ = run("index", name, "--out", out, "--regions", "pyramid:1", "--factory", "SQfp16")
        assert code == DONE and "7 pictures x 1 patches" in printed
        assert PatchIndex.load(out).factory == "SQfp16"


def test_index_skips_what_cannot_be_read_and_says_so(run, photos, tmp_path):
    text(photos)
    truncated_jpeg(photos)
    code, printed, said = run("index", photos, "--out", tmp_path / "idx")
    assert code == SKIPPED
    assert "6 pictures" in printed
    assert "2 files were skipped:" in said
    assert re.search(r"^  text\.jpg: .*not a picture", said, re.M)
    assert re.search(r"^  half\.jpg: .*cut short", said, re.M)


def test_index_names_the_first_of_many_skipped_files(run, photos, tmp_path):
    for number in range(shared.SKIPPED_SHOWN + 5):
        (photos / f"bad{number:03d}.png").write_text("no picture")
    code, _, said = run("index", photos, "--out", tmp_path / "idx")
    assert code == SKIPPED
    assert len(re.findall(r"^  bad\d", said, re.M)) == shared.SKIPPED_SHOWN
    assert "  and 5 more" in said


# search ---------------------------------------------------------------------------------------------------


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


# evaluate -------------------------------------------------------------------------------------------------


def test_evaluate_prints_a_table_and_writes_json(run, dataset, tmp_path):
    file = tmp_path / "numbers.json"
    kept = tmp_path / "idx"
    code, printed, _ = run("evaluate", dataset, "--regions", "pyramid:3", "--json", file, "--index", kept)
    assert code == DONE
    numbers = json.loads(file.read_text(encoding="utf-8"))
    expected = evaluate(read_coco(dataset), Patchify.open(kept))
    assert 0 < numbers["locscore"] < numbers["map"]
    assert numbers["map"] == expected[-1].report.map and numbers["locscore"] == expected[-1].report.locscore
    assert [level["map"] for level in numbers["levels"]] == [level.report.map for level in expected]
    assert numbers["queries"] == 2 and numbers["bytes_per_image"] == 14 * 24 * 4 and numbers["images_per_s"] > 0
    for level in expected:
        row = next(line for line in printed.splitlines() if line.startswith(f"pyramid:{level.level}"))
        assert f"{level.report.map:.3f}" in row and f"{level.report.locscore:.3f}" in row
    # Again: nothing is embedded, and the numbers are the same.
    assert run("evaluate", dataset, "--regions", "pyramid:3", "--json", file, "--index", kept)[0] == DONE
    again = json.loads(file.read_text(encoding="utf-8"))
    assert again["images_per_s"] is None and again["map"] == numbers["map"]


def test_evaluate_uses_an_index_as_it_was_made(run, dataset, tmp_path, refusal):
    kept, file = tmp_path / "idx", tmp_path / "numbers.json"
    made = ["--regions", "sliding:0.5,0.25", "--factory", "PCAH8,SQ8", "--rescore", "SQfp16", "--features", "pooled:64"]
    assert run("index", dataset, "--out", kept, *made, "--keep-maps")[0] == DONE
    before = (kept / "meta.json").read_bytes()
    write = ["--index", kept, "--json", file]
    code, printed, error = run("evaluate", dataset, *write)
    assert code == DONE and "indexed before" in printed, error
    said = json.loads(file.read_text(encoding="utf-8"))["run"]
    assert (said["regions"], said["factory"], said["rescore"]) == ("sliding:0.5,0.25", "PCAH8,SQ8", "SQfp16")
    assert run("evaluate", dataset, *write, *made, "--keep-maps")[0] == DONE
    assert (kept / "meta.json").read_bytes() == before
    bar = "indexing"  # it is there before the refusal
    code, _, error = run("evaluate", dataset, *write, "--regions", "pyramid:2")
    assert code == REFUSED and bar in error and "was made with regions sliding:0.5,0.25, not pyramid:2" in error


def test_evaluate_takes_a_big_index_as_it_is(run, dataset, tmp_path, refusal):
    shards, kept = tmp_path / "shards", tmp_path / "idx"
    assert run("embed", dataset, "--out", shards, "--regions", "pyramid:5")[0] == DONE
    assert run("index", "--from-shards", shards, "--out", kept, "--rescore", "Flat")[0] == DONE
    before = (kept / "meta.json").read_bytes()
    scores = []
    for more in (["--index", kept], ["--regions", "pyramid:5"]):
        code, printed, error = run("evaluate", dataset, *more)
        assert code == DONE, error
        scores.append([line.split()[:4] for line in printed.splitlines() if line.startswith("pyramid:")])
    assert scores[0] == scores[1] and len(scores[0]) == 6  # every list, and then exact descriptors: the same
    assert (kept / "meta.json").read_bytes() == before
    said = refusal("evaluate", dataset, "--index", kept, "--regions", "pyramid:4")
    assert "was made with regions pyramid:5, not pyramid:4" in said
    picture(99, (60, 48)).save(dataset / "gallery" / "3.png")
    assert "not the picture that was indexed" in refusal("evaluate", dataset, "--index", kept)


def test_evaluate_leaves_nothing_behind(run, dataset, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = sorted(tmp_path.rglob("*"))
    assert run("evaluate", dataset, "--regions", "pyramid:1")[0] == DONE
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluate_counts_the_first_k_ranks(run, dataset):
    code, printed, _ = run("evaluate", dataset, "--regions", "pyramid:2", "--cutoff", 1)
    assert code == DONE and "mAP@1" in printed and "LocScore@1" in printed


def test_evaluate_names_queries_that_are_left_out(run, dataset):
    path = dataset / "annotations.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["categories"].append({"id": 3, "name": "nowhere"})
    data["annotations"][-1]["category_id"] = 3  # the last query now asks for what no picture shows
    path.write_text(json.dumps(data), encoding="utf-8")
    code, printed, _ = run("evaluate", dataset, "--regions", "pyramid:1")
    assert code == DONE and "left out, without a positive: queries 9" in printed


# Refused: exit code 2, one line ---------------------------------------------------------------------------


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


def test_index_of_nothing(refusal, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    text(tmp_path / "bad")
    (tmp_path / "file").write_text("x")
    for name, said in (
        ("nowhere", "no folder"),
        ("empty", "no picture"),
        ("bad", "could not be read"),
        ("file", "file, not a folder"),
        ("nowhere/annotations.json", "no file"),
    ):
        assert said in refusal("index", tmp_path / name, "--out", tmp_path / "idx")
    assert not (tmp_path / "idx").exists() and not (tmp_path / "idx.partial").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--regions", "pyramid:7"], "1 to 6 levels"),
        (["--regions", "squares"], "Unknown regions"),
        (["--encoder", "effnet-lite7"], "Unknown encoder"),
        (["--factory", "Flatt"], "did you mean Flat?"),
        (["--factory", "PQ7"], "choose a divisor of 24"),
        (["--factory", "PCAH99,PQ8"], "write PCAH24 at most"),
        (["--rescore", "PCAH8,SQ8"], "finer codes are kept beside the others"),
        (["--regions", "sliding:0.4,0.5", "--codebook", "global"], "pyramid:1+sliding:0.4,0.5"),
    ],
)
@pytest.mark.parametrize("command", ["index", "evaluate"])
def test_options_that_name_nothing(run, dataset, tmp_path, command, more, said):
    out = ["--out", tmp_path / "idx"] if command == "index" else []
    code, printed, error = run(command, dataset, *out, *more)
    assert code == REFUSED and printed == ""
    lines = [line for line in error.splitlines() if line.startswith("error: ")]  # a bar may stand above it
    assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "idx").exists()


def test_out_that_is_something_else(run, photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    code, _, said = run("index", photos, "--out", tmp_path / "mine")
    assert code == REFUSED and said.splitlines()[-1].startswith("error: ") and "not an index folder" in said
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_evaluate_a_plain_folder(refusal, photos):
    assert "no annotations.json" in refusal("evaluate", photos)


def _edited(dataset, change):
    path = dataset / "annotations.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


BAD_DATASETS = {
    "no JSON": (lambda d: (d / "annotations.json").write_text("{"), "not valid JSON"),
    "a missing file": (lambda d: (d / "gallery" / "3.png").unlink(), "missing"),
    "no picture": (lambda d: _edited(d, lambda a: a.update(images=[], annotations=[])), "no gallery image"),
}


@pytest.mark.parametrize("command", ["index", "evaluate"])
@pytest.mark.parametrize("name", BAD_DATASETS)
def test_a_dataset_that_is_wrong(refusal, dataset, tmp_path, command, name):
    spoil, said = BAD_DATASETS[name]
    spoil(dataset)
    out = ["--out", tmp_path / "idx"] if command == "index" else []
    assert said in refusal(command, dataset, *out)


NOTED_BOXES = {
    "over the edge": ([50, 40, 30, 30], "1 box cut off at the edge of the picture, first: annotation"),
    "of no area": ([5, 5, 0, 3], "1 annotation without a box of any area inside the picture left out"),
    "inverted": ([9, 9, -5, -3], "1 annotation without a box of any area inside the picture left out"),
    "elsewhere": ([100, 100, 5, 5], "1 annotation without a box of any area inside the picture left out"),
}


@pytest.mark.parametrize("command", ["index", "evaluate"])
@pytest.mark.parametrize("name", NOTED_BOXES)
def test_boxes_that_are_none_are_counted(run, dataset, tmp_path, command, name):
    bbox, note = NOTED_BOXES[name]
    _edited(dataset, lambda a: a["annotations"][0].update(bbox=bbox))
    out = ["--out", tmp_path / "idx"] if command == "index" else []
    code, _, said = run(command, dataset, *out)
    assert code == 0 and said.count("note: ") == 1 and f"note: {note}" in said


def test_queries_from_boxes(run, refusal, dataset, tmp_path):
    """Without a query, evaluate says which field marks one, before anything is embedded; boxes can be queries."""
    _edited(dataset, lambda a: [image.pop("split", None) for image in a["images"]])
    index = tmp_path / "idx"
    said = refusal("evaluate", dataset, "--index", index)
    assert '"split": "query"' in said and "--queries-from boxes" in said and not index.exists()
    code, printed, _ = run("evaluate", dataset, "--queries-from", "boxes", "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    boxes = [a for a in json.loads((dataset / "annotations.json").read_text())["annotations"] if a.get("bbox")]
    assert code == 0 and "queries" in printed
    assert scores["queries"] + len(scores["left_out"]) == len(boxes)
    cut = (dataset / "gallery" / "3.png").read_bytes()
    (dataset / "gallery" / "3.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    said = refusal("evaluate", dataset, "--queries-from", "boxes", "--index", index)
    assert "gallery/3.png" in said and "git lfs pull" in said and not index.exists()
    (dataset / "gallery" / "3.png").write_bytes(cut)
    _edited(dataset, lambda a: [annotation.pop("bbox", None) for annotation in a["annotations"]])
    code, _, said = run("evaluate", dataset, "--queries-from", "boxes")
    assert code == REFUSED and "note: Annotations that make no query: 8 without a box." in said
    assert "error: No annotation of" in said


def test_queries_without_a_positive_are_refused_first(refusal, dataset, tmp_path):
    def change(data):
        data["annotations"] = []
        for number, image in enumerate(data["images"]):
            if image.get("split") == "query":
                data["annotations"].append(
                    {"id": number, "image_id": image["id"], "category_id": data["categories"][0]["id"]}
                )

    _edited(dataset, change)
    assert "No query of" in refusal("evaluate", dataset, "--index", tmp_path / "idx")
    assert not (tmp_path / "idx").exists()


def test_exclude(run, refusal, photos, dataset, tmp_path):
    for folder in ("drafts", "@eaDir"):
        (photos / folder).mkdir()
        picture(5, (60, 48)).save(photos / folder / "a.png")
    picture(6, (60, 48)).save(photos / "odd.gif")
    code, printed, said = run("index", photos, "--out", tmp_path / "idx", "--exclude", "drafts/", "--exclude", "/*.gif")
    assert code == 0 and "drafts" not in printed
    images = json.loads((tmp_path / "idx" / "meta.json").read_text())["images"]
    assert images and not {"drafts/a.png", "@eaDir/a.png", "odd.gif"} & {image["file_name"] for image in images}
    assert "note: 2 files and folders were left out by --exclude." in said and "(folders: 1 @eaDir)" in said
    assert "leave --exclude out" in refusal("index", dataset, "--out", tmp_path / "x", "--exclude", "*.gif")
    assert "pattern to exclude is malformed" in refusal("index", photos, "--out", tmp_path / "x", "--exclude", "!")


@pytest.mark.parametrize("command", ["index", "evaluate"])
def test_a_dataset_with_another_size_than_its_picture(run, dataset, tmp_path, command):
    _edited(dataset, lambda a: a["images"][2].update(width=61))
    out = ["--out", tmp_path / "idx"] if command == "index" else []
    code, printed, said = run(command, dataset, *out)
    assert code == REFUSED and printed == "" and "error: gallery/2.png is 60x48 pixels" in said


def test_evaluate_does_not_score_fewer_pictures(run, dataset):
    data = (dataset / "gallery" / "3.png").read_bytes()
    (dataset / "gallery" / "3.png").write_bytes(data[: len(data) // 2])
    code, printed, said = run("evaluate", dataset)
    assert code == REFUSED and printed == ""
    assert "error: 1 picture of" in said and "gallery/3.png" in said


def test_evaluate_with_other_options_than_its_index(run, dataset, tmp_path):
    assert run("evaluate", dataset, "--regions", "pyramid:1", "--index", tmp_path / "idx")[0] == DONE
    code, _, said = run("evaluate", dataset, "--regions", "pyramid:2", "--index", tmp_path / "idx")
    assert code == REFUSED and "error: " in said and "pyramid:1, not pyramid:2" in said


def test_evaluate_checks_its_options_before_the_work(refusal, dataset, tmp_path):
    assert "cutoff" in refusal("evaluate", dataset, "--cutoff", 0)
    assert "cannot be written" in refusal("evaluate", dataset, "--json", tmp_path / "nowhere" / "x.json")
    assert "cannot be written" in refusal("evaluate", dataset, "--json", tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["search"], ["index", "x"], ["search", "a", "b", "--top", "many"], ["search", "a", "b", "c"]],
)
def test_a_command_line_that_cannot_be_read(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == REFUSED
    assert "error: " in capsys.readouterr().err


# Interrupted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "kept"), [("index", True), ("evaluate", False)])
def test_ctrl_c_says_whether_work_is_kept(run, dataset, tmp_path, monkeypatch, command, kept):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("patchify_core.index.build.build_index", stop)
    out = ["--out", tmp_path / "idx"] if command == "index" else []
    code, printed, said = run(command, dataset, *out)
    assert code == INTERRUPTED and printed == ""
    assert "interrupted" in said and ("run the same command again" in said) == kept


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in another way there")
def test_ctrl_c_while_indexing_and_going_on(tmp_path):
    # The real thing: the real encoder in a process of its own, more pictures than it can finish at once.
    photos = write_pictures(tmp_path / "photos", range(300), (64, 48))
    command = [sys.executable, "-m", "patchify_core", "index", str(photos), "--out", str(tmp_path / "idx")]
    command += ["--regions", "pyramid:2"]
    # A shell that starts the tests in the background has them ignore Ctrl-C, and so would their children.
    heard = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard)
    seen = b""
    while not re.search(rb"\b[1-9]\d*/300", seen):  # the bar has moved: the journal has something to keep
        chunk = process.stderr.read1()
        assert chunk, seen.decode()
        seen += chunk
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate()
    assert process.returncode == INTERRUPTED, said.decode()
    assert printed == b"" and b"Traceback" not in said and b"run the same command again" in said
    assert not (tmp_path / "idx").exists()

    shards = (tmp_path / "idx.partial").glob("shard-*.json")
    known = sum(len(json.loads(shard.read_text(encoding="utf-8"))["pictures"]) for shard in shards)
    assert 0 < known < 300
    for path in sorted(photos.iterdir())[known + 2 :]:  # two more are enough to see that it goes on
        path.unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == DONE, done.stderr
    assert f"2 embedded, {known} already known" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["idx", "photos"]


# True processes -------------------------------------------------------------------------------------------


def process(*arguments, module="tests.tiny", **more):
    """`python -m patchify_core` with the tiny encoder, unless another module is asked for."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, **({"capture_output": True, "text": True} | more))


def test_the_real_command_line(sample_db):
    query = sample_db / "queries" / "C051.jpg"
    done = process("search", sample_db / "index", query, "--top", 3, "--json", module="patchify_core")
    assert done.returncode == DONE and done.stderr == ""
    matches = json.loads(done.stdout)
    assert [match["rank"] for match in matches] == [1, 2, 3]
    assert Path(matches[0]["file"]).is_file()


def test_a_refusal_of_the_real_command_line(sample_db, tmp_path):
    done = process("search", sample_db / "index", tmp_path / "none.jpg", module="patchify_core")
    assert done.returncode == REFUSED and done.stdout == ""
    assert done.stderr.startswith("error: There is no file") and done.stderr.count("\n") == 1


LISTED = """
import sys
from patchify_core.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    print("exit", stopped.code, [name for name in ("torch", "numpy", "PIL", "faiss", "gradio") if name in sys.modules])
"""


def test_defaults_are_those_of_the_rooms():
    # Help texts and choices write them down once more, because they import none of the rooms.
    usual, settings = options.usual(), BuildSettings()
    assert (usual["encoder"], usual["regions"]) == (DEFAULT_ENCODER, Pyramid().spec)
    for name in ("features", "factory", "codebook", "rescore", "keep_maps"):
        assert usual[name] == getattr(settings, name)
    said = {name: " ".join(help_of(name).split()) for name in COMMANDS}
    for command in ("index", "evaluate"):
        for default in (f"{DEFAULT_ENCODER} (default)", f"default {Pyramid().spec}", f"{settings.factory} (default)"):
            assert default in said[command]
        assert f"({settings.codebook}, default)" in said[command]
        assert f"{{{','.join(PRESETS)}}}" in said[command] and f"{{{','.join(CODEBOOKS)}}}" in said[command]
    assert "crop: one forward pass a patch (default)" in said["embed"] and settings.features == "crop"
    assert f"pictures in a shard (default {EmbedSettings().shard_images})" in said["embed"]
    assert f"cores of each worker (default {RaySettings().cpus})" in said["embed"] and RaySettings().gpus == 0
    assert f"results (default {SearchSettings().top})" in said["search"]
    assert f"(default {inspect.signature(tune).parameters['queries'].default})" in said["tune"]
    assert f"{{{','.join(PLANS)}}}" in said["study"]


def help_of(command):
    [action] = [action for action in parser()._actions if action.dest == "command"]
    return action.choices[command].format_help()


def test_what_is_left_out_is_none_and_what_is_usual_is_unchanged():
    nothing = parser().parse_args(["index", "gallery", "--out", "idx"])
    assert options.given(nothing, *options.MADE_WITH, "store", "memory", "like", "exclude") == {}
    assert options.changed(nothing, *options.MADE_WITH, "store") is None
    written = parser().parse_args(["index", "gallery", "--out", "idx", "--preset", "small", "--regions", "pyramid:4"])
    assert options.given(written, *options.MADE_WITH) == {"regions": "pyramid:4", "factory": "small"}
    assert options.changed(written, *options.MADE_WITH) == "--factory"
    assert options.changed(written, "regions") is None  # as it is anyway
    options.fill(written, options.usual())
    assert (written.factory, written.codebook, written.store, written.keep_maps) == ("small", "uniform", "faiss", False)
    assert options.changed(written, *options.MADE_WITH) == "--factory"


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS), ["--version"]])
def test_help_waits_for_nothing_heavy(arguments):
    done = subprocess.run([sys.executable, "-c", LISTED, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("exit 0 []\n"), done.stdout + done.stderr
    assert __version__ in done.stdout or "usage: python -m patchify_core" in done.stdout


def test_a_reader_that_has_gone_is_no_failure(idx, photos):
    read, write = os.pipe()
    os.close(read)  # as `| head` closes its end when it has seen enough
    try:
        done = process("search", idx, photos / "0001.png", capture_output=False, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert done.returncode == DONE and done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
def test_output_that_cannot_be_written(idx, photos, dataset):
    with open("/dev/full", "w") as full:
        done = process("search", idx, photos / "0001.png", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == REFUSED
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done = process("evaluate", dataset, "--regions", "pyramid:1", "--json", "/dev/full")
    assert done.returncode == REFUSED and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_names_that_the_terminal_cannot_show(photos, tmp_path):
    # A pipe on Windows, or a terminal without UTF-8: the name is written with escapes, and nothing is lost.
    shutil.copy(photos / "0001.png", photos / "Straße 猫.png")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    (photos / "schön.png").write_text("no picture")
    done = process("index", photos, "--out", tmp_path / "idx", env=environment)
    assert done.returncode == SKIPPED and "sch\\xf6n.png" in done.stderr
    done = process("search", tmp_path / "idx", photos / "Straße 猫.png", env=environment)
    assert done.returncode == DONE, done.stderr
    assert "Stra\\xdfe \\u732b.png" in done.stdout


def test_the_pictures_own_name_in_an_error(idx, tmp_path):
    picture(1).save(tmp_path / "grün.png")
    done = process("search", idx, tmp_path / "grün.jpg", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == REFUSED and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# What is shown must be what was indexed -------------------------------------------------------------------


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


def test_index_says_what_it_did_as_json(tmp_path):
    photos = write_pictures(tmp_path / "photos", range(3))
    (photos / "broken.jpg").write_bytes(b"words")
    done = process("index", photos, "--out", tmp_path / "idx", "--regions", "pyramid:1", "--json")
    numbers = json.loads(done.stdout)
    assert done.returncode == 1
    assert (numbers["images"], numbers["embedded"], numbers["reused"]) == (3, 3, 0)
    assert [entry["file"] for entry in numbers["skipped"]] == ["broken.jpg"]
    assert numbers["images_per_s"] > 0
    again = json.loads(process("index", photos, "--out", tmp_path / "idx", "--regions", "pyramid:1", "--json").stdout)
    assert (again["embedded"], again["reused"], again["images_per_s"]) == (0, 3, None)


# evaluate that is interrupted, other layouts, re-ranking, and compare ---------------------------------------


@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(n): Ctrl-C comes while query n + 1 is described; None: it does not come."""
    real = Patchify.describe_query

    def call(count):
        done = []

        def describe(self, *args, **named):
            done.append(1)
            if count is not None and len(done) > count:
                raise KeyboardInterrupt
            return real(self, *args, **named)

        monkeypatch.setattr(Patchify, "describe_query", describe)
        return done

    return call


def numbers_of(path):
    """What an evaluation found, without what the clock said."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.sub(r'"(ms_per_\w+|images_per_s)": [^,\n]+', r'"\1": 0', text))


def test_evaluate_goes_on_after_ctrl_c(run, dataset, tmp_path, stop_after):
    file, kept = tmp_path / "scores.json", tmp_path / "idx"
    command = ["evaluate", dataset, "--regions", "pyramid:2", "--json", file, "--index", kept]
    assert run(*command)[0] == DONE
    whole = numbers_of(file)
    file.unlink()
    stop_after(1)
    code, printed, said = run(*command)
    assert code == INTERRUPTED and printed == "" and not file.exists()
    assert "finished work is kept; run the same command again" in said and (tmp_path / "scores.json.partial").exists()
    asked = stop_after(None)
    code, _, said = run(*command)
    assert code == DONE and "going on after 1 of 2 queries" in said and len(asked) == 1
    assert numbers_of(file) == whole and not (tmp_path / "scores.json.partial").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"idx", "scores.json", dataset.name}


def test_evaluate_with_other_options_begins_anew(run, dataset, tmp_path, stop_after):
    file = tmp_path / "scores.json"
    command = ["evaluate", dataset, "--regions", "pyramid:2", "--json", file, "--index", tmp_path / "idx"]
    stop_after(1)
    assert run(*command)[0] == INTERRUPTED
    asked = stop_after(None)
    code, _, said = run(*command, "--cutoff", 3)
    assert code == DONE and "with another cutoff: starting anew" in said and len(asked) == 2


def test_evaluate_goes_on_after_a_kill(dataset, tmp_path):
    # Nothing is closed or flushed on the way out: what is on disk is what the system had been told.
    program = (
        "import os, sys; from tests.tiny import tiny_encoder_everywhere; tiny_encoder_everywhere()\n"
        "from patchify_core.evaluation import run as evaluation; from patchify_core.cli.main import main\n"
        "real = evaluation._search_levels; done = []\n"
        "def ask(*args):\n"
        "    if done and os.environ.get('KILLED'): os._exit(9)\n"
        "    done.append(1); return real(*args)\n"
        "evaluation._search_levels = ask\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "evaluate", str(dataset), "--regions", "pyramid:2", "--factory", "Flat"]
    command += ["--json", str(tmp_path / "s.json"), "--index", str(tmp_path / "idx")]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ | {"KILLED": "1"}, capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr
    partial = tmp_path / "s.json.partial"
    assert len(partial.read_bytes().splitlines()) == 2
    with open(partial, "ab") as file:
        file.write(b'{"run": "torn')
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == DONE and "going on after 1 of 2 queries" in done.stderr, done.stderr
    assert json.loads((tmp_path / "s.json").read_text())["queries"] == 2 and not partial.exists()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ((), "nothing is kept (--index INDEX keeps the index, --json FILE the finished queries)"),
        (("--index",), "the index is kept, the finished queries are lost"),
        (("--json",), "finished queries are kept, the index is lost"),
    ],
)
def test_evaluate_says_what_an_interruption_costs(run, dataset, tmp_path, stop_after, options, kept):
    stop_after(1)
    more = [value for option in options for value in (option, tmp_path / option[2:])]
    code, _, said = run("evaluate", dataset, "--regions", "pyramid:1", *more)
    assert code == INTERRUPTED and kept in said


def test_evaluate_leaves_a_strangers_file_alone(run, dataset, tmp_path):
    (tmp_path / "s.json.partial").write_text("dear diary\n")
    code, _, said = run("evaluate", dataset, "--regions", "pyramid:1", "--json", tmp_path / "s.json")
    assert code == REFUSED and "is in the way and was not made by this program" in said
    assert (tmp_path / "s.json.partial").read_text() == "dear diary\n"


def test_evaluate_writes_csv_and_only_the_levels_asked_for(run, dataset, tmp_path):
    code, printed, _ = run(
        "evaluate", dataset, "--regions", "pyramid:3", "--levels", "3,1", "--csv", tmp_path / "s.csv", "--json",
        tmp_path / "s.json",
    )  # fmt: skip
    assert code == DONE and "pyramid:2" not in printed and "by size:" in printed
    rows = (tmp_path / "s.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("query,file_name,instance,name,level,regions") and len(rows) == 1 + 2 * 2
    numbers = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert [level["level"] for level in numbers["levels"]] == [1, 3] and len(numbers["per_query"]) == 2
    assert {part["name"] for part in numbers["levels"][1]["breakdown"]["instance"]} == {"rug", "quilt"}


def test_evaluate_with_a_reranker(run, dataset, tmp_path):
    command = [
        "evaluate",
        dataset,
        "--regions",
        "pyramid:2",
        "--index",
        tmp_path / "idx",
        "--json",
        tmp_path / "s.json",
    ]
    code, printed, said = run(*command, "--rerank", "patch-qe")
    assert code == DONE and "re-ranked by patch-qe" in printed and "ms/re-rank" in printed, said
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["ms_per_rerank"] > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--levels", "one"], "--levels takes numbers"),
        (["--levels", ""], "--levels takes numbers"),
        (["--rerank", "magic"], "Unknown re-ranker 'magic'"),
        (["--shortlist", "5"], "name a re-ranker with --rerank"),
        (["--rerank", "patch-qe", "--shortlist", "5"], "has no shortlist"),
        (["--rerank", "patch-qe", "--shortlist", "0"], "counts matches from 1"),
        (["--subset", "s1"], "Only INSTRE and ILIAS have subsets"),
        (["--csv", "."], "cannot be written"),
        (["--json", "same.x", "--csv", "./same.x"], "named for JSON and for CSV"),
        (["--format", "instre"], "gnd_instre.mat"),
        (["--format", "ilias"], "unpack ilias_core.tar"),
    ],
)
def test_evaluate_refuses_before_the_work(run, dataset, tmp_path, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    code, printed, error = run("evaluate", dataset, "--index", tmp_path / "idx", *more)
    assert code == REFUSED and printed == "" and said in error.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [dataset.name]


def test_evaluate_a_level_that_the_index_lacks(run, dataset):
    code, _, said = run("evaluate", dataset, "--regions", "pyramid:2", "--levels", "1,4")
    assert code == REFUSED and "levels 1 to 2" in said


def test_evaluate_reads_published_layouts(run, tmp_path):
    from tests.gallery import test_ilias as ilias
    from tests.gallery import test_instre as instre

    for number, (name, boxes) in enumerate(instre.BOXES.items()):
        path = tmp_path / "instre" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, (instre.WIDTH, instre.HEIGHT)).save(path)
        path.with_suffix(".txt").write_text("".join(" ".join(map(str, box)) + "\n" for box in boxes))
    instre.write_truth(tmp_path / "instre")
    for number, (name, boxes) in enumerate(ilias.BOXES.items()):
        path = tmp_path / "ilias" / "ilias_core" / name
        ilias.save(path, number)
        path.with_name(path.stem + "_bbox.txt").write_text("".join(" ".join(map(str, box)) + "\n" for box in boxes))
    code, printed, said = run("evaluate", tmp_path / "instre", "--regions", "pyramid:2", "--subset", "s1")
    assert code == DONE and "5 pictures, 2 queries" in printed, said
    code, printed, said = run("evaluate", tmp_path / "ilias", "--regions", "pyramid:2", "--cutoff", 1000)
    assert code == DONE and "3 pictures, 3 queries" in printed and "mAP@1000" in printed, said


def test_compare_two_runs(run, refusal, dataset, tmp_path):
    kept = tmp_path / "idx"
    for name, more in (("a", ["--levels", "1"]), ("b", [])):
        command = ["evaluate", dataset, "--regions", "pyramid:3", "--index", kept, "--json", tmp_path / f"{name}.json"]
        assert run(*command, *more)[0] == DONE
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    code, printed, _ = run("compare", a, b)
    assert code == DONE and printed.count("mAP") == 1 and printed.count("LocScore") == 1 and "(2 queries)" in printed
    first, last = (json.loads(file.read_text(encoding="utf-8"))["map"] for file in (a, b))
    numbers = json.loads(run("compare", a, b, "--json")[1])
    assert numbers["differences"]["mAP"]["difference"] == pytest.approx(last - first)
    assert json.loads(run("compare", b, b, "--level", "1,3", "--json")[1]) == numbers
    assert run("compare", a, b, "--json", tmp_path / "c.json")[0] == DONE
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8")) == numbers
    assert "the same mAP for every query" in run("compare", a, a)[1]
    assert "Run A has no level 2" in refusal("compare", a, b, "--level", 2)
    assert "--level takes one number" in refusal("compare", a, b, "--level", "1,2,3")
    assert "There is no file" in refusal("compare", a, tmp_path / "none.json")
    assert "was not written by evaluate --json" in refusal("compare", a, dataset / "annotations.json")
    assert "cannot be written" in refusal("compare", a, b, "--json", tmp_path)


# How descriptors are kept, re-ranking, and studies -----------------------------------------------------------


def meta_of(folder):
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


def test_index_keeps_descriptors_as_it_is_told(run, photos, tmp_path):
    command = ["index", photos, "--regions", "pyramid:3"]
    out = tmp_path / "small"
    kept = ["--out", out, "--factory", "PCAH8,PQ4x4", "--codebook", "informative", "--rescore", "SQ8"]
    assert run(*command, *kept)[0] == DONE
    meta = meta_of(out)
    assert (meta["factory"], meta["codebook"], meta["rescore"]) == ("PCAH8,PQ4x4", "informative", "SQ8")
    assert {path.name for path in out.iterdir()} >= {"projection.npy", "fine.faiss"}
    code, printed, said = run("search", out, photos / "0002.png", "--top", "1")
    assert code == DONE and "0002.png" in printed and said == ""
    assert run(*command, "--out", tmp_path / "exact", "--preset", "exact")[0] == DONE
    assert meta_of(tmp_path / "exact")["factory"] == "Flat"
    write_pictures(photos, [77], (60, 42))
    code, printed, _ = run(*command, *kept)
    assert code == DONE and "1 embedded, 6 already known" in printed
    for other in (["--codebook", "uniform"], ["--rescore", "SQ4"], ["--factory", "PCAH8,PQ2x4"]):
        code, _, said = run(*command, *kept, *other)
        assert code == REFUSED and "choose another folder for the index, or delete it first" in said
    code, _, said = run(*command, *kept[:-2])
    assert code == REFUSED and "was made with rescore SQ8, not none:" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--preset", "small"], "the encoder gives 24: write PCAH24 at most"),
        (["--factory", "PQ4"], "needs at least 256 patches to train on and has 84"),
        (["--factory", "PCAH9,PQ3", "--regions", "pyramid:1"], "needs at least 256 patches to train on and has 6"),
        (["--factory", "PCAH9,PQ3x4", "--regions", "pyramid:1"], "needs at least 16 patches to train on and has 6"),
        (["--factory", "PCAH9,SQ8", "--regions", "pyramid:1"], "needs more than 9 patches to learn from"),
        (["--factory", "PQ4x4", "--codebook", "global"], "needs at least 16 patches to train on and has 6"),
        (["--factory", "QP64"], "did you mean PQ64?"),
        (["--rescore", "IVF4,Flat"], "choose Flat, SQfp16, SQ8 or a PQ"),
        (["--regions", "saliant:3"], "did you mean salient?"),
    ],
)  # fmt: skip
def test_index_refuses_codes_that_cannot_be_had(run, photos, tmp_path, more, said):
    code, printed, error = run("index", photos, "--out", tmp_path / "idx", "--regions", "pyramid:3", *more)
    assert code == REFUSED and printed == "" and said in error.splitlines()[-1]
    assert not (tmp_path / "idx").exists() and not list(tmp_path.glob("*.partial"))


def test_preset_and_factory_exclude_each_other(photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["index", str(photos), "--out", str(tmp_path / "x"), "--factory", "SQ8", "--preset", "tiny"])
    assert ended.value.code == REFUSED and "not allowed with" in capsys.readouterr().err


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


def test_device_that_is_not_there(run, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHIFY_DEVICE", "cpu")  # the option sets it: put back afterwards
    command = ["index", dataset, "--out", tmp_path / "idx", "--regions", "pyramid:1", "--encoder", "effnet-lite1"]
    code, _, said = run(*command, "--device", "cuda:99")
    assert code == REFUSED and "no device 'cuda:99' that torch can use: choose auto or cpu (--device" in said
    code, _, said = run(*command, "--device", "toaster")
    assert code == REFUSED and "'toaster': choose auto, cpu, cuda, cuda:1 or mps" in said


STUDY = ["--skip", "sift", "--skip", "xfeat", "--skip", "patch-qe+sift", "--skip", "patch-qe+xfeat", "--skip", "aliked"]


def test_study_prints_tables_and_goes_on_after_ctrl_c(run, dataset, tmp_path, monkeypatch):
    file = tmp_path / "study.json"
    command = ["study", "rerank", dataset, "--work", tmp_path / "work", "--json", file, *STUDY]
    real = evaluation.evaluate
    asked = []

    def stop(*args, **named):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(*args, **named)

    monkeypatch.setattr("patchify_core.evaluation.study.run.evaluate", stop)
    code, printed, said = run(*command)
    assert code == INTERRUPTED and printed == "" and "finished work is kept; run the same command again" in said
    assert not file.exists()
    code, printed, _ = run(*command)
    assert code == DONE and len(asked) == 4 and not list(tmp_path.glob("*.partial"))
    assert "| re-ranker on `pyramid:1` |" in printed and "| patch-qe |" in printed and "sift" not in printed
    numbers = json.loads(file.read_text(encoding="utf-8"))
    assert [(row["rerank"], row["level"]) for row in numbers["rows"]] == [
        (name, level) for name in (None, "qe", "patch-qe") for level in (1, 4)
    ]
    # The same numbers as the other command gives for the same question.
    assert run("evaluate", dataset, "--rerank", "patch-qe", "--json", tmp_path / "e.json")[0] == DONE
    there = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert there["map"] == pytest.approx(numbers["rows"][-1]["map"], abs=1e-12)
    assert there["locscore"] == pytest.approx(numbers["rows"][-1]["locscore"], abs=1e-12)


def test_study_draws_what_it_could_measure_and_says_the_rest(run, dataset, tmp_path):
    drawing = tmp_path / "chart.svg"
    code, printed, _ = run("study", "compression", dataset, "--work", tmp_path / "work", "--chart", drawing)
    assert code == DONE and "| `SQ8` | 24 | 720 |" in printed and "encoder gives 24: write PCAH24 at most" in printed
    assert drawing.read_text(encoding="utf-8").startswith("<svg ")


@pytest.mark.parametrize(
    ("what", "more", "said"),
    [
        ("rerank", ["--skip", "alikd"], "nothing called 'alikd' (did you mean aliked?)"),
        ("rerank", ["--chart", "c.svg"], "--chart draws the compression study, not rerank"),
        ("rerank", ["--json", "."], "cannot be written"),
        ("encoders", ["--skip", "effnet-lite0", "--skip", "effnet-lite1", "--skip", "effnet-lite2"], "skip less"),
        ("regions", ["--encoder", "effnet-lite9"], "effnet-lite9"),
        ("regions", ["--format", "instre"], "gnd_instre.mat"),
    ],
)
def test_study_refuses_before_the_work(run, dataset, tmp_path, monkeypatch, what, more, said):
    monkeypatch.chdir(tmp_path)
    code, printed, error = run("study", what, dataset, "--work", tmp_path / "work", *more)
    assert code == REFUSED and printed == "" and said in error.splitlines()[-1]
    assert not (tmp_path / "work").exists() and not (tmp_path / "c.svg").exists()


def test_study_needs_queries_and_names_that_differ(refusal, photos, dataset, tmp_path):
    work = ["--work", tmp_path / "work"]
    assert "has no queries, so there is nothing to score" in refusal("study", "rerank", photos, *work)
    again = write_dataset(tmp_path / "other" / dataset.name)
    assert f"Two of the datasets are called {dataset.name}" in refusal("study", "rerank", dataset, again, *work)


def test_index_like_another_one(tmp_path, run, refusal):
    folder, few = write_pictures(tmp_path / "many", range(20)), write_pictures(tmp_path / "few", (100, 101))
    like, out = tmp_path / "like", tmp_path / "out"
    assert run("index", folder, "--out", like, "--factory", "PCAH8,SQ8", "--regions", "pyramid:2")[0] == DONE
    alone = run("index", few, "--out", tmp_path / "alone", "--factory", "PCAH8,SQ8", "--regions", "pyramid:1")
    assert alone[0] == REFUSED and "needs more than 8 patches" in alone[2]
    assert run("index", few, "--out", out, "--like", like)[0] == DONE
    made = PatchIndex.load(out)
    assert (made.factory, made.regions.spec, len(made.images)) == ("PCAH8,SQ8", "pyramid:2", 2)
    said = refusal("index", few, "--out", out, "--like", like, "--factory", "SQ8")
    assert "--like takes all of it" in said and "--factory" in said
    refusal("index", few, "--out", out, "--like", tmp_path / "none")


# Files that another system wrote ---------------------------------------------------------------------------


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
