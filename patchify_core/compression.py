"""How descriptors are kept: an optional learned projection, then any FAISS codec, by presets or by factory string.

A factory string is FAISS's own (https://github.com/facebookresearch/faiss/wiki/The-index-factory), with one addition
in front: `PCAH128,` projects to 128 dimensions with half whitening first (see `projection.py`). Presets are names for
strings that were chosen by measurement (`study compression`).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError

if TYPE_CHECKING:
    import faiss

CODEBOOKS = ("uniform", "global", "informative", "diverse")
"""What a codec may be trained on; see `codebook.py`."""

PRESETS = {
    "exact": "Flat",
    "small": "PCAH256,SQ8",
    "tiny": "PCAH128,PQ64",
    "huge": "PCAH128,IVF{lists},PQ32",
}
"""Names for factory strings. `{lists}` becomes the number of inverted lists that suits the number of patches."""

PRESET_HELP = {
    "exact": "float32, nothing lost",
    "small": "256 bytes a patch: a twentieth of exact for effnet-lite, no worse",
    "tiny": "64 bytes a patch: close to exact",
    "huge": "32 bytes a patch and only part of them visited: for millions of pictures",
}

PATCHES_PER_CENTROID = 39
"""Training vectors that FAISS wants for every centroid before it stops warning; lists are chosen to keep to it."""

KNOWN = ("Flat", "SQfp16", "SQ8", "SQ6", "SQ4", "PQ64", "PQ32", "PQ16", "PQ64x4", "OPQ32,PQ32", "IVF256,Flat")
"""Common codecs, to name the nearest one when a string is not understood."""


@dataclass(frozen=True)
class Compression:
    """A parsed factory string.

    Attributes:
        factory: the whole string in its canonical form, e.g. `PCAH128,PQ64`.
        codec: FAISS's part of it, e.g. `PQ64`.
        projection: dimensions of the learned projection before it; None for the encoder's own.
    """

    factory: str
    codec: str
    projection: int | None


def parse_factory(text: str, patches: int = 0) -> Compression:
    """Reads a preset's name or a factory string.

    Args:
        text: e.g. `tiny`, `Flat`, `PCAH128,PQ64`.
        patches: number of patches that will be indexed, for presets that depend on it.

    Raises:
        PatchifyError: if the string is empty or its projection cannot be read. Whether FAISS understands its part is
            seen by `make_codec`.
    """
    factory = PRESETS.get(text.strip().lower(), text.strip()).replace("{lists}", str(lists_for(patches)))
    head, comma, rest = factory.partition(",")
    found = re.fullmatch(r"PCAH([0-9]{1,5})", head)
    if head.upper().startswith("PCAH") and not (found and comma and rest and int(found[1])):
        raise PatchifyError(
            f"The factory '{text}' cannot be read: a projection is written PCAH128,CODEC, as in PCAH128,PQ64."
        )
    if not factory:
        raise PatchifyError(
            f"Name a preset ({', '.join(PRESETS)}) or a FAISS factory such as Flat, SQ8 or PCAH128,PQ64."
        )
    return Compression(factory, rest if found else factory, int(found[1]) if found else None)


def lists_for(patches: int) -> int:
    """Inverted lists for this many patches: 4 times the square root, a power of two, with enough patches for each.

    Example:
        >>> [lists_for(n) for n in (100, 5_000, 300_000, 300_000_000)]
        [2, 128, 2048, 65536]
    """
    wanted = min(4 * patches**0.5, patches / PATCHES_PER_CENTROID)
    return 1 << max(0, int(np.log2(max(wanted, 1))))


def make_codec(compression: Compression, dim: int, seed: int = 0) -> faiss.Index:
    """An empty, untrained FAISS index for inner products.

    Args:
        compression: what to make.
        dim: dimension of the encoder's descriptors; the codec's is the projection's, if there is one.
        seed: of where k-means begins.

    Raises:
        PatchifyError: one sentence, if FAISS does not understand the codec, it does not fit the dimension, or single
            codes cannot be read back from it (the similarity of every patch must be told).
    """
    import faiss

    if compression.projection is not None and compression.projection > dim:
        raise PatchifyError(
            f"{compression.factory} projects to {compression.projection} dimensions, but the encoder gives {dim}: "
            f"write PCAH{dim} at most."
        )
    kept = compression.projection or dim
    try:
        codec = faiss.index_factory(kept, compression.codec, faiss.METRIC_INNER_PRODUCT)
    except Exception as error:  # FAISS throws RuntimeError, and others from the text's parsing
        raise _not_a_codec(compression, kept, error) from None
    if codec.metric_type != faiss.METRIC_INNER_PRODUCT or not _reads_back(codec):
        raise PatchifyError(
            f"The codec '{compression.codec}' does not give single patches back: use one of Flat, SQ, PQ and IVF."
        )
    for part in _parts(codec):
        # Too few vectors are refused by `train` in our own words; FAISS would write a warning for each sub-space.
        for parameters in (getattr(part, "cp", None), getattr(getattr(part, "pq", None), "cp", None)):
            if parameters is not None:
                parameters.min_points_per_centroid = 1
                parameters.seed += seed
        if isinstance(part, faiss.IndexIVF):
            part.nprobe = max(1, min(part.nlist, 8 + part.nlist // 16))
    return codec


def train(codec: faiss.Index, vectors: NDArray[np.float32], factory: str) -> None:
    """Trains a codec in place.

    Args:
        codec: from `make_codec`.
        vectors: (N, d) float32 that it learns from.
        factory: what it is called in messages.

    Raises:
        PatchifyError: if there are too few vectors; it says how many are needed.
    """
    if codec.is_trained:
        return
    try:
        codec.train(np.ascontiguousarray(vectors, np.float32))
    except RuntimeError as error:
        needed = re.search(r"should be at least as large as number of clusters \((\d+)\)|>= (\d+)", str(error))
        how_many = f"at least {next(n for n in needed.groups() if n)}" if needed else "more"
        raise PatchifyError(
            f"The codec {factory} needs {how_many} patches to train on and has {len(vectors)}: index more pictures, "
            "choose --codebook uniform, or a smaller codec such as the presets exact or small."
        ) from None


def visits_everything(codec: faiss.Index) -> bool:
    """Whether a search compares the query with every code and may be told which of them count."""
    import faiss

    return isinstance(codec, (faiss.IndexFlat, faiss.IndexScalarQuantizer))


def _parts(codec: faiss.Index) -> list[faiss.Index]:
    """The index and those inside it."""
    import faiss

    found: list[faiss.Index] = []
    inner: Any = codec
    while inner is not None:
        inner = faiss.downcast_index(inner)
        found.append(inner)
        inner = getattr(inner, "index", None) or getattr(inner, "base_index", None) or getattr(inner, "storage", None)
    return found


def _reads_back(codec: faiss.Index) -> bool:
    import faiss

    return not isinstance(codec, (faiss.IndexBinary, faiss.IndexLSH, faiss.IndexRefine)) and hasattr(codec, "sa_decode")


def _not_a_codec(compression: Compression, dim: int, error: Exception) -> PatchifyError:
    codec = compression.codec
    split = re.search(r"PQ(\d+)", codec)
    if split and int(split[1]) and dim % int(split[1]):
        return PatchifyError(
            f"The codec '{codec}' cuts a descriptor of {dim} numbers into {split[1]} equal parts, which does not work "
            f"out: choose a divisor of {dim}."
        )
    near = difflib.get_close_matches(compression.factory, [*PRESETS, *KNOWN], n=1, cutoff=0.4)
    guess = f"did you mean {near[0]}?" if near else f"presets are {', '.join(PRESETS)}."
    return PatchifyError(f"FAISS does not understand the factory '{compression.factory}': {guess}")
