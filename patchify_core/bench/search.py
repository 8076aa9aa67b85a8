"""Searching, re-ranking and refining boxes on the bundled gallery, each beside a plain or slower way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from patchify_core.bench import in_turn, print_table
from patchify_core.encoders import load_encoder
from patchify_core.files import SAMPLE_DB
from patchify_core.gallery import Query, read_coco
from patchify_core.index.codec.codes import Codes
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import IndexedImage, Pictures
from patchify_core.index.recipe import Recipe
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from patchify_core.retrieval.localize import MapRefiner, SoftRefiner
from patchify_core.retrieval.rerank import load_reranker

SIZES, TOP, SEARCH_RUNS = (164, 1640), 10, 5
QUERIES, SHORTLIST, RUNS = 5, 20, 3
"""Of re-ranking and refining: queries, re-ranked matches, and rounds."""


def _queries() -> list[Query]:
    """Return `QUERIES` of the bundled queries, evenly spaced."""
    queries = read_coco(SAMPLE_DB).queries
    return list(queries[:: len(queries) // QUERIES][:QUERIES])


def measure_search() -> dict[str, Any]:
    """Print milliseconds per query of FAISS, grouped by picture, and of a numpy loop over everything; return them.

    The larger gallery repeats the bundled one's descriptors with noise, so that it has clusters, as real galleries do.
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
            SEARCH_RUNS,
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


def measure_rerank() -> dict[str, Any]:
    """Print seconds per query of re-ranking and of plain OpenCV on whole pictures; return them with the ratio.

    `first` has nothing cached: a new re-ranker each time. `again` repeats the same queries.
    """
    engine = Patchify.open(SAMPLE_DB / "index")
    root = engine.index.root or Path()
    queries = _queries()
    views = [engine.view(query.path, query.box) for query in queries]
    shortlists = [engine.search_descriptor(view.descriptor, SHORTLIST) for view in views]
    again, expansion = load_reranker("sift"), load_reranker("patch-qe")

    def rerank(reranker: Any) -> None:
        for view, matches in zip(views, shortlists, strict=True):
            reranker.rerank(engine, view, matches, None)

    def plain() -> None:
        for query, matches in zip(queries, shortlists, strict=True):
            _plain(query.path, query.box, [root / match.file_name for match in matches])

    rerank(again)
    seconds = in_turn(
        {
            "plain OpenCV": plain,
            "sift, first": lambda: rerank(load_reranker("sift")),
            "sift, again": lambda: rerank(again),
            "patch-qe": lambda: rerank(expansion),
        },
        RUNS,
    )
    each = {name: value / len(queries) for name, value in seconds.items()}
    rows = [(f"one query, shortlist of {SHORTLIST}", "seconds", "faster than plain")]
    rows += [(name, f"{value:.3f}", f"{each['plain OpenCV'] / value:.1f} x") for name, value in each.items()]
    print_table("Re-ranking", rows)
    return {"seconds": each, "ratio_to_plain": each["plain OpenCV"] / each["sift, first"]}


def _plain(query: Path, box: np.ndarray | None, pictures: list[Path]) -> list[int]:
    """Count inliers of SIFT, ratio test and MAGSAC++ on whole pictures, as in OpenCV's tutorials."""
    import cv2

    sift, matcher = cv2.SIFT.create(), cv2.BFMatcher()
    grey = cv2.imread(str(query), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    if box is not None:
        x1, y1, x2, y2 = box.astype(int)
        grey = grey[y1:y2, x1:x2]
    points, described = sift.detectAndCompute(grey, np.ones_like(grey))
    inliers = []
    for path in pictures:
        other = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert other is not None
        other_points, other_described = sift.detectAndCompute(other, np.ones_like(other))
        pairs = [pair for pair in matcher.knnMatch(described, other_described, k=2) if len(pair) == 2]
        good = [near for near, far in pairs if near.distance < 0.85 * far.distance]
        count = 0
        if len(good) >= 4:
            source = np.array([points[match.queryIdx].pt for match in good])
            target = np.array([other_points[match.trainIdx].pt for match in good])
            _, mask = cv2.findHomography(source, target, cv2.USAC_MAGSAC, 6.0)
            count = 0 if mask is None else int(mask.sum())
        inliers.append(count)
    return inliers


def measure_refine() -> dict[str, Any]:
    """Print milliseconds per query of refining the boxes of its results; return them with the size of stored maps.

    `first` has nothing cached: a new refiner for every query. `again` repeats the same queries. The peer is a second
    pass of the network, which an index without stored maps needs.
    """
    engine = Patchify.open(SAMPLE_DB / "indexes" / "pooled")
    maps = engine.index.maps
    assert maps is not None, "the bundled index keeps its maps"
    queries = [engine.describe(query) for query in _queries()]
    shown = [
        [engine.index.row_of[match.image_id] for match in engine.search_descriptor(query.descriptor, TOP)]
        for query in queries
    ]
    again, soft = MapRefiner(engine), SoftRefiner(engine)

    def refine(refiner: Any) -> None:
        for query, rows in zip(queries, shown, strict=True):
            refiner.boxes(query, rows)

    def first() -> None:
        for query, rows in zip(queries, shown, strict=True):
            MapRefiner(engine).boxes(query, rows)

    def second_pass() -> None:
        engine.index.maps = None
        try:
            first()
        finally:
            engine.index.maps = maps

    refine(again)
    seconds = in_turn(
        {
            "map, first": first,
            "map, again": lambda: refine(again),
            "map by a second pass": second_pass,
            "soft": lambda: refine(soft),
        },
        RUNS,
    )
    each = {name: 1000 * value / len(queries) for name, value in seconds.items()}
    rows = [(f"one query, {TOP} results", "milliseconds", "of first")]
    rows += [(name, f"{value:.1f}", f"{value / each['map, first']:.2f} x") for name, value in each.items()]
    print_table("Refining boxes", rows)
    sizes = [len(maps.packed(row)) for row in range(len(maps))]
    print(f"  a stored map takes {np.mean(sizes) / 1000:.0f} kB, at most {max(sizes) / 1000:.0f} kB")
    return {
        "milliseconds": each,
        "ratio_to_second_pass": each["map by a second pass"] / each["map, first"],
        "bytes_per_map": float(np.mean(sizes)),
        "largest_map": max(sizes),
    }
