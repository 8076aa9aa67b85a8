"""Shards with boxes and feature maps yield the same index as the pictures."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from patchify_core.encoders import load_encoder
from patchify_core.errors import IndexFolderError
from patchify_core.features.maps import pack, unpack
from patchify_core.gallery import read_gallery
from patchify_core.index.big import ScaleSettings, add_finer, build_big, build_fitting
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards import EmbedSettings, embed_gallery
from patchify_core.index.shards.folder import ShardFolder, seal_shards
from patchify_core.index.shards.shard import finished_shard, write_shard
from patchify_core.regions import Pyramid, parse_regions
from tests.big import SETTINGS
from tests.tiny import DIM, INFO, TinyEncoder, picture, write_pictures

pytestmark = pytest.mark.usefixtures("one_thread")
SALIENT = parse_regions("pyramid:1+salient:4")
KEPT = EmbedSettings("pooled:64", shard_images=7, keep_maps=True)
AMPLE = ScaleSettings(memory_gb=16)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "holder.json"}


@pytest.fixture
def gallery(tmp_path):
    folder = write_pictures(tmp_path / "pictures", range(20))
    picture(77, (300, 200), cells=9).save(folder / "large.jpg")  # which is decoded at a fraction of its size
    (folder / "twin.png").write_bytes((folder / "0003.png").read_bytes())
    return read_gallery(folder)


def embed(gallery, out, regions=SALIENT, settings=KEPT, **named):
    return embed_gallery(gallery, out, TinyEncoder(), regions, settings, **named)


def test_boxes_and_maps_come_back_as_a_build_of_the_pictures_keeps_them(gallery, tmp_path):
    embed(gallery, tmp_path / "shards")
    build_index(
        gallery, tmp_path / "index", TinyEncoder(), SALIENT, BuildSettings(features="pooled:64", keep_maps=True)
    )
    stream, index = ShardFolder(tmp_path / "shards"), PatchIndex.load(tmp_path / "index")
    assert len(stream) == len(stream.maps) == len(index.images) == 22
    for start, stop in ((0, 22), (5, 9), (6, 8), (21, 22)):
        assert np.array_equal(stream.boxes(start, stop), index.boxes[start:stop])
    for row in range(22):
        assert stream.maps.packed(row) == index.maps.packed(row)
    large = next(row for row, image in enumerate(index.images) if image.file_name == "large.jpg")
    assert stream.boxes(large, large + 1)[0, 0].tolist() == [0, 0, 300, 200]


@pytest.mark.parametrize("regions", [Pyramid(2), SALIENT], ids=str)
@pytest.mark.parametrize("settings", [EmbedSettings(shard_images=7), KEPT], ids=["crop", "maps"])
def test_an_index_of_shards_is_the_one_of_the_pictures_byte_for_byte(gallery, tmp_path, regions, settings):
    embed(gallery, tmp_path / "shards", regions, settings)
    built = BuildSettings(features=settings.features, keep_maps=settings.keep_maps)
    build_index(gallery, tmp_path / "index", TinyEncoder(), regions, built)
    build_fitting(ShardFolder(tmp_path / "shards"), tmp_path / "out", AMPLE, root=gallery.root)
    assert contents(tmp_path / "out") == contents(tmp_path / "index")
    write_pictures(gallery.root, [77])
    tiny = TinyEncoder()
    report = build_index(read_gallery(gallery.root), tmp_path / "out", tiny, regions, built)
    assert (report.embedded, report.reused) == (1, 22)


def test_the_bundled_gallery_comes_out_the_same_by_either_way(sample_gallery, tmp_path):
    """With the real encoder, whose descriptors depend on the batch: eight pictures, so that it takes seconds."""
    gallery = dataclasses.replace(sample_gallery, images=sample_gallery.images[:8], queries=())
    encoder, built = load_encoder("effnet-lite0"), BuildSettings(features="pooled:320", keep_maps=True)
    for regions in (Pyramid(4), parse_regions("salient:5")):
        out = tmp_path / regions.spec.replace(":", "-")
        settings = EmbedSettings("pooled:320", 3, keep_maps=True)
        embed_gallery(gallery, out / "shards", encoder, regions, settings)
        build_fitting(ShardFolder(out / "shards"), out / "a", AMPLE, root=gallery.root)
        build_index(gallery, out / "b", encoder, regions, built)
        assert contents(out / "a") == contents(out / "b")


@pytest.fixture
def big(tmp_path):
    """(stream, folder) of a big index with boxes and maps."""
    folder = write_pictures(tmp_path / "many", range(90))
    embed_gallery(read_gallery(folder), tmp_path / "shards", TinyEncoder(), SALIENT, KEPT)
    stream = ShardFolder(tmp_path / "shards")
    build_big(stream, tmp_path / "big", dataclasses.replace(SETTINGS, lists=4, part_pictures=40), root=folder)
    return stream, tmp_path / "big"


def test_a_big_index_has_boxes_and_maps_too(big, tmp_path):
    stream, folder = big
    index = PatchIndex.load(folder)
    assert index.plan is not None and index.recipe.maps and len(index.maps) == len(index.images) == 90
    assert np.array_equal(index.boxes, stream.boxes(0, 90)) and not index.boxes.flags.writeable
    assert index.boxes_of(41).tolist() == stream.boxes(41, 42)[0].tolist()
    assert index.box_of(41, 2).tolist() == stream.boxes(41, 42)[0, 2].tolist()
    assert index.maps.packed(41) == stream.maps.packed(41)
    query = index.project(stream.batch(41, 42)[1][0])[2]
    assert 41 in index.search(query, 5).rows
    build_big(
        stream, tmp_path / "other", dataclasses.replace(SETTINGS, lists=4, part_pictures=7), root=tmp_path / "many"
    )
    assert contents(tmp_path / "other") == contents(folder)
    add_finer(stream, folder, "SQ8")
    finer = PatchIndex.load(folder)
    assert finer.fine is not None and np.array_equal(finer.boxes, index.boxes)
    assert finer.maps.packed(3) == index.maps.packed(3)


@pytest.mark.parametrize("name", ["boxes.npy", "maps.bin"])
def test_a_damaged_file_of_a_big_index_is_refused(big, name, refused):
    _, folder = big
    data = bytearray((folder / name).read_bytes())
    for damaged in (data[:-3], data[:200] + bytes([data[200] ^ 8]) + data[201:], None):
        (folder / name).unlink() if damaged is None else (folder / name).write_bytes(damaged)
        assert name in refused(PatchIndex.load, folder)


@pytest.mark.parametrize("suffix", ["boxes", "maps"])
@pytest.mark.parametrize("how", ["gone", "flipped", "short"])
def test_a_damaged_shard_alone_is_embedded_again(gallery, tmp_path, suffix, how):
    out = tmp_path / "shards"
    embed(gallery, out)
    before = contents(out)
    path = out / f"shard-00001.{suffix}"
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-7] if how == "short" else data[:9] + bytes([data[9] ^ 4]) + data[10:])
    with pytest.raises(IndexFolderError, match=rf"shard-00001\.{suffix} is missing, truncated"):
        ShardFolder(out).batch(8, 9)
    assert embed(gallery, out).embedded == 7
    assert contents(out) == before


def test_cut_anywhere_boxes_and_maps_stay_with_their_pictures(gallery, tmp_path):
    embed(gallery, tmp_path / "whole")
    for cut in (1, 7, 8, 15, 21):
        out = tmp_path / f"cut{cut}"

        def stop(done, total, cut=cut):
            if done == cut:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            embed(gallery, out, progress=stop)
        embed(gallery, out)
        assert contents(out) == contents(tmp_path / "whole")


def test_shards_with_and_without_maps_are_not_mixed(gallery, tmp_path, refused):
    out, without = tmp_path / "shards", dataclasses.replace(KEPT, keep_maps=False)
    embed(gallery, out)
    assert "was made with feature maps, not without (--keep-maps)" in refused(embed, gallery, out, settings=without)
    embed(gallery, tmp_path / "plain", settings=without)
    assert "without feature maps, not with" in refused(embed, gallery, tmp_path / "plain")
    assert "maps" not in json.loads((tmp_path / "plain" / "embed.json").read_text())["maker"]
    assert ShardFolder(tmp_path / "plain").maps is None
    assert "--features pooled" in refused(embed, gallery, tmp_path / "x", settings=EmbedSettings(keep_maps=True))


def test_a_folder_that_lacks_what_its_regions_need_is_refused(tmp_path, refused):
    images = read_gallery(write_pictures(tmp_path / "pictures", range(2)))
    embed_gallery(images, tmp_path / "shards", TinyEncoder(), Pyramid(2))
    table, vectors = ShardFolder(tmp_path / "shards").batch(0, 2)
    boxes = np.zeros((2, 5, 4), np.float32)
    assert "depend on the pixels" in refused(ShardFolder(tmp_path / "shards").boxes, 0, 2)
    for name, regions, given in (("a", "salient:5", None), ("b", "pyramid:2", boxes)):
        write_shard(tmp_path / name, 0, list(table), vectors, boxes=given)
        seal_shards(tmp_path / name, Recipe(INFO, parse_regions(regions)))
        assert "stream.json is missing, truncated or not the file" in refused(ShardFolder, tmp_path / name)
    write_shard(tmp_path / "c", 0, list(table), vectors, boxes=boxes)
    write_shard(tmp_path / "c", 1, list(table), vectors)
    assert "shape" in refused(seal_shards, tmp_path / "c", Recipe(INFO, parse_regions("salient:5")))
    assert "a box for each" in refused(write_shard, tmp_path / "d", 0, list(table), vectors, boxes=boxes[:, :3])


def test_an_entry_cannot_name_other_files(tmp_path):
    images = read_gallery(write_pictures(tmp_path / "pictures", range(2)))
    embed_gallery(images, tmp_path / "shards", TinyEncoder(), Pyramid(2))
    path = tmp_path / "shards" / "shard-00000.json"
    entry = json.loads(path.read_text())
    assert finished_shard(tmp_path / "shards", 0) == entry
    for files in ({}, [], None, {"pictures": entry["files"]["pictures"]}, entry["files"] | {"x/../y": {}}):
        path.write_text(json.dumps(entry | {"files": files}))
        assert finished_shard(tmp_path / "shards", 0) is None


def test_a_map_is_the_one_that_was_packed(gallery, tmp_path):
    embed(gallery, tmp_path / "shards")
    kept = unpack(ShardFolder(tmp_path / "shards").maps.packed(2))
    assert kept.cells.shape[2] == DIM and pack(kept)


def test_the_commands_embed_and_index_with_boxes_and_maps(gallery, tmp_path, run, monkeypatch):
    monkeypatch.setattr("patchify_core.encoders.load_encoder", lambda spec, settings: TinyEncoder())
    how = ("--regions", SALIENT.spec, "--features", "pooled:64", "--keep-maps")
    assert run("embed", gallery.root, "--out", tmp_path / "shards", *how)[0] == 0
    code, _, said = run("index", "--from-shards", tmp_path / "shards", "--out", tmp_path / "index", "--memory", 1)
    assert code == 0, said
    index = PatchIndex.load(tmp_path / "index")
    assert index.boxes.shape == (22, 5, 4) and len(index.maps) == 22 and index.root == gallery.root.resolve()
    index.check_pictures(index.root, content=True)
