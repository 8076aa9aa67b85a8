from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.index.codec.projection import Projection
from patchify_core.index.pictures import IndexedImage
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards.folder import ShardFolder, seal_shards
from patchify_core.index.shards.shard import finished_shard, write_shard
from patchify_core.regions import Pyramid
from tests.shards import ShardWriter
from tests.tiny import DIM, INFO

REGIONS = Pyramid(2)
SIZES = (4, 1, 6, 3)


def images(start: int, count: int) -> list[IndexedImage]:
    return [IndexedImage(i, f"{i}.png", 8, 9, i, f"{i:064x}") for i in range(start, start + count)]


def vectors(count: int, dim: int = DIM) -> np.ndarray:
    found = np.random.default_rng(5).standard_normal((count, REGIONS.patches_per_image, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=2, keepdims=True)


def written(folder: Path, kind: str = "float32", projection: Projection | None = None) -> np.ndarray:
    every = vectors(sum(SIZES), DIM if projection is None else projection.dim)
    writer, at = ShardWriter(folder, INFO, REGIONS, projection=projection, kind=kind), 0
    for size in SIZES:
        writer.add(images(at, size), every[at : at + size])
        at += size
    writer.finish()
    return every


def test_any_run_of_pictures_comes_back_as_it_was_written(tmp_path: Path) -> None:
    every = written(tmp_path / "s")
    stream = ShardFolder(tmp_path / "s")
    assert len(stream) == len(every) and stream.encoder == INFO and stream.regions == REGIONS
    assert stream.recipe.features == "crop" and stream.projection is None
    listed = images(0, len(every))
    for start in range(len(every)):
        for stop in range(start + 1, len(every) + 1):
            table, found = stream.batch(start, stop)
            assert list(table) == listed[start:stop]
            assert found.dtype == np.float32 and np.array_equal(found, every[start:stop])
    with pytest.raises(IndexError):
        stream.batch(3, len(every) + 1)


def test_half_precision_and_a_projection_are_kept(tmp_path: Path) -> None:
    sample = vectors(40).reshape(-1, DIM)
    projection = Projection.learn(sample, 8)
    every = written(tmp_path / "s", "float16", projection)
    stream = ShardFolder(tmp_path / "s")
    found = stream.batch(0, len(every))[1]
    assert found.shape[2] == 8 and np.abs(found - every).max() < 1e-3
    assert stream.projection is not None and np.array_equal(stream.projection.axes, projection.axes)


def test_shards_are_written_in_any_order_and_again(tmp_path: Path) -> None:
    every = vectors(6)
    for number in (2, 0, 0):
        write_shard(tmp_path, number, images(2 * number, 2), every[2 * number : 2 * number + 2])
    assert {n for n in range(5) if finished_shard(tmp_path, n)} == {0, 2}
    with pytest.raises(IndexFolderError, match=r"shard-00001.json is missing"):
        seal_shards(tmp_path, Recipe(INFO, REGIONS), shards=3)
    write_shard(tmp_path, 1, images(2, 2), every[2:4])
    seal_shards(tmp_path, Recipe(INFO, REGIONS), shards=3)
    assert np.array_equal(ShardFolder(tmp_path).batch(0, 6)[1], every)


@pytest.mark.parametrize("suffix", ["pictures", "descriptors"])
@pytest.mark.parametrize("how", ["bit", "cut", "gone"])
def test_a_damaged_shard_is_named(suffix: str, how: str, tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / f"shard-00002.{suffix}"
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        with pytest.raises(IndexFolderError, match=path.name):
            ShardFolder(tmp_path)
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes(data if how == "bit" else data[:-3])
        stream = ShardFolder(tmp_path)
        stream.batch(0, 4)  # of whole shards
        with pytest.raises(IndexFolderError, match=path.name):
            stream.batch(3, 7)
    assert {n for n in range(5) if finished_shard(tmp_path, n)} == {0, 1, 3}


def test_what_is_no_stream_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(IndexFolderError, match="not a finished folder of shards"):
        ShardFolder(tmp_path / "nowhere")
    written(tmp_path)
    path = tmp_path / "stream.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"format": 9}))
    with pytest.raises(IndexFolderError, match="format 9"):
        ShardFolder(tmp_path)
    path.write_text(json.dumps(meta | {"features": "pooled:64"}))
    with pytest.raises(IndexFolderError, match=r"stream.json is missing, truncated or not"):
        ShardFolder(tmp_path)
    path.write_text("[")
    with pytest.raises(IndexFolderError, match=r"stream\.json"):
        ShardFolder(tmp_path)


def test_pictures_and_descriptors_must_fit_together(tmp_path: Path) -> None:
    with pytest.raises(PatchifyError, match="descriptors of its n pictures"):
        write_shard(tmp_path, 0, images(0, 2), vectors(3))
    with pytest.raises(PatchifyError, match="descriptors of its n pictures"):
        write_shard(tmp_path, 0, images(0, 3), vectors(3), "int8")
