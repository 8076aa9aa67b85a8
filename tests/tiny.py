"""What the other tests are made with: an encoder that costs nothing, and small galleries of seeded pictures."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchify_core.encoders import EncoderInfo

SIDE, DIM, STRIDE = 8, 24, 4
INFO = EncoderInfo("tiny", DIM, SIDE, "0" * 64, "blocks", "none")


class TinyEncoder:
    """An `encoders.base.Encoder` of 24 numbers a crop: mean and spread of each colour in each quadrant.

    It is honest (the descriptor depends on the crop and on nothing else, to the last bit), and it counts what it
    is given, so that tests can say how much was embedded.

    As a `MapEncoder` it gives each 4 x 4 pixels the histogram of their colours, pooled as GeM does; that is another
    space than `encode`'s.
    """

    stride, power, pooled_like_crops = STRIDE, 3.0, False

    def __init__(self, info: EncoderInfo = INFO) -> None:
        self._info = info
        self.batches: list[int] = []
        self.maps: list[tuple[int, int]] = []

    @property
    def info(self) -> EncoderInfo:
        return self._info

    @property
    def encoded(self) -> int:
        return sum(self.batches)

    def prepare(self, picture: Image.Image, box: Sequence[float]) -> NDArray[np.uint8]:
        x1, y1, x2, y2 = (float(value) for value in box)
        return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX, box=(x1, y1, x2, y2)))

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(crops))
        half = SIDE // 2
        blocks = crops.astype(np.float64).reshape(-1, 2, half, 2, half, 3) / 127.5 - 1
        found = np.stack([blocks.mean(axis=(2, 4)), blocks.std(axis=(2, 4))], 1).reshape(-1, DIM)
        found[:, -1] += 0.01  # mid-grey without any structure must not have length 0
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    def feature_map(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = (side // STRIDE for side in pixels.shape[:2])
        self.maps.append((height, width))
        blocks = pixels.reshape(height, STRIDE, width, STRIDE, 3)
        bins = blocks[..., None] // 32 == np.arange(8)  # eight of each colour
        return np.ascontiguousarray(bins.mean(axis=(1, 3)).reshape(height, width, DIM).clip(1e-6), np.float32)

    def describe_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        return (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)


def picture(seed: int, size: tuple[int, int] = (24, 18), cells: int = 6) -> Image.Image:
    """A patchwork of seeded colours, so that no two cells of a pyramid look alike."""
    colours = np.random.default_rng(seed).integers(0, 256, (cells, cells, 3), np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def write_pictures(folder: Path, seeds: Sequence[int], size: tuple[int, int] = (24, 18)) -> Path:
    """One PNG per seed, named after it."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        picture(seed, size).save(folder / f"{seed:04d}.png")
    return folder


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def write_dataset(folder: Path) -> Path:
    """A dataset in the project's layout: two objects, each on three of six pictures, and a query for each."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []

    def add(name: str, split: str, scene: Image.Image, shown: int | None, box: tuple[int, int, int, int]) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if shown is not None:
            x, y, width, height = box
            scene.paste(picture(1000 + shown, (width, height), cells=3), (x, y))
            annotations.append({"image_id": len(images) + 1, "category_id": shown, "bbox": [*box]})
        scene.save(path)
        images.append(
            {"id": len(images) + 1, "file_name": name, "width": scene.width, "height": scene.height, "split": split}
        )

    for number in range(7):
        # Objects stand in a quadrant, or fill most of the picture; the last picture shows none.
        box = [(0, 0, 30, 24), (30, 24, 30, 24), (4, 2, 50, 44)][number % 3]
        add(f"gallery/{number}.png", "gallery", picture(number, (60, 48)), 1 + number // 3 if number < 6 else None, box)
    for shown in (1, 2):
        add(f"queries/{shown}.png", "query", picture(50 + shown, (40, 40)), shown, (5, 6, 30, 24))
    names = [{"id": 1, "name": "rug"}, {"id": 2, "name": "quilt"}]
    data = {"images": images, "annotations": annotations, "categories": names}
    (folder / "annotations.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def tiny_encoder_everywhere() -> None:
    """Gives this process's command line the tiny encoder, whatever it asks for."""
    from patchify_core import encoders, patchify

    for module in (encoders, patchify):
        module.load_encoder = lambda spec="tiny", settings=None: TinyEncoder()  # type: ignore[attr-defined]


if __name__ == "__main__":  # the real command line, in a process of its own that need not wait for torch
    from patchify_core.cli.main import main

    tiny_encoder_everywhere()
    sys.exit(main())
