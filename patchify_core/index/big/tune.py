"""How many lists must a search visit? Measured on held-out queries against a search that visits all of them.

Queries are patches of the collection itself, moved as far as another photograph of the same thing is (a cosine of about
0.8): exact copies would find themselves in the first list.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.files import sha256_of_json, write_json
from patchify_core.index.folder import read_meta
from patchify_core.index.integrity import META_NAME, standing
from patchify_core.index.patch_index import PatchIndex, SearchPlan

TOP = 10
COSINE = 0.8
"""Of a query with the patch that it was made of."""


@dataclass(frozen=True)
class Tuned:
    """What was found.

    Attributes:
        probes: lists that a search visits from now on.
        lists: how many there are.
        recall: share of the first ten pictures of a search of all lists that are found.
        ms: median time of a search, in milliseconds.
        queries: how many were asked.
    """

    probes: int
    lists: int
    recall: float
    ms: float
    queries: int


def tune(folder: str | Path, recall: float = 0.95, queries: int = 100, seed: int = 0) -> Tuned:
    """Finds the fewest lists (by halves) that reach the recall, and keeps that in the index.

    Args:
        folder: index folder with inverted lists.
        recall: wanted, above 0 and at most 1.
        queries: how many to ask, at least 1.
        seed: of which patches they are made of.

    Raises:
        PatchifyError: if the recall or the number makes no sense, or the index has no inverted lists.
        IndexFolderError: if the index is damaged, or another one was put in its place meanwhile.
        OSError: if the choice cannot be written.
    """
    import faiss

    if not 0 < recall <= 1 or queries < 1:
        raise PatchifyError("Ask for a recall above 0 and at most 1, of at least 1 query.")
    folder = Path(folder)
    meta = read_meta(folder)
    index = PatchIndex.load(folder)
    codes = index.codes
    if not isinstance(codes, faiss.IndexIVF):
        raise PatchifyError(
            f"{folder} has no inverted lists ({index.factory}): every search of it is complete already."
        )
    lists = int(codes.nlist)
    start = index.plan or SearchPlan(max(1, min(int(codes.nprobe), lists)))
    asked = _queries(index, queries, seed)
    index.plan = replace(start, probes=lists)
    wanted = [set(index.search(query, TOP).rows.tolist()) for query in asked]
    probes = [*(1 << n for n in range(lists.bit_length()) if 1 << n < lists), lists]
    low, high = 0, len(probes) - 1
    measured: dict[int, tuple[float, float]] = {}
    while low < high:  # recall grows with the lists: halving finds the first that reaches it
        middle = (low + high) // 2
        index.plan = replace(start, probes=probes[middle])
        measured[middle] = _measured(index, asked, wanted)
        low, high = (low, middle) if measured[middle][0] >= recall else (middle + 1, high)
    index.plan = replace(start, probes=probes[low])
    reached, ms = measured.get(low) or _measured(index, asked, wanted)
    _keep(folder, meta, replace(index.plan, recall=round(reached, 4)))
    return Tuned(probes[low], lists, reached, ms, queries)


def _queries(index: PatchIndex, count: int, seed: int) -> list[NDArray[np.float32]]:
    """(dim,) queries of length 1."""
    rng = np.random.default_rng(seed)
    found = []
    for row in rng.integers(len(index.images), size=count).tolist():
        patch = index.descriptors_of(row)[int(rng.integers(index.patches_per_image))]
        patch = patch / max(float(np.linalg.norm(patch)), 1e-12)
        away = rng.standard_normal(len(patch))
        away /= np.linalg.norm(away)
        moved = COSINE * patch + (1 - COSINE**2) ** 0.5 * away
        found.append((moved / np.linalg.norm(moved)).astype(np.float32))
    return found


def _measured(index: PatchIndex, asked: list[NDArray[np.float32]], wanted: list[set[int]]) -> tuple[float, float]:
    """Recall, and the median time of a search in ms."""
    seconds, shares = [], []
    for query, best in zip(asked, wanted, strict=True):
        start = time.perf_counter()
        hits = index.search(query, TOP)
        seconds.append(time.perf_counter() - start)
        shares.append(len(best & {*hits.rows.tolist()}) / len(best))
    return float(np.mean(shares)), float(np.median(seconds) * 1000)


def _keep(folder: Path, meta: dict[str, object], plan: SearchPlan) -> None:
    """Writes the plan into `meta.json`, whole or not at all."""
    place = standing(folder)
    if read_meta(folder)["digest"] != meta["digest"]:
        raise IndexFolderError(f"A build put another index at {folder} meanwhile: run tune again.")
    kept = {key: value for key, value in meta.items() if key != "digest"} | {"search": asdict(plan)}
    kept["digest"] = sha256_of_json(kept)
    write_json(place / META_NAME, kept, 1, sync=True)
