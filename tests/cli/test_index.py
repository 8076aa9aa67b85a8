"""`index`: what it builds, prints and refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from patchify_core.cli import shared
from patchify_core.cli.main import main
from patchify_core.index.big import plan
from patchify_core.index.patch_index import PatchIndex
from tests.bad_pictures import text, truncated_jpeg
from tests.cli import DONE, INTERRUPTED, REFUSED, ROOT, SKIPPED, process
from tests.tiny import picture, write_pictures

pytestmark = pytest.mark.usefixtures("tiny_everywhere")


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


def test_index_like_another_one(tmp_path, run, refusal):
    folder, few = write_pictures(tmp_path / "many", range(20)), write_pictures(tmp_path / "few", (100, 101))
    like, out = tmp_path / "like", tmp_path / "out"
    assert run("index", folder, "--out", like, "--factory", "PCAH8,SQ8", "--regions", "pyramid:2")[0] == DONE
    alone = run("index", few, "--out", tmp_path / "alone", "--factory", "PCAH8,SQ8", "--regions", "pyramid:1")
    assert alone[0] == REFUSED and "needs more than 8 training patches" in alone[2]
    assert run("index", few, "--out", out, "--like", like)[0] == DONE
    made = PatchIndex.load(out)
    assert (made.factory, made.regions.spec, len(made.images)) == ("PCAH8,SQ8", "pyramid:2", 2)
    said = refusal("index", few, "--out", out, "--like", like, "--factory", "SQ8")
    assert "--like takes all of it" in said and "--factory" in said
    refusal("index", few, "--out", out, "--like", tmp_path / "none")


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


@pytest.mark.parametrize("preset", ["small", "tiny"])
def test_a_preset_of_a_few_pictures_is_searched_checked_and_added_to(run, photos, tmp_path, preset, caplog):
    command = ("index", photos, "--out", tmp_path / "idx", "--preset", preset)
    code, _, printed = run(*command)
    assert code == 0 and meta_of(tmp_path / "idx")["factory"] == "SQ8"
    [said] = caplog.messages
    assert said in printed.replace("\r", "\n").splitlines()  # not at the end of the bar
    assert said.startswith(f"{preset} is SQ8 here: ") and said.endswith(" are too few to learn its projection from.")
    write_pictures(photos, range(20, 50), (64, 48))
    caplog.clear()
    code, printed, _ = run(*command)  # enough for a projection by now, but the codes there are go on
    assert not caplog.messages
    assert code == 0 and "30 embedded, 6 already known" in printed
    assert meta_of(tmp_path / "idx")["factory"] == "SQ8"
    assert run("verify", tmp_path / "idx")[0] == 0
    picture = sorted(photos.glob("*.png"))[0]
    code, printed, _ = run("search", tmp_path / "idx", picture, "--top", "1")
    assert code == 0 and picture.name in printed


def test_index_chooses_by_the_number_of_pictures_and_says_why(run, photos, tmp_path, monkeypatch):
    out = ["--out", tmp_path / "idx"]
    code, _, said = run("index", photos, *out)
    assert code == DONE and "Flat: exact, since a query is compared with 6 pictures of 30 patches within 5 ms." in said
    monkeypatch.setattr(plan, "EXACT_NUMBERS", 24 * 30 * 5)
    write_pictures(photos, [77], (60, 42))
    code, printed, said = run("index", photos, *out)  # what stands is kept as it is
    assert code == DONE and "1 embedded" in printed and f"Flat: as {tmp_path / 'idx'} was made.\n" in said
    out = ["--out", tmp_path / "graph"]
    code, _, said = run("index", photos, *out)
    assert code == DONE and "HNSW16,Flat: a graph" in said and "--preset exact" in said
    assert meta_of(tmp_path / "graph")["factory"] == "HNSW16,Flat"
    monkeypatch.setattr(plan, "EXACT_NUMBERS", 10**6)
    write_pictures(photos, [78], (60, 42))
    code, printed, said = run("index", photos, *out)
    assert code == DONE and "1 embedded, 7 already known" in printed and "HNSW16,Flat: as " in said
    (photos / "0002.png").unlink()  # a graph takes nothing back: it is linked again
    code, printed, _ = run("index", photos, *out)
    assert code == DONE and "7 pictures" in printed and "0 embedded, 7 already known" in printed
    code, printed, _ = run("search", *out[1:], photos / "0003.png", "--top", "1")
    assert code == DONE and "0003.png" in printed


def test_what_is_asked_for_is_not_chosen(run, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "EXACT_NUMBERS", 0)
    for name, more in (("a", ["--preset", "exact"]), ("b", ["--factory", "Flat"]), ("c", ["--memory", "2"])):
        code, _, said = run("index", photos, "--out", tmp_path / name, *more)
        assert code == DONE and "a graph" not in said and meta_of(tmp_path / name)["factory"] == "Flat"
    code, _, _ = run("index", photos, "--out", tmp_path / "d", "--rescore", "SQ8")
    assert code == DONE and (meta_of(tmp_path / "d")["factory"], meta_of(tmp_path / "d")["rescore"]) == ("Flat", "SQ8")
    code, _, said = run("index", photos, "--out", tmp_path / "a", "--preset", "fast")
    assert code == REFUSED and "was made with factory Flat, not HNSW16,Flat:" in said


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
        (["--rescore", "PCAH8,SQ8"], "finer codes use the same projection"),
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


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--preset", "huge"], "the encoder gives 24: write PCAH24 at most"),
        (["--factory", "PQ4"], "needs at least 256 patches to train on and has 84"),
        (["--factory", "PCAH9,PQ3", "--regions", "pyramid:1"], "needs at least 256 patches to train on and has 6"),
        (["--factory", "PCAH9,PQ3x4", "--regions", "pyramid:1"], "needs at least 16 patches to train on and has 6"),
        (["--factory", "PCAH9,SQ8", "--regions", "pyramid:1"], "needs more than 9 training patches"),
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


def test_device_that_is_not_there(run, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHIFY_DEVICE", "cpu")  # the option sets it: put back afterwards
    command = ["index", dataset, "--out", tmp_path / "idx", "--regions", "pyramid:1", "--encoder", "effnet-lite1"]
    code, _, said = run(*command, "--device", "cuda:99")
    assert code == REFUSED and "no device 'cuda:99' that torch can use: choose auto or cpu (--device" in said
    code, _, said = run(*command, "--device", "toaster")
    assert code == REFUSED and "'toaster': choose auto, cpu, cuda, cuda:1 or mps" in said


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
    known = sum(json.loads(shard.read_text(encoding="utf-8"))["pictures"] for shard in shards)
    assert 0 < known < 300
    for path in sorted(photos.iterdir())[known + 2 :]:  # two more are enough to see that it goes on
        path.unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == DONE, done.stderr
    assert f"2 embedded, {known} already known" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["idx", "photos"]
