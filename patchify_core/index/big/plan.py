"""Plan how a collection is stored: which codec, how many inverted lists, how many bytes per patch.

The memory arithmetic follows the file formats: what a patch costs in each codec, and what a picture costs besides its
patches. Accuracy grows with the bytes per patch, so the largest codec within the budget wins. Visiting every code takes
time in proportion to the patches; beyond a million of them inverted lists are used.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from patchify_core.errors import PatchifyError
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.codec.factory import PRESETS, make_codec, needed_to_train, parse_factory, too_few
from patchify_core.index.store import PictureStream

GB = 1e9
PROGRAM_GB = 0.6
"""Memory of Python, FAISS and an encoder."""

PICTURE_BYTES = 140
"""Memory of a picture's name, size and digest, and of the partial pages at both ends of its codes."""

ID_BYTES, LIST_BYTES = 8, 2
"""Bytes per patch for its id in an inverted list, and for the number of that list."""

EXHAUSTIVE_PATCHES = 1_000_000
"""Largest number of patches for exhaustive search, which takes less than 0.1 s on one core."""

EXACT_NUMBERS = 25_000_000
"""Largest number of floats that an exact search reads within 5 ms: 100 MB, which one core reads at 20 GB/s."""

GRAPH_PICTURES = 100_000
"""Largest number of pictures in a graph, which is kept in memory and takes about 4 ms per picture to build."""

MAX_RECORDS = 100_000
"""Largest number of pictures in an index in memory, which has a Python record for each."""

MAX_LISTS = 65_536
DEFAULT_PROBES = 64
"""Lists that a search visits until `tune` has measured a better number."""

DEFAULT_PROJECTION = 128
"""Dimensions of a learned projection by default."""


@dataclass(frozen=True)
class ScaleSettings:
    """User settings for a big index.

    Attributes:
        memory_gb: Memory budget of a search in GB of 10^9 bytes; chooses whatever below is None.
        factory: Codec in memory, as `CodeSettings.factory`, instead of a choice.
        codebook: Training set of that codec.
        projection: Dimensions to project to; 0 for none. Ignored if the stream is projected already.
        lists: Number of inverted lists.
        code_bytes: Bytes per patch code, a divisor of the dimension.
        probes: Lists that a search visits until `tune` has measured a better number.
        rescore: Factory of finer codes on disk (`SQ8`, `PQ64`, ...) that re-score the top pictures; None for none.
        part_pictures: Pictures per part; a kill loses at most this much work.
        seed: Of k-means.
    """

    memory_gb: float | None = None
    factory: str | None = None
    codebook: str = CodeSettings.codebook
    projection: int | None = None
    lists: int | None = None
    code_bytes: int | None = None
    probes: int | None = None
    rescore: str | None = None
    part_pictures: int = 100_000
    seed: int = 0


@dataclass(frozen=True)
class CodecChoice:
    """The codec chosen for a memory budget.

    Attributes:
        factory: Factory string (`factory.parse_factory`).
        lists: Inverted lists; 0 for exhaustive search.
        probes: Lists that a search visits; 0 without lists.
        bytes_per_patch: Bytes of code, id and list number.
        memory_gb: Memory of a search at most, in GB of 10^9 bytes.
        why: One or two sentences for the user.
    """

    factory: str
    lists: int
    probes: int
    bytes_per_patch: int
    memory_gb: float
    why: str


@dataclass(frozen=True)
class FastChoice:
    """The default codec of a new index.

    Attributes:
        factory: Factory string or preset (`factory.parse_factory`).
        rescore: Factory of finer codes; None for none.
        why: One sentence for the user.
    """

    factory: str
    rescore: str | None
    why: str


@dataclass(frozen=True)
class ListsPlan:
    """How to build inverted lists.

    Attributes:
        projection: Dimensions to project to; None to use descriptors as they are.
        lists: Number of inverted lists.
        code_bytes: Bytes per code.
        rescore: Factory of finer codes, or None.
        seed: Of k-means.
        probes: Lists that a search visits.
        why: One or two sentences for the user.
    """

    projection: int | None
    lists: int
    code_bytes: int
    rescore: str | None
    seed: int
    probes: int
    why: str

    @property
    def factory(self) -> str:
        """The codec as a factory string."""
        return f"{f'PCAH{self.projection},' if self.projection else ''}IVF{self.lists},PQ{self.code_bytes}"


@dataclass(frozen=True)
class _Candidate:
    """A codec: its factory with `{lists}`, bytes per code, whether search is exhaustive, and its name for the user."""

    factory: str
    code_bytes: int
    exhaustive: bool
    name: str

    @property
    def bytes_per_patch(self) -> int:
        """Bytes of code, id and list number."""
        return self.code_bytes + (0 if self.exhaustive else ID_BYTES + LIST_BYTES)

    def memory_gb(self, pictures: int, patches: int) -> float:
        """Memory of a search in GB, for a total of `patches` patches."""
        centroids = 0 if self.exhaustive else lists_of(patches) * 128 * 4
        return PROGRAM_GB + (patches * self.bytes_per_patch + pictures * PICTURE_BYTES + centroids) / GB


def lists_of(patches: int) -> int:
    """Return the number of lists for this many patches: about 4 times the square root, a power of two, at most 65,536.

    Example:
        >>> [lists_of(n) for n in (1_000, 1_000_000, 30_000_000, 300_000_000)]
        [64, 4096, 16384, 65536]
    """
    wanted = min(4 * math.sqrt(max(patches, 1)), patches / 16, MAX_LISTS)
    return int(2 ** max(0, math.floor(math.log2(max(wanted, 1)))))


def choose(pictures: int, patches: int, memory_gb: float, dim: int) -> CodecChoice:
    """Choose the most accurate codec within a memory budget.

    Args:
        pictures: Number of pictures, at least 1.
        patches: Patches per picture, at least 1.
        memory_gb: Memory budget of a search, in GB of 10^9 bytes.
        dim: Dimension of the descriptors.

    Raises:
        PatchifyError: The budget is too small; the message has the smallest one that suffices.
    """
    if not (math.isfinite(memory_gb) and memory_gb > 0):
        raise PatchifyError(f"A memory budget is a number of GB above 0, not {memory_gb}.")
    total = pictures * patches
    candidates = [one for one in _candidates(dim) if one.exhaustive == (total <= EXHAUSTIVE_PATCHES)]
    for candidate in candidates:
        needed = candidate.memory_gb(pictures, total)
        if needed <= memory_gb:
            lists = 0 if candidate.exhaustive else lists_of(total)
            probes = min(DEFAULT_PROBES, lists)
            how = (
                f"{lists:,} lists, of which a search visits {probes} (tune finds out how many are needed)."
                if lists
                else "Every patch is compared."
            )
            why = (
                f"{candidate.name.capitalize()} per patch: the most accurate that keeps {pictures:,} pictures of "
                f"{patches} patches in {memory_gb:g} GB (it needs {needed:.1f}). {how}"
            )
            factory = candidate.factory.replace("{lists}", str(lists))
            return CodecChoice(factory, lists, probes, candidate.bytes_per_patch, needed, why)
    smallest = math.ceil(min(one.memory_gb(pictures, total) for one in candidates) * 10) / 10
    raise PatchifyError(
        f"{pictures:,} pictures of {patches} patches do not fit {memory_gb:g} GB of memory: the smallest budget that "
        f"suffices is {smallest:g} GB ({min(one.code_bytes for one in candidates)} bytes per patch); give more, "
        "or cut pictures into fewer patches."
    )


def choose_fast(pictures: int, patches: int, dim: int) -> FastChoice:
    """Choose the most accurate codec that answers within about 5 ms.

    Args:
        pictures: Number of pictures.
        patches: Patches per picture.
        dim: Dimension of the descriptors.

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


def _candidates(dim: int) -> list[_Candidate]:
    """All codecs to choose from, the most accurate first."""
    candidates = [_Candidate(PRESETS["exact"], 4 * dim, True, "exact descriptors")]
    if dim >= 256:
        candidates.append(_Candidate(PRESETS["small"], 256, True, "256 numbers of one byte"))
    projected = next((size for size in (128, 64, 32, 16, 8) if size <= dim), dim)
    prefix = "" if dim == projected else f"PCAH{projected},"
    for parts in (64, 32, 16, 8):
        if parts <= projected and projected % parts == 0:
            exhaustive = PRESETS["tiny"] if parts == 64 and dim >= 256 else f"{prefix}PQ{parts}"
            candidates.append(_Candidate(exhaustive, parts, True, f"product quantization to {parts} bytes"))
            name = f"inverted lists and product quantization to {parts} bytes"
            candidates.append(_Candidate(f"{prefix}IVF{{lists}},PQ{parts}", parts, False, name))
    return candidates


_IVF = re.compile(r"(?:PCAH(?P<projection>[0-9]+),)?IVF(?P<lists>[0-9]+),PQ(?P<parts>[0-9]+)")


def parse_lists(factory: str) -> tuple[int | None, int, int] | None:
    """Parse (projection or None, lists, bytes per code) of a factory that `build_big` makes; None for any other."""
    match = _IVF.fullmatch(factory)
    if not match:
        return None
    return int(match["projection"]) if match["projection"] else None, int(match["lists"]), int(match["parts"])


def plan_in_memory(stream: PictureStream, settings: ScaleSettings) -> tuple[CodeSettings, str] | None:
    """Return the codec and the reason for an index in memory; None if inverted lists are requested or better.

    Raises:
        PatchifyError: The requested codec does not fit.
    """
    stream.check_boxes()
    projected, patches, seed = stream.projection is not None, stream.regions.patches_per_image, settings.seed
    if settings.factory is not None:
        requested = parse_factory(settings.factory, len(stream) * patches, stream.dim)
        if len(stream) > MAX_RECORDS:
            raise PatchifyError(
                f"{requested.factory} would have {len(stream):,} pictures in memory, and the maximum is "
                f"{MAX_RECORDS:,}: leave out --factory and --preset to use inverted lists."
            )
        if projected and requested.projection is not None:
            raise PatchifyError(
                f"These descriptors are projected already: write {requested.codec} instead of {requested.factory}."
            )
        codes = CodeSettings(settings.factory, settings.codebook, settings.rescore, seed=seed)
        codes.check(stream.dim, stream.regions, len(stream))
        return codes, f"{requested.factory}, as requested."
    for_lists = (settings.projection, settings.lists, settings.code_bytes, settings.probes)
    if settings.memory_gb is None or any(one is not None for one in for_lists) or not 0 < len(stream) <= MAX_RECORDS:
        return None
    choice = choose(len(stream), patches, settings.memory_gb, stream.dim)
    if choice.lists:
        return None
    codec, why, rescore = parse_factory(choice.factory), choice.why, settings.rescore
    if rescore is not None and codec.codec == "Flat":
        why += f" They are exact, so finer codes ({rescore}) would add nothing and are left out."
        rescore = None
    codes = CodeSettings(codec.codec if projected else codec.factory, rescore=rescore, seed=seed)
    try:
        codes.check(stream.dim, stream.regions, len(stream))
    except PatchifyError:
        return None  # the bytes of the codec do not divide the stream's projected dimension
    return codes, why


def plan_lists(stream: PictureStream, settings: ScaleSettings) -> ListsPlan:
    """Plan inverted lists.

    Raises:
        PatchifyError: The settings do not fit the collection or each other.
    """
    stream.check_boxes()
    if not len(stream):
        raise PatchifyError("The collection has no picture: there is nothing to index.")
    patches, raw_dim = len(stream) * stream.regions.patches_per_image, stream.dim
    choice = None
    if settings.memory_gb is not None:
        choice = choose(len(stream), stream.regions.patches_per_image, settings.memory_gb, raw_dim)
    chosen = parse_lists(choice.factory) if choice else None
    if stream.projection is not None:
        projection: int | None = stream.projection.dim
    else:
        projection = settings.projection
        if projection is None:
            projection = (chosen[0] or 0) if chosen else min(DEFAULT_PROJECTION, raw_dim)
        if projection in (0, raw_dim):
            projection = None
    dim = projection or raw_dim
    lists = settings.lists or (chosen[1] if chosen else lists_of(patches))
    divisors = (size for size in (32, 24, 16, 12, 8, 6, 4, 3, 2, 1) if dim % size == 0)
    code_bytes = settings.code_bytes or (chosen[2] if chosen else next(divisors))
    if not 0 < dim <= raw_dim or dim % code_bytes or not 1 <= lists <= 1 << 20:
        raise PatchifyError(
            f"Codes of {code_bytes} bytes in {lists} lists do not fit descriptors of {dim} numbers: choose a divisor "
            f"of {dim}, and 1 to 1,048,576 lists."
        )
    if patches < max(lists, 256):
        raise too_few(f"IVF{lists},PQ{code_bytes}", max(lists, 256), patches)
    if settings.rescore is not None:
        check_finer(settings.rescore, dim, patches)
    probes = min(settings.probes or DEFAULT_PROBES, lists)
    plan = ListsPlan(projection, lists, code_bytes, settings.rescore, settings.seed, probes, why="")
    as_chosen = choice and chosen and (projection, lists, code_bytes) == (chosen[0] or projection, *chosen[1:])
    why = choice.why if choice and as_chosen else f"{plan.factory}, of which a search visits {probes} lists."
    return replace(plan, why=why)


def check_finer(rescore: str, dim: int, patches: int) -> None:
    """Raise PatchifyError unless these finer codes can be trained on this many vectors of `dim` numbers."""
    import faiss

    finer = parse_factory(rescore)
    if finer.projection is None and "IVF" not in finer.codec and "OPQ" not in finer.codec:
        codec = make_codec(finer, dim)
        if isinstance(codec, (faiss.IndexFlat, faiss.IndexScalarQuantizer, faiss.IndexPQ)):
            if patches < needed_to_train(codec):
                raise too_few(rescore, needed_to_train(codec), patches)
            return
    raise PatchifyError(f"--rescore {rescore}: the finer codes of a big index are Flat, SQfp16, SQ8, SQ6, SQ4 or a PQ.")
