"""Descriptors of many pictures -> FAISS codes: the projection is learned, the codec trained, everything added.

What a codec is trained on decides how much is lost at the same bytes; that is the paper's point.

- `global`: the descriptors of whole pictures alone, as a codebook made for global retrieval has them.
- `uniform`: patches drawn at random.
- `informative`: patches in random order, leaving out those that nearly repeat one taken before (ours). Sky, wall and
  floor repeat each other everywhere and fill a random sample; one of each is enough.
- `distinctive`: the patches that are unlike everything in other pictures (ours), half of them.

The last two are two definitions of what the paper calls informative. `study compression` compares all four at equal
bytes; the one that won on more of the sets has the paper's name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.index.codec.factory import (
    CODEBOOKS,
    TRAINING_PATCHES,
    UNTRAINED,
    is_fallback,
    make_codec,
    needed_to_train,
    of_preset,
    parse_factory,
    too_few,
    train,
)
from patchify_core.index.codec.filling import Filler, emptied
from patchify_core.index.codec.projection import Projection
from patchify_core.regions import Regions

if TYPE_CHECKING:
    import faiss


log = logging.getLogger(__name__)

DISTINCTIVE_SHARE = 0.5
"""Share of the patches that `distinctive` keeps."""

NEIGHBOURS = 5
"""Nearest patches of other pictures whose mean similarity says how much a patch stands alone."""

NEAR_DUPLICATE = 0.8
"""Cosine similarity from which `informative` counts two patches as one."""

REFERENCE = 8192
"""Patches that every patch is compared with, at most: enough to know the commonplace, and the cost stays linear."""


@dataclass(frozen=True)
class CodeSettings:
    """What a person may tune about how descriptors are kept.

    Attributes:
        factory: a preset's name (`factory.PRESETS`) or a factory string. What is learned (projection, codec) is
            learned from the first build's pictures and kept in every later one: begin with more than a handful.
        codebook: what the codec is trained on, one of `factory.CODEBOOKS`.
        rescore: factory of finer codes, kept beside the others, that re-score the first pictures of a search; in the
            projected space, so without `PCAH`. None for none.
        training_patches: patches that projection and codec are learned from, at most.
        seed: of what is random: which pictures are learned from, and where k-means begins.
    """

    factory: str = "Flat"
    codebook: str = "uniform"
    rescore: str | None = None
    training_patches: int = TRAINING_PATCHES
    seed: int = 0

    def check(self, dim: int, regions: Regions, pictures: int) -> None:
        """Find out before the work what would fail after it.

        Raises:
            PatchifyError: one sentence, if codec or codebook are unknown or do not fit.
        """
        compression = parse_factory(self.factory, pictures * regions.patches_per_image, dim)
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
            if finer.projection is not None or "IVF" in finer.codec or "HNSW" in finer.codec:
                raise PatchifyError(
                    f"--rescore {self.rescore}: finer codes are kept beside the others, in the same projection; choose "
                    "Flat, SQfp16, SQ8 or a PQ."
                )
            make_codec(finer, compression.projection or dim)

    def check_enough(self, dim: int, regions: Regions, pictures: int) -> None:
        """Find out before the work of a first build whether this many pictures can be learned from at all.

        Args:
            dim: of the encoder's descriptors.
            regions: what a picture is cut into.
            pictures: how many there are, at most.

        Raises:
            PatchifyError: if there are too few; it says how many patches are needed.
        """
        patches = regions.patches_per_image
        compression = parse_factory(self.factory, pictures * patches, dim)
        sampled = min(pictures, self.sampled_pictures(patches))
        share = {"global": 1 / patches, "distinctive": DISTINCTIVE_SHARE}.get(self.codebook, 1)
        learners = [(compression, max(1, round(share * sampled * patches)))]
        if self.rescore is not None:
            learners.append((parse_factory(self.rescore), sampled * patches))
        projected = compression.projection or 0
        short = sampled * patches <= projected
        for learner, there in learners:
            needed = needed_to_train(make_codec(learner, dim if learner is compression else projected or dim))
            if there < needed and not (short and needed <= projected):  # of two needs the larger is said
                raise too_few(learner.factory, needed, there)
        if compression.projection is not None:
            Projection.check_enough(sampled * patches, compression.projection)

    def sampled_pictures(self, patches: int) -> int:
        """How many pictures of this many patches are learned from, at most."""
        return max(1, self.training_patches // patches)

    def factory_beside(self, kept: str | None) -> str:
        """`factory` as a factory string that an index with the factory `kept` must have to go on with this build."""
        # What a preset stands for was chosen when the index was begun, from the patches that there were.
        return kept if kept is not None and of_preset(self.factory, kept) else parse_factory(self.factory).factory

    @property
    def codebook_kept(self) -> str:
        """`codebook`, or the default's name where the codec learns nothing, so that it cannot differ in name alone."""
        return CodeSettings.codebook if UNTRAINED.fullmatch(parse_factory(self.factory).codec) else self.codebook

    @property
    def rescore_factory(self) -> str | None:
        """`rescore` as a factory string."""
        return None if self.rescore is None else parse_factory(self.rescore).factory


@dataclass(frozen=True, eq=False)
class Codes:
    """A filled codec and what belongs to it: factory string, projection or None, finer codes or None."""

    factory: str
    codes: faiss.Index
    projection: Projection | None = None
    fine: faiss.Index | None = None

    def check(self, count: int, dim: int) -> None:
        """Raise ValueError unless these are the codes of `count` vectors of `dim` numbers, for inner products."""
        import faiss

        for part in (self.codes, self.fine):
            if part is not None and (part.ntotal, part.d, part.metric_type) != (
                count,
                dim,
                faiss.METRIC_INNER_PRODUCT,
            ):
                raise ValueError("codes that do not fit the pictures")


def encode_codes(
    descriptors: Callable[[int], NDArray[np.float32]],
    pictures: int,
    regions: Regions,
    dim: int,
    settings: CodeSettings,
    like: Codes | None = None,
    known: Callable[[int], int | None] = lambda row: None,
) -> Codes:
    """Code the descriptors of all pictures, one picture in memory at a time beside the training sample.

    Args:
        descriptors: row of a picture -> (P, D) float32 as the encoder gave them; asked for rows that are not `known`.
        pictures: how many there are, at least 1.
        regions: what P is, and whether patch 0 is the whole picture.
        dim: D, of the encoder's descriptors.
        settings: see `CodeSettings`.
        like: codes of an earlier build, whose projection and training are kept.
        known: row of a picture -> its row in `like`, whose codes are copied byte for byte; None for a new picture.

    Raises:
        PatchifyError: if there are too few patches to learn from; it says how many are needed.
    """
    patches = regions.patches_per_image
    compression = parse_factory(settings.factory, pictures * patches, dim)
    fine: faiss.Index | None
    if like is not None:
        projection, codes = like.projection, emptied(like.codes)
        fine = None if like.fine is None else emptied(like.fine)
        factory = like.factory
    else:
        projection, fine, factory = None, None, compression.factory
        if is_fallback(settings.factory, factory):
            few = f"{pictures * patches:,} patches of {dim:,} numbers"
            log.warning("%s is %s here: %s are too few to learn its projection from.", settings.factory, factory, few)
        codes = make_codec(compression, dim, settings.seed)
        if settings.rescore is not None:
            fine = make_codec(parse_factory(settings.rescore), codes.d, settings.seed)
        learns = (
            compression.projection is not None or not codes.is_trained or (fine is not None and not fine.is_trained)
        )
        if learns:
            sample = sample_descriptors(descriptors, pictures, patches, dim, settings)
            if compression.projection is not None:
                projection = Projection.learn(sample.reshape(-1, dim), compression.projection)
                sample = projection(sample.reshape(-1, dim)).reshape(len(sample), patches, -1)
            flat = sample.reshape(-1, sample.shape[2])
            if not codes.is_trained:
                train(codes, flat[choose(sample, settings.codebook, settings.seed)], factory)
            if fine is not None:
                train(fine, flat, str(settings.rescore))
            del sample, flat
    coarse = Filler(codes, None if like is None else like.codes)
    fillers = [coarse] if fine is None else [coarse, Filler(fine, None if like is None else like.fine)]
    for row in range(pictures):
        was = known(row)
        if was is not None and like is not None:
            for filler in fillers:
                filler.copy(was * patches, patches)
            continue
        vectors = descriptors(row)
        if projection is not None:
            vectors = projection(vectors)
        for filler in fillers:
            filler.add(np.ascontiguousarray(vectors, np.float32))
    for filler in fillers:
        filler.flush()
    return Codes(factory, coarse.codes, projection, fine)


def sample_descriptors(
    descriptors: Callable[[int], NDArray[np.float32]], pictures: int, patches: int, dim: int, settings: CodeSettings
) -> NDArray[np.float32]:
    """(M, P, D) descriptors of M pictures drawn at random, about `training_patches` patches in all.

    Args: those of `encode_codes`; `patches` is P.
    """
    count = settings.sampled_pictures(patches)
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(pictures)[:count])
    sample = np.empty((len(chosen), patches, dim), np.float32)
    for at, row in enumerate(chosen.tolist()):
        sample[at] = descriptors(row)
    return sample


def choose(descriptors: NDArray[np.float32], codebook: str, seed: int = 0) -> NDArray[np.intp]:
    """Choose the training patches.

    Args:
        descriptors: (N, P, d) float32 of N pictures, rows of length 1, in the space that is coded. For `global`,
            patch 0 must be the whole picture.
        codebook: one of `CODEBOOKS`.
        seed: of what is random.

    Returns:
        Indices into the (N * P, d) patches, ascending.

    Raises:
        PatchifyError: if the codebook is unknown.
    """
    pictures, patches, _ = descriptors.shape
    if codebook == "global":
        return np.arange(pictures) * patches
    if codebook == "uniform":
        return np.arange(pictures * patches)
    if codebook == "distinctive":
        alone = -commonness(descriptors, seed)
        count = max(1, round(DISTINCTIVE_SHARE * pictures * patches))
        return np.sort(np.argsort(-alone, kind="stable")[:count])
    if codebook == "informative":
        return without_near_duplicates(descriptors.reshape(pictures * patches, -1), NEAR_DUPLICATE, seed)
    raise PatchifyError(f"Unknown codebook '{codebook}': choose {', '.join(CODEBOOKS)}.")


def commonness(descriptors: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """How like other pictures' patches each patch is.

    Args:
        descriptors: (N, P, d) float32, rows of length 1.
        seed: of the reference sample, where there are more than `REFERENCE` patches.

    Returns:
        (N * P,) float32, mean cosine similarity with the `NEIGHBOURS` nearest patches of other pictures, -1..1.
    """
    pictures, patches, _ = descriptors.shape
    vectors = descriptors.reshape(pictures * patches, -1)
    owner = np.repeat(np.arange(pictures), patches)
    sample = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:REFERENCE])
    near = min(NEIGHBOURS, len(sample))
    found = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), 1024):
        block = slice(start, start + 1024)
        similar = vectors[block] @ vectors[sample].T
        similar[owner[block][:, None] == owner[sample][None]] = -1  # a picture's own patches overlap each other
        found[block] = np.partition(similar, -near, axis=1)[:, -near:].mean(axis=1)
    return found


def without_near_duplicates(vectors: NDArray[np.float32], threshold: float, seed: int = 0) -> NDArray[np.intp]:
    """Go through vectors in random order and keeps those unlike all that were kept before.

    Args:
        vectors: (M, d) float32, rows of length 1.
        threshold: cosine similarity from which two count as the same.
        seed: of the order.

    Returns:
        Indices of the kept ones, ascending; at least one.
    """
    order = np.random.default_rng(seed).permutation(len(vectors))
    kept: list[int] = []
    for start in range(0, len(order), 1024):
        block = order[start : start + 1024]
        new = np.ones(len(block), bool)
        for at in range(0, len(kept), 8192):  # a matrix product for all of them: one vector at a time takes hours
            new &= (vectors[block] @ vectors[kept[at : at + 8192]].T).max(axis=1) <= threshold
        block = block[new]
        similar = vectors[block] @ vectors[block].T > threshold
        taken = np.zeros(len(block), bool)
        for at in range(len(block)):
            taken[at] = not (similar[at] & taken).any()
        kept.extend(block[taken].tolist())
    return np.sort(np.array(kept, np.intp))
