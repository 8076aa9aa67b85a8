"""How descriptors are kept: an optional learned projection, then a FAISS codec, by presets or by factory string.

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

CODEBOOKS = ("uniform", "global", "informative", "distinctive")
"""What a codec may be trained on; see `codebook.py`."""

PRESETS = {
    "exact": "Flat",
    "small": "PCAH256,SQ8",
    "tiny": "PCAH256,PQ64",
    "huge": "PCAH128,IVF{lists},PQ32",
    "fast": "HNSW16,Flat",
}
"""Names for factory strings. `{lists}` becomes the number of inverted lists that suits the number of patches."""

FALLBACKS = {"small": ("PCAH128,SQ8", "SQ8"), "tiny": ("PCAH128,SQ4", "SQ8")}
"""What a preset takes instead, the first that can be learned, where there are too few patches for its projection or the
encoder gives fewer numbers. Up to 128 patches a projection would be larger than all the codes."""

EARLIER = {"tiny": ("PCAH128,PQ64",)}
"""What presets of earlier versions stood for: such an index goes on as it is. Of a mixed gallery 128 numbers lose more
than 64 bytes do."""

UNTRAINED = re.compile(r"(HNSW[0-9]+,)?(Flat|SQfp16|SQbf16)")
"""Codecs that learn nothing."""

GRAPH_BUILD, GRAPH_SEARCH = 100, 200
"""Candidates that a patch is linked among, and that a search keeps; with FAISS's own 40 and 16 some are not found."""


TRAINING_PATCHES = 50_000
"""Patches that projection and codec are learned from, at most."""

PATCHES_PER_CENTROID = 39
"""Training vectors that FAISS wants for every centroid before it stops warning; lists are chosen to keep to it."""

ROTATION_CENTROIDS = 256
"""Centroids of the quantizer that FAISS learns an OPQ rotation with, whatever comes after it."""

CODECS = re.compile(
    r"HNSW([4-9]|[1-5][0-9]|6[0-4]),(Flat|SQ([468]|fp16|bf16))|"
    r"(OPQ(?P<rotated>[1-9][0-9]{0,3})(_(?P<width>[1-9][0-9]{0,3}))?,)?"
    r"((IVF[1-9][0-9]{0,5}(_HNSW([4-9]|[1-9][0-9]))?,)?"
    r"(Flat|SQ([468]|fp16|bf16)|PQ(?P<parts>[1-9][0-9]{0,3})(x([4-9]|1[0-2]))?)|PQ(?P<fast>[1-9][0-9]{0,3})x4fs)"
)
"""FAISS's codecs that were tried from training to update. Of the others some fail on the way (IVF with fast-scan and
HNSW0 end the process), and some lose descriptors without a word (SQ8_direct) or compare them in another space than
they decode to (FAISS's own PCA)."""

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

    def can_project(self, patches: int, dim: int) -> bool:
        """Whether its projection can be learned from so many patches of `dim` numbers; 0 for what is not known."""
        axes = self.projection or 0
        return (not patches or patches > axes) and (not dim or dim >= axes)


def parse_factory(text: str, patches: int = 0, dim: int = 0) -> Compression:
    """Read a preset's name or a factory string.

    Args:
        text: e.g. `tiny`, `Flat`, `PCAH128,PQ64`.
        patches: number of patches that will be indexed, for presets that depend on it; 0 where it is not known.
        dim: of the encoder's descriptors, likewise.

    Raises:
        PatchifyError: if the string is empty or its projection cannot be read. Whether FAISS understands its part is
            seen by `make_codec`.
    """
    name = text.strip().lower()
    usual = _read(PRESETS.get(name, text.strip()).replace("{lists}", str(lists_for(patches))), text)
    choices = [usual, *(_read(simpler, text) for simpler in FALLBACKS.get(name, ()))]
    return next((choice for choice in choices if choice.can_project(patches, dim)), choices[-1])


def is_fallback(text: str, factory: str) -> bool:
    """Whether a factory string is what a preset of this name takes only where it must (`FALLBACKS`)."""
    return factory in FALLBACKS.get(text.strip().lower(), ())


def of_preset(text: str, factory: str) -> bool:
    """Whether a factory string is what a preset of this name stands for, whatever the number of patches or the version.

    Example:
        >>> [of_preset("huge", "PCAH128,IVF512,PQ32"), of_preset("tiny", "SQ8"), of_preset("PQ64", "PQ64")]
        [True, True, False]
    """
    name = text.strip().lower()
    head, lists, tail = PRESETS.get(name, "").partition("{lists}")
    if lists:
        return factory.startswith(head) and factory.endswith(tail)
    return factory == head or is_fallback(name, factory) or factory in EARLIER.get(name, ())


def _read(factory: str, text: str) -> Compression:
    """A factory string, which a person wrote as `text`; errors as for `parse_factory`."""
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
    """Inverted lists for this many patches: 4 times the square root, a power of two, with enough to train each on.

    Example:
        >>> [lists_for(n) for n in (100, 5_000, 300_000, 300_000_000)]
        [2, 128, 1024, 1024]
    """
    wanted = min(4 * patches**0.5, min(patches, TRAINING_PATCHES) / PATCHES_PER_CENTROID)
    return 1 << max(0, int(np.log2(max(wanted, 1))))


def make_codec(compression: Compression, dim: int, seed: int = 0) -> faiss.Index:
    """An empty, untrained FAISS index for inner products.

    Args:
        compression: what to make.
        dim: dimension of the encoder's descriptors; the codec's is the projection's, if there is one.
        seed: of where k-means begins.

    Raises:
        PatchifyError: one sentence, if the codec is not one of `CODECS` or does not fit the dimension.
    """
    import faiss

    if compression.projection is not None and compression.projection > dim:
        raise PatchifyError(
            f"{compression.factory} projects to {compression.projection} dimensions, but the encoder gives {dim}: "
            f"write PCAH{dim} at most."
        )
    kept = compression.projection or dim
    found = CODECS.fullmatch(compression.codec)
    if not found:
        raise _unknown(compression)
    width = int(found["width"] or kept)
    if width > kept:
        raise PatchifyError(f"The codec '{compression.codec}' rotates {kept} numbers into more: write {kept} at most.")
    for parts in (found["rotated"], found["parts"], found["fast"]):
        if parts and width % int(parts):
            raise PatchifyError(
                f"The codec '{compression.codec}' cuts a descriptor of {width} numbers into {parts} equal parts, which "
                f"does not work out: choose a divisor of {width}."
            )
    codec = faiss.index_factory(kept, compression.codec, faiss.METRIC_INNER_PRODUCT)
    for part in _parts(codec):
        # Too few vectors are refused in our own words; FAISS would write a warning for each sub-space.
        for parameters in (getattr(part, "cp", None), getattr(getattr(part, "pq", None), "cp", None)):
            if parameters is not None:
                parameters.min_points_per_centroid = 1
                parameters.seed += seed
        if hasattr(part, "do_polysemous_training"):
            # The factory's default reorders the codes for a search by Hamming distance that is not used here, and takes
            # twenty times as long as the training itself.
            part.do_polysemous_training = False
        if isinstance(part, faiss.IndexIVF):
            part.nprobe = max(1, min(part.nlist, 8 + part.nlist // 16))
        if isinstance(part, faiss.IndexHNSW):
            part.hnsw.efConstruction, part.hnsw.efSearch = GRAPH_BUILD, GRAPH_SEARCH
    return codec


def needed_to_train(codec: faiss.Index) -> int:
    """Vectors without which `train` fails: one for each centroid of the largest k-means; 1 if nothing is trained.

    Args:
        codec: untrained, from `make_codec`.
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


def too_few(factory: str, needed: int, there: int) -> PatchifyError:
    """What is said when a codec has too little to be trained on."""
    return PatchifyError(
        f"The codec {factory} needs at least {needed} patches to train on and has {there}: index more pictures, let it "
        "learn from all of them (the uniform codebook), or keep descriptors exact or as SQ8, which needs none."
    )


def train(codec: faiss.Index, vectors: NDArray[np.float32], factory: str) -> None:
    """Train a codec in place.

    Args:
        codec: from `make_codec`.
        vectors: (N, d) float32 that it learns from.
        factory: what it is called in messages.

    Raises:
        PatchifyError: if there are too few vectors; it says how many are needed.
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
        # An OPQ rotation is learned with a quantizer of its own, which would write FAISS's warnings.
        chain: Any = outer.chain
        rotation = faiss.downcast_VectorTransform(chain.at(0))
        quantizer: Any = faiss.ProductQuantizer(rotation.d_out, rotation.M, 8)
        quantizer.cp.min_points_per_centroid, quantizer.cp.niter = 1, rotation.niter_pq
        if hasattr(inner, "pq"):
            quantizer.cp.seed = inner.pq.cp.seed
        rotation.pq = quantizer
    codec.train(np.ascontiguousarray(vectors, np.float32))
    if rotation is not None:
        rotation.pq = None  # FAISS keeps a pointer, and the quantizer goes with this function


def visits_everything(codec: faiss.Index) -> bool:
    """Whether a search compares the query with every code and takes a selection of those that count."""
    import faiss

    return isinstance(codec, (faiss.IndexFlat, faiss.IndexScalarQuantizer))


def compared(codec: faiss.Index) -> faiss.Index:
    """What holds the codes that a search compares with: a graph's storage, else the codec itself."""
    import faiss

    return faiss.downcast_index(codec.storage) if isinstance(codec, faiss.IndexHNSW) else codec


def _parts(codec: faiss.Index) -> list[faiss.Index]:
    """The index, and the one inside it where a rotation comes first; each as what it is."""
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
