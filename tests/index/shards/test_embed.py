"""index.shards.embed in this process: what is reused, repeated, skipped and refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from patchify_core.encoders import EncoderInfo
from patchify_core.errors import PatchifyError
from patchify_core.features.crop import describe
from patchify_core.files import locked
from patchify_core.gallery import read_gallery
from patchify_core.imaging.pictures import read_picture
from patchify_core.index.codec.projection import Projection
from patchify_core.index.shards import EmbedSettings, RaySettings, embed_gallery, pictures_of
from patchify_core.index.shards.folder import ShardFolder
from patchify_core.regions import Pyramid
from tests.tiny import INFO, TinyEncoder, write_dataset, write_pictures

FOUR = EmbedSettings(shard_images=4)


def embed(folder, out, encoder=None, settings=FOUR, **named):
    return embed_gallery(read_gallery(folder), out, encoder or TinyEncoder(), settings=settings, **named)


def contents(folder):
    """All files but the one that says which process wrote them."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "holder.json"}


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", range(10))


def test_a_stream_holds_the_descriptors_that_one_picture_at_a_time_gives(pictures, tmp_path, tiny):
    report = embed(pictures, tmp_path / "out")
    stream = ShardFolder(tmp_path / "out")
    table, descriptors = stream.batch(0, 10)
    gallery = read_gallery(pictures)
    assert (report.images, report.embedded, report.shards, report.skipped) == (10, 10, 3, ())
    assert [(image.id, image.file_name) for image in table] == [(i.id, i.file_name) for i in gallery.images]
    for image, found in zip(gallery.images, descriptors, strict=True):
        assert np.array_equal(found, describe(read_picture(image.path), Pyramid().boxes(24, 18), tiny))
    assert pictures_of(tmp_path / "out") == pictures.resolve()


def test_the_same_command_again_does_nothing_and_changes_no_byte(pictures, tmp_path, tiny):
    embed(pictures, tmp_path / "out")
    before = contents(tmp_path / "out")
    report = embed(pictures, tmp_path / "out", tiny)
    assert (report.embedded, report.reused, tiny.encoded) == (0, 3, 0) and report.images_per_s is None
    assert contents(tmp_path / "out") == before


def test_cut_anywhere_it_goes_on_and_ends_with_the_same_bytes(pictures, tmp_path):
    embed(pictures, tmp_path / "whole")
    for cut in range(1, 10, 2):
        out = tmp_path / f"cut{cut}"

        def stop(done, total, cut=cut):
            assert total == 10
            if done == cut:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            embed(pictures, out, progress=stop)
        assert not (out / "stream.json").exists()
        encoder = TinyEncoder()
        report = embed(pictures, out, encoder)
        assert encoder.encoded == report.embedded * 30 and report.embedded == 10 - 4 * report.reused
        assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("suffix", ["descriptors", "pictures", "json"])
@pytest.mark.parametrize("how", ["gone", "flipped", "short"])
def test_a_damaged_shard_alone_is_embedded_again(pictures, tmp_path, suffix, how):
    out = tmp_path / "out"
    embed(pictures, out)
    before = contents(out)
    path = out / f"shard-00001.{suffix}"
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-7] if how == "short" else data[:9] + bytes([data[9] ^ 4]) + data[10:])
    assert embed(pictures, out).embedded == 4
    assert contents(out) == before


def test_a_changed_picture_alone_brings_its_shard_back(pictures, tmp_path):
    out = tmp_path / "out"
    embed(pictures, out)
    os.utime(pictures / "0001.png", ns=(1, 1))  # touched, the same bytes
    assert embed(pictures, out).embedded == 0
    (pictures / "0001.png").write_bytes((pictures / "0005.png").read_bytes())
    report = embed(pictures, out)
    assert (report.embedded, report.reused) == (4, 2)
    _, descriptors = ShardFolder(out).batch(0, 10)
    assert np.array_equal(descriptors[1], descriptors[5])


def test_pictures_that_are_gone_leave_no_shard_behind(pictures, tmp_path):
    out = tmp_path / "out"
    embed(pictures, out)
    for seed in range(4, 10):
        (pictures / f"{seed:04d}.png").unlink()
    report = embed(pictures, out)
    assert (report.images, report.embedded, report.shards) == (4, 0, 1)
    assert len(ShardFolder(out)) == 4 and not list(out.glob("shard-00001*"))


def test_what_somebody_put_beside_the_shards_stays(pictures, tmp_path):
    out = tmp_path / "out"
    embed(pictures, out)
    mine = ["notes.txt", "half.tmp", "shards.csv", "source.json", "deep/file"]
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    for name in ("0008.png", "0009.png"):  # all of the third shard
        (pictures / name).unlink()
    embed(pictures, out)
    assert not list(out.glob("shard-00002*"))
    assert all((out / name).read_text() == "mine" for name in mine)


def test_a_picture_that_comes_twice_is_embedded_once(pictures, tmp_path, tiny):
    (pictures / "0002.png").write_bytes((pictures / "0001.png").read_bytes())
    report = embed(pictures, tmp_path / "out", tiny)
    assert (report.images, report.embedded, tiny.encoded) == (10, 9, 270)


def test_broken_pictures_are_named_and_left_out_and_tried_again_once_mended(pictures, tmp_path):
    whole = (pictures / "0003.png").read_bytes()
    (pictures / "0003.png").write_bytes(whole[:-40])  # its header is right, its end is missing
    (pictures / "notes.png").write_text("no picture")
    report = embed(pictures, tmp_path / "out")
    assert [name for name, _ in report.skipped] == ["notes.png", "0003.png"]
    assert report.images == 9 and len(ShardFolder(tmp_path / "out")) == 9
    again = embed(pictures, tmp_path / "out")
    assert again.embedded == 0 and again.skipped == report.skipped
    (pictures / "0003.png").write_bytes(whole)
    assert embed(pictures, tmp_path / "out").embedded == 4


def test_a_shard_of_nothing_but_broken_pictures_leaves_a_gap(pictures, tmp_path):
    for seed in range(4, 8):
        path = pictures / f"{seed:04d}.png"
        path.write_bytes(path.read_bytes()[:-40])
    report = embed(pictures, tmp_path / "out")
    stream = ShardFolder(tmp_path / "out")
    assert (report.shards, len(stream), len(report.skipped)) == (2, 6, 4)
    assert [image.id for image in stream.batch(0, 6)[0]] == [1, 2, 3, 4, 9, 10]


def test_nothing_that_can_be_read_is_refused(pictures, tmp_path, refused):
    for path in pictures.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    assert "nothing was embedded" in refused(embed, pictures, tmp_path / "out")


def test_a_projection_and_half_precision_make_shards_smaller(pictures, tmp_path):
    embed(pictures, tmp_path / "full")
    _, full = ShardFolder(tmp_path / "full").batch(0, 10)
    projection = Projection.learn(full.reshape(-1, 24), 6)
    settings = EmbedSettings(shard_images=4, kind="float16")
    embed(pictures, tmp_path / "small", settings=settings, projection=projection)
    small = ShardFolder(tmp_path / "small")
    assert small.projection is not None and small.batch(0, 10)[1].shape == (10, 30, 6)
    assert np.abs(small.batch(0, 10)[1].reshape(-1, 6) - projection(full.reshape(-1, 24))).max() < 1e-3


def test_what_was_made_otherwise_or_is_something_else_is_refused(pictures, tmp_path, refused):
    out = tmp_path / "out"
    embed(pictures, out)
    other = TinyEncoder(EncoderInfo("tiny", INFO.dim, INFO.input_size, "1" * 64, INFO.pooling, INFO.licence))
    assert "other weights" in refused(embed, pictures, out, other)
    assert "4 pictures, not 5" in refused(embed, pictures, out, settings=EmbedSettings(shard_images=5))
    assert "features crop, not pooled:640" in refused(embed, pictures, out, settings=EmbedSettings("pooled", 4))
    assert "regions pyramid:4, not pyramid:2" in refused(embed, pictures, out, regions=Pyramid(2))
    assert "is not a folder of shards" in refused(embed, pictures, pictures)
    kept = EmbedSettings(shard_images=4, keep_maps=True)
    assert "--features pooled" in refused(embed, pictures, tmp_path / "new", settings=kept)
    assert not (tmp_path / "new").exists()
    with locked(out / "embed.json"):
        assert "Another index command" in refused(embed, pictures, out)
    assert embed(pictures, out).embedded == 0


def test_annotations_that_lie_about_a_size_are_refused(tmp_path, refused):
    dataset = write_dataset(tmp_path / "set")
    path = dataset / "annotations.json"
    data = json.loads(path.read_text())
    embed(dataset, tmp_path / "out")
    gallery = read_gallery(dataset)
    data["images"][0]["width"] += 1
    path.write_text(json.dumps(data))
    assert gallery.images
    assert "pixels" in refused(embed, dataset, tmp_path / "other")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: EmbedSettings(shard_images=0), "--shard-images"),
        (lambda: EmbedSettings(kind="int8"), "float16"),
        (lambda: RaySettings(workers=0), "--workers"),
        (lambda: RaySettings(cpus=0), "--cpus"),
        (lambda: RaySettings(gpus=1.5), "--gpus"),
        (lambda: RaySettings(gpus=-1), "--gpus"),
        (lambda: RaySettings(gpus=float("nan")), "--gpus"),
    ],
)
def test_numbers_out_of_range_are_refused(refused, make, word):
    assert word in refused(make)


def test_the_command_embeds_says_what_it_did_and_goes_on(pictures, tmp_path, run, monkeypatch):
    monkeypatch.setattr("patchify_core.encoders.load_encoder", lambda spec, settings: TinyEncoder())
    out = tmp_path / "out"
    code, said, _ = run("embed", pictures, "--out", out, "--shard-images", 4)
    assert code == 0 and "10 pictures in 3 shards; 10 embedded" in said
    (pictures / "0003.png").write_bytes(b"no picture")
    code, said, warned = run("embed", pictures, "--out", out, "--shard-images", 4, "--json")
    assert code == 1 and json.loads(said)["images"] == 9 and "0003.png" in warned
    code, _, warned = run("embed", pictures, "--out", out, "--workers", 2)
    assert code == 2 and "add --ray" in warned


def test_without_ray_it_says_what_to_install(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(PatchifyError, match=r"pip install -r requirements-ray\.txt"):
        embed(pictures, tmp_path / "out", ray=RaySettings())
