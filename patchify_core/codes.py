"""Descriptors of many pictures -> FAISS codes: the projection is learned, the codec trained, everything added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.codebook import choose
from patchify_core.compression import CODEBOOKS, make_codec, parse_factory, train
from patchify_core.errors import PatchifyError
from patchify_core.projection import Projection
from patchify_core.regions import Regions

if TYPE_CHECKING:
    import faiss


@dataclass(frozen=True)
class CodeSettings:
    """What a person may tune about how descriptors are kept.

    Attributes:
        factory: a preset's name (`compression.PRESETS`) or a factory string. What is learned (projection, codec) is
            learned from the first build's pictures and kept in every later one: begin with more than a handful.
        codebook: what the codec is trained on, one of `compression.CODEBOOKS`.
        rescore: factory of finer codes, kept beside the others, that re-score the first pictures of a search; in the
            projected space, so without `PCAH`. None for none.
        training_patches: patches that projection and codec are learned from, at most.
        seed: of what is random: which pictures are learned from, and where k-means begins.
    """

    factory: str = "Flat"
    codebook: str = "uniform"
    rescore: str | None = None
    training_patches: int = 50_000
    seed: int = 0

    def check(self, dim: int, regions: Regions, pictures: int) -> None:
        """Finds out before the work what would fail after it.

        Raises:
            PatchifyError: one sentence, if codec or codebook are unknown or do not fit.
        """
        compression = parse_factory(self.factory, pictures * regions.patches_per_image)
        make_codec(compression, dim)
        if self.codebook not in CODEBOOKS:
            raise PatchifyError(f"Unknown codebook '{self.codebook}': choose {', '.join(CODEBOOKS)}.")
        if self.codebook == "global" and regions.stages[0].spec != "pyramid:1":
            raise PatchifyError(
                f"The global codebook is trained on whole pictures, which {regions.spec} does not begin with: write "
                f"pyramid:1+{regions.spec}, or choose another codebook."
            )
        if self.rescore is not None:
            finer = parse_factory(self.rescore)
            if finer.projection is not None or "IVF" in finer.codec:
                raise PatchifyError(
                    f"--rescore {self.rescore}: finer codes are kept beside the others, in the same projection; choose "
                    "Flat, SQfp16, SQ8 or a PQ."
                )
            make_codec(finer, compression.projection or dim)

    def made_with(self, meta: dict[str, Any]) -> dict[str, Any]:
        """What must stand in an existing index' `meta` so that this build may go on with it."""
        factory = parse_factory(self.factory).factory
        lists = self.factory.strip().lower() == "huge"  # their number was chosen when the index was begun
        kept = str(meta.get("factory"))
        same = lists and kept.startswith("PCAH128,IVF") and kept.endswith(",PQ32")
        return {
            "factory": kept if same else factory,
            "codebook": self.codebook,
            "rescore": self.rescore,
        }


@dataclass(frozen=True, eq=False)
class Codes:
    """A filled codec and what belongs to it: factory string, projection or None, finer codes or None."""

    factory: str
    codes: faiss.Index
    projection: Projection | None = None
    fine: faiss.Index | None = None


def encode_codes(
    descriptors: Callable[[int], NDArray[np.float32]],
    pictures: int,
    regions: Regions,
    dim: int,
    settings: CodeSettings,
    like: Codes | None = None,
) -> Codes:
    """Codes the descriptors of all pictures, one picture in memory at a time beside the training sample.

    Args:
        descriptors: row of a picture -> (P, D) float32; with `like`, (P, dim) in its projected space.
        pictures: how many there are, at least 1.
        regions: what P is, and whether patch 0 is the whole picture.
        dim: D, of the encoder's descriptors.
        settings: see `CodeSettings`.
        like: codes of an earlier build: its projection and training are kept, so that what was coded before decodes
            and codes to the same bytes again.

    Raises:
        PatchifyError: if there are too few patches to learn from; it says how many are needed.
    """
    patches = regions.patches_per_image
    compression = parse_factory(settings.factory, pictures * patches)
    fine: faiss.Index | None
    if like is not None:
        projection, codes = like.projection, _emptied(like.codes)
        fine = None if like.fine is None else _emptied(like.fine)
        factory = like.factory
    else:
        projection, fine, factory = None, None, compression.factory
        codes = make_codec(compression, dim, settings.seed)
        if settings.rescore is not None:
            fine = make_codec(parse_factory(settings.rescore), codes.d, settings.seed)
        learns = (
            compression.projection is not None or not codes.is_trained or (fine is not None and not fine.is_trained)
        )
        if learns:
            sample = _sample(descriptors, pictures, patches, dim, settings)
            if compression.projection is not None:
                projection = Projection.learn(sample.reshape(-1, dim), compression.projection)
                sample = projection(sample.reshape(-1, dim)).reshape(len(sample), patches, -1)
            flat = sample.reshape(-1, sample.shape[2])
            # The order does not matter for k-means but its starting points are drawn from it: FAISS seeds them.
            train(
                codes, flat[choose(sample, settings.codebook, settings.seed)] if not codes.is_trained else flat, factory
            )
            if fine is not None:
                train(fine, flat, str(settings.rescore))
            del sample, flat
    for row in range(pictures):
        vectors = descriptors(row)
        if projection is not None and like is None:
            vectors = projection(vectors)
        vectors = np.ascontiguousarray(vectors, np.float32)
        codes.add(vectors)
        if fine is not None:
            fine.add(vectors)
    return Codes(factory, codes, projection, fine)


def _sample(
    descriptors: Callable[[int], NDArray[np.float32]], pictures: int, patches: int, dim: int, settings: CodeSettings
) -> NDArray[np.float32]:
    """(M, P, D) descriptors of M pictures drawn at random, about `training_patches` in all."""
    count = max(1, settings.training_patches // patches)
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(pictures)[:count])
    sample = np.empty((len(chosen), patches, dim), np.float32)
    for at, row in enumerate(chosen.tolist()):
        sample[at] = descriptors(row)
    return sample


def _emptied(codes: faiss.Index) -> faiss.Index:
    """A trained codec of the same kind without codes."""
    import faiss

    if isinstance(codes, faiss.IndexFlat):
        return faiss.IndexFlatIP(codes.d)
    if isinstance(codes, faiss.IndexScalarQuantizer):
        # Not by a copy, which would have all of the old codes in memory once more.
        empty = faiss.IndexScalarQuantizer(codes.d, codes.sq.qtype, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(faiss.vector_to_array(codes.sq.trained), empty.sq.trained)
        empty.is_trained = True
        return empty
    copy = faiss.clone_index(codes)
    copy.reset()
    return copy
