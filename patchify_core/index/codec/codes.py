"""Code the descriptors of many pictures with FAISS: learn the projection, train the codec, add everything."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.index.codec.codebook import DISTINCTIVE_SHARE, select_patches
from patchify_core.index.codec.factory import (
    CODEBOOKS,
    TRAINING_PATCHES,
    UNTRAINED,
    code_storage,
    is_fallback,
    make_codec,
    needed_to_train,
    of_preset,
    parse_factory,
    too_few,
    train,
)
from patchify_core.index.codec.projection import Projection
from patchify_core.regions import Regions

if TYPE_CHECKING:
    import faiss


log = logging.getLogger(__name__)

_LINKED_TOGETHER = 256
"""Pictures that are added to a graph at a time, since each call visits all of its nodes."""


_DECODED_TOGETHER = 8192
"""Codes that are copied between graphs at a time."""


@dataclass(frozen=True)
class CodeSettings:
    """User settings of the codec.

    Attributes:
        factory: Name of a preset (`factory.PRESETS`), or a factory string. Projection and codec are trained on the
            pictures of the first build and never again: begin with more than a handful.
        codebook: Training set of the codec, one of `factory.CODEBOOKS`.
        rescore: Factory of additional finer codes that re-score the top pictures of a search; they are in the projected
            space, so without `PCAH`. None for none.
        training_patches: Maximum number of training patches.
        seed: Of the choice of training pictures, and of k-means.
    """

    factory: str = "Flat"
    codebook: str = "uniform"
    rescore: str | None = None
    training_patches: int = TRAINING_PATCHES
    seed: int = 0

    def check(self, dim: int, regions: Regions, pictures: int) -> None:
        """Check the settings before any work.

        Raises:
            PatchifyError: Codec or codebook are unknown or do not fit.
        """
        compression = parse_factory(self.factory, pictures * regions.patches_per_image, dim)
        make_codec(compression, dim)
        if self.codebook not in CODEBOOKS:
            raise PatchifyError(f"Unknown codebook '{self.codebook}': choose {', '.join(CODEBOOKS)}.")
        if self.codebook == "global" and regions.stages[0].spec != "pyramid:1":
            raise PatchifyError(
                f"The global codebook is trained on whole pictures, but {regions.spec} does not begin with them: write "
                f"pyramid:1+{regions.spec}, or choose another codebook."
            )
        if self.rescore is not None:
            finer = parse_factory(self.rescore)
            if finer.projection is not None or "IVF" in finer.codec or "HNSW" in finer.codec:
                raise PatchifyError(
                    f"--rescore {self.rescore}: finer codes use the same projection as the others; choose "
                    "Flat, SQfp16, SQ8 or a PQ."
                )
            make_codec(finer, compression.projection or dim)

    def check_enough(self, dim: int, regions: Regions, pictures: int) -> None:
        """Check before the work of a first build whether there are enough pictures to train on.

        Args:
            dim: Dimension of the descriptors.
            regions: The patches.
            pictures: Maximum number of pictures.

        Raises:
            PatchifyError: There are too few; the message says how many patches are needed.
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
        for learner, available in learners:
            needed = needed_to_train(make_codec(learner, dim if learner is compression else projected or dim))
            if available < needed and not (short and needed <= projected):  # report the larger need
                raise too_few(learner.factory, needed, available)
        if compression.projection is not None:
            Projection.check_enough(sampled * patches, compression.projection)

    def sampled_pictures(self, patches: int) -> int:
        """Maximum number of training pictures with this many patches each."""
        return max(1, self.training_patches // patches)

    def factory_for(self, existing: str | None) -> str:
        """Return `factory` as a factory string, given that of an index to update, or None."""
        # The meaning of a preset was fixed by the number of patches in the first build.
        if existing is not None and of_preset(self.factory, existing):
            return existing
        return parse_factory(self.factory).factory

    @property
    def effective_codebook(self) -> str:
        """`codebook`, or the default for a codec without training, so that it does not differ in name only."""
        return CodeSettings.codebook if UNTRAINED.fullmatch(parse_factory(self.factory).codec) else self.codebook

    @property
    def rescore_factory(self) -> str | None:
        """`rescore` as a canonical factory string."""
        return None if self.rescore is None else parse_factory(self.rescore).factory


@dataclass(frozen=True, eq=False)
class Codes:
    """A filled codec, with its factory string, projection or None, and finer codes or None."""

    factory: str
    codes: faiss.Index
    projection: Projection | None = None
    fine: faiss.Index | None = None

    def check(self, count: int, dim: int) -> None:
        """Raise ValueError unless these are codes of `count` vectors of `dim` numbers for inner products."""
        import faiss

        for part in (self.codes, self.fine):
            expected = count, dim, faiss.METRIC_INNER_PRODUCT
            if part is not None and (part.ntotal, part.d, part.metric_type) != expected:
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
    """Code the descriptors of all pictures, with one picture and the training sample in memory at a time.

    Args:
        descriptors: Row of a picture that is not `known` -> (P, D) float32 descriptors of the encoder.
        pictures: Number of pictures, at least 1.
        regions: The patches.
        dim: D.
        settings: See `CodeSettings`.
        like: Codes of an earlier build whose projection and trained codec are used.
        known: Row of a picture -> its row in `like`, whose codes are copied byte for byte; None for a new picture.

    Raises:
        PatchifyError: There are too few patches to train on; the message says how many are needed.
    """
    patches = regions.patches_per_image
    if like is None:
        empty = _train(descriptors, pictures, patches, dim, settings)
    else:
        fine = None if like.fine is None else emptied(like.fine)
        empty = Codes(like.factory, emptied(like.codes), like.projection, fine)
    coarse = Filler(empty.codes, None if like is None else like.codes)
    fillers = [coarse] if empty.fine is None else [coarse, Filler(empty.fine, None if like is None else like.fine)]
    for row in range(pictures):
        old_row = known(row)
        if old_row is not None and like is not None:
            for filler in fillers:
                filler.copy(old_row * patches, patches)
            continue
        vectors = descriptors(row)
        if empty.projection is not None:
            vectors = empty.projection(vectors)
        for filler in fillers:
            filler.add(np.ascontiguousarray(vectors, np.float32))
    for filler in fillers:
        filler.flush()
    return replace(empty, codes=coarse.codes)


def _train(
    descriptors: Callable[[int], NDArray[np.float32]], pictures: int, patches: int, dim: int, settings: CodeSettings
) -> Codes:
    """Learn the projection and train the codecs, which are returned empty. Args are those of `sample_descriptors`."""
    compression = parse_factory(settings.factory, pictures * patches, dim)
    factory = compression.factory
    if is_fallback(settings.factory, factory):
        few = f"{pictures * patches:,} patches of {dim:,} numbers"
        log.warning("%s is %s here: %s are too few to learn its projection from.", settings.factory, factory, few)
    codes, fine, projection = make_codec(compression, dim, settings.seed), None, None
    if settings.rescore is not None:
        fine = make_codec(parse_factory(settings.rescore), codes.d, settings.seed)
    untrained = not codes.is_trained or (fine is not None and not fine.is_trained)
    if compression.projection is None and not untrained:
        return Codes(factory, codes, projection, fine)
    sample = sample_descriptors(descriptors, pictures, patches, dim, settings)
    if compression.projection is not None:
        projection = Projection.learn(sample.reshape(-1, dim), compression.projection)
        sample = projection(sample.reshape(-1, dim)).reshape(len(sample), patches, -1)
    flat = sample.reshape(-1, sample.shape[2])
    if not codes.is_trained:
        train(codes, flat[select_patches(sample, settings.codebook, settings.seed)], factory)
    if fine is not None:
        train(fine, flat, str(settings.rescore))
    return Codes(factory, codes, projection, fine)


def sample_descriptors(
    descriptors: Callable[[int], NDArray[np.float32]], pictures: int, patches: int, dim: int, settings: CodeSettings
) -> NDArray[np.float32]:
    """Read (M, P, D) descriptors of M random pictures, about `training_patches` patches in total.

    Args are those of `encode_codes`; `patches` is P.
    """
    count = settings.sampled_pictures(patches)
    rows = np.sort(np.random.default_rng(settings.seed).permutation(pictures)[:count])
    sample = np.empty((len(rows), patches, dim), np.float32)
    for at, row in enumerate(rows.tolist()):
        sample[at] = descriptors(row)
    return sample


class Filler:
    """Fills a codec picture by picture.

    Args:
        codes: A trained empty codec.
        old: Codes with the same training, to copy from.

    Attributes:
        codes: The filled codec, after `flush`.
    """

    def __init__(self, codes: faiss.Index, old: faiss.Index | None = None) -> None:
        import faiss

        self._graph = isinstance(codes, faiss.IndexHNSW)
        self.codes, self._old = _fully_linked(codes) if self._graph else codes, old
        self._pending: list[NDArray[np.float32]] = []
        self._same = 0
        """Leading codes of the old graph that have the same ids in the new one."""

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Code the (P, d) float32 descriptors of a picture."""
        self._pending.append(vectors)
        if not self._graph or len(self._pending) >= _LINKED_TOGETHER:
            self.flush()

    def copy(self, first: int, count: int) -> None:
        """Append `count` of the old codes from id `first`.

        A graph that only grows keeps its links. Otherwise its codes are decoded, linked, and coded to the same bytes,
        since a scalar quantizer decodes to the middle of a step.
        """
        assert self._old is not None, "there are codes to copy"
        if not self._graph:
            _copy(self._old, first, count, self.codes)
        elif first == self._same and not self._pending and not self.codes.ntotal:
            self._same += count
        else:
            self.add(np.asarray(code_storage(self._old).reconstruct_n(first, count)))

    def flush(self) -> None:
        """Add all pending pictures."""
        import faiss

        if self._same and self._old is not None:
            same, self._same = self._same, 0
            if same == self._old.ntotal:
                self.codes = _fully_linked(faiss.clone_index(self._old))
            else:
                for at in range(0, same, _DECODED_TOGETHER):
                    count = min(_DECODED_TOGETHER, same - at)
                    self.codes.add(np.asarray(code_storage(self._old).reconstruct_n(at, count)))
        if self._pending:
            self.codes.add(np.concatenate(self._pending))
            self._pending.clear()


def _fully_linked(graph: Any) -> Any:
    """Make a graph use all links per patch, a flag that FAISS does not save.

    By default FAISS prunes links until some patches are unreachable: 1 % of the first ten pictures were not found,
    however long the search.
    """
    graph.keep_max_size_level0 = True
    return graph


def emptied(codes: faiss.Index) -> faiss.Index:
    """Return a trained codec of the same kind without codes."""
    import faiss

    if isinstance(codes, faiss.IndexFlat):
        return faiss.IndexFlatIP(codes.d)
    if isinstance(codes, faiss.IndexScalarQuantizer):
        # Not a clone, which would copy all codes.
        empty = faiss.IndexScalarQuantizer(codes.d, codes.sq.qtype, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(faiss.vector_to_array(codes.sq.trained), empty.sq.trained)
        empty.is_trained = True
        return empty
    copy = faiss.clone_index(codes)
    copy.reset()
    inverted = faiss.try_extract_index_ivf(copy)
    if inverted is not None:
        inverted.set_direct_map_type(0)  # none: it belongs to the old index
    return copy


def _copy(old: faiss.Index, first: int, count: int, new: faiss.Index) -> None:
    """Append `count` codes of `old` from id `first` to `new`, a codec with the same training.

    They are not decoded and coded again: that can yield another list or centroid, and codes would drift with every
    update.
    """
    import faiss

    inner_old: Any = faiss.downcast_index(old)
    inner_new: Any = faiss.downcast_index(new)
    if isinstance(inner_old, faiss.IndexPreTransform):
        inner_old, inner_new = faiss.downcast_index(inner_old.index), faiss.downcast_index(inner_new.index)
    if isinstance(inner_old, faiss.IndexIVF):
        lists: Any = inner_old.invlists
        entries = inner_old.direct_map.array
        for at in range(count):
            entry, number = entries.at(first + at), int(inner_new.ntotal) + at
            where, offset = entry >> 32, entry & 0xFFFFFFFF
            code = lists.get_single_code(where, offset)
            inner_new.invlists.add_entry(where, number, code)
        inner_new.ntotal += count
    elif isinstance(inner_old, faiss.IndexFlatCodes):
        size = int(inner_old.code_size)
        stored = faiss.rev_swig_ptr(inner_old.codes.data(), int(inner_old.ntotal) * size)
        inner_new.add_sa_codes(np.ascontiguousarray(stored[first * size : (first + count) * size].reshape(count, size)))
    else:  # fast-scan, whose interleaved codes survive decoding: it has no lists, and ties go to the first centroid
        new.add(np.asarray(old.reconstruct_n(first, count)))
        return
    new.ntotal = inner_new.ntotal
