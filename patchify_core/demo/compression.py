"""Codecs that visitors try on the bundled descriptors, and the computed sizes of large indexes with them.

Codecs are trained one at a time and shared by all visitors. FAISS cannot be stopped while it trains, but descriptors
are read and coded picture by picture, which is where a training that nobody waits for any more ends.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.queries import UserQuery
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.study.experiments import EQUAL_BYTES, FACTORIES
from patchify_core.index.build import recode
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.codec.factory import CODEBOOKS, CODECS, make_codec, needed_to_train, parse_factory
from patchify_core.index.patch_index import PatchIndex
from patchify_core.retrieval.ranking import Ranking

PICTURES = (10_000, 1_000_000, 10_000_000)
MEMORY = 16 * 10**9
"""Bytes of memory that an index should fit in."""

FLOAT = 4
BITS = {"4": 4, "6": 6, "8": 8, "fp16": 16, "bf16": 16}
"""Bits per number of FAISS's scalar quantizers."""


@dataclass(frozen=True)
class Size:
    """Size of an index.

    Attributes:
        pictures: Number of pictures.
        patches: Number of patches.
        bytes_per_patch: Of codes.
        codes: Bytes of all codes.
        overhead: Bytes of what is learned once: projection, codebook, ranges.
    """

    pictures: int
    patches: int
    bytes_per_patch: int
    codes: int
    overhead: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.codes + self.overhead

    @property
    def fits(self) -> bool:
        """Whether it fits in `MEMORY`."""
        return self.total <= MEMORY


def bytes_per_patch(factory: str, dim: int) -> int:
    """Return the bytes of codes per patch.

    Args:
        factory: One without rotation and without inverted lists, e.g. `PCAH128,PQ64x4`.
        dim: Of the descriptors before it.

    Raises:
        PatchifyError: If the size of such codes is unknown.

    Example:
        >>> [bytes_per_patch(factory, 1280) for factory in ("Flat", "SQ8", "PCAH128,PQ64", "PCAH128,PQ16x4")]
        [5120, 1280, 64, 8]
    """
    kind, parts, bits, size = _parts(factory, dim)
    if kind == "Flat":
        return FLOAT * size
    return (parts * bits + 7) // 8


def overhead(factory: str, dim: int) -> int:
    """Return the bytes that a factory learns once, however many pictures there are.

    A projection is its mean and axes, (1 + d) x dim float32; a product quantizer's codebook has 2^bits centroids of
    d numbers; a scalar quantizer of 4, 6 or 8 bits has the range of each of d numbers, two each.
    """
    compression = parse_factory(factory)
    kind, _, bits, size = _parts(factory, dim)
    learned = 0 if compression.projection is None else FLOAT * (1 + size) * dim
    if kind == "PQ":
        return learned + FLOAT * 2**bits * size
    return learned + (FLOAT * 2 * size if kind == "SQ" and bits <= 8 else 0)


def sizes(factory: str, dim: int, patches: int, pictures: Sequence[int] = PICTURES) -> tuple[Size, ...]:
    """Return the size of an index for each number of pictures, with `patches` patches per picture."""
    each, learned = bytes_per_patch(factory, dim), overhead(factory, dim)
    return tuple(Size(count, count * patches, each, count * patches * each, learned) for count in pictures)


def size_label(size: float) -> str:
    """Write a number of bytes in decimal units with three digits.

    Example:
        >>> [size_label(size) for size in (40, 5_120, 1_920_000, 19_200_000_000)]
        ['40 B', '5.12 kB', '1.92 MB', '19.2 GB']
    """
    for unit, unit_size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= unit_size:
            return f"{float(f'{size / unit_size:.3g}'):,g} {unit}"
    return f"{size:.0f} B"


def _parts(factory: str, dim: int) -> tuple[str, int, int, int]:
    """Return the kind of codec, codes per patch, bits per code, and the dimension of what is coded."""
    compression = parse_factory(factory)
    match = CODECS.fullmatch(compression.codec)
    codec = compression.codec
    if match is None or match["rotated"] or "IVF" in codec or codec.endswith("fs"):
        raise PatchifyError(f"The page does not know how large codes of {factory} are: choose one of those shown.")
    size = compression.projection or dim
    if codec == "Flat":
        return "Flat", size, 32, size
    if codec.startswith("SQ"):
        return "SQ", size, BITS[codec[2:]], size
    parts, _, bits = codec[2:].partition("x")
    return "PQ", int(parts), int(bits or 8), size


EXACT = "Flat"
CACHED = 24
"""Most trained codecs in memory; those of the bundled gallery take up to 5 MB, most of them less than one."""

WAITING = 8
"""Most trainings that may wait."""


@dataclass(frozen=True)
class Stop:
    """One stop of the slider: a codec, and its bytes per patch."""

    factory: str
    bytes_per_patch: int


def stops(index: PatchIndex) -> tuple[Stop, ...]:
    """Return the codecs that can be tried on an index, the largest first, one per number of bytes.

    Of codecs of one size, those with 16 centroids per part are offered, which any codebook can train: the study
    compares codebooks with them.
    """
    by_size: dict[int, Stop] = {}
    for factory in (*FACTORIES, *EQUAL_BYTES):
        compression = parse_factory(factory)
        if compression.projection is None or compression.projection < index.dim:
            size = bytes_per_patch(factory, index.dim)
            by_size[size] = Stop(factory, size)
    return tuple(by_size[size] for size in sorted(by_size, reverse=True))


def has_codebook(factory: str) -> bool:
    """Whether a codec has a codebook, so that its training set matters; a scalar quantizer learns only ranges."""
    return "PQ" in factory


@dataclass(eq=False)
class Training:
    """A codec that is being trained, or waits for its turn.

    Attributes:
        key: Index, factory and codebook.
        done: Set when there is a codec or an error.
        begun: Whether training has begun.
        waiting: Number of visitors that wait for it.
        index: The coded index, when done.
        error: Why there is none.
    """

    key: tuple[str, str, str]
    done: threading.Event = field(default_factory=threading.Event)
    begun: bool = False
    waiting: int = 0
    index: PatchIndex | None = None
    error: PatchifyError | None = None


class _Unwanted(Exception):
    """Nobody waits for this training any more."""


class CodecTrainer:
    """Trains codecs for all visitors, and caches them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._ready: OrderedDict[tuple[str, str, str], PatchIndex] = OrderedDict()
        self._under_way: dict[tuple[str, str, str], Training] = {}

    def request(self, name: str, index: PatchIndex, factory: str, codebook: str) -> Training:
        """Request a codec; `done` is set at once if it is cached. The caller must call `release` when it stops waiting.

        Args:
            name: Of the index.
            index: The descriptors.
            factory: One of `stops(index)`.
            codebook: One of `CODEBOOKS`.

        Raises:
            PatchifyError: If it is not offered, cannot be trained on this gallery, or too many are waiting.
        """
        if factory not in [stop.factory for stop in stops(index)]:
            raise PatchifyError("The page does not have that size: choose one of those shown.")
        if codebook not in CODEBOOKS:
            raise PatchifyError("The page does not have that codebook: choose one of those shown.")
        settings = CodeSettings(factory, codebook if has_codebook(factory) else "uniform")
        settings.check(index.dim, index.regions, len(index.images))
        settings.check_enough(index.dim, index.regions, len(index.images))
        key = (name, factory, settings.codebook)
        with self._lock:
            if factory == EXACT:
                self._ready.setdefault(key, index)
            if key in self._ready:
                self._ready.move_to_end(key)
                training = Training(key, begun=True, waiting=1, index=self._ready[key])
                training.done.set()
                return training
            under_way = self._under_way.get(key)
            if under_way is None:
                if len(self._under_way) >= WAITING:
                    raise PatchifyError("Too many codebooks are waiting to be trained: try again in a minute.")
                under_way = self._under_way[key] = Training(key)
                threading.Thread(target=self._train, args=(under_way, index, settings), daemon=True).start()
            under_way.waiting += 1
            return under_way

    def release(self, training: Training) -> None:
        """Stop waiting; a training that nobody waits for is given up at the next picture."""
        with self._lock:
            training.waiting -= 1

    def _train(self, training: Training, index: PatchIndex, settings: CodeSettings) -> None:
        import faiss

        def descriptors(row: int) -> NDArray[np.float32]:
            if not self._is_wanted(training):
                raise _Unwanted
            return index.descriptors_of(row)

        try:
            with self._turn:
                faiss.omp_set_num_threads(1)  # of this thread; others search meanwhile
                training.begun = True
                training.index = recode(index, settings, descriptors)
        except _Unwanted:
            training.error = PatchifyError("The training was given up.")
        except PatchifyError as error:
            training.error = error
        except Exception:
            training.error = PatchifyError("The codebook could not be trained: choose another size.")
            raise
        finally:
            with self._lock:
                if self._under_way.get(training.key) is training:
                    del self._under_way[training.key]
                if training.index is not None:
                    self._ready[training.key] = training.index
                    while len(self._ready) > CACHED:
                        self._ready.popitem(last=False)
            training.done.set()

    def _is_wanted(self, training: Training) -> bool:
        with self._lock:
            if training.waiting > 0:
                return True
            if self._under_way.get(training.key) is training:  # further requests start a new one
                del self._under_way[training.key]
            return False


def ranking(query: UserQuery, coded: PatchIndex) -> Ranking:
    """Rank all pictures by all patches of a coded index from `CodecTrainer`; `query` is of the original index."""
    descriptor = query.descriptor
    if coded.dim != descriptor.size:  # the codec has a projection
        descriptor = coded.project(descriptor[None])[0]
    return Ranking(coded, coded.search(descriptor))


def centroids(factory: str, dim: int) -> int:
    """Return the number of centroids ("words") per part of a product quantizer; 0 for other codecs."""
    codec = make_codec(parse_factory(factory), dim)
    return needed_to_train(codec) if has_codebook(factory) else 0
