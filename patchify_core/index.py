"""PatchIndex: the descriptors of every patch of every gallery picture, in FAISS, searched by inner product.

Patches of one picture lie together and every picture has the same number of them, so the patch table is implicit:
patch id = row of the picture * patches per image + cell. An index is a folder, `meta.json` and `index.faiss`; it is
loaded only if all of it fits together. There is no pickle in it. `build.py` makes one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.digests import sha256_of_file, sha256_of_json
from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.regions import Pyramid, parse_regions, patches_up_to

if TYPE_CHECKING:
    import faiss

FORMAT = 1
META_NAME, FAISS_NAME = "meta.json", "index.faiss"

FACTORIES = ("Flat", "SQfp16", "SQ8")
"""FAISS codecs that keep one code a patch: 4, 2 and 1 bytes a dimension. Search visits every code of each."""


@dataclass(frozen=True)
class IndexedImage:
    """One gallery picture as the index knows it.

    Attributes:
        id: gallery image id.
        file_name: POSIX path below the gallery's root.
        width: upright width in pixels.
        height: upright height in pixels.
        bytes: size of the file.
        sha256: digest of the file's bytes.
    """

    id: int
    file_name: str
    width: int
    height: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Hits:
    """The best pictures for one query, best first, as parallel arrays.

    Attributes:
        rows: (K,) int64, position of the picture in `PatchIndex.images`.
        scores: (K,) float32, cosine similarity of the winning patch, -1..1.
        cells: (K,) int64, the winning patch within its picture.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    cells: NDArray[np.int64]


class PatchIndex:
    """Patch descriptors of a gallery and exact search over them.

    Args:
        encoder: what made the descriptors.
        regions: which boxes they describe.
        images: the pictures, in the order of their patches.
        codes: FAISS index with `len(images) * regions.patches_per_image` vectors, inner product.
        factory: the FAISS factory string that made `codes`.
        root: folder that the images' file names are relative to, if known.
    """

    def __init__(
        self,
        encoder: EncoderInfo,
        regions: Pyramid,
        images: Sequence[IndexedImage],
        codes: faiss.Index,
        factory: str = "Flat",
        root: Path | None = None,
    ) -> None:
        """Takes the parts as they are; `load` is where they are checked."""
        self.encoder, self.regions, self.images = encoder, regions, tuple(images)
        self.codes, self.factory, self.root = codes, factory, root

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """(N,) gallery image ids in row order."""
        return np.array([image.id for image in self.images], np.int64)

    @cached_property
    def row_of(self) -> dict[int, int]:
        """Row of each gallery image id."""
        return {image.id: row for row, image in enumerate(self.images)}

    @property
    def bytes_per_image(self) -> float:
        """Bytes of descriptors that one picture costs."""
        return self.regions.patches_per_image * self.codes.sa_code_size()

    def boxes_of(self, row: int) -> NDArray[np.float64]:
        """(P, 4) xyxy pixel boxes of the patches of the picture in `row`."""
        image = self.images[row]
        return self.regions.boxes(image.width, image.height)

    def descriptors_of(self, row: int) -> NDArray[np.float32]:
        """(P, D) float32 descriptors of the picture in `row` as stored (decoded where the index compresses)."""
        patches = self.regions.patches_per_image
        return np.asarray(self.codes.reconstruct_n(row * patches, patches))

    def cell_scores(self, query: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """The similarity that `search` gives to every patch of one picture, to the last bit.

        FAISS computes them here too: numpy's rounding differs, which is enough to break a tie another way.

        Args:
            query: (D,) float32 of length 1.
            row: position of the picture in `images`.

        Returns:
            (P,) float32 cosine similarities, -1..1.
        """
        import faiss

        patches = self.regions.patches_per_image
        first = row * patches
        options = faiss.SearchParameters(sel=faiss.IDSelectorRange(first, first + patches))  # type: ignore[call-arg]
        scores, found = self.codes.search(np.asarray(query, np.float32)[None], patches, params=options)
        by_cell = np.empty(patches, np.float32)
        by_cell[found[0] - first] = scores[0]
        return by_cell

    def search(self, query: NDArray[np.float32], top: int | None = None, level: int | None = None) -> Hits:
        """Ranks pictures by their best patch: exact, one hit a picture.

        The `top * P` best patches hold at least `top` different pictures, because a picture has only P; so one
        search over patches is enough, unless ties at its end could hide a picture with a smaller id.

        Args:
            query: (D,) float32 of length 1.
            top: pictures wanted; all of them if None.
            level: use only the grids 1x1 .. level x level; all of them if None.

        Returns:
            Hits in descending score, ties by ascending image id; ties within a picture go to the coarser cell.

        Raises:
            PatchifyError: if `top` is not positive, or the index has no such level, or the query does not fit.
        """
        import faiss

        query = np.ascontiguousarray(query, np.float32).reshape(-1)
        if query.size != self.encoder.dim or not np.isfinite(query).all():
            raise PatchifyError(
                f"The query must be {self.encoder.dim} finite numbers, as {self.encoder.spec} gives them."
            )
        if top is not None and top < 1:
            raise PatchifyError(f"Ask for at least 1 result, not {top}.")
        per_image = self.regions.patches_per_image
        used = patches_up_to(self.checked_level(level))
        pictures = len(self.images) if top is None else min(top, len(self.images))
        available = len(self.images) * used
        options = None
        if used < per_image:
            wanted = np.tile(np.arange(per_image) < used, len(self.images))
            bitmap = np.packbits(wanted, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(wanted), faiss.swig_ptr(bitmap))
            options = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        fetch = pictures * used
        while True:
            scores, patches = (found[0] for found in self.codes.search(query[None], fetch, params=options))
            rows, cells = np.divmod(patches, per_image)
            order = np.lexsort((cells, self.image_ids[rows], -scores))
            _, first = np.unique(rows[order], return_index=True)
            best = order[np.sort(first)][:pictures]
            if fetch == available or scores[order[-1]] < scores[best[-1]]:
                return Hits(rows[best], scores[best], cells[best])
            fetch = min(2 * fetch, available)

    def checked_level(self, level: int | None) -> int:
        """The level asked for, the finest one if None; raises PatchifyError if the index has no such level."""
        if level is None:
            return self.regions.levels
        if not 1 <= level <= self.regions.levels:
            raise PatchifyError(f"This index has levels 1 to {self.regions.levels} ({self.regions.spec}), not {level}.")
        return level

    def check_encoder(self, info: EncoderInfo) -> None:
        """Raises IndexFolderError unless `info` is the encoder that made this index."""
        if info != self.encoder:
            same_name = info.spec == self.encoder.spec
            other = "other weights or settings of the same encoder" if same_name else f"'{info.spec}'"
            raise IndexFolderError(
                f"This index was made with encoder '{self.encoder.spec}' and does not fit {other}: "
                f"use --encoder {self.encoder.spec} or build a new index."
            )

    def check_pictures(self, root: Path, *, content: bool = False, rows: Iterable[int] | None = None) -> None:
        """Checks that the pictures under `root` are the indexed ones.

        Args:
            root: the gallery's root.
            content: compare digests (reads every file) instead of sizes in bytes.
            rows: check only the pictures in these rows; all of them by default.

        Raises:
            IndexFolderError: if a picture is missing or another one than was indexed.
        """
        for row in range(len(self.images)) if rows is None else rows:
            image = self.images[row]
            path = root / image.file_name
            try:
                same = path.stat().st_size == image.bytes and (not content or sha256_of_file(path) == image.sha256)
            except OSError:
                raise IndexFolderError(
                    f"The index names {image.file_name}, which is not in {root}: run the index command again."
                ) from None
            if not same:
                raise IndexFolderError(
                    f"{image.file_name} in {root} is not the picture that was indexed: run the index command again."
                )

    def meta(self) -> dict[str, Any]:
        """Everything but the codes, as plain JSON values."""
        return {
            "format": FORMAT,
            "encoder": self.encoder.as_dict(),
            "regions": self.regions.spec,
            "features": "crop",
            "factory": self.factory,
            "images": [asdict(image) for image in self.images],
        }

    def write(self, folder: Path, root: str) -> None:
        """Writes the two files into an existing folder. `build.py` renames that folder into place.

        Args:
            folder: an existing, private folder.
            root: the gallery's root as `meta.json` shall name it: absolute, or relative to the index folder.

        Raises:
            OSError: if a file cannot be written.
        """
        size, digest = _write_codes(self.codes, folder / FAISS_NAME)
        meta = self.meta() | {"root": root, "faiss": {"bytes": size, "sha256": digest}}
        meta["digest"] = sha256_of_json(meta)
        (folder / META_NAME).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> PatchIndex:
        """Loads an index folder if all of it fits together.

        Raises:
            IndexFolderError: one sentence, if the folder is missing, truncated, edited or of another format.
            PatchifyError: if its regions are of a kind that this version does not know.
        """
        import faiss

        folder = Path(folder)
        meta = read_meta(folder)
        path = folder / FAISS_NAME
        damaged = IndexFolderError(
            f"{path} is missing, truncated or not the file that was written: delete {folder} and build it again."
        )
        try:
            expected, root, factory = meta["faiss"], (folder / meta["root"]).resolve(), meta["factory"]
            encoder, regions = EncoderInfo(**meta["encoder"]), parse_regions(meta["regions"])
            images = [IndexedImage(**image) for image in meta["images"]]
            # FAISS trusts what it reads, so it gets to read only a file whose digest is right.
            if path.stat().st_size != expected["bytes"] or sha256_of_file(path) != expected["sha256"]:
                raise damaged
        except (OSError, KeyError, TypeError, AttributeError):
            raise damaged from None
        codes = faiss.read_index(str(path))
        if codes.d != encoder.dim or codes.ntotal != len(images) * regions.patches_per_image:
            raise damaged
        return cls(encoder, regions, images, codes, factory, root)


def _write_codes(codes: faiss.Index, path: Path) -> tuple[int, str]:
    """Streams the FAISS index into a file without a second copy in memory; returns its size and SHA-256."""
    import faiss

    digest, size = hashlib.sha256(), 0
    failure: list[OSError] = []
    with open(path, "wb") as file:

        def write(chunk: bytes) -> None:
            nonlocal size
            try:
                file.write(chunk)
            except OSError as error:
                failure.append(error)  # FAISS would report its own words instead of the disk's
                raise
            digest.update(chunk)
            size += len(chunk)

        try:
            faiss.write_index(codes, faiss.PyCallbackIOWriter(write, 1 << 20))  # type: ignore[attr-defined]
        except RuntimeError:
            if failure:
                raise failure[0] from None
            raise
    return size, digest.hexdigest()


def read_meta(folder: Path) -> dict[str, Any]:
    """Reads and checks `meta.json` of an index folder.

    Raises:
        IndexFolderError: one sentence, if it is missing, not ours, damaged, edited or of another format.
    """
    path = folder / META_NAME
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise IndexFolderError(
            f"{folder} is not an index folder (no {META_NAME}): make one with the index command."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise IndexFolderError(f"{path} cannot be read as JSON: delete {folder} and build it again.") from error
    if not isinstance(meta, dict) or "digest" not in meta:
        raise IndexFolderError(f"{folder} is not an index folder ({META_NAME} describes none): choose another folder.")
    if meta.get("format") != FORMAT:
        raise IndexFolderError(
            f"{folder} has index format {meta.get('format')}, this version reads {FORMAT}: build it again."
        )
    try:
        digest = sha256_of_json({key: value for key, value in meta.items() if key != "digest"})
    except (ValueError, RecursionError):
        digest = ""
    if digest != meta["digest"]:
        raise IndexFolderError(
            f"{path} was edited or damaged after it was written: delete {folder} and build it again."
        )
    return meta
