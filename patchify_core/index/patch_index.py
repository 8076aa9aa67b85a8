"""PatchIndex: the descriptors of every patch of every gallery picture, in FAISS, searched by inner product.

Patches of one picture lie together and every picture has the same number of them, so the patch table is implicit:
patch id = row of the picture * patches per image + cell. `build.py` makes an index, `index_folder.py` keeps it on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.files import sha256_of_file
from patchify_core.imaging.filenames import picture_path
from patchify_core.index.codec.factory import visits_everything
from patchify_core.index.codec.projection import Projection
from patchify_core.index.picture_table import IndexedImage, PictureTable, RowOf
from patchify_core.regions import Regions

if TYPE_CHECKING:
    import faiss

    from patchify_core.features.maps import KeptMaps, PackedMaps
    from patchify_core.index.mapped import PatchCodes, ReadAhead

RESCORED = 100
"""Pictures that finer codes re-score, at least."""


@dataclass(frozen=True)
class SearchPlan:
    """How an index with inverted lists is searched; `tune` finds it out and `meta.json` keeps it.

    Attributes:
        probes: lists that a search visits.
        fetch: patches that are asked for first, for each picture wanted.
        recall: of the pictures that an exhaustive search finds first, the share that is found; None if not measured.
    """

    probes: int
    fetch: int = 16
    recall: float | None = None

    def check(self, codes: faiss.Index) -> None:
        """Raises ValueError unless it fits the codes."""
        import faiss

        lists = codes.nlist if isinstance(codes, faiss.IndexIVF) else 0
        whole = all(isinstance(number, int) and number > 0 for number in (self.probes, self.fetch))
        if not whole or self.probes > lists or self.fetch > 1 << 20:
            raise ValueError("a plan that does not fit the codes")


FindPatches = Callable[..., Any]
"""(1, dim) query, how many -> (1, K) similarities and (1, K) numbers of patches, best first."""


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

    def __getitem__(self, chosen: slice | NDArray[np.intp]) -> Hits:
        """Some of them, as one would take them from an array."""
        return Hits(*(array[chosen] for array in _arrays(self)))


class PatchIndex:
    """Patch descriptors of a gallery and search over them.

    Args:
        encoder: what made the descriptors.
        regions: which boxes they describe.
        images: the pictures, in the order of their patches; a `PictureTable` where there are very many.
        codes: FAISS index with `len(images) * regions.patches_per_image` vectors, inner product.
        factory: the factory string that made `codes` (see `compression.parse_factory`).
        root: folder that the images' file names are relative to, if known.
        projection: applied to every descriptor before it was coded; None for none.
        fine: finer codes of the same patches, which re-score the first pictures of a search; None for none.
        boxes: (N, P, 4) float32 xyxy in pixels, where the regions depend on the pixels; else None.
        codebook: what the codec was trained on.
        rescore: the factory string that made `fine`, or None.
        features: how descriptors were made (`extract.checked_features`).
        maps: the pictures' feature maps, in the order of `images`; None where none are kept.
        located: where the codes of a big index are found by patch number (`scale.mapped`); None where FAISS knows.
        plan: how inverted lists are searched; None for what FAISS was told when they were made.
        ahead: has the disk read what a search by plan will touch; None where all is in memory.
    """

    def __init__(
        self,
        encoder: EncoderInfo,
        regions: Regions,
        images: Sequence[IndexedImage],
        codes: faiss.Index,
        factory: str = "Flat",
        root: Path | None = None,
        projection: Projection | None = None,
        fine: faiss.Index | None = None,
        boxes: NDArray[np.float32] | None = None,
        codebook: str = "uniform",
        rescore: str | None = None,
        features: str = "crop",
        maps: KeptMaps | None = None,
        located: PatchCodes | None = None,
        plan: SearchPlan | None = None,
        ahead: ReadAhead | None = None,
    ) -> None:
        """Takes the parts as they are; `load` is where they are checked."""
        self.encoder, self.regions = encoder, regions
        self.images: Sequence[IndexedImage] = images if isinstance(images, PictureTable) else tuple(images)
        self.codes, self.factory, self.root = codes, factory, root
        self.projection, self.fine, self.boxes = projection, fine, boxes
        self.codebook, self.rescore = codebook, rescore
        self.features, self.maps = features, maps
        self.patches_per_image = regions.patches_per_image
        self.located, self.plan, self.ahead = located, plan, ahead
        self._exhaustive = visits_everything(codes)
        self._of_level: dict[int, NDArray[np.uint8]] = {}

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """(N,) gallery image ids in row order."""
        if isinstance(self.images, PictureTable):
            return self.images.ids
        return np.array([image.id for image in self.images], np.int64)

    @cached_property
    def row_of(self) -> Mapping[int, int]:
        """Row of each gallery image id."""
        if isinstance(self.images, PictureTable):
            return RowOf(self.images)
        return {image.id: row for row, image in enumerate(self.images)}

    @property
    def dim(self) -> int:
        """Dimension of the descriptors as they are compared: the projection's, or the encoder's without one."""
        return self.encoder.dim if self.projection is None else self.projection.dim

    @property
    def bytes_per_patch(self) -> int:
        """Bytes of codes that one patch costs, finer codes included."""
        return int(self.codes.sa_code_size() + (self.fine.sa_code_size() if self.fine is not None else 0))

    @property
    def bytes_per_image(self) -> float:
        """Bytes of codes that one picture costs."""
        return self.patches_per_image * self.bytes_per_patch

    def project(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Brings the encoder's descriptors (N, D) into the space that is searched, (N, dim), rows of length 1."""
        return descriptors if self.projection is None else self.projection(descriptors)

    def boxes_of(self, row: int) -> NDArray[np.float64]:
        """(P, 4) xyxy pixel boxes of the patches of the picture in `row`."""
        if self.boxes is not None:
            return self.boxes[row].astype(np.float64)
        image = self.images[row]
        return self.regions.boxes(image.width, image.height)

    def box_of(self, row: int, cell: int) -> NDArray[np.float64]:
        """(4,) xyxy pixel box of one patch of the picture in `row`."""
        if self.boxes is not None:
            return self.boxes[row, cell].astype(np.float64)
        image = self.images[row]
        return self.regions.box(image.width, image.height, cell)

    def descriptors_of(self, row: int) -> NDArray[np.float32]:
        """(P, dim) float32 descriptors of the picture in `row` as stored (decoded from the finest codes)."""
        if self.fine is None and self.located is not None:
            first = row * self.patches_per_image
            return self.located.decode(np.arange(first, first + self.patches_per_image))
        codes = self.codes if self.fine is None else self.fine
        return np.asarray(codes.reconstruct_n(row * self.patches_per_image, self.patches_per_image))

    def cell_scores(self, query: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """The similarity that `search` gives to every patch of one picture, to the last bit.

        Where FAISS compares the query with every code, FAISS computes them here too: numpy's rounding differs, which
        is enough to break a tie another way. (Pictures beyond those that finer codes re-score keep coarse scores in a
        search; here they get fine ones.)

        Args:
            query: (dim,) float32 of length 1.
            row: position of the picture in `images`.

        Returns:
            (P,) float32 cosine similarities, about -1..1.
        """
        import faiss

        query = np.ascontiguousarray(query, np.float32)
        if not self._exhaustive or self.fine is not None:
            return self._decoded_scores(query, row)
        patches = self.patches_per_image
        first = row * patches
        options = faiss.SearchParameters(sel=faiss.IDSelectorRange(first, first + patches))  # type: ignore[call-arg]
        scores, found = self.codes.search(query[None], patches, params=options)
        self._check_found(scores[0], found[0])
        by_cell = np.empty(patches, np.float32)
        by_cell[found[0] - first] = scores[0]
        return by_cell

    def _decoded_scores(self, query: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """(P,) similarities with one picture's decoded patches: one arithmetic for a search and for `cell_scores`."""
        scores: NDArray[np.float32] = np.einsum("pd,d->p", self.descriptors_of(row), query)
        self._check_found(scores)
        return scores

    def _check_found(self, scores: NDArray[np.float32] | None, patches: NDArray[np.int64] | None = None) -> None:
        """Raises IndexFolderError for what no search finds in an index that was built: no index is trusted that far."""
        numbers = patches is None or not len(patches) or 0 <= patches.min() <= patches.max() < self.codes.ntotal
        if not numbers or (scores is not None and not np.isfinite(scores).all()):
            raise IndexFolderError("The index has codes that no build writes: build it again.")

    def search(self, query: NDArray[np.float32], top: int | None = None, level: int | None = None) -> Hits:
        """Ranks pictures by their best patch, one hit a picture.

        Codecs that visit every code (Flat, SQ) are searched exactly. Others (PQ, IVF, ...) propose pictures, more
        than wanted, whose patches are then compared with the query one by one as decoded from their codes: a score is
        always the similarity that `cell_scores` gives. An inverted file visits part of the collection, so pictures may
        be missing at the end of a whole ranking.

        Args:
            query: (dim,) float32 of length 1, from `project`.
            top: pictures wanted; all of them if None.
            level: use only the patches of the first `level` stages of the regions (for a pyramid the grids 1x1 ..
                level x level); all of them if None.

        Returns:
            Hits in descending score, ties by ascending image id; ties within a picture go to the coarser cell. With
            finer codes all proposed pictures are scored by them, or, where every code is visited, the first `RESCORED`
            (or `top`), and the others follow with coarse scores as they were.

        Raises:
            PatchifyError: if `top` is not positive, or the index has no such level, or the query does not fit.
        """
        query = np.ascontiguousarray(query, np.float32).reshape(-1)
        if query.size != self.dim or not np.isfinite(query).all():
            raise PatchifyError(f"The query must be {self.dim} finite numbers, as {self.encoder.spec} gives them.")
        if top is not None and top < 1:
            raise PatchifyError(f"Ask for at least 1 result, not {top}.")
        used = self.regions.stages[self.checked_level(level) - 1].patches
        wanted = len(self.images) if top is None else min(top, len(self.images))
        proposed = wanted if self.fine is None else min(max(wanted, RESCORED), len(self.images))
        if self._exhaustive:
            hits = self._search_every_code(query, proposed, used)
        else:
            hits = self._scored(query, self._propose(query, proposed, used), used)
        if self.fine is not None and self._exhaustive:  # else the proposals were compared with finer codes already
            first = max(RESCORED, top or 0)
            scored = self._scored(query, hits.rows[:first], used)
            hits = Hits(*(np.concatenate([a, b[first:]]) for a, b in zip(_arrays(scored), _arrays(hits), strict=True)))
        return hits[:wanted]

    def _search_every_code(self, query: NDArray[np.float32], pictures: int, used: int) -> Hits:
        """One search over patches, twice only where ties at its end could hide a picture with a smaller id.

        The `pictures * used` best patches hold at least `pictures` different pictures: a picture has only `used`.
        """
        import faiss

        available = len(self.images) * used
        options = None
        if used < self.patches_per_image:
            wanted = np.tile(np.arange(self.patches_per_image) < used, len(self.images))
            bitmap = np.packbits(wanted, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(wanted), faiss.swig_ptr(bitmap))
            options = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        fetch = pictures * used
        while True:
            scores, patches = (found[0] for found in self.codes.search(query[None], fetch, params=options))
            self._check_found(scores, patches)
            rows, cells = np.divmod(patches, self.patches_per_image)
            order = np.lexsort((cells, self.image_ids[rows], -scores))
            _, first = np.unique(rows[order], return_index=True)
            best = order[np.sort(first)][:pictures]
            if fetch == available or scores[order[-1]] < scores[best[-1]]:
                return Hits(rows[best], scores[best], cells[best])
            fetch = min(2 * fetch, available)

    def _propose(self, query: NDArray[np.float32], pictures: int, used: int) -> NDArray[np.int64]:
        """Rows of at least `pictures` pictures (fewer if the codec finds fewer), best first by the codec's own scores.

        FAISS cannot be asked for one hit a picture, nor every codec for certain patches, so it is asked for more and
        more patches until they hold enough pictures.
        """
        every = int(self.codes.ntotal)
        fetch = min(every, max(64, 4 * pictures))
        search: FindPatches = self.codes.search
        if self.plan is not None:
            fetch, search = min(every, max(64, self.plan.fetch * pictures)), self._planned(query, used)
        while True:
            _, patches = search(query[None], fetch)
            found = patches[0][patches[0] >= 0]
            self._check_found(None, found)
            rows, cells = np.divmod(found, self.patches_per_image)
            rows = rows[cells < used]
            _, first = np.unique(rows, return_index=True)
            # Twice as many as wanted: the codec's own scores are rounded, the last ones may be better than they seem.
            if len(first) >= min(2 * pictures, len(self.images)) or fetch == every or len(found) < fetch:
                return rows[np.sort(first)][: 2 * pictures]
            fetch = min(4 * fetch, every)

    def _planned(self, query: NDArray[np.float32], used: int) -> FindPatches:
        """(query, how many) -> similarities and patches, of the lists that the plan says.

        It is what FAISS's `search` does, in its two steps, so that the disk can be asked for the lists in between.
        """
        import faiss

        options, codes = self._lists_to_visit(used), cast("Any", self.codes)
        if self.ahead is None:
            return partial(codes.search, params=options)
        likeness, lists = codes.quantizer.search(query[None], options.nprobe)
        self.ahead.lists(lists[0])

        def visit(query: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            scores, patches = np.empty((1, count), np.float32), np.empty((1, count), np.int64)
            at = [faiss.swig_ptr(array) for array in (query, lists, likeness, scores, patches)]
            codes.search_preassigned_c(1, at[0], count, *at[1:], False, options)  # its Python form takes no options
            return scores, patches

        return visit

    def _lists_to_visit(self, used: int) -> faiss.SearchParametersIVF:
        """What FAISS is told of a search by plan: how many lists, and which patches of a picture count."""
        import faiss

        assert self.plan is not None
        if used == self.patches_per_image:
            return faiss.SearchParametersIVF(nprobe=self.plan.probes)  # type: ignore[call-arg]
        if used not in self._of_level:  # a bit a patch, kept: 300 million are 37 MB and half a second
            counts = np.arange(self.patches_per_image * 8) % self.patches_per_image < used
            repeats = -(-int(self.codes.ntotal) // len(counts))
            self._of_level[used] = np.tile(np.packbits(counts, bitorder="little"), repeats)
        bitmap = self._of_level[used]
        selector = faiss.IDSelectorBitmap(int(self.codes.ntotal), faiss.swig_ptr(bitmap))
        return faiss.SearchParametersIVF(sel=selector, nprobe=self.plan.probes)  # type: ignore[call-arg]

    def _scored(self, query: NDArray[np.float32], rows: NDArray[np.int64], used: int) -> Hits:
        """The pictures in `rows`, ranked by the similarity of their decoded patches."""
        scores = np.empty((len(rows), used), np.float32)
        if self.ahead is not None:
            self.ahead.patches(rows * self.patches_per_image, used)
        for at, row in enumerate(rows.tolist()):
            scores[at] = self._decoded_scores(query, row)[:used]
        cells = scores.argmax(axis=1).astype(np.int64)
        best = scores.max(axis=1, initial=-np.inf)
        order = np.lexsort((self.image_ids[rows], -best))
        return Hits(rows[order], best[order], cells[order])

    def checked_level(self, level: int | None) -> int:
        """The level asked for, the last one if None; raises PatchifyError if the index has no such level."""
        levels = len(self.regions.stages)
        if level is None:
            return levels
        if not 1 <= level <= levels:
            raise PatchifyError(f"This index has levels 1 to {levels} ({self.regions.spec}), not {level}.")
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
            path = picture_path(root, image.file_name)
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
        """How the index was made and of what, as plain JSON values."""
        return {
            "encoder": self.encoder.as_dict(),
            "regions": self.regions.spec,
            "features": self.features,
            "factory": self.factory,
            "codebook": self.codebook,
            "rescore": self.rescore,
            "images": None if isinstance(self.images, PictureTable) else [asdict(image) for image in self.images],
        } | ({} if self.plan is None else {"search": asdict(self.plan)})

    def write(self, folder: Path, root: str, packed: PackedMaps | None = None) -> None:
        """Writes the files into an existing folder; see `index_folder.write_index`."""
        from patchify_core.index.folder import write_index

        write_index(self, folder, root, packed)

    @classmethod
    def load(cls, folder: str | Path) -> PatchIndex:
        """Loads an index folder if all of it fits together; see `index_folder.load_index`."""
        from patchify_core.index.folder import load_index

        return load_index(Path(folder))


def _arrays(hits: Hits) -> tuple[NDArray[Any], ...]:
    return hits.rows, hits.scores, hits.cells
