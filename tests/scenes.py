"""Scenes for what looks for objects: a patchwork of strong colours, once, twice or never, on a quiet background."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from patchify_core.gallery import read_folder
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid, Regions
from patchify_core.retrieval.searcher import QueryView
from tests.tiny import TinyEncoder, picture

SIZE = (160, 120)
Box = tuple[int, int, int, int]

ONE: tuple[Box, ...] = ((50, 30, 100, 70),)
TWO: tuple[Box, ...] = ((10, 20, 60, 60), (100, 70, 150, 110))
SCENES: dict[str, Sequence[Box]] = {
    "one.png": ONE,
    "two.png": TWO,
    "none.png": (),
    "corner.png": ((0, 0, 40, 32),),
    "large.png": ((10, 8, 150, 112),),
    "low.png": ((60, 76, 110, 116),),
}


def thing(size: tuple[int, int] = (50, 40)) -> Image.Image:
    """The object that is looked for."""
    return picture(1002, size, cells=3)


def scene(boxes: Sequence[Box], seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """Grey with a little noise, and the object in each of the boxes (pixels)."""
    shade = np.random.default_rng(seed).integers(96, 128, (size[1], size[0], 1), np.uint8)
    made = Image.fromarray(np.repeat(shade, 3, axis=2))
    for x1, y1, x2, y2 in boxes:
        made.paste(thing((x2 - x1, y2 - y1)), (x1, y1))
    return made


def write_scenes(folder: Path) -> Path:
    """`SCENES` as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, boxes) in enumerate(SCENES.items()):
        scene(boxes, seed).save(folder / name)
    return folder


def engine_of(
    folder: Path, out: Path, features: str = "pooled:128", keep_maps: bool = True, regions: Regions | None = None
) -> Patchify:
    """An index of a folder of pictures by the tiny encoder, ready to be asked."""
    settings = BuildSettings(features=features, keep_maps=keep_maps)
    build_index(read_folder(folder), out, TinyEncoder(), regions or Pyramid(3), settings)
    return Patchify(PatchIndex.load(out), TinyEncoder())


def asked(engine: Patchify) -> QueryView:
    """A query for the object, from a picture that shows nothing else beside the background."""
    return engine.view(scene([(40, 30, 115, 90)], seed=99), (40, 30, 115, 90))


def row_named(engine: Patchify, name: str) -> int:
    """Row of the picture with that file name."""
    return next(row for row, image in enumerate(engine.index.images) if image.file_name == name)
