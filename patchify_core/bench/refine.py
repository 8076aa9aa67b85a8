"""Refining the boxes of ten shown results: on kept maps, against a second pass of the network."""

from __future__ import annotations

from typing import Any

import numpy as np

from patchify_core.bench import in_turn, print_table
from patchify_core.files import SAMPLE_DB
from patchify_core.gallery import read_coco
from patchify_core.patchify import Patchify
from patchify_core.retrieval.localize import MapRefiner, SoftRefiner

QUERIES, RUNS, SHOWN = 4, 3, 10


def measure() -> dict[str, Any]:
    """Print milliseconds per query, and return them with the ratio to a second pass and the bytes of a kept map.

    `first` has nothing ready: a new refiner for every query. `again` refines in pictures that were refined before.
    """
    engine = Patchify.open(SAMPLE_DB / "indexes" / "pooled")
    maps = engine.index.maps
    assert maps is not None, "the bundled index keeps its maps"
    queries = read_coco(SAMPLE_DB).queries[:: 36 // QUERIES][:QUERIES]
    descriptors = [engine.describe(query) for query in queries]
    shown = [
        [engine.index.row_of[match.image_id] for match in engine.search_descriptor(query, SHOWN)]
        for query in descriptors
    ]
    again, soft = MapRefiner(engine), SoftRefiner(engine)

    def refine(refiner: Any) -> None:
        for query, rows in zip(descriptors, shown, strict=True):
            refiner.boxes(query, rows)

    def first() -> None:
        for query, rows in zip(descriptors, shown, strict=True):
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
    rows = [(f"one query, {SHOWN} results", "milliseconds", "of first")]
    rows += [(name, f"{value:.1f}", f"{value / each['map, first']:.2f} x") for name, value in each.items()]
    print_table("Refining boxes", rows)
    sizes = [len(maps.packed(row)) for row in range(len(maps))]
    print(f"  a kept map takes {np.mean(sizes) / 1000:.0f} kB, at most {max(sizes) / 1000:.0f} kB")
    return {
        "milliseconds": each,
        "ratio_to_second_pass": each["map by a second pass"] / each["map, first"],
        "bytes_per_map": float(np.mean(sizes)),
        "largest_map": max(sizes),
    }
