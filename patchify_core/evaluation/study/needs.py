"""Estimate the memory, disk space, downloads and time of an experiment before it starts.

Nothing is downloaded. Encoders without local weights are measured with random ones, which take the same time and
memory. Searches are measured on random descriptors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from patchify_core.encoders import Encoder, EncoderSettings, load_encoder, needs_no_download
from patchify_core.encoders.devices import BYTES_A_PIXEL, choose_device
from patchify_core.evaluation.study.experiments import Configuration
from patchify_core.evaluation.study.run import Workbench
from patchify_core.regions import parse_regions

PICTURE = (1024, 768)
"""Size in pixels of the random picture from which crops are cut."""

PROBED_PATCHES = 20_000

SEARCH_FACTOR = 2
"""Ratio of a whole search to the part that is measured (120,000 patches of 768 numbers, two cores)."""

RERANK_S = {"qe": 0.011, "patch-qe": 0.009, "sift": 1.24, "xfeat": 1.7, "aliked": 27.0}
"""Seconds per query on two cores (assets/study/NUMBERS.md, `pyramid:4`)."""


@dataclass(frozen=True)
class EncoderCost:
    """The measured cost of one encoder on this machine.

    Attributes:
        spec: Its spec in the recipe of an index.
        dim: Dimensions of a descriptor.
        weights_bytes: Size of its network's parameters as float32, without those packed for the CPU.
        here: Whether its weights are here, so that nothing is downloaded.
        patches_per_s: Crops that are cut out and encoded per second.
        search_s: Seconds to compare a query with one patch.
        memory_bytes: Memory on `device`: measured on CUDA, else an upper bound.
        device: The device that computes.
    """

    spec: str
    dim: int
    weights_bytes: int
    here: bool
    patches_per_s: float
    search_s: float
    memory_bytes: int
    device: str


def measure_encoder(spec: str, load: Callable[..., Encoder] = load_encoder) -> EncoderCost:
    """Encode a batch of crops, with random weights if the trained ones would have to be downloaded.

    Args:
        spec: Spec of the encoder.
        load: (spec, settings) -> encoder.

    Raises:
        EncoderError: If it cannot be loaded.
    """
    import torch
    from PIL import Image

    here = needs_no_download(spec)
    settings = EncoderSettings(untrained=not here)
    encoder, device = load(spec, settings), choose_device(settings)
    weights = _weights_bytes(encoder)
    on_gpu = device.type == "cuda"
    batch = int(getattr(encoder, "batch_size", 1))
    pixels = np.random.default_rng(0).integers(0, 256, (PICTURE[1], PICTURE[0], 3), np.uint8)
    picture, count = Image.fromarray(pixels), batch if on_gpu else torch.get_num_threads()
    start = time.perf_counter()
    crops = [encoder.prepare(picture, (0, 0, *PICTURE)) for _ in range(min(count, 8))]
    cut_s = (time.perf_counter() - start) / len(crops)
    stacked = np.stack([crops[at % len(crops)] for at in range(count)])
    if on_gpu:
        encoder.encode(stacked)  # the first batch compiles and allocates
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    encoder.encode(stacked)
    described_s = (time.perf_counter() - start) / count
    if on_gpu:
        memory = int(torch.cuda.max_memory_allocated(device))
    else:
        memory = weights + batch * stacked.shape[1] * stacked.shape[2] * BYTES_A_PIXEL
    dim = encoder.info.dim
    readers = getattr(encoder, "readers", 0)  # threads that cut crops while the network works
    rate = 1 / max(1e-9, max(cut_s / readers, described_s) if readers else cut_s + described_s)
    return EncoderCost(encoder.info.spec, dim, weights, here, rate, _search_s(dim), memory, str(device))


def _weights_bytes(encoder: object) -> int:
    network = getattr(encoder, "network", None)
    if network is None:  # a wrapper, such as a projection
        inner = getattr(encoder, "_encoder", None)
        return 0 if inner is None else _weights_bytes(inner)
    return 4 * sum(tensor.numel() for tensor in network.parameters())


def _search_s(dim: int) -> float:
    """Measure the seconds to compare a query with one patch and to rank it."""
    patches = np.random.default_rng(0).standard_normal((PROBED_PATCHES, dim), np.float32)
    pictures = np.arange(PROBED_PATCHES) // 30
    start = time.perf_counter()
    scores = np.sort(patches @ patches[0])  # as in the codec, then as `PatchIndex` orders the results
    np.unique(pictures[np.lexsort((pictures, pictures, -scores))], return_index=True)
    return SEARCH_FACTOR * (time.perf_counter() - start) / PROBED_PATCHES


@dataclass(frozen=True)
class Needs:
    """What the unfinished cells need.

    Attributes:
        cells: Number of all cells.
        finished: Number of finished ones.
        patches: Number of patches to encode.
        embed_s: Seconds to encode them.
        search_s: Seconds of all searches.
        rerank_s: Seconds of all re-ranking.
        download_bytes: Approximate size of weights to download.
        disk_bytes: Size of exact descriptors and weights.
        memory_bytes: Twice the largest index (exact and coded), and the largest network on the CPU.
        gpu_bytes: Memory of the largest network on the GPU; 0 without one.
    """

    cells: int
    finished: int
    patches: int
    embed_s: float
    search_s: float
    rerank_s: float
    download_bytes: int
    disk_bytes: int
    memory_bytes: int
    gpu_bytes: int


def needs_of(
    sets: Mapping[str, tuple[int, int]],
    configurations: Sequence[Configuration],
    costs: Mapping[str, EncoderCost],
    workbench: Workbench,
    is_finished: Callable[[str, Configuration], bool],
) -> Needs:
    """Add up the needs of the unfinished cells.

    Args:
        sets: Name -> number of pictures and of queries.
        configurations: The cells of each set.
        costs: Encoder, as in the cells -> its cost, for encoders with unfinished cells.
        workbench: Knows which descriptors exist already.
        is_finished: (name of a set, cell) -> whether it is finished.
    """
    left = [(name, one) for name in sets for one in configurations if not is_finished(name, one)]
    embedded: dict[object, tuple[int, float, int]] = {}
    search_s = rerank_s = 0.0
    largest = 0
    for name, one in left:
        pictures, queries = sets[name]
        cost = costs[one.encoder]
        patches = pictures * parse_regions(one.regions).patches_per_image
        size = patches * cost.dim * 4
        largest = max(largest, size)
        place = workbench.place(name, Configuration(cost.spec, one.regions, features=one.features))
        if not place.exists():
            embedded[place] = patches, patches / cost.patches_per_s, size
        rerankers = one.rerank.split("+") if one.rerank else []
        expanded = sum(part in ("qe", "patch-qe") for part in rerankers)
        search_s += queries * patches * cost.search_s * (1 + expanded)
        rerank_s += queries * sum(RERANK_S.get(part, 0) for part in rerankers)
    download = sum(cost.weights_bytes for cost in costs.values() if not cost.here)
    on_gpu = [cost.memory_bytes for cost in costs.values() if cost.device.startswith("cuda")]
    on_processor = [cost.memory_bytes for cost in costs.values() if not cost.device.startswith("cuda")]
    sizes = [size for _, _, size in embedded.values()]
    return Needs(
        cells=len(sets) * len(configurations),
        finished=len(sets) * len(configurations) - len(left),
        patches=sum(patches for patches, _, _ in embedded.values()),
        embed_s=sum(seconds for _, seconds, _ in embedded.values()),
        search_s=search_s,
        rerank_s=rerank_s,
        download_bytes=download,
        # While an index is built, its shards exist too.
        disk_bytes=sum(sizes) + max(sizes, default=0) + download,
        memory_bytes=2 * largest + max(on_processor, default=0),
        gpu_bytes=max(on_gpu, default=0),
    )
