"""The command line itself: options and defaults, help at once, errors, output that goes nowhere."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from patchify_core import __version__
from patchify_core.cli import options
from patchify_core.cli.main import COMMANDS, main, parser
from patchify_core.cli.study import SEVERAL
from patchify_core.encoders import DEFAULT_ENCODER
from patchify_core.evaluation.study.experiments import STUDIES
from patchify_core.index.big.tune import tune
from patchify_core.index.build import BuildSettings
from patchify_core.index.codec.factory import CODEBOOKS, PRESETS
from patchify_core.index.shards import EmbedSettings, RaySettings
from patchify_core.regions import Pyramid
from patchify_core.retrieval.searcher import SearchSettings
from tests.cli import DONE, REFUSED, ROOT, SKIPPED, process
from tests.tiny import picture

pytestmark = pytest.mark.usefixtures("tiny_everywhere")


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["search"], ["index", "x"], ["search", "a", "b", "--top", "many"], ["search", "a", "b", "c"]],
)
def test_a_command_line_that_cannot_be_read(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == REFUSED
    assert "error: " in capsys.readouterr().err


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
    usual, settings = options.defaults(), BuildSettings()
    assert (usual["encoder"], usual["regions"]) == (DEFAULT_ENCODER, Pyramid().spec)
    for name in ("features", "factory", "codebook", "rescore", "keep_maps"):
        assert usual[name] == getattr(settings, name)
    said = {name: " ".join(help_of(name).split()) for name in COMMANDS}
    for command in ("index", "evaluate"):
        for default in (f"{DEFAULT_ENCODER} (default)", f"default {Pyramid().spec}", f"{settings.factory} (default)"):
            assert default in said[command]
        assert f"({settings.codebook}, default)" in said[command]
        assert f"{{{','.join(PRESETS)}}}" in said[command] and f"{{{','.join(CODEBOOKS)}}}" in said[command]
    assert "crop: one forward pass per patch (default)" in said["embed"] and settings.features == "crop"
    assert f"pictures in a shard (default {EmbedSettings().shard_images})" in said["embed"]
    assert f"cores of each worker (default {RaySettings().cpus})" in said["embed"] and RaySettings().gpus == 0
    assert f"results (default {SearchSettings().top})" in said["search"]
    assert f"(default {inspect.signature(tune).parameters['queries'].default})" in said["tune"]
    assert f"{{{','.join([*STUDIES, SEVERAL])}}}" in said["study"]


def help_of(command):
    [action] = [action for action in parser()._actions if action.dest == "command"]
    return action.choices[command].format_help()


def test_what_is_left_out_is_none_and_what_is_usual_is_unchanged():
    nothing = parser().parse_args(["index", "gallery", "--out", "idx"])
    assert options.specified(nothing, *options.RECIPE_OPTIONS, "store", "memory", "like", "exclude") == {}
    assert options.first_changed(nothing, *options.RECIPE_OPTIONS, "store") is None
    written = parser().parse_args(["index", "gallery", "--out", "idx", "--preset", "small", "--regions", "pyramid:4"])
    assert options.specified(written, *options.RECIPE_OPTIONS) == {"regions": "pyramid:4", "factory": "small"}
    assert options.first_changed(written, *options.RECIPE_OPTIONS) == "--factory"
    assert options.first_changed(written, "regions") is None  # as it is anyway
    options.fill(written, options.defaults())
    assert (written.factory, written.codebook, written.store, written.keep_maps) == ("small", "uniform", "faiss", False)
    assert options.first_changed(written, *options.RECIPE_OPTIONS) == "--factory"


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
