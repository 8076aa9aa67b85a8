"""Search latency and the index's size: FAISS with our grouping by picture against a numpy loop over everything."""

from __future__ import annotations

from typing import Any

import numpy as np

from patchify_core.bench import in_turn, print_table
from patchify_core.encoders import load_encoder
from patchify_core.files import SAMPLE_DB
from patchify_core.index.codec.codes import Codes
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import IndexedImage, Pictures
from patchify_core.index.recipe import Recipe
from patchify_core.regions import Pyramid

SIZES, RUNS, TOP = (164, 1640), 5, 10


def measure() -> dict[str, Any]:
    """Print milliseconds for one query, and return them with the ratios.

    The larger gallery repeats the bundled one's descriptors with noise, so that it has clusters as real ones have.
    """
    import faiss

    bundled = PatchIndex.load(SAMPLE_DB / "index")
    encoder = load_encoder(bundled.encoder.spec)
    pyramid = Pyramid(4)
    base = np.concatenate([bundled.descriptors_of(row) for row in range(len(bundled.images))])
    random = np.random.default_rng(0)
    query = base[random.integers(len(base))]
    query = query / np.linalg.norm(query)
    numbers: dict[str, Any] = {}
    rows = [("gallery", "FAISS Flat, top 10", "FAISS SQ8, top 10", "numpy loop", "Flat is", "Flat bytes/picture")]
    for size in SIZES:
        copies = [base] + [
            base + random.normal(0, 0.01, base.shape).astype(np.float32) for _ in range(size // len(bundled.images) - 1)
        ]
        vectors = np.concatenate(copies)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        images = [IndexedImage(i + 1, f"{i}.jpg", 640, 480, 0, "") for i in range(size)]
        indexes = {}
        for factory in ("Flat", "SQ8"):
            codes = faiss.index_factory(encoder.info.dim, factory, faiss.METRIC_INNER_PRODUCT)
            codes.train(vectors[:5000])
            codes.add(vectors)
            indexes[factory] = PatchIndex(
                Recipe(encoder.info, pyramid, factory=factory), Pictures(images), Codes(factory, codes)
            )

        def numpy_loop(vectors: np.ndarray = vectors, size: int = size) -> np.ndarray:
            patches = pyramid.patches_per_image
            best = [(vectors[i * patches : (i + 1) * patches] @ query).max() for i in range(size)]
            return np.argsort(best)[::-1][:TOP]

        seconds = in_turn(
            {
                "Flat": lambda: indexes["Flat"].search(query, TOP),  # noqa: B023  (used within this turn only)
                "SQ8": lambda: indexes["SQ8"].search(query, TOP),  # noqa: B023
                "numpy": numpy_loop,
            },
            RUNS,
        )
        assert indexes["Flat"].search(query, TOP).rows[0] == numpy_loop()[0], "FAISS and numpy disagree"
        milliseconds = {name: 1000 * value for name, value in seconds.items()}
        ratio = milliseconds["numpy"] / milliseconds["Flat"]
        numbers[str(size)] = {"ms": milliseconds, "ratio_to_numpy": ratio}
        rows.append(
            (
                f"{size} pictures",
                f"{milliseconds['Flat']:.1f} ms",
                f"{milliseconds['SQ8']:.1f} ms",
                f"{milliseconds['numpy']:.1f} ms",
                f"{ratio:.2f} x",
                f"{indexes['Flat'].bytes_per_image:.0f}",
            )
        )
    print_table("One query, exact, grouped by picture", rows)
    return numbers
