"""A small collection built as a big one: seeded clusters of descriptors, as a stream. Run by itself it builds."""

from __future__ import annotations

import sys
import time

import numpy as np

from patchify_core.index.big import ScaleSettings, build_big
from patchify_core.index.codec.projection import Projection
from patchify_core.index.pictures import IndexedImage, PictureTable
from patchify_core.index.recipe import Recipe
from patchify_core.index.store import PictureStream
from patchify_core.regions import Pyramid
from tests.tiny import DIM, INFO

SETTINGS = ScaleSettings(lists=16, projection=12, code_bytes=2, part_pictures=100)


class Clusters(PictureStream):
    """A `PictureStream` of pictures with five patches each."""

    recipe = Recipe(INFO, Pyramid(2))
    projection: Projection | None = None

    def __init__(self, count: int = 450, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        centres = rng.standard_normal((30, DIM))
        found = centres[rng.integers(0, 30, (count, 5))] + 0.5 * rng.standard_normal((count, 5, DIM))
        self.vectors = (found / np.linalg.norm(found, axis=2, keepdims=True)).astype(np.float32)
        self.table = PictureTable.of([IndexedImage(3 * i + 7, f"{i}.jpg", 40, 30, 0, "0" * 64) for i in range(count)])

    def __len__(self) -> int:
        return len(self.table)

    def batch(self, start: int, stop: int) -> tuple[PictureTable, np.ndarray]:
        return self.table[start:stop], self.vectors[start:stop].copy()


if __name__ == "__main__":
    import faiss

    faiss.omp_set_num_threads(1)

    def said(done: int, total: int) -> None:
        print(done, flush=True)
        time.sleep(0.2)  # so that whoever kills it on a line need not be quicker than the build

    build_big(Clusters(), sys.argv[1], SETTINGS, said)
