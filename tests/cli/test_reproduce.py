"""`reproduce paper`: end to end on small sets in the published layouts; cut, resumed, refused, and only asked about."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import timm
import torch

from patchify_core.cli import reproduce
from patchify_core.evaluation import run as evaluation
from patchify_core.evaluation.study import paper
from tests.checkpoints import save_bad
from tests.cli import DONE, INTERRUPTED, REFUSED, ROOT
from tests.encoders.test_open_clip import CONFIGS
from tests.gallery.test_ilias import BIMP, jpg, write_core, write_lists
from tests.gallery.test_instre import write_tree
from tests.imaging.test_tar_members import write_tar
from tests.tiny import INFO, TinyEncoder

SHARD = "yfcc100m/00000.tar"
QUICK = ("--encoder", "effnet-lite0", "--skip", "sift", "--skip", "xfeat")


def write_sets(folder):
    """INSTRE and ILIAS as they are published: eight distractors in an archive, listed."""
    for name in ("instre", "ilias/yfcc100m"):
        (folder / name).mkdir(parents=True)
    write_tree(folder / "instre")
    ilias = write_lists(write_core(folder / "ilias"))
    names = [f"d{number}" for number in range(8)]
    write_tar(ilias / SHARD, {f"{name}.jpg": jpg(60 + seed) for seed, name in enumerate(names)})
    lists = ilias / "image_ids"
    (lists / "distractor_ids.txt.gz").write_bytes(gzip.compress("".join(f"00000.tar/{n}\n" for n in names).encode()))
    return folder


@pytest.fixture
def data(tmp_path):
    return write_sets(tmp_path / "data")


@pytest.fixture
def call(run, data, tmp_path):
    """call("--only", ...): runs the command on the small sets."""
    return lambda *more: run("reproduce", "paper", "--data", data, "--out", tmp_path / "out", *more)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


def cells(out):
    return [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]


def table(out):
    """The files that a run wrote, without what the clock said."""
    with open(out / "paper.csv", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if not k.startswith("ms_")} for row in csv.DictReader(file)]
    return (out / "paper.md").read_text(encoding="utf-8"), rows


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


# From the pictures to the table ----------------------------------------------------------------------------


def test_real_encoders_from_published_layouts_to_the_table(run, call, data, checkpoint, tmp_path):
    (tmp_path / "tiny-clip.json").write_text(json.dumps(CONFIGS["tiny-clip"]))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    torch.save(open_clip.create_model("tiny-clip").state_dict(), tmp_path / "clip.pt")
    specs = ("effnet-lite0", f"timm:test_vit@{checkpoint}", f"open_clip:tiny-clip/{tmp_path / 'clip.pt'}")
    encoders = [word for spec in specs for word in ("--encoder", spec)]
    code, printed, said = call(*encoders, "--only", "ilias-core", "--only", "levels")
    assert code == DONE and "12 cells, 0 of them finished" in said
    assert "ilias-core: 3 pictures, 3 queries" in said and said.count("weights at hand; ") == 3
    written, rows = table(tmp_path / "out")
    assert printed.strip() == written.strip()
    assert sum(line.startswith("|") for line in written.splitlines()) == 2 + 12  # a head, and a row per cell
    assert [(row["encoder"], row["level"]) for row in rows] == [(spec, str(n)) for spec in specs for n in (1, 2, 3, 4)]
    assert all(row["paper_map_second_hand"] == "" for row in rows)  # effnet is not in the paper, nor are these weights
    # The same numbers as the other command gives, from the same descriptors.
    [index] = (tmp_path / "out" / "indexes").glob("ilias-core_effnet-lite0_*")
    kept = ["--subset", "core", "--index", index, "--json", tmp_path / "e.json"]
    assert run("evaluate", data / "ilias", *kept)[0] == DONE
    there = json.loads((tmp_path / "e.json").read_text())
    assert [float(row["map"]) for row in rows[:4]] == pytest.approx([level["map"] for level in there["levels"]])
    published = [level["published"][0] for level in there["levels"]]
    assert {score["measure"] for score in published} == {"mAP@1000"}
    assert [float(row["benchmark_map"]) for row in rows[:4]] == pytest.approx([score["value"] for score in published])


class WideEncoder(TinyEncoder):
    """A tiny encoder of 64 numbers, which product codes can cut into 64 parts."""

    def __init__(self):
        super().__init__(replace(INFO, dim=64))

    def encode(self, crops):
        found = super().encode(crops)
        found = np.concatenate([found, found, found[:, :16]], axis=1)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def tinies(tiny_everywhere, monkeypatch):
    """The encoders that commands load, each tiny."""
    made = []

    def load(spec="effnet-lite0", settings=None):
        made.append(WideEncoder())
        return made[-1]

    monkeypatch.setattr("patchify_core.encoders.load_encoder", load)
    return made


def test_the_whole_matrix_embeds_each_regions_once(call, tinies, tmp_path):
    sets = ("--only", "instre", "--only", "ilias")
    code, printed, said = call(*QUICK, *sets)
    assert code == DONE and "note: " in said  # no taxonomy
    done = cells(tmp_path / "out")
    assert len(done) == 2 * (4 + 4 + 12 + 4) and f"{len(done)} cells, 0 of them finished" in said
    assert {entry["key"]["weights"] for entry in done} == {"0" * 64}
    shown = ("Whole pictures (L0)", "Regions, 30 patches", "Product quantization", "Re-ranking")
    assert all(f"**{title}" in printed for title in shown)
    assert "| effnet-lite0 | PQ16 | uniform | 16 | — | — | " in printed and "needs at least 256 patches" in printed
    # A crop of a picture and of a query is encoded once, beside the probes: two loads of each set's encoder.
    pictures, queries, strategies = 5 + 11, 4 + 3, 5
    probes = torch.get_num_threads()
    assert sum(encoder.encoded for encoder in tinies) == pictures * 30 * strategies + queries + probes
    before, file = table(tmp_path / "out"), (tmp_path / "out" / "cells.jsonl").read_bytes()
    tinies.clear()
    code, again, said = call(*QUICK, *sets)
    assert code == DONE and again == printed and table(tmp_path / "out") == before
    refusals = sum(bool(entry["refused"]) for entry in done)
    assert f"{len(done) - refusals} of them finished" in said
    assert (tmp_path / "out" / "cells.jsonl").read_bytes() == file  # what cannot be had is written down once
    assert sum(encoder.encoded for encoder in tinies) == probes


# Cut, and gone on with -------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """asked.stop_at = 3: Ctrl-C comes with the third cell; the list counts the cells that are measured."""
    real = evaluation.evaluate

    class Asked(list):
        stop_at = None

    found = Asked()

    def count(*args, **named):
        found.append(1)
        if len(found) == found.stop_at:
            raise KeyboardInterrupt
        return real(*args, **named)

    monkeypatch.setattr("patchify_core.evaluation.study.run.evaluate", count)
    return found


LEVELS = ("--encoder", "effnet-lite0", "--only", "levels")


@pytest.mark.usefixtures("tiny_everywhere")
def test_a_subset_and_the_whole_share_their_cells(call, asked, tmp_path):
    assert call(*LEVELS, "--only", "instre")[0] == DONE and len(asked) == 4
    asked.stop_at = 4 + 2
    code, printed, said = call(*LEVELS)
    assert code == INTERRUPTED and printed == "" and "finished work is kept; run the same command again" in said
    assert "8 cells, 4 of them finished" in said and len(cells(tmp_path / "out")) == 5
    assert "ilias-core: mAP" in table(tmp_path / "out")[0]  # the table is there after each cell
    asked.stop_at = None
    code, printed, said = call(*LEVELS)
    assert code == DONE and "5 of them finished" in said and len(asked) == 6 + 3 and printed.count("\n| effnet") == 4
    assert call(*LEVELS, "--only", "ilias-core")[0] == DONE and len(asked) == 9


KILLED = """
import os, sys
from tests.tiny import tiny_encoder_everywhere; tiny_encoder_everywhere()
from patchify_core.evaluation.study import run as study
from patchify_core.cli.main import main
real, done = study.evaluate, []
def ask(*args, **named):
    if len(done) == 5:
        os._exit(9)
    done.append(1)
    return real(*args, **named)
study.evaluate = ask
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("tiny_everywhere")
def test_a_kill_in_the_middle_changes_nothing_in_the_table(run, call, data, tmp_path):
    command = ["reproduce", "paper", "--data", str(data), *LEVELS]
    killed = [sys.executable, "-c", KILLED, *command, "--out", str(tmp_path / "out")]
    done = subprocess.run(killed, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert len(cells(tmp_path / "out")) == 5
    with open(tmp_path / "out" / "cells.jsonl", "ab") as file:
        file.write(b'{"key": {"dataset": "torn')
    code, printed, said = call(*LEVELS)
    assert code == DONE and "8 cells, 5 of them finished" in said and len(cells(tmp_path / "out")) == 8
    assert run(*command, "--out", tmp_path / "other")[:2] == (DONE, printed)
    assert table(tmp_path / "out") == table(tmp_path / "other")


# Only asked about ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_a_dry_run_measures_and_touches_nothing(run, tmp_path, checkpoint):
    write_sets(tmp_path / "data")
    before = snapshot(tmp_path)
    specs = ["--encoder", "timm:test_vit.r160_in1k", "--encoder", f"timm:test_vit@{checkpoint}"]
    out = ["--out", tmp_path / "out", "--dry-run"]
    code, printed, _ = run("reproduce", "paper", "--data", tmp_path / "data", *specs, *out)
    assert code == DONE and snapshot(tmp_path) == before
    assert "instre: 5 pictures, 4 queries" in printed and "ilias-core: 3 pictures, 3 queries" in printed
    assert re.search(r"test_vit.r160_in1k: weights to download, about \S+ MB; \S+ patches/s on cpu", printed)
    assert f"{checkpoint}: weights at hand" in printed and "2,400 patches to describe" in printed
    assert re.search(r"time: about .*\ndisk: \S+ MB in .*\nmemory: .* on the GPU: 0 kB", printed)
    code, printed, _ = run("reproduce", "paper", "--data", tmp_path / "none", *specs[2:], *out)
    assert code == DONE and snapshot(tmp_path) == before
    assert "27,293 pictures, 1,250 queries as published; not in" in printed and "github.com/ilias-vrg/ilias" in printed
    assert "memory: " in printed and "4,801,200 patches to describe" in printed


@pytest.mark.usefixtures("offline")
def test_without_data_it_ends_in_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, said = run("reproduce", "paper")
    assert code == REFUSED and printed == "" and said.count("\n") == 1 and said.startswith("error: There is no instre ")
    assert paper.SETS["instre"].source in said and paper.SETS["ilias"].source in said and "BENCHMARKS.md" in said
    assert not list(tmp_path.iterdir())
    (tmp_path / "benchmarks" / "instre").mkdir(parents=True)  # half made is not there
    assert "no instre in 'benchmarks/instre'" in run("reproduce", "paper", "--only", "instre")[2]


# What is wrong ---------------------------------------------------------------------------------------------


def without_query(data, folder):
    os.remove(data / "ilias" / "ilias_core" / BIMP / "query" / "Q000_01.jpg")
    return ("--only", "ilias-core"), "Q000_01.jpg"


def truncated_shard(data, folder):
    shard = data / "ilias" / SHARD
    shard.write_bytes(shard.read_bytes()[:2000])
    return ("--only", "ilias"), "00000.tar"


def half_a_list(data, folder):
    file = data / "ilias" / "image_ids" / "distractor_ids.txt.gz"
    file.write_bytes(file.read_bytes()[:-9])
    return ("--only", "ilias"), "distractor_ids.txt.gz"


def no_list(data, folder):
    return ("--only", "ilias-mini"), "mini_ilias_yfcc100m_ids.txt"


def half_the_pictures(data, folder):
    os.remove(next((data / "instre" / "INSTRE-S2").rglob("*.jpg")))
    return (), "files that gnd_instre.mat needs are missing"


def cut_picture(data, folder):
    picture = next((data / "ilias" / "ilias_core" / BIMP / "pos").glob("*.jpg"))
    picture.write_bytes(picture.read_bytes()[:400])
    return ("--only", "ilias-core"), picture.name


def another_model(data, folder):
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "resnet.pth")
    return ("--encoder", f"timm:test_vit@{folder / 'resnet.pth'}"), "resnet.pth is not a checkpoint of timm's test_vit"


def half_a_checkpoint(data, folder):
    torch.save(timm.create_model("test_vit").state_dict(), folder / "vit.pth")
    return ("--encoder", f"timm:test_vit@{save_bad('truncated', folder / 'vit.pth', folder)}"), "truncated.pt"


def a_strangers_file(data, folder):
    (folder / "out" / "cells.jsonl").write_text("dear diary\n")
    return (), "cells.jsonl is in the way"


BAD = (
    without_query,
    truncated_shard,
    half_a_list,
    no_list,
    half_the_pictures,
    cut_picture,
    another_model,
    half_a_checkpoint,
    a_strangers_file,
)


@pytest.mark.usefixtures("tiny_everywhere")
@pytest.mark.parametrize("spoil", BAD)
def test_bad_input_is_one_sentence_and_finished_cells_stay(call, data, tmp_path, spoil):
    assert call("--encoder", "effnet-lite0", "--only", "instre", "--only", "levels")[0] == DONE
    more, part = spoil(data, tmp_path)
    before = snapshot(tmp_path / "out")
    code, printed, said = call("--encoder", "effnet-lite0", "--only", "levels", *more)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == REFUSED and printed == "" and len(errors) == 1
    assert said.endswith(f"{errors[0]}\n") and part in errors[0] and errors[0].endswith(".")
    assert {path: when for path, when in snapshot(tmp_path / "out").items() if path in before} == before


@pytest.mark.usefixtures("tiny_everywhere")
def test_a_box_file_in_another_encoding_is_read_and_one_that_is_no_text_is_named(call, data):
    boxes = data / "ilias" / "ilias_core" / BIMP / "pos" / "P000_00_bbox.txt"
    boxes.write_bytes("1 2 10 12\r\n".encode("utf-16"))
    code, _, said = call(*LEVELS, "--only", "ilias-core")
    assert code == DONE and "oxes" not in said
    boxes.write_bytes(b"\x80\xff\xfe\x81")
    code, _, said = call(*LEVELS, "--only", "ilias-core")
    assert code == DONE and "note: Boxes that cannot be used were left out: 1, first: " in said and boxes.name in said
    assert "0 of them finished" in said  # it is another dataset now


def test_other_weights_under_the_same_name_are_refused(call, checkpoint, tmp_path):
    levels = ("--only", "levels", "--only", "ilias-core", "--encoder", f"timm:test_vit@{checkpoint}")
    assert call(*levels)[0] == DONE
    torch.save(timm.create_model("test_vit").state_dict(), checkpoint)
    code, printed, said = call(*levels)
    assert code == REFUSED and printed == "" and "weights" in said.splitlines()[-1]
    assert len(cells(tmp_path / "out")) == 4


@pytest.mark.usefixtures("tiny_everywhere")
def test_what_there_is_to_leave_out_is_named(call, tmp_path):
    assert "The paper's matrix compares nothing called 'sfit' (did you mean sift?)" in call("--skip", "sfit")[2]
    assert "skip less" in call(*LEVELS, "--skip", "Flat")[2] and not (tmp_path / "out").exists()


def test_its_names_are_those_of_the_matrix():
    assert (*paper.SETS,) == reproduce.SETS and reproduce.PARTS == paper.PARTS
