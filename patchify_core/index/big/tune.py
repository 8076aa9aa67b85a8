"""Measure how many inverted lists a search must visit to agree with a search of all lists.

Queries are patches of the collection, perturbed to a cosine of about 0.8, that of another photograph of the same
object: unperturbed patches would find themselves in the first list.
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
from patchify_core.index.integrity import META_NAME
from patchify_core.index.patch_index import PatchIndex, SearchPlan
from patchify_core.index.swap import current_place

TOP = 10
COSINE = 0.8
"""Similarity of a query to the patch that it was made from."""


@dataclass(frozen=True)
class Tuned:
    """Result of `tune`.

    Attributes:
        probes: Lists that a search visits from now on.
        lists: Number of lists.
        recall: Share of the top ten pictures of a search of all lists that is found, 0..1.
        ms: Median search time in milliseconds.
        queries: Number of queries.
    """

    probes: int
    lists: int
    recall: float
    ms: float
    queries: int


def tune(folder: str | Path, recall: float = 0.95, queries: int = 100, seed: int = 0) -> Tuned:
    """Find the smallest power of two of lists that reaches the recall, and store it in the index.

    Args:
        folder: Index folder with inverted lists.
        recall: Recall to reach, above 0 and at most 1.
        queries: Number of queries, at least 1.
        seed: Of the choice of patches.

    Raises:
        PatchifyError: Recall or number of queries is invalid, or the index has no inverted lists.
        IndexFolderError: The index is damaged, or was replaced meanwhile.
        OSError: The result cannot be written.
    """
    import faiss

    if not 0 < recall <= 1 or queries < 1:
        raise PatchifyError("The recall must be above 0 and at most 1, and the number of queries at least 1.")
    folder = Path(folder)
    meta = read_meta(folder)
    index = PatchIndex.load(folder)
    codes = index.codes
    if not isinstance(codes, faiss.IndexIVF):
        raise PatchifyError(
            f"{folder} has no inverted lists ({index.factory}): every search of it is exhaustive already."
        )
    lists = int(codes.nlist)
    start = index.plan or SearchPlan(max(1, min(int(codes.nprobe), lists)))
    sample = _queries(index, queries, seed)
    index.plan = replace(start, probes=lists)
    wanted = [set(index.search(query, TOP).rows.tolist()) for query in sample]
    probes = [*(1 << n for n in range(lists.bit_length()) if 1 << n < lists), lists]
    low, high = 0, len(probes) - 1
    measured: dict[int, tuple[float, float]] = {}
    while low < high:  # binary search, since recall grows with the number of lists
        middle = (low + high) // 2
        index.plan = replace(start, probes=probes[middle])
        measured[middle] = _measured(index, sample, wanted)
        low, high = (low, middle) if measured[middle][0] >= recall else (middle + 1, high)
    index.plan = replace(start, probes=probes[low])
    reached, ms = measured.get(low) or _measured(index, sample, wanted)
    _save(folder, meta, replace(index.plan, recall=round(reached, 4)))
    return Tuned(probes[low], lists, reached, ms, queries)


def _queries(index: PatchIndex, count: int, seed: int) -> list[NDArray[np.float32]]:
    """Make (dim,) queries of length 1."""
    rng = np.random.default_rng(seed)
    queries = []
    for row in rng.integers(len(index.images), size=count).tolist():
        patch = index.descriptors_of(row)[int(rng.integers(index.patches_per_image))]
        patch = patch / max(float(np.linalg.norm(patch)), 1e-12)
        noise = rng.standard_normal(len(patch))
        noise /= np.linalg.norm(noise)
        query = COSINE * patch + (1 - COSINE**2) ** 0.5 * noise
        queries.append((query / np.linalg.norm(query)).astype(np.float32))
    return queries


def _measured(index: PatchIndex, queries: list[NDArray[np.float32]], wanted: list[set[int]]) -> tuple[float, float]:
    """Return the recall, and the median search time in ms."""
    seconds, shares = [], []
    for query, best in zip(queries, wanted, strict=True):
        start = time.perf_counter()
        hits = index.search(query, TOP)
        seconds.append(time.perf_counter() - start)
        shares.append(len(best & {*hits.rows.tolist()}) / len(best))
    return float(np.mean(shares)), float(np.median(seconds) * 1000)


def _save(folder: Path, meta: dict[str, object], plan: SearchPlan) -> None:
    """Write the plan into `meta.json` atomically."""
    place = current_place(folder)
    if read_meta(folder)["digest"] != meta["digest"]:
        raise IndexFolderError(f"A build put another index at {folder} meanwhile: run tune again.")
    meta = {key: value for key, value in meta.items() if key != "digest"} | {"search": asdict(plan)}
    meta["digest"] = sha256_of_json(meta)
    write_json(place / META_NAME, meta, 1, sync=True)
