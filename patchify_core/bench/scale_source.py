"""What the synthetic collections of `bench scale` are made from: real descriptors, real queries, real answers.

The descriptors are those of the bundled gallery, one forward pass a patch, and of whatever else is given; projected, so
that ten million pictures can be made in minutes. The bundled pictures are hidden, whole, among as many distractors as
wanted, and asked for with the bundled queries: so large collections are made of small ones since Oxford 105k (Philbin
et al., CVPR 2007).
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
from patchify_core.index.store import PatchStore
from patchify_core.regions import Regions, parse_regions

DIM = 128
"""Dimensions of a collection's descriptors."""


@dataclass(frozen=True, eq=False)
class ScaleSource:
    """Real descriptors in the space that is searched, rows of length 1.

    Attributes:
        encoder: what made them.
        regions: which patches, P a picture.
        projection: what brought them from the encoder's space into this one, of d dimensions.
        pictures: (M, P, d) float32, of the pictures that the collection is made of.
        queries: (Q, d) float32, the bundled queries.
        answers: (A, P, d) float32, the bundled pictures, which are planted.
        true: (Q, A) bool, which answers show which query's object.
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
        """Writes it as .npz, whole or not at all; raises OSError."""
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
        """Reads what `save` wrote.

        Raises:
            PatchifyError: if it is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                values: dict[str, Any] = {name: kept[name] for name in kept.files}
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
    """Reads the bundled gallery and the others, learns the projection, and describes the bundled queries.

    Args:
        others: index folders, or folders of pictures, which are indexed below `work` first.
        work: an existing folder.
        dim: d, dimensions of the projection.

    Raises:
        PatchifyError: if another index was made otherwise than the bundled one, or a folder cannot be read.
    """
    from patchify_core.gallery import read_gallery
    from patchify_core.patchify import Patchify

    engine = Patchify.open(SAMPLE_DB / "index")
    bundled, gallery = engine.index, read_gallery(SAMPLE_DB)
    raw = [descriptors_of(bundled)]
    raw += [descriptors_of(_opened(Path(path), work / f"from-{at}", engine)) for at, path in enumerate(others, 1)]
    projection = Projection.learn(np.concatenate(raw).reshape(-1, bundled.encoder.dim), dim)
    real = [_projected(projection, array) for array in raw]
    queries = projection(np.stack([engine.describe_query(query.path, query.box) for query in gallery.queries]))
    answers = [gallery.positives(query.instance, query.exclude) for query in gallery.queries]
    true = np.array([[image in wanted for image in bundled.image_ids.tolist()] for wanted in answers])
    return ScaleSource(bundled.encoder, bundled.regions, projection, np.concatenate(real), queries, real[0], true)


def descriptors_of(index: PatchStore) -> NDArray[np.float32]:
    """(N, P, D) float32 descriptors of a whole small index, decoded, rows of length 1."""
    found = np.stack([index.descriptors_of(row) for row in range(len(index.images))])
    return np.asarray(found / np.linalg.norm(found, axis=2, keepdims=True), np.float32)


def _projected(projection: Projection, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = projection(descriptors.reshape(-1, descriptors.shape[2]))
    return flat.reshape(*descriptors.shape[:2], -1)


def _opened(path: Path, work: Path, like: Any) -> PatchIndex:
    """The index at `path`, or one made of the pictures there, of the same kind as the bundled one."""
    from patchify_core.gallery import read_gallery
    from patchify_core.index.build import BuildSettings, build_index

    if not (path / META_NAME).is_file():
        build_index(read_gallery(path), work, like.encoder, like.index.regions, BuildSettings("SQ8"))
        path = work
    index = PatchIndex.load(path)
    index.check_encoder(like.encoder.info)
    mine, theirs = ((made.regions.spec, made.features, made.dim) for made in (like.index, index))
    if mine != theirs:
        raise PatchifyError(
            f"--from {path}: it was made with {', '.join(map(str, theirs))} and the bundled index with "
            f"{', '.join(map(str, mine))} (regions, features, dimensions): give a folder of pictures instead."
        )
    return index
