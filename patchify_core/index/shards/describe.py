"""One pass over pictures: read them, cut them into patches, describe those. Every index begins here.

Pictures are identified by the digest of their bytes, so that a duplicate, or one that was embedded before, is not
embedded again.
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
    """An embedded picture.

    Attributes:
        image: The picture.
        descriptors: (P, D) float32, rows of length 1.
        boxes: (P, 4) float32 xyxy in pixels where the regions depend on the pixels, else None.
        packed: Its feature map (`features.maps.pack`), or None.
    """

    image: IndexedImage
    descriptors: NDArray[np.float32]
    boxes: NDArray[np.float32] | None
    packed: bytes | None


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be read.

    Attributes:
        name: File name.
        reason: One sentence.
        bytes: Size of the file; None if it could not be read from disk.
        mtime_ns: Modification time of the file; None likewise.
    """

    name: str
    reason: str
    bytes: int | None
    mtime_ns: int | None


class Timed:
    """A report of `embedded` pictures in `seconds`."""

    embedded: int
    seconds: float

    @property
    def images_per_s(self) -> float | None:
        """Embedded pictures per second; None if nothing was embedded."""
        return self.embedded / self.seconds if self.embedded else None


class PicturePass:
    """Describes pictures in one pass; each ends up in `images` or in `skipped`.

    Args:
        extractor: Describes the patches.
        regions: The patches.
        on_done: Called for each picture that is skipped or known; the caller counts the others.
        known: Whether a picture with this digest was embedded before.

    Attributes:
        images: The readable pictures, in order.
        times: Modification time of each of their files in ns, from before it was read.
        skipped: The other pictures.
        reused: How many of `images` were known.
    """

    def __init__(
        self,
        extractor: Extractor,
        regions: Regions,
        on_done: Callable[[], None] = lambda: None,
        known: Callable[[str], bool] = lambda digest: False,
    ) -> None:
        self._extractor, self._regions, self._on_done, self._known = extractor, regions, on_done, known
        # The few pictures in the encoder at this moment, by digest.
        self._in_progress: dict[str, tuple[IndexedImage, NDArray[np.float32] | None]] = {}
        self.images: list[IndexedImage] = []
        self.times: list[int] = []
        self.skipped: list[Skipped] = []
        self.reused = 0

    def run(self, images: Iterable[GalleryImage]) -> Generator[Embedded]:
        """Yield each new picture, in order. Close the generator if it is not exhausted.

        Raises:
            GalleryError: Annotations give a picture another size than it has.
        """
        with closing(self._extractor.describe_many(self._new(images))) as stream:
            for described in stream:
                image, boxes = self._in_progress.pop(described.key)
                yield Embedded(image, described.descriptors, boxes, described.packed)

    def _new(self, images: Iterable[GalleryImage]) -> Iterator[tuple[str, Image, NDArray[np.float64]]]:
        """Yield digest, pixels and boxes of each new picture."""
        seen: set[str] = set()

        def read(image: GalleryImage) -> Skipped | _Read:
            name, length, mtime = image.file_name, None, None
            try:
                changed = image.path.stat().st_mtime_ns  # before reading, so that a later change is noticed
                data = image.path.read_bytes()
                length, mtime, digest = len(data), changed, sha256_of_bytes(data)
                known = digest in seen or self._known(digest)
                # Read the header of a known picture too: the annotations may have changed since.
                picture, size = (None, picture_size(data, name=name)) if known else self._extractor.read(data, name)
                check_size(name, (image.width, image.height), size)
            except (OSError, PictureError) as error:
                reason = f"it cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
                return Skipped(name, reason, length, mtime)
            indexed = IndexedImage(image.id, name, image.width, image.height, length, digest)
            return indexed, changed, None if picture is None else (picture, *boxes_for(self._regions, picture, size))

        for result in in_order(read, images, getattr(self._extractor.encoder, "readers", 0)):
            if isinstance(result, Skipped):
                self.skipped.append(result)
                self._on_done()
                continue
            indexed, changed, new = result
            self.images.append(indexed)
            self.times.append(changed)
            # Two readers may have read two copies of a picture at once; the second one is known by now.
            if new is None or indexed.sha256 in seen:
                self.reused += 1
                self._on_done()
                continue
            seen.add(indexed.sha256)
            picture, crop_boxes, stored_boxes = new
            self._in_progress[indexed.sha256] = indexed, stored_boxes
            yield indexed.sha256, picture, crop_boxes


_Read = tuple[IndexedImage, int, tuple["Image", NDArray[np.float64], NDArray[np.float32] | None] | None]
"""A picture, its modification time, and if it is new: its pixels, the boxes to cut out and those to store."""


def nothing_read(root: Path, skipped: Sequence[tuple[str, str]], undone: str) -> GalleryError:
    """Error for a gallery without a readable picture.

    Args:
        root: Of the gallery.
        skipped: (file name, reason) of its pictures.
        undone: What could not be done, e.g. `indexed`.
    """
    name, reason = skipped[0] if skipped else ("", "it is empty")
    why = f"{name}: {reason}" if name else reason
    return GalleryError(f"No picture in {root} could be read ({why.rstrip('.')}): nothing was {undone}.")
