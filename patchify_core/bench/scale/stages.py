"""The stages of `bench scale`: the exact answers, our index, our search, and each of the others.

Each runs in a process of its own, so that its peak memory is its own. A file says what to do (`ScaleStage`); the
answer is written beside it, whole or not at all, and makes the stage done.
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
    exact_ranking,
    first_ones,
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
"""The descriptor, which is there also where `sys.stderr` is no file."""

REFUSED, STOPPED = 2, 130
"""How a stage's process ends if a person asked for what cannot be done, or stopped it."""


@dataclass(frozen=True)
class ScaleStage:
    """A stage of a row.

    Attributes:
        name: `exact`, `build`, `search`, `finer`, `refined`, `graph`, `flat`, or `peer-` and a key of `PEERS`.
        folder: of the row.
        source: file of the `ScaleSource`.
        pictures: N.
        seed: of the collection.
        memory_gb: budget of our index.
        rescore: factory of the finer codes that our index gets once it was measured without, or None.
        overlap: what a peer's setting shall reach.
        least_s: seconds that latencies are taken for, at least.
    """

    name: str
    folder: str
    source: str
    pictures: int
    seed: int
    memory_gb: float
    rescore: str | None
    overlap: float
    least_s: float

    @property
    def answer(self) -> Path:
        """The file of the answer."""
        return Path(self.folder) / f"{self.name}.json"


def run_stage(stage: ScaleStage) -> dict[str, Any]:
    """The answer of a stage, from its file if it is done already, else from a process of its own.

    Raises:
        PatchifyError: if it was refused there, or killed.
        KeyboardInterrupt: if it was stopped from the keyboard.
        RuntimeError: if it failed otherwise; what it said is on stderr.
    """
    if stage.answer.is_file():
        answer: dict[str, Any] = json.loads(stage.answer.read_text(encoding="utf-8"))
        return answer
    task = stage.answer.with_suffix(".task")
    task.write_text(json.dumps(asdict(stage)), encoding="utf-8")
    root = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", WORK, str(task)]
    # Whatever a library prints must not come between the lines of the table.
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, stdout=STDERR)
    if done.returncode:
        refusal = stage.answer.with_suffix(".refused")
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
    spent = _Spent(Path(stage.folder) / "build.spent")
    with watched() as watch:
        report = build_big(stream, out, settings, spent.beside(_progress(f"build, {stage.pictures:,}")))
    return {
        "build_s": spent.total(watch.seconds),
        "timing": watch.as_dict(),
        "report": asdict(report),
        "disk_bytes": report.bytes,
        "build_memory": memory(),
    }


def _finer(stage: ScaleStage, stream: SyntheticPictures) -> dict[str, Any]:
    """Finer codes on the disk for the index that stands, which order the first pictures of a search."""
    from patchify_core.index.big import add_finer

    assert stage.rescore is not None
    out, spent = Path(stage.folder) / INDEX, _Spent(Path(stage.folder) / "finer.spent")
    progress = spent.beside(_progress(f"finer codes, {stage.pictures:,}"))
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
    """The preset `fast`, built and searched."""
    from patchify_core.index.big import ScaleSettings, build_fitting

    progress = _progress(f"graph, {stage.pictures:,}")
    with watched() as watch:
        report = build_fitting(stream, Path(stage.folder) / GRAPH, ScaleSettings(factory="fast"), progress)
    answer = {"build_s": watch.seconds, "timing": watch.as_dict(), "disk_bytes": report.bytes}
    return answer | {"build_memory": memory()} | _search(stage, stream, GRAPH)


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
    answer: dict[str, Any] = {
        "load_s": watch.seconds,
        "loaded_memory": loaded,
        "bytes_per_patch": index.bytes_per_patch,
    }
    answer |= first_ones(search, queries)
    answer |= latencies(search, queries, stage.least_s) | _throughput(search, queries, stage.least_s)
    exact = _exact_of(stage)
    answer |= quality_of([search(query) for query in queries], exact, stream.planted, patches)
    answer["search_memory"] = memory()
    answer["curve"] = []
    codes: Any = index.codes

    def measured(**knob: int) -> None:
        curve = knob | latencies(search, queries, stage.least_s / 4)
        curve |= quality_of([search(query) for query in queries], exact, stream.planted, patches)
        answer["curve"].append(curve)

    plan = index.plan
    if plan is not None:
        answer["probes"] = plan.probes
        for probes in MORE_PROBES:
            if probes <= int(codes.nlist):
                index.plan = replace(plan, probes=probes)
                measured(probes=probes)
    if name == GRAPH:
        answer["candidates"] = int(codes.hnsw.efSearch)
        for codes.hnsw.efSearch in MORE_CANDIDATES:
            measured(candidates=codes.hnsw.efSearch)
    return answer


def _flat(stage: ScaleStage, stream: SyntheticPictures) -> dict[str, Any]:
    """Our own search with exact descriptors, for the comparison with IndexFlatIP."""
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

    answer = {"build_s": watch.seconds, "timing": watch.as_dict(), "build_memory": memory()}
    answer |= first_ones(search, queries) | latencies(search, queries, stage.least_s)
    answer["ratio_to_plain"] = _in_turn(search, plain, queries[:50])
    answer |= quality_of([search(query) for query in queries], _exact_of(stage), stream.planted, patches)
    return answer | {"search_memory": memory()}


def _in_turn(
    ours: Callable[[NDArray[np.float32]], Any],
    plain: Callable[[NDArray[np.float32]], Any],
    queries: NDArray[np.float32],
) -> float:
    """Median time of one over that of the other, which take turns so that both meet the same load."""
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
    answer: dict[str, Any] = {"build_s": watch.seconds, "build_memory": memory(), "disk_bytes": peer.disk_bytes()}
    answer["curve"] = []
    exact = _exact_of(stage)
    for at, knob in enumerate(peer.knobs):

        def search(query: NDArray[np.float32], knob: int | None = knob) -> NDArray[np.int64]:
            return peer.search(query, TOP, knob)

        if not at:
            answer |= first_ones(search, queries)
        quality = quality_of([search(query) for query in queries], exact, stream.planted, peer.patches)
        answer["curve"].append({"knob": knob, "overlap": quality["overlap"], "of_exact": quality["of_exact"]})
        if quality["overlap"] >= stage.overlap or at == len(peer.knobs) - 1:
            answer |= quality | {"knob": knob, "as_good": quality["overlap"] >= stage.overlap}
            answer |= latencies(search, queries, stage.least_s)
            break
    answer["search_memory"] = memory()
    peer.close()
    return answer


def _throughput(
    search: Callable[[NDArray[np.float32]], Any], queries: NDArray[np.float32], least_s: float
) -> dict[str, float]:
    """Queries a second with as many at a time as there are threads, each on one."""
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


class _Spent:
    """Seconds that earlier runs spent on a stage before they were stopped, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = float(path.read_text(encoding="ascii")) if path.is_file() else 0.0
        self.start = self.saved = time.monotonic()

    def beside(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Save the time now and then while progress is made."""

        def show(done: int, total: int) -> None:
            progress(done, total)
            now = time.monotonic()
            if now - self.saved > 5:
                self.saved = now
                self.path.write_text(str(self.before + now - self.start), encoding="ascii")

        return show

    def total(self, seconds: float) -> float:
        """Of all runs together."""
        return self.before + seconds


def _progress(label: str) -> Callable[[int, int], None]:
    """A bar with the time left on stderr."""
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
    """Do what a file says; return the exit code."""
    stage = ScaleStage(**json.loads(Path(path).read_text(encoding="utf-8")))
    try:
        stream = SyntheticPictures(ScaleSource.load(Path(stage.source)), stage.pictures, stage.seed)
        answer = STAGES[stage.name](stage, stream)
    except PatchifyError as error:
        stage.answer.with_suffix(".refused").write_text(str(error), encoding="utf-8")
        return REFUSED
    except KeyboardInterrupt:
        return STOPPED
    answer["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    write_json(stage.answer, answer, 1)
    return 0
