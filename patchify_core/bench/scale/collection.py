"""Synthetic collections of any size, generated while they are read, from real descriptors, queries and positives.

The source is the bundled gallery, encoded with one forward pass per patch, and any further pictures; its descriptors
are projected, so that ten million pictures are generated in minutes. The bundled pictures are planted unchanged among
any number of distractors and searched with the bundled queries, as in Oxford 105k (Philbin et al., CVPR 2007).

Picture i is real picture a moved along the difference of two others, cell by cell, so that its patches are correlated
as in a real picture; each patch is then moved along the difference of two real patches of any picture and cell:

    x[cell] = normalised(A[a, cell] + u (A[b, cell] - A[c, cell]) + v (T[j] - T[k]))

Differences of real descriptors follow the directions in which real descriptors vary, unlike isotropic noise. All of
a, b, c, u, v, j, k come from a counter-based generator (SplitMix64: Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014) at the picture's number, so that any range of pictures can be generated
on its own, and is always the same. `exact.likeness` measures how realistic the result is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import PatchifyError
from patchify_core.files import SAMPLE_DB, atomic, sha256_of_bytes
from patchify_core.index.codec.projection import Projection
from patchify_core.index.integrity import META_NAME
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import PictureTable
from patchify_core.index.recipe import Recipe
from patchify_core.index.store import PatchStore, PictureStream
from patchify_core.regions import Regions, parse_regions

DIM = 128
"""Dimensions of a collection's descriptors."""

PIECE = 32
"""Pictures generated at a time: the working set then fits the L2 cache."""

ALONG, APART = (0.4, 0.9), (0.3, 0.6)
"""Ranges of u, by which a picture is moved, and of v, by which each patch is moved; chosen by `exact.likeness`."""

_STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class ScaleSource:
    """Real descriptors, projected, rows of length 1.

    Attributes:
        encoder: The encoder of the descriptors.
        regions: The patches, P per picture.
        projection: The projection from the encoder's space to d dimensions.
        pictures: (M, P, d) float32, the pictures that the collection is made from.
        queries: (Q, d) float32, the bundled queries.
        answers: (A, P, d) float32, the bundled pictures, which are planted.
        true: (Q, A) bool, which planted pictures show which query's object.
    """

    encoder: EncoderInfo
    regions: Regions
    projection: Projection
    pictures: NDArray[np.float32]
    queries: NDArray[np.float32]
    answers: NDArray[np.float32]
    true: NDArray[np.bool_]

    @property
    def digest(self) -> str:
        """SHA-256 of all the numbers."""
        arrays = (self.projection.mean, self.projection.axes, self.pictures, self.queries, self.answers, self.true)
        return sha256_of_bytes(b"".join(array.tobytes() for array in arrays))

    def save(self, path: Path) -> None:
        """Write an .npz file, atomically; raises OSError."""
        with atomic(path) as file:
            np.savez(
                file,
                pictures=self.pictures,
                queries=self.queries,
                answers=self.answers,
                true=self.true,
                mean=self.projection.mean,
                axes=self.projection.axes,
                encoder=np.array([str(value) for value in self.encoder.as_dict().values()]),
                regions=np.array([self.regions.spec]),
            )

    @classmethod
    def load(cls, path: Path) -> ScaleSource:
        """Read a file that `save` wrote.

        Raises:
            PatchifyError: If it is another file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                values: dict[str, Any] = {name: file[name] for name in file.files}
            spec, dim, side, *others = values["encoder"].tolist()
            return cls(
                EncoderInfo(spec, int(dim), int(side), *others),
                parse_regions(str(values["regions"][0])),
                Projection(values["mean"], values["axes"]),
                values["pictures"],
                values["queries"],
                values["answers"],
                values["true"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PatchifyError(f"{path} is not what bench scale left there: delete its folder.") from error


def learn_source(others: Sequence[Path], work: Path, dim: int = DIM) -> ScaleSource:
    """Read the bundled gallery and the others, learn the projection, and describe the bundled queries.

    Args:
        others: Index folders, or folders of pictures, which are indexed below `work` first.
        work: An existing folder.
        dim: d, dimensions of the projection.

    Raises:
        PatchifyError: If another index has a different recipe than the bundled one, or a folder cannot be read.
    """
    from patchify_core.gallery import read_gallery
    from patchify_core.patchify import Patchify

    engine = Patchify.open(SAMPLE_DB / "index")
    bundled, gallery = engine.index, read_gallery(SAMPLE_DB)
    raw = [descriptors_of(bundled)]
    raw += [descriptors_of(_opened(Path(path), work / f"from-{at}", engine)) for at, path in enumerate(others, 1)]
    projection = Projection.learn(np.concatenate(raw).reshape(-1, bundled.encoder.dim), dim)
    real = [_projected(projection, array) for array in raw]
    queries = projection(np.stack([engine.describe(query).descriptor for query in gallery.queries]))
    answers = [gallery.positives(query.instance, query.exclude) for query in gallery.queries]
    true = np.array([[image in wanted for image in bundled.image_ids.tolist()] for wanted in answers])
    return ScaleSource(bundled.encoder, bundled.regions, projection, np.concatenate(real), queries, real[0], true)


def descriptors_of(index: PatchStore) -> NDArray[np.float32]:
    """Decode all descriptors of a small index: (N, P, D) float32, rows of length 1."""
    descriptors = np.stack([index.descriptors_of(row) for row in range(len(index.images))])
    return np.asarray(descriptors / np.linalg.norm(descriptors, axis=2, keepdims=True), np.float32)


def _projected(projection: Projection, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = projection(descriptors.reshape(-1, descriptors.shape[2]))
    return flat.reshape(*descriptors.shape[:2], -1)


def _opened(path: Path, work: Path, like: Any) -> PatchIndex:
    """Open the index at `path`, or index the pictures there with the recipe of the bundled index."""
    from patchify_core.gallery import read_gallery
    from patchify_core.index.build import BuildSettings, build_index

    if not (path / META_NAME).is_file():
        build_index(read_gallery(path), work, like.encoder, like.index.regions, BuildSettings("SQ8"))
        path = work
    index = PatchIndex.load(path)
    index.check_encoder(like.encoder.info)
    mine, theirs = ((one.regions.spec, one.features, one.dim) for one in (like.index, index))
    if mine != theirs:
        raise PatchifyError(
            f"--from {path}: it has {', '.join(map(str, theirs))} and the bundled index "
            f"{', '.join(map(str, mine))} (regions, features, dimensions): give a folder of pictures instead."
        )
    return index


@dataclass(frozen=True, eq=False)
class Planted:
    """The planted pictures.

    Attributes:
        rows: (A,) int64, their rows in the collection.
        true: (Q, A) bool, which of them are positives of which query.
    """

    rows: NDArray[np.int64]
    true: NDArray[np.bool_]


class SyntheticPictures(PictureStream):
    """A `PictureStream` of synthetic pictures, with the source's answers planted among them.

    Args:
        source: The real descriptors.
        pictures: Number of pictures.
        seed: Seed of everything random.

    Raises:
        PatchifyError: If there are more answers than pictures.
    """

    def __init__(self, source: ScaleSource, pictures: int, seed: int = 0) -> None:
        self.source, self.seed = source, seed
        self.recipe, self.projection = Recipe(source.encoder, source.regions), source.projection
        self._pictures = pictures
        count = len(source.answers)
        if pictures < count:
            raise PatchifyError(
                f"A collection needs at least as many pictures as planted answers, {count}, not {pictures}."
            )
        random = np.random.default_rng([seed, pictures])
        self.planted = Planted(random.choice(pictures, count, replace=False).astype(np.int64), source.true)
        self._order = np.argsort(self.planted.rows)
        self._whole = np.ascontiguousarray(source.pictures.reshape(len(source.pictures), -1), np.float32)
        self._patches = np.ascontiguousarray(source.pictures.reshape(-1, self.dim), np.float32)

    @property
    def digest(self) -> str:
        """Digest of source, size, seed and mixing, by which an interrupted build recognises the collection."""
        identity = f"{self.source.digest} {len(self)} {self.seed} Mixing(along={ALONG}, apart={APART})"
        return sha256_of_bytes(identity.encode())

    @property
    def dim(self) -> int:
        """d, the dimensions of a descriptor."""
        return int(self.source.pictures.shape[2])

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self._pictures

    def batch(self, start: int, stop: int) -> tuple[PictureTable, NDArray[np.float32]]:
        """Return the pictures start..stop-1 and their descriptors (stop - start, P, d); see `PictureStream.batch`."""
        return self.table(start, stop), self.descriptors(start, stop)

    def table(self, start: int, stop: int) -> PictureTable:
        """Return the pictures start..stop-1: their id is their row plus 1, their name that number in nine digits."""
        ids = np.arange(start + 1, stop + 1, dtype=np.int64)
        digits = (ids[:, None] // 10 ** np.arange(8, -1, -1) % 10 + ord("0")).astype(np.uint8)
        count = len(ids)
        return PictureTable(
            ids,
            np.full(count, 640, np.int32),
            np.full(count, 480, np.int32),
            np.zeros(count, np.int64),
            np.zeros((count, 32), np.uint8),
            np.arange(1, count + 1, dtype=np.int64) * 9,
            digits.reshape(-1),
        )

    def descriptors(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the descriptors of the pictures start..stop-1: (stop - start, P, d) float32, rows of length 1.

        Raises:
            IndexError: If there are no such pictures.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"pictures {start} to {stop} of {len(self)}")
        patches = self.regions.patches_per_image
        descriptors = np.empty((stop - start, patches, self.dim), np.float32)
        for first in range(start, stop, PIECE):
            last = min(first + PIECE, stop)
            self._make(first, last, descriptors[first - start : last - start].reshape(-1, self.dim))
        for answer in self._planted_in(start, stop).tolist():
            descriptors[self.planted.rows[answer] - start] = self.source.answers[answer]
        return descriptors

    def _make(self, first: int, last: int, out: NDArray[np.float32]) -> None:
        """Write the patches of the pictures first..last-1 into `out`, (n P, d)."""
        patches, count = self.regions.patches_per_image, last - first
        draws = self._draws(np.arange(first, last, dtype=np.uint64), 0, 5)
        a, b, c = (_below(draws[:, at], len(self._whole)) for at in range(3))
        along, apart = _between(draws[:, 3], ALONG), _between(draws[:, 4], APART)
        whole = out.reshape(count, -1)
        self._whole.take(a, axis=0, out=whole, mode="clip")  # "clip": else numpy makes a copy of `out` first
        moved = self._whole.take(b, axis=0)
        moved -= self._whole.take(c, axis=0)
        moved *= along[:, None]
        whole += moved
        cells = np.arange(first * patches, last * patches, dtype=np.uint64)
        pairs = self._draws(cells, 1, 1)[:, 0]
        own = moved.reshape(-1, self.dim)
        self._patches.take(_below(pairs, len(self._patches)), axis=0, out=own, mode="clip")
        own -= self._patches.take(_below(pairs << np.uint64(32), len(self._patches)), axis=0)
        own *= np.repeat(apart, patches)[:, None]
        out += own
        out /= np.sqrt(np.einsum("nd,nd->n", out, out))[:, None]

    def _draws(self, counters: NDArray[np.uint64], kind: int, slots: int) -> NDArray[np.uint64]:
        """Draw (N, slots) random 64-bit numbers at these counters, from a sequence per seed and `kind`."""
        key = mixed(np.array([(self.seed * 2 + kind) % 2**64], np.uint64))
        return mixed(counters[:, None] * np.uint64(slots) + np.arange(slots, dtype=np.uint64) + key)

    def _planted_in(self, start: int, stop: int) -> NDArray[np.intp]:
        sorted_rows = self.planted.rows[self._order]
        low, high = np.searchsorted(sorted_rows, [start, stop])
        return self._order[low:high]


def mixed(counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Compute SplitMix64's output for each counter: 64 random bits; sums and products wrap by design."""
    bits = (counters + np.uint64(1)) * _STEP
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_bits: NDArray[np.uint64] = bits ^ (bits >> np.uint64(31))
    return mixed_bits


def _below(bits: NDArray[np.uint64], limit: int) -> NDArray[np.intp]:
    """Map the upper half of random bits to numbers 0..limit-1."""
    return ((bits >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32)).astype(np.intp)


def _between(bits: NDArray[np.uint64], limits: tuple[float, float]) -> NDArray[np.float32]:
    """Map random bits to numbers in a range."""
    low, high = limits
    share = (bits >> np.uint64(11)).astype(np.float64) / 2**53
    return (low + share * (high - low)).astype(np.float32)
