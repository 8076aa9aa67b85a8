"""Codecs by preset or factory string: an optional learned projection followed by a FAISS codec.

A factory string is that of FAISS (https://github.com/facebookresearch/faiss/wiki/The-index-factory) with one optional
prefix: `PCAH128,` projects to 128 dimensions with half whitening (see `projection`). Presets are names for factory
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

CODEBOOKS = ("uniform", "global", "informative", "distinctive")
"""Training sets of a codec; see `codes`."""

PRESETS = {
    "exact": "Flat",
    "small": "PCAH256,SQ8",
    "tiny": "PCAH256,PQ64",
    "huge": "PCAH128,IVF{lists},PQ32",
    "fast": "HNSW16,Flat",
}
"""Names of factory strings. `{lists}` is replaced by a number of inverted lists that suits the number of patches."""

FALLBACKS = {"small": ("PCAH128,SQ8", "SQ8"), "tiny": ("PCAH128,SQ4", "SQ8")}
"""Alternatives of a preset, the first that can be trained, if there are too few patches for its projection or the
descriptors are too short. Up to 128 patches a projection would be larger than all the codes."""

EARLIER = {"tiny": ("PCAH128,PQ64",)}
"""Factory strings of presets in earlier versions, which can still be updated. For mixed galleries the loss of 128
dimensions was larger than that of 64 bytes."""

UNTRAINED = re.compile(r"(HNSW[0-9]+,)?(Flat|SQfp16|SQbf16)")
"""Codecs without training."""

GRAPH_BUILD, GRAPH_SEARCH = 100, 200
"""HNSW candidates during construction and search; with the 40 and 16 of FAISS some patches are never found."""


TRAINING_PATCHES = 50_000
"""Maximum number of training patches for projection and codec."""

PATCHES_PER_CENTROID = 39
"""Training vectors per centroid below which FAISS warns; the number of lists respects it."""

ROTATION_CENTROIDS = 256
"""Centroids of the quantizer that FAISS trains an OPQ rotation with, whatever the codec."""

CODECS = re.compile(
    r"HNSW([4-9]|[1-5][0-9]|6[0-4]),(Flat|SQ([468]|fp16|bf16))|"
    r"(OPQ(?P<rotated>[1-9][0-9]{0,3})(_(?P<width>[1-9][0-9]{0,3}))?,)?"
    r"((IVF[1-9][0-9]{0,5}(_HNSW([4-9]|[1-9][0-9]))?,)?"
    r"(Flat|SQ([468]|fp16|bf16)|PQ(?P<parts>[1-9][0-9]{0,3})(x([4-9]|1[0-2]))?)|PQ(?P<fast>[1-9][0-9]{0,3})x4fs)"
)
"""FAISS codecs tested from training to update. Some others crash (IVF with fast-scan, HNSW0), lose descriptors silently
(SQ8_direct), or compare in another space than they decode to (FAISS's own PCA)."""

KNOWN = ("Flat", "SQfp16", "SQ8", "SQ6", "SQ4", "PQ64", "PQ32", "PQ16", "PQ64x4", "OPQ32,PQ32", "IVF256,Flat")
"""Common codecs, to suggest one for an unknown string."""


@dataclass(frozen=True)
class Compression:
    """A parsed factory string.

    Attributes:
        factory: The whole string in canonical form, e.g. `PCAH128,PQ64`.
        codec: The FAISS part, e.g. `PQ64`.
        projection: Dimensions of the learned projection; None for none.
    """

    factory: str
    codec: str
    projection: int | None

    def can_project(self, patches: int, dim: int) -> bool:
        """Whether the projection can be learned from this many patches of `dim` numbers; 0 if unknown."""
        axes = self.projection or 0
        return (not patches or patches > axes) and (not dim or dim >= axes)


def parse_factory(text: str, patches: int = 0, dim: int = 0) -> Compression:
    """Parse the name of a preset, or a factory string.

    Args:
        text: E.g. `tiny`, `Flat`, `PCAH128,PQ64`.
        patches: Number of patches to index, for presets that depend on it; 0 if unknown.
        dim: Dimension of the descriptors, likewise.

    Raises:
        PatchifyError: The string is empty or its projection invalid. `make_codec` checks the FAISS part.
    """
    name = text.strip().lower()
    preferred = _parse(PRESETS.get(name, text.strip()).replace("{lists}", str(lists_for(patches))), text)
    choices = [preferred, *(_parse(simpler, text) for simpler in FALLBACKS.get(name, ()))]
    return next((choice for choice in choices if choice.can_project(patches, dim)), choices[-1])


def is_fallback(text: str, factory: str) -> bool:
    """Whether a factory string is an alternative of this preset (`FALLBACKS`)."""
    return factory in FALLBACKS.get(text.strip().lower(), ())


def of_preset(text: str, factory: str) -> bool:
    """Whether a factory string belongs to this preset, for any number of patches and any version.

    Example:
        >>> [of_preset("huge", "PCAH128,IVF512,PQ32"), of_preset("tiny", "SQ8"), of_preset("PQ64", "PQ64")]
        [True, True, False]
    """
    name = text.strip().lower()
    head, lists, tail = PRESETS.get(name, "").partition("{lists}")
    if lists:
        return factory.startswith(head) and factory.endswith(tail)
    return factory == head or is_fallback(name, factory) or factory in EARLIER.get(name, ())


def _parse(factory: str, text: str) -> Compression:
    """Parse a factory string that the user wrote as `text`; errors as for `parse_factory`."""
    head, comma, rest = factory.partition(",")
    match = re.fullmatch(r"PCAH([0-9]{1,5})", head)
    if head.upper().startswith("PCAH") and not (match and comma and rest and int(match[1])):
        raise PatchifyError(
            f"The factory '{text}' is invalid: a projection is written PCAH128,CODEC, as in PCAH128,PQ64."
        )
    if not factory:
        raise PatchifyError(
            f"Name a preset ({', '.join(PRESETS)}) or a FAISS factory such as Flat, SQ8 or PCAH128,PQ64."
        )
    return Compression(factory, rest if match else factory, int(match[1]) if match else None)


def lists_for(patches: int) -> int:
    """Return the number of lists for this many patches: 4 times the square root, a power of two, and trainable.

    Example:
        >>> [lists_for(n) for n in (100, 5_000, 300_000, 300_000_000)]
        [2, 128, 1024, 1024]
    """
    wanted = min(4 * patches**0.5, min(patches, TRAINING_PATCHES) / PATCHES_PER_CENTROID)
    return 1 << max(0, int(np.log2(max(wanted, 1))))


def make_codec(compression: Compression, dim: int, seed: int = 0) -> faiss.Index:
    """Create an empty, untrained FAISS index for inner products.

    Args:
        compression: Parsed factory string.
        dim: Dimension of the descriptors before the projection.
        seed: Of k-means.

    Raises:
        PatchifyError: The codec is not one of `CODECS` or does not fit the dimension.
    """
    import faiss

    if compression.projection is not None and compression.projection > dim:
        raise PatchifyError(
            f"{compression.factory} projects to {compression.projection} dimensions, but the encoder gives {dim}: "
            f"write PCAH{dim} at most."
        )
    projected = compression.projection or dim
    match = CODECS.fullmatch(compression.codec)
    if not match:
        raise _unknown(compression)
    width = int(match["width"] or projected)
    if width > projected:
        raise PatchifyError(
            f"The codec '{compression.codec}' rotates {projected} numbers into more: write {projected} at most."
        )
    for parts in (match["rotated"], match["parts"], match["fast"]):
        if parts and width % int(parts):
            raise PatchifyError(
                f"The codec '{compression.codec}' cuts a descriptor of {width} numbers into {parts} equal parts, which "
                f"is not possible: choose a divisor of {width}."
            )
    codec = faiss.index_factory(projected, compression.codec, faiss.METRIC_INNER_PRODUCT)
    for part in _parts(codec):
        # We check for too few vectors ourselves; FAISS would print a warning for each sub-space.
        for parameters in (getattr(part, "cp", None), getattr(getattr(part, "pq", None), "cp", None)):
            if parameters is not None:
                parameters.min_points_per_centroid = 1
                parameters.seed += seed
        if hasattr(part, "do_polysemous_training"):
            # The default reorders the codes for search by Hamming distance, which is not used here and takes twenty
            # times as long as the training.
            part.do_polysemous_training = False
        if isinstance(part, faiss.IndexIVF):
            part.nprobe = max(1, min(part.nlist, 8 + part.nlist // 16))
        if isinstance(part, faiss.IndexHNSW):
            part.hnsw.efConstruction, part.hnsw.efSearch = GRAPH_BUILD, GRAPH_SEARCH
    return codec


def needed_to_train(codec: faiss.Index) -> int:
    """Return how many vectors `train` needs: one per centroid of the largest k-means; 1 without training.

    Args:
        codec: Untrained, from `make_codec`.
    """
    import faiss

    needed = 1
    for part in _parts(codec):
        if isinstance(part, faiss.IndexIVF):
            needed = max(needed, part.nlist)
        if isinstance(part, faiss.IndexPreTransform):
            needed = max(needed, ROTATION_CENTROIDS)
        if hasattr(part, "pq"):
            needed = max(needed, part.pq.ksub)
    return needed


def too_few(factory: str, needed: int, available: int) -> PatchifyError:
    """Error for too few training patches."""
    return PatchifyError(
        f"The codec {factory} needs at least {needed} patches to train on and has {available}: index more pictures, "
        "train on all of them (the uniform codebook), or choose exact or SQ8, which need no training."
    )


def train(codec: faiss.Index, vectors: NDArray[np.float32], factory: str) -> None:
    """Train a codec in place.

    Args:
        codec: From `make_codec`.
        vectors: (N, d) float32 training vectors.
        factory: Name of the codec for errors.

    Raises:
        PatchifyError: There are too few vectors; the message says how many are needed.
    """
    import faiss

    if codec.is_trained:
        return
    needed = needed_to_train(codec)
    if len(vectors) < needed:
        raise too_few(factory, needed, len(vectors))
    outer: Any = _parts(codec)[0]
    inner: Any = _parts(codec)[-1]
    rotation: Any = None
    if isinstance(outer, faiss.IndexPreTransform):
        # FAISS trains an OPQ rotation with a quantizer of its own, which would print warnings.
        chain: Any = outer.chain
        rotation = faiss.downcast_VectorTransform(chain.at(0))
        quantizer: Any = faiss.ProductQuantizer(rotation.d_out, rotation.M, 8)
        quantizer.cp.min_points_per_centroid, quantizer.cp.niter = 1, rotation.niter_pq
        if hasattr(inner, "pq"):
            quantizer.cp.seed = inner.pq.cp.seed
        rotation.pq = quantizer
    codec.train(np.ascontiguousarray(vectors, np.float32))
    if rotation is not None:
        rotation.pq = None  # FAISS has a pointer to it, and it is freed with this function


def visits_everything(codec: faiss.Index) -> bool:
    """Whether a search compares the query with every code, and supports selectors."""
    import faiss

    return isinstance(codec, (faiss.IndexFlat, faiss.IndexScalarQuantizer))


def code_storage(codec: faiss.Index) -> faiss.Index:
    """Return the index with the codes: the storage of a graph, else the codec itself."""
    import faiss

    return faiss.downcast_index(codec.storage) if isinstance(codec, faiss.IndexHNSW) else codec


def _parts(codec: faiss.Index) -> list[faiss.Index]:
    """Return the downcast index, and the one inside it if a rotation precedes it."""
    import faiss

    outer = faiss.downcast_index(codec)
    return [outer, faiss.downcast_index(outer.index)] if isinstance(outer, faiss.IndexPreTransform) else [outer]


def _unknown(compression: Compression) -> PatchifyError:
    shown = compression.factory if len(compression.factory) <= 60 else compression.factory[:60] + "..."
    names = {name.lower(): name for name in (*PRESETS, *KNOWN)}
    near = difflib.get_close_matches(compression.codec.lower(), names, n=1, cutoff=0.6)
    guess = f" (did you mean {names[near[0]]}?)" if near else ""
    return PatchifyError(
        f"The factory {shown!r} is not known{guess}: choose {', '.join(PRESETS)}, or FAISS's Flat, SQ4, SQ6, SQ8, "
        "SQfp16, SQbf16, PQ64, PQ64x4fs, or PQ and SQ after OPQ32 or IVF256, as in IVF256,SQ8, or SQ after HNSW16."
    )
