"""What an index of a great many pictures would take: arithmetic, nothing measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from patchify_core.errors import PatchifyError
from patchify_core.index.codec.factory import CODECS, parse_factory

PICTURES = (10_000, 1_000_000, 10_000_000)
MEMORY = 16 * 10**9
"""Bytes of memory that an index is asked to fit in."""

FLOAT = 4
BITS = {"4": 4, "6": 6, "8": 8, "fp16": 16, "bf16": 16}
"""Bits a number of FAISS's scalar quantizers."""


@dataclass(frozen=True)
class Size:
    """An index of some pictures.

    Attributes:
        pictures: how many.
        patches: of all of them.
        bytes_per_patch: of codes.
        codes: bytes of all codes.
        overhead: bytes of what is learned once: projection, codebook, ranges.
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
    """Bytes of codes of one patch.

    Args:
        factory: one without rotation and without inverted lists, e.g. `PCAH128,PQ64x4`.
        dim: of the descriptors before it.

    Raises:
        PatchifyError: if the size of such codes is not known here.

    Example:
        >>> [bytes_per_patch(factory, 1280) for factory in ("Flat", "SQ8", "PCAH128,PQ64", "PCAH128,PQ16x4")]
        [5120, 1280, 64, 8]
    """
    kind, parts, bits, kept = _parts(factory, dim)
    if kind == "Flat":
        return FLOAT * kept
    return (parts * bits + 7) // 8


def overhead(factory: str, dim: int) -> int:
    """Bytes of what a factory learns once, however many pictures there are.

    A projection is its mean and axes, (1 + d) x dim float32; a product quantizer's codebook has 2^bits centroids of
    d numbers; a scalar quantizer of 4, 6 or 8 bits has the range of each of d numbers, two each.
    """
    compression = parse_factory(factory)
    kind, _, bits, kept = _parts(factory, dim)
    learned = 0 if compression.projection is None else FLOAT * (1 + kept) * dim
    if kind == "PQ":
        return learned + FLOAT * 2**bits * kept
    return learned + (FLOAT * 2 * kept if kind == "SQ" and bits <= 8 else 0)


def sizes(factory: str, dim: int, patches: int, pictures: Sequence[int] = PICTURES) -> tuple[Size, ...]:
    """An index of each of these numbers of pictures, of `patches` patches each."""
    each, learned = bytes_per_patch(factory, dim), overhead(factory, dim)
    return tuple(Size(count, count * patches, each, count * patches * each, learned) for count in pictures)


def words(size: float) -> str:
    """Bytes in decimal units, three digits.

    Example:
        >>> [words(size) for size in (40, 5_120, 1_920_000, 19_200_000_000)]
        ['40 B', '5.12 kB', '1.92 MB', '19.2 GB']
    """
    for unit, unit_size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= unit_size:
            return f"{float(f'{size / unit_size:.3g}'):,g} {unit}"
    return f"{size:.0f} B"


def _parts(factory: str, dim: int) -> tuple[str, int, int, int]:
    """Kind of codec, codes a patch, bits a code, and how many numbers they stand for."""
    compression = parse_factory(factory)
    found = CODECS.fullmatch(compression.codec)
    codec = compression.codec
    if found is None or found["rotated"] or "IVF" in codec or codec.endswith("fs"):
        raise PatchifyError(f"The page does not know how large codes of {factory} are: choose one of those shown.")
    kept = compression.projection or dim
    if codec == "Flat":
        return "Flat", kept, 32, kept
    if codec.startswith("SQ"):
        return "SQ", kept, BITS[codec[2:]], kept
    parts, _, bits = codec[2:].partition("x")
    return "PQ", int(parts), int(bits or 8), kept
