"""How a collection is kept, from the number of its pictures and a memory budget: lists, probes and bytes per patch.

The arithmetic is that of the files: what a patch costs in each codec, and what a picture costs beside its patches.
Accuracy grows with the bytes per patch, so the largest codec that fits the budget is taken. Comparing with every code
costs time in proportion to the patches; from a million of them on inverted lists are used.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from patchify_core.errors import PatchifyError
from patchify_core.index.codec.factory import PRESETS

GB = 1e9
PROGRAM_GB = 0.6
"""What Python, FAISS and an encoder take, whatever the collection."""

PICTURE_BYTES = 140
"""What a picture's name, size and digest take, and the pages that its patches' codes begin and end in."""

ID_BYTES, LIST_BYTES = 8, 2
"""Of a patch in inverted lists: its number, and which list it is in."""

EXHAUSTIVE_PATCHES = 1_000_000
"""Up to so many patches every code is compared with: that takes less than 0.1 s on one core."""

EXACT_NUMBERS = 25_000_000
"""Up to so many numbers in all, exact search answers within 5 ms: 100 MB, which one core reads at 20 GB/s."""

GRAPH_PICTURES = 100_000
"""Up to so many pictures are linked into a graph: it is all in memory and takes some 4 ms per picture to build."""

MOST_LISTS = 65_536
PROBED = 64
"""Lists that a search visits until `tune` has measured better."""


@dataclass(frozen=True)
class CodecChoice:
    """What was chosen.

    Attributes:
        factory: factory string (`factory.parse_factory`).
        lists: inverted lists; 0 where every code is compared with.
        probes: lists that a search visits; 0 without lists.
        bytes_per_patch: of codes, ids and list numbers.
        memory_gb: what a search keeps in memory at most, in GB of 10^9 bytes.
        why: one or two sentences for a person.
    """

    factory: str
    lists: int
    probes: int
    bytes_per_patch: int
    memory_gb: float
    why: str


@dataclass(frozen=True)
class _Kind:
    """A codec: its factory with `{lists}`, its bytes per patch, whether it compares with every code, and its name."""

    factory: str
    code_bytes: int
    exhaustive: bool
    words: str


def lists_of(patches: int) -> int:
    """Inverted lists for this many patches: about 4 times the square root, a power of two, 65,536 at most.

    Example:
        >>> [lists_of(n) for n in (1_000, 1_000_000, 30_000_000, 300_000_000)]
        [64, 4096, 16384, 65536]
    """
    wanted = min(4 * math.sqrt(max(patches, 1)), patches / 16, MOST_LISTS)
    return int(2 ** max(0, math.floor(math.log2(max(wanted, 1)))))


def choose(pictures: int, patches: int, memory_gb: float, dim: int) -> CodecChoice:
    """The most accurate way to keep a collection that fits the memory.

    Args:
        pictures: how many there are, at least 1.
        patches: of each picture, at least 1.
        memory_gb: what a search may take, in GB of 10^9 bytes.
        dim: of the encoder's descriptors.

    Raises:
        PatchifyError: if it cannot be met; it says the smallest budget that can.
    """
    if not (math.isfinite(memory_gb) and memory_gb > 0):
        raise PatchifyError(f"A memory budget is a number of GB above 0, not {memory_gb}.")
    every = pictures * patches
    kinds = [kind for kind in _kinds(dim) if kind.exhaustive == (every <= EXHAUSTIVE_PATCHES)]
    sizes = [_needed(kind, pictures, every) for kind in kinds]
    for kind, needed in zip(kinds, sizes, strict=True):
        if needed <= memory_gb:
            return _chosen(kind, needed, pictures, patches, memory_gb)
    smallest = math.ceil(min(sizes) * 10) / 10
    raise PatchifyError(
        f"{pictures:,} pictures of {patches} patches do not fit {memory_gb:g} GB of memory: the smallest budget that "
        f"can hold them is {smallest:g} GB ({min(kind.code_bytes for kind in kinds)} bytes per patch); give more, or "
        "cut pictures into fewer patches."
    )


@dataclass(frozen=True)
class FastChoice:
    """What a new index is coded with where nothing is said.

    Attributes:
        factory: factory string or preset (`factory.parse_factory`).
        rescore: factory of finer codes; None for none.
        why: one sentence for a person.
    """

    factory: str
    rescore: str | None
    why: str


def choose_fast(pictures: int, patches: int, dim: int) -> FastChoice:
    """The most accurate way to keep a collection that answers within about 5 ms.

    Args:
        pictures: how many there are.
        patches: of each picture.
        dim: of the encoder's descriptors.

    Example:
        >>> [choose_fast(n, 30, 1280).factory for n in (164, 10_000, 1_000_000)]
        ['exact', 'fast', 'huge']
    """
    many = f"{pictures:,} pictures of {patches} patches"
    if pictures * patches * dim <= EXACT_NUMBERS:
        return FastChoice("exact", None, f"exact, since a query is compared with {many} within 5 ms.")
    slow = f"since comparing with each of {many} would take more than 5 ms; --preset exact does that."
    if pictures <= GRAPH_PICTURES:
        return FastChoice("fast", None, f"a graph of nearest patches, {slow}")
    return FastChoice("huge", "SQ8", f"inverted lists, and finer codes to order the first pictures, {slow}")


def _kinds(dim: int) -> list[_Kind]:
    """Every way, the most accurate first."""
    kinds = [_Kind(PRESETS["exact"], 4 * dim, True, "exact descriptors")]
    if dim >= 256:
        kinds.append(_Kind(PRESETS["small"], 256, True, "256 numbers of one byte"))
    kept = next((size for size in (128, 64, 32, 16, 8) if size <= dim), dim)
    exact = "" if dim == kept else f"PCAH{kept},"
    for parts in (64, 32, 16, 8):
        if parts <= kept and kept % parts == 0:
            every = PRESETS["tiny"] if parts == 64 and dim >= 256 else f"{exact}PQ{parts}"
            kinds.append(_Kind(every, parts, True, f"product quantization to {parts} bytes"))
            words = f"inverted lists and product quantization to {parts} bytes"
            kinds.append(_Kind(f"{exact}IVF{{lists}},PQ{parts}", parts, False, words))
    return kinds


def _bytes(kind: _Kind) -> int:
    return kind.code_bytes + (0 if kind.exhaustive else ID_BYTES + LIST_BYTES)


def _needed(kind: _Kind, pictures: int, every: int) -> float:
    """GB in memory."""
    centroids = 0 if kind.exhaustive else lists_of(every) * 128 * 4
    return PROGRAM_GB + (every * _bytes(kind) + pictures * PICTURE_BYTES + centroids) / GB


def _chosen(kind: _Kind, needed: float, pictures: int, patches: int, memory_gb: float) -> CodecChoice:
    lists = 0 if kind.exhaustive else lists_of(pictures * patches)
    probes = min(PROBED, lists)
    how = (
        "every patch is compared"
        if not lists
        else f"{lists:,} lists, of which a search visits {probes} (tune finds out how many are needed)"
    )
    why = (
        f"{kind.words.capitalize()} a patch: the most accurate that keeps {pictures:,} pictures of {patches} patches "
        f"in {memory_gb:g} GB (it needs {needed:.1f}). {how[0].upper()}{how[1:]}."
    )
    return CodecChoice(kind.factory.replace("{lists}", str(lists)), lists, probes, _bytes(kind), needed, why)


_IVF = re.compile(r"(?:PCAH(?P<projection>[0-9]+),)?IVF(?P<lists>[0-9]+),PQ(?P<parts>[0-9]+)")


def parse_lists(factory: str) -> tuple[int | None, int, int] | None:
    """(projection or None, lists, bytes per code) of a factory that `build_big` can make; None for any other."""
    found = _IVF.fullmatch(factory)
    if not found:
        return None
    return int(found["projection"]) if found["projection"] else None, int(found["lists"]), int(found["parts"])
