"""The stages of `bench scale`: exact results, our index, our search, and each of the peers.

Each runs in a process of its own, so that its peak memory can be measured. A task file describes it (`ScaleStage`); its
results are written beside the task atomically, and mark the stage as finished.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.bench.scale.collection import ScaleSource, SyntheticPictures
from patchify_core.bench.scale.exact import (
    ExactRanking,
    cold_latencies,
    exact_ranking,
    latencies,
    memory,
    quality_of,
    uncached,
    watched,
)
from patchify_core.bench.scale.peers import PEERS
from patchify_core.errors import PatchifyError
from patchify_core.files import write_json
from patchify_core.index.codec.codes import Codes
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import Pictures
from patchify_core.index.recipe import Recipe

TOP = 10
INDEX, GRAPH, EXACT = "index", "index-fast", "exact.npz"
MORE_PROBES = (16, 32, 64, 128, 256, 512)
MORE_CANDIDATES = (64, 128, 256, 512, 1024)


WORK = "import sys; from patchify_core.bench.scale.stages import work; sys.exit(work(sys.argv[1]))"

STDERR = 2
"""The file descriptor, which exists even if `sys.stderr` is not a file."""

REFUSED, STOPPED = 2, 130
"""Exit codes of a stage that was refused or interrupted."""


@dataclass(frozen=True)
class ScaleStage:
    """One stage at one size of the collection.

    Attributes:
        name: `exact`, `build`, `search`, `finer`, `refined`, `graph`, `flat`, or `peer-` and a key of `PEERS`.
        folder: Folder of the size.
        source: File of the `ScaleSource`.
        pictures: Size of the collection.
        seed: Seed of the collection.
        memory_gb: Memory budget of our index.
        rescore: Factory of the finer codes that are added to our index after it was measured without, or None.
        least_s: Least seconds for which latencies are measured.
        overlap: Overlap with the exact results that a peer's setting must reach.
    """

    name: str
    folder: str
    source: str
    pictures: int
    seed: int
    memory_gb: float
    rescore: str | None
    least_s: float
    overlap: float = 0.0

    @property
    def result(self) -> Path:
        """The file of the results."""
        return Path(self.folder) / f"{self.name}.json"


def run_stage(stage: ScaleStage) -> dict[str, Any]:
    """Read the results of a stage from its file, or run it in a process of its own.

    Raises:
        PatchifyError: If it was refused or killed.
        KeyboardInterrupt: If it was stopped from the keyboard.
        RuntimeError: If it failed otherwise; its output is on stderr.
    """
    if stage.result.is_file():
        result: dict[str, Any] = json.loads(stage.result.read_text(encoding="utf-8"))
        return result
    task = stage.result.with_suffix(".task")
    task.write_text(json.dumps(asdict(stage)), encoding="utf-8")
    root = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", WORK, str(task)]
    # Output of libraries must not come between the lines of the table.
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, stdout=STDERR)
    if done.returncode:
        refusal = stage.result.with_suffix(".refused")
        if done.returncode == REFUSED and refusal.is_file():
            raise PatchifyError(refusal.read_text(encoding="utf-8"))
        if done.returncode == STOPPED:
            raise KeyboardInterrupt
        if done.returncode < 0:
            raise PatchifyError(
                f"The stage {stage.name} of {stage.pictures:,} pictures was killed (signal {-done.returncode}), "
                "perhaps for want of memory: the same command goes on there."
            )
        raise RuntimeError(f"the stage {stage.name} of {stage.pictures} pictures ended with code {done.returncode}")
    task.unlink()
    return run_stage(stage)


def _exact(stage: ScaleStage, stream: SyntheticPictures) -> dict[str, Any]:
    with watched() as watch:
        best = exact_ranking(stream, TOP, Path(stage.folder) / EXACT, _progress(f"exact, {stage.pictures:,}"))
    patches = best.rows * stream.regions.patches_per_image + best.cells
    quality = quality_of(list(patches), best, stream.planted, stream.regions.patches_per_image)
    return quality | {"queries": len(patches), "sweep_s": watch.seconds} | {"build_memory": memory()}


def _build(stage: ScaleStage, stream: SyntheticPictures) -> dict[str, Any]:
    from patchify_core.index.big import ScaleSettings, build_big

    out = Path(stage.folder) / INDEX
    settings = ScaleSettings(memory_gb=stage.memory_gb)
    spent = _Elapsed(Path(stage.folder) / "build.spent")
    with watched() as watch:
        report = build_big(stream, out, settings, spent.tracking(_progress(f"build, {stage.pictures:,}")))
    return {
        "build_s": spent.total(watch.seconds),
        "timing": watch.as_dict(),
        "report": asdict(report),
        "disk_bytes": report.bytes,
        "build_memory": memory(),
    }


def _finer(stage: ScaleStage, stream: SyntheticPictures) -> dict[str, Any]:
    """Add finer codes on disk to the existing index, which re-score the first pictures of a search."""
    from patchify_core.index.big import add_finer

    assert stage.rescore is not None
    out, spent = Path(stage.folder) / INDEX, _Elapsed(Path(stage.folder) / "finer.spent")
    progress = spent.tracking(_progress(f"finer codes, {stage.pictures:,}"))
    with watched() as watch:
        report = add_finer(stream, out, stage.rescore, progress)
    return {
        "rescore": stage.rescore,
        "finer_s": spent.total(watch.seconds),
        "timing": watch.as_dict(),
        "disk_bytes": report.bytes,
        "build_memory": memory(),
    }


def _graph(stage: ScaleStage, stream: SyntheticPictures) -> dict[str, Any]:
    """Build and search an index of the preset `fast`."""
    from patchify_core.index.big import ScaleSettings, build_fitting

    progress = _progress(f"graph, {stage.pictures:,}")
    with watched() as watch:
        report = build_fitting(stream, Path(stage.folder) / GRAPH, ScaleSettings(factory="fast"), progress)
    result = {"build_s": watch.seconds, "timing": watch.as_dict(), "disk_bytes": report.bytes}
    return result | {"build_memory": memory()} | _search(stage, stream, GRAPH)


def _search(stage: ScaleStage, stream: SyntheticPictures, name: str = INDEX) -> dict[str, Any]:
    folder = Path(stage.folder) / name
    uncached(folder)
    with watched() as watch:
        index = PatchIndex.load(folder)
    loaded = memory()
    queries, patches = stream.source.queries, index.patches_per_image

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
        hits = index.search(query, TOP)
        return hits.rows * patches + hits.cells

    uncached(folder)  # loading reads everything to check it
    result: dict[str, Any] = {
        "load_s": watch.seconds,
        "loaded_memory": loaded,
        "bytes_per_patch": index.bytes_per_patch,
    }
    result |= cold_latencies(search, queries)
    result |= latencies(search, queries, stage.least_s) | _throughput(search, queries, stage.least_s)
    exact = _exact_of(stage)
    result |= quality_of([search(query) for query in queries], exact, stream.planted, patches)
    result["search_memory"] = memory()
    result["curve"] = []
    codes: Any = index.codes

    def measured(**knob: int) -> None:
        curve = knob | latencies(search, queries, stage.least_s / 4)
        curve |= quality_of([search(query) for query in queries], exact, stream.planted, patches)
        result["curve"].append(curve)

    plan = index.plan
    if plan is not None:
        result["probes"] = plan.probes
        for probes in MORE_PROBES:
            if probes <= int(codes.nlist):
                index.plan = replace(plan, probes=probes)
                measured(probes=probes)
    if name == GRAPH:
        result["candidates"] = int(codes.hnsw.efSearch)
        for codes.hnsw.efSearch in MORE_CANDIDATES:
            measured(candidates=codes.hnsw.efSearch)
    return result


def _flat(stage: ScaleStage, stream: SyntheticPictures) -> dict[str, Any]:
    """Search exact descriptors with our grouping, and compare with IndexFlatIP alone."""
    import faiss

    patches = stream.regions.patches_per_image
    with watched() as watch:
        codes = faiss.IndexFlatIP(stream.dim)
        for start in range(0, len(stream), 1000):
            codes.add(stream.descriptors(start, min(start + 1000, len(stream))).reshape(-1, stream.dim))
    factory = "Flat" if stream.projection is None else f"PCAH{stream.projection.dim},Flat"
    recipe = Recipe(stream.encoder, stream.regions, factory=factory)
    index = PatchIndex(recipe, Pictures(stream.table(0, len(stream))), Codes(factory, codes, stream.projection))
    queries = stream.source.queries

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
        hits = index.search(query, TOP)
        return hits.rows * patches + hits.cells

    def plain(query: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.asarray(codes.search(query[None], TOP)[1][0])

    result = {"build_s": watch.seconds, "timing": watch.as_dict(), "build_memory": memory()}
    result |= cold_latencies(search, queries) | latencies(search, queries, stage.least_s)
    result["ratio_to_plain"] = _in_turn(search, plain, queries[:50])
    result |= quality_of([search(query) for query in queries], _exact_of(stage), stream.planted, patches)
    return result | {"search_memory": memory()}


def _in_turn(
    ours: Callable[[NDArray[np.float32]], Any],
    plain: Callable[[NDArray[np.float32]], Any],
    queries: NDArray[np.float32],
) -> float:
    """Return the ratio of median times; both ways take turns, so that they see the same load."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for query in queries:
        for times, way in zip(seconds, (ours, plain), strict=True):
            start = time.perf_counter()
            way(query)
            times.append(time.perf_counter() - start)
    return float(np.median(seconds[0]) / np.median(seconds[1]))


def _peer(stage: ScaleStage, stream: SyntheticPictures) -> dict[str, Any]:
    kind = PEERS[stage.name.removeprefix("peer-")]
    peer = kind(Path(stage.folder) / stage.name, stream)
    queries = stream.source.queries
    peer.close() if peer.folder.exists() else None
    with watched() as watch:
        peer.build(_progress(f"{peer.name}, {stage.pictures:,}"))
    result: dict[str, Any] = {"build_s": watch.seconds, "build_memory": memory(), "disk_bytes": peer.disk_bytes()}
    result["curve"] = []
    exact = _exact_of(stage)
    for at, knob in enumerate(peer.knobs):

        def search(query: NDArray[np.float32], knob: int | None = knob) -> NDArray[np.int64]:
            return peer.search(query, TOP, knob)

        if not at:
            result |= cold_latencies(search, queries)
        quality = quality_of([search(query) for query in queries], exact, stream.planted, peer.patches)
        result["curve"].append({"knob": knob, "overlap": quality["overlap"], "of_exact": quality["of_exact"]})
        if quality["overlap"] >= stage.overlap or at == len(peer.knobs) - 1:
            result |= quality | {"knob": knob, "as_good": quality["overlap"] >= stage.overlap}
            result |= latencies(search, queries, stage.least_s)
            break
    result["search_memory"] = memory()
    peer.close()
    return result


def _throughput(
    search: Callable[[NDArray[np.float32]], Any], queries: NDArray[np.float32], least_s: float
) -> dict[str, float]:
    """Measure queries per second with as many concurrent queries as threads, each on one thread."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    rounds, start = 0, time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        while not rounds or time.perf_counter() - start < least_s:
            list(pool.map(search, queries))
            rounds += 1
    seconds = time.perf_counter() - start
    faiss.omp_set_num_threads(threads)
    return {"queries_per_s": rounds * len(queries) / seconds}


def _exact_of(stage: ScaleStage) -> ExactRanking:
    with np.load(Path(stage.folder) / EXACT, allow_pickle=False) as file:
        return ExactRanking(file["rows"], file["scores"], file["cells"])


class _Elapsed:
    """Seconds that interrupted runs spent on a stage, stored in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = float(path.read_text(encoding="ascii")) if path.is_file() else 0.0
        self.start = self.saved = time.monotonic()

    def tracking(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Save the time regularly while progress is made."""

        def show(done: int, total: int) -> None:
            progress(done, total)
            now = time.monotonic()
            if now - self.saved > 5:
                self.saved = now
                self.path.write_text(str(self.before + now - self.start), encoding="ascii")

        return show

    def total(self, seconds: float) -> float:
        """Return the seconds of all runs together."""
        return self.before + seconds


def _progress(label: str) -> Callable[[int, int], None]:
    """Show a progress bar with the remaining time on stderr."""
    from tqdm import tqdm

    bar = tqdm(desc=f"  {label}", unit=" pictures", file=sys.stderr, dynamic_ncols=True, mininterval=1.0, leave=False)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


STAGES: dict[str, Callable[[ScaleStage, SyntheticPictures], dict[str, Any]]] = {
    "exact": _exact,
    "build": _build,
    "search": _search,
    "finer": _finer,
    "refined": _search,
    "graph": _graph,
    "flat": _flat,
    **{f"peer-{key}": _peer for key in PEERS},
}


def work(path: str) -> int:
    """Run the stage that a task file describes; return the exit code."""
    stage = ScaleStage(**json.loads(Path(path).read_text(encoding="utf-8")))
    try:
        stream = SyntheticPictures(ScaleSource.load(Path(stage.source)), stage.pictures, stage.seed)
        result = STAGES[stage.name](stage, stream)
    except PatchifyError as error:
        stage.result.with_suffix(".refused").write_text(str(error), encoding="utf-8")
        return REFUSED
    except KeyboardInterrupt:
        return STOPPED
    result["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    write_json(stage.result, result, 1)
    return 0
