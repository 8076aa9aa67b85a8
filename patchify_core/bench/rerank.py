"""Re-ranking a shortlist of 20: ours against the plain way with OpenCV, whole picture against whole picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from patchify_core.bench import in_turn, print_table
from patchify_core.files import SAMPLE_DB
from patchify_core.gallery import read_coco
from patchify_core.patchify import Patchify
from patchify_core.retrieval.rerank import load_reranker

QUERIES, RUNS, SHORTLIST = 5, 3, 20


def measure() -> dict[str, Any]:
    """Print seconds per query, first time and again, and return them with the ratio to the plain way.

    `first` has nothing cached: a new re-ranker each time. `again` asks the same question once more.
    """
    engine = Patchify.open(SAMPLE_DB / "index")
    root = engine.index.root or Path()
    queries = read_coco(SAMPLE_DB).queries[:: 36 // QUERIES][:QUERIES]
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
    """SIFT, ratio test and MAGSAC++ as OpenCV's tutorials have it, every picture whole."""
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
