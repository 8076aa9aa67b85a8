"""Threads that read and cut pictures (`EncoderSettings.readers`): the same bytes in the same order, and a clean end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchify_core.cli.main import main
from patchify_core.encoders import EncoderSettings, load_encoder
from patchify_core.encoders.base import Preprocessing
from patchify_core.encoders.square import SquareEncoder
from patchify_core.errors import GalleryError, IndexFolderError
from patchify_core.features.crop import describe_many, in_order
from patchify_core.features.extract import load_extractor
from patchify_core.gallery import read_coco, read_folder
from patchify_core.imaging.pictures import read_picture, read_reduced
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.shards.describe import PicturePass
from patchify_core.regions import Pyramid, parse_regions
from tests.tiny import TinyEncoder, picture, write_dataset, write_pictures

ROOT = Path(__file__).parents[2]


def reading(number):
    encoder = TinyEncoder()
    encoder.readers = number
    return encoder


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("patchify-ahead")]


@pytest.fixture
def photos(tmp_path):
    """Thirty pictures, two of them twice, two that are cut short, and a file that is none."""
    folder = write_pictures(tmp_path / "photos", range(30))
    for copy, of in (("0003b", "0003"), ("0029b", "0001")):
        (folder / f"{copy}.png").write_bytes((folder / f"{of}.png").read_bytes())
    (folder / "0011b.jpg").write_bytes(b"no picture")
    for number in (5, 20):
        whole = (folder / f"{number:04d}.png").read_bytes()
        (folder / f"{number:04d}b.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize("spec", ["pyramid:3", "pyramid:1+salient:3"])
@pytest.mark.parametrize("features", ["crop", "pooled:64"])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_pass_over_pictures_gives_the_same_in_the_same_order(number, features, spec, photos):
    regions, gallery, results = parse_regions(spec), read_folder(photos), []
    for encoder in (TinyEncoder(), reading(number)):
        settled = []
        work = PicturePass(load_extractor(features, encoder), regions, lambda settled=settled: settled.append(1))
        new = list(work.run(gallery.images))
        arrays = [each.descriptors.tobytes() + (b"" if each.boxes is None else each.boxes.tobytes()) for each in new]
        results.append(([each.image for each in new], arrays, work.images, work.times, work.skipped, work.reused))
        results[-1] += (len(settled), encoder.batches, encoder.maps)
    assert results[0] == results[1]
    assert results[1][5] == 2 and [each.name for each in results[1][4]][-2:] == ["0005b.png", "0020b.png"]
    assert threads() == []


def test_an_index_is_the_same_to_the_last_byte(tmp_path, sample_gallery):
    gallery = replace(sample_gallery, images=sample_gallery.images[:6])
    for number in (0, 3):
        encoder = load_encoder("effnet-lite0", EncoderSettings(readers=number))
        build_index(gallery, tmp_path / str(number), encoder, Pyramid(2), BuildSettings(factory="SQ8"))
    names = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "3").iterdir())
    for name in names:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "3" / name).read_bytes(), name


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=8), st.integers(1, 20), st.integers(1, 4))
def test_crops_fill_the_same_batches(levels, batch_size, number):
    def stream():
        for key, level in enumerate(levels):
            image = picture(key, (10 + key, 30 - key))
            yield key, image, Pyramid(level).boxes(*image.size)

    results = []
    for encoder in (TinyEncoder(), reading(number)):
        found = list(describe_many(stream(), encoder, batch_size=batch_size))
        results.append(([each.key for each in found], [each.descriptors.tobytes() for each in found], encoder.batches))
    assert results[0] == results[1]


@pytest.mark.parametrize("spec", ["aspect:effnet-lite0", "effnet-lite0+projection@"])
def test_encoders_around_another_read_as_it_does(spec, tmp_path):
    if spec.endswith("@"):
        spec += str(tmp_path / "layer.pth")
        torch.save({"weight": torch.randn(8, 1280)}, tmp_path / "layer.pth")
    slow, fast = (load_encoder(spec, EncoderSettings(readers=number)) for number in (0, 2))
    assert (slow.readers, fast.readers) == (0, 2)
    scene = picture(3, (96, 64))
    stream = [(key, scene, Pyramid(2).boxes(96, 64)) for key in range(2)]
    for one, other in zip(describe_many(stream, slow), describe_many(stream, fast), strict=True):
        np.testing.assert_array_equal(one.descriptors, other.descriptors)


def test_python_goes_on_while_pillow_reads_and_cuts():
    """Or else threads could not keep a GPU busy: with Python's lock held, the loop would turn once or twice."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), np.uint8))
    files = {kind: BytesIO() for kind in ("JPEG", "PNG")}
    for kind, file in files.items():
        noise.save(file, kind)
    side = SquareEncoder(len, Preprocessing(2000, (0.0,) * 3, (1.0,) * 3), TinyEncoder().info, torch.device("cpu"))
    work = [partial(read_picture, file.getvalue()) for file in files.values()]
    work += [partial(read_reduced, files["JPEG"].getvalue(), 640), partial(side.prepare, noise, (1, 1, 2900, 2999))]
    for call in work:
        thread, turns = threading.Thread(target=call), 0
        thread.start()
        while thread.is_alive():
            time.sleep(0.001)
            turns += 1
        assert turns > 8, call


# How it ends ---------------------------------------------------------------------------------------------


def test_several_work_at_once_and_results_are_in_order():
    gate = threading.Barrier(3, timeout=30)

    def work(item):
        gate.wait()  # passes only when three are here
        return item * 2

    assert list(in_order(work, range(9), 3)) == [item * 2 for item in range(9)]
    assert threads() == []


def test_an_error_in_a_reader_is_one_sentence(tmp_path):
    dataset = write_dataset(tmp_path / "set")
    listing = json.loads((dataset / "annotations.json").read_text())
    listing["images"][4]["width"] += 5
    (dataset / "annotations.json").write_text(json.dumps(listing))
    with pytest.raises(GalleryError, match=r"4\.png"):
        build_index(read_coco(dataset), tmp_path / "idx", reading(3), Pyramid(1))
    assert threads() == [] and not (tmp_path / "idx").exists()


class _Broken(TinyEncoder):
    readers = 3

    def prepare(self, picture, box):
        raise ArithmeticError("cannot cut")


def test_an_error_while_cutting_comes_through(photos):
    with pytest.raises(ArithmeticError, match="cannot cut"):
        list(PicturePass(load_extractor("crop", _Broken()), Pyramid(1)).run(read_folder(photos).images))
    assert threads() == []


@pytest.mark.parametrize("features", ["crop", "pooled:64"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_stopped_build_leaves_no_thread_and_goes_on(error, features, photos, tmp_path):
    def stop(done, total):
        if done == 12:
            raise error

    gallery, how = read_folder(photos), BuildSettings(features=features)
    with pytest.raises((KeyboardInterrupt, OSError, IndexFolderError)):
        build_index(gallery, tmp_path / "a", reading(3), Pyramid(2), how, stop)
    assert threads() == []
    build_index(gallery, tmp_path / "a", reading(2), Pyramid(2), how)
    build_index(gallery, tmp_path / "b", TinyEncoder(), Pyramid(2), how)
    for path in (tmp_path / "b").iterdir():
        assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_command_line_takes_the_options(photos, tmp_path, capsys, monkeypatch):
    for name in ("READERS", "PRECISION", "COMPILE"):
        monkeypatch.setenv(f"PATCHIFY_{name}", "")  # the options set them: put back afterwards
    command = ["index", str(photos), "--out", str(tmp_path / "idx"), "--regions", "pyramid:1"]
    assert main([*command, "--readers", "many"]) == 2
    assert capsys.readouterr().err == "error: PATCHIFY_READERS is 'many': give it a number of threads from 0 to 999.\n"
    assert main([*command, "--readers", "2", "--precision", "float8"]) == 2
    assert "choose auto, float32, bfloat16 or float16" in capsys.readouterr().err
    assert main([*command, "--precision", "float32"]) == 1  # the broken ones
    said = capsys.readouterr()
    assert "0005b.png: '0005b.png' is cut short" in said.err and "Traceback" not in said.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in another way there")
def test_ctrl_c_with_readers_ends_in_one_sentence(tmp_path):
    photos = write_pictures(tmp_path / "photos", range(300), (64, 48))
    command = [sys.executable, "-m", "patchify_core", "index", str(photos), "--out", str(tmp_path / "idx")]
    command += ["--regions", "pyramid:2", "--readers", "3"]
    heard = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard)
    seen = b""
    while not re.search(rb"\b[1-9]\d*/300", seen):
        chunk = process.stderr.read1()
        assert chunk, seen.decode()
        seen += chunk
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    said = (seen + rest).decode()
    assert said.rstrip().endswith("interrupted: finished work is kept; run the same command again to go on.")
    assert "Traceback" not in said and "Exception" not in said
