"""One pass over pictures: read, cut, describe. Every way to an index begins here, in one process or in many.

A picture is known by the digest of its bytes, so that one that comes twice, or was embedded before, is not embedded
again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError, PictureError
from patchify_core.features.crop import in_order
from patchify_core.features.extract import Extractor
from patchify_core.files import sha256_of_bytes
from patchify_core.gallery import GalleryImage, check_size
from patchify_core.imaging.pictures import picture_size
from patchify_core.index.pictures import IndexedImage
from patchify_core.regions import Regions, boxes_for

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Embedded:
    """A picture that went through the encoder.

    Attributes:
        image: which one.
        descriptors: (P, D) float32 with rows of length 1.
        boxes: (P, 4) float32 xyxy in pixels, where the regions depend on the pixels; else None.
        packed: its feature map (`features.maps.pack`); None where none is kept.
    """

    image: IndexedImage
    descriptors: NDArray[np.float32]
    boxes: NDArray[np.float32] | None
    packed: bytes | None


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be read.

    Attributes:
        name: of its file.
        reason: why, one sentence.
        bytes: size of its file; None where the disk did not deliver it.
        mtime_ns: when the file was changed; None likewise.
    """

    name: str
    reason: str
    bytes: int | None
    mtime_ns: int | None


class Timed:
    """A report of work in which pictures went through the encoder, `embedded` of them in `seconds`."""

    embedded: int
    seconds: float

    @property
    def images_per_s(self) -> float | None:
        """Embedded pictures per second; None when nothing had to be embedded."""
        return self.embedded / self.seconds if self.embedded else None


class PicturePass:
    """Goes over pictures once; each ends up in `images` or in `skipped`.

    Args:
        extractor: what describes them.
        regions: what boxes they are cut into.
        settled: called for each picture that needs no encoder; the others are the caller's, who gets them.
        known: whether a picture of this digest was embedded before.

    Attributes:
        images: the pictures that could be read, in order.
        times: when the file of each was changed, in ns, as of before it was read.
        skipped: the others.
        reused: how many of `images` needed no encoder.
    """

    def __init__(
        self,
        extractor: Extractor,
        regions: Regions,
        settled: Callable[[], None] = lambda: None,
        known: Callable[[str], bool] = lambda digest: False,
    ) -> None:
        self._extractor, self._regions, self._settled, self._known = extractor, regions, settled, known
        # Of the few pictures on their way through the encoder, by digest.
        self._coming: dict[str, tuple[IndexedImage, NDArray[np.float32] | None]] = {}
        self.images: list[IndexedImage] = []
        self.times: list[int] = []
        self.skipped: list[Skipped] = []
        self.reused = 0

    def run(self, images: Iterable[GalleryImage]) -> Generator[Embedded]:
        """Yield each picture that is new, in order; to be closed where it is not read to its end.

        Raises:
            GalleryError: if annotations give a picture another size than it has.
        """
        with closing(self._extractor.describe_many(self._new(images))) as stream:
            for described in stream:
                image, boxes = self._coming.pop(described.key)
                yield Embedded(image, described.descriptors, boxes, described.packed)

    def _new(self, images: Iterable[GalleryImage]) -> Iterator[tuple[str, Image, NDArray[np.float64]]]:
        seen: set[str] = set()

        def read(image: GalleryImage) -> Skipped | _Read:
            name, length, mtime = image.file_name, None, None
            try:
                changed = image.path.stat().st_mtime_ns  # before it is read: if it changes meanwhile, that will show
                data = image.path.read_bytes()
                length, mtime, digest = len(data), changed, sha256_of_bytes(data)
                known = digest in seen or self._known(digest)
                # A known picture's header is read all the same: the annotations may have changed since.
                picture, size = (None, picture_size(data, name=name)) if known else self._extractor.read(data, name)
                check_size(name, (image.width, image.height), size)
            except (OSError, PictureError) as error:
                reason = f"it cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
                return Skipped(name, reason, length, mtime)
            indexed = IndexedImage(image.id, name, image.width, image.height, length, digest)
            return indexed, changed, None if picture is None else (picture, *boxes_for(self._regions, picture, size))

        for found in in_order(read, images, getattr(self._extractor.encoder, "readers", 0)):
            if isinstance(found, Skipped):
                self.skipped.append(found)
                self._settled()
                continue
            indexed, changed, new = found
            self.images.append(indexed)
            self.times.append(changed)
            # Two readers may have had two copies of a picture at once: by now the second one is known.
            if new is None or indexed.sha256 in seen:
                self.reused += 1
                self._settled()
                continue
            seen.add(indexed.sha256)
            picture, cut, kept = new
            self._coming[indexed.sha256] = indexed, kept
            yield indexed.sha256, picture, cut


_Read = tuple[IndexedImage, int, tuple["Image", NDArray[np.float64], NDArray[np.float32] | None] | None]
"""Which picture, and when it was changed; unless it is known: its pixels, the boxes to cut and those to keep."""


def nothing_read(root: Path, skipped: Sequence[tuple[str, str]], undone: str) -> GalleryError:
    """What is said where no picture of a gallery could be read.

    Args:
        root: of the gallery.
        skipped: (file name, reason) of its pictures.
        undone: what then was not done, e.g. `indexed`.
    """
    name, reason = skipped[0] if skipped else ("", "it is empty")
    why = f"{name}: {reason}" if name else reason
    return GalleryError(f"No picture in {root} could be read ({why.rstrip('.')}): nothing was {undone}.")
