"""PatchIndex: the descriptors of every patch of every gallery picture, in FAISS, searched by inner product.

Patches of one picture lie together and every picture has the same number of them, so the patch table is implicit:
patch id = row of the picture * patches per image + cell. `build.py` makes an index, `folder.py` keeps it on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError
from patchify_core.index.base import Hits, PatchStore, Pictures
from patchify_core.index.codec.codes import Codes
from patchify_core.index.codec.factory import compared, visits_everything
from patchify_core.index.picture_table import PictureTable
from patchify_core.index.recipe import Recipe

if TYPE_CHECKING:
    import faiss

    from patchify_core.features.maps import PackedMaps
    from patchify_core.index.mapped import OnDisk

RESCORED = 100
"""Pictures that finer codes re-score, at least."""

LEAST_FETCH = 64
"""Patches that a codec which does not compare the query with every code is asked for, at least."""

RUN = 256
"""Pictures whose patches are decoded together."""

WALK_SHARE = 32
"""A walk over a graph looks at some thirty times as many patches as it is asked for, here and there: where these are
all that there are, comparing with one after the other is as fast, and misses none."""


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


class PatchIndex(PatchStore):
    """A `PatchStore` whose codes FAISS keeps, in memory or mapped from an index folder.

    Args:
        recipe: How the descriptors were made and coded.
        pictures: The pictures, in the order of their patches.
        codes: FAISS's codes, `len(pictures.images) * P` of them, with projection and finer codes if there are any.
        plan: How inverted lists are searched; None for what FAISS took when they were made.
        on_disk: How the mapped codes of a big index are reached; None where all is in memory.

    Attributes:
        codes: FAISS's index of one vector per patch, inner product.
        fine: Finer codes of the same patches, which re-score the first pictures of a search; None for none.
        plan, located, ahead: See `SearchPlan` and `mapped.OnDisk`.

    Raises:
        ValueError: If the parts do not fit together.
    """

    def __init__(
        self,
        recipe: Recipe,
        pictures: Pictures,
        codes: Codes,
        plan: SearchPlan | None = None,
        on_disk: OnDisk | None = None,
    ) -> None:
        super().__init__(recipe, pictures, codes.projection)
        codes.check(len(self.images) * self.patches_per_image, recipe.dim)
        if (codes.fine is None) != (recipe.rescore is None):
            raise ValueError("finer codes that do not fit the recipe")
        if plan is not None:
            plan.check(codes.codes)
        self.codes, self.fine, self.plan = codes.codes, codes.fine, plan
        self.located = None if on_disk is None else on_disk.located
        self.ahead = None if on_disk is None else on_disk.ahead
        self._exhaustive, self._stored = visits_everything(self.codes), compared(self.codes)
        self._of_level: dict[int, NDArray[np.uint8]] = {}

    @property
    def codebook(self) -> str:
        """What the codec was trained on."""
        return self.recipe.codebook

    @property
    def rescore(self) -> str | None:
        """The factory string of the finer codes; None without them."""
        return self.recipe.rescore

    @property
    def bytes_per_patch(self) -> int:
        """Bytes of codes that one patch costs, finer codes included; the links of a graph come on top."""
        return int(self._stored.sa_code_size() + (self.fine.sa_code_size() if self.fine is not None else 0))

    def descriptors_of(self, row: int) -> NDArray[np.float32]:
        """(P, dim) float32 descriptors of the picture in `row` as stored (decoded from the finest codes)."""
        return self._decoded(np.array([row]), self.patches_per_image)

    def _decoded(self, rows: NDArray[np.int64], used: int) -> NDArray[np.float32]:
        """(K * used, dim) float32 descriptors of the first patches of these pictures, from the finest codes."""
        import faiss

        patches = (rows[:, None] * self.patches_per_image + np.arange(used)).ravel()
        if self.fine is None and self.located is not None:
            return self.located.decode(patches)
        codes = self._stored if self.fine is None else self.fine
        if isinstance(codes, faiss.IndexPreTransform):  # the last digits depend on how many are rotated back at once
            every = self.patches_per_image
            return np.concatenate([codes.reconstruct_n(row * every, every)[:used] for row in rows.tolist()])
        if isinstance(codes, (faiss.IndexScalarQuantizer, faiss.IndexPQ)):  # else FAISS makes a decoder for each
            return np.asarray(codes.sa_decode(self._bytes[patches]))
        return np.asarray(codes.reconstruct_batch(patches))

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        """(N P, bytes per code) the finest codes, where they lie one after the other; not a copy."""
        import faiss

        codes: Any = self._stored if self.fine is None else self.fine
        size = int(codes.code_size)
        return np.asarray(faiss.rev_swig_ptr(codes.codes.data(), int(codes.ntotal) * size)).reshape(-1, size)

    def cell_scores(self, query: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """See `PatchStore.cell_scores`; the very similarities that `search` gives, to the last bit.

        Where FAISS compares the query with every code, FAISS computes them here too: numpy's rounding differs, which
        is enough to break a tie another way. (Pictures beyond those that finer codes re-score keep coarse scores in a
        search; here they get fine ones.)
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
        return self._similarities(query, np.array([row]), self.patches_per_image)[0]

    def _similarities(self, query: NDArray[np.float32], rows: NDArray[np.int64], used: int) -> NDArray[np.float32]:
        """(K, used) similarities with the first `used` decoded patches of each of the pictures in `rows`."""
        scores: NDArray[np.float32] = np.einsum("pd,d->p", self._decoded(rows, used), query)
        self._check_found(scores)
        return scores.reshape(len(rows), used)

    def _check_found(self, scores: NDArray[np.float32] | None, patches: NDArray[np.int64] | None = None) -> None:
        """Raises IndexFolderError for what no search finds in an index that was built: no index is trusted that far."""
        numbers = patches is None or not len(patches) or 0 <= patches.min() <= patches.max() < self.codes.ntotal
        if not numbers or (scores is not None and not np.isfinite(scores).all()):
            raise IndexFolderError("The index has codes that no build writes: build it again.")

    def search(self, query: NDArray[np.float32], top: int | None = None, level: int | None = None) -> Hits:
        """Ranks pictures by their best patch, one hit a picture; see `PatchStore.search`.

        Codecs that visit every code (Flat, SQ) are searched exactly. Others (PQ, IVF, ...) propose pictures, more
        than wanted, whose patches are then compared with the query one by one as decoded from their codes: a score is
        always the similarity that `cell_scores` gives. An inverted file visits part of the collection, so pictures may
        be missing at the end of a whole ranking.

        With finer codes all proposed pictures are scored by them, or, where every code is visited, the first `RESCORED`
        (or `top`), and the others follow with coarse scores as they were.
        """
        query = self.checked_query(query, top)
        # Without a level the regions are not asked: they take as long as a tenth of a walk.
        used = self.patches_per_image if level is None else self.regions.stages[self.checked_level(level) - 1].patches
        wanted = len(self.images) if top is None else min(top, len(self.images))
        proposed = wanted if self.fine is None else min(max(wanted, RESCORED), len(self.images))
        if self._exhaustive:
            hits = self._search_every_code(query, proposed, used)
        else:
            hits = self._scored(query, self._propose(query, proposed, used), used)
        if self.fine is not None and self._exhaustive:  # else the proposals were compared with finer codes already
            first = max(RESCORED, top or 0)
            scored = self._scored(query, hits.rows[:first], used)
            hits = scored.followed_by(hits[first:])
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
            scores, patches = (found[0] for found in self._stored.search(query[None], fetch, params=options))
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
        # Twice as many as wanted: the codec's own scores are rounded, the last ones may be better than they seem.
        fetch, enough = min(every, max(LEAST_FETCH, 4 * pictures)), 2 * pictures
        search: FindPatches = self.codes.search
        if self.plan is not None:
            fetch, search = min(every, max(LEAST_FETCH, self.plan.fetch * pictures)), self._planned(query, used)
        graph = self._stored is not self.codes
        if graph:
            search, enough = self._walked, pictures  # a walk compares with the codes themselves
        while True:
            if graph and (used < self.patches_per_image or fetch * WALK_SHARE > every):
                return self._search_every_code(query, pictures, used).rows
            _, patches = search(query[None], fetch)
            found = patches[0][patches[0] >= 0]
            self._check_found(None, found)
            rows, cells = np.divmod(found, self.patches_per_image)
            rows = rows[cells < used]
            _, first = np.unique(rows, return_index=True)
            if len(first) >= min(enough, len(self.images)) or fetch == every or len(found) < fetch:
                return rows[np.sort(first)][:enough]
            fetch = min(4 * fetch, every)

    def _walked(self, query: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Similarities and patches that a walk over the graph finds."""
        import faiss

        codes: Any = self.codes
        options = faiss.SearchParametersHNSW(efSearch=max(codes.hnsw.efSearch, count))  # type: ignore[attr-defined]
        scores, patches = codes.search(query, count, params=options)
        return scores, patches

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
        """The parameters of a search for FAISS by plan: how many lists, and which patches of a picture count."""
        import faiss

        assert self.plan is not None
        if used == self.patches_per_image:
            return faiss.SearchParametersIVF(nprobe=self.plan.probes)  # type: ignore[call-arg]
        if used not in self._of_level:  # a bit per patch, kept: 300 million are 37 MB and half a second
            counts = np.arange(self.patches_per_image * 8) % self.patches_per_image < used
            repeats = -(-int(self.codes.ntotal) // len(counts))
            self._of_level[used] = np.tile(np.packbits(counts, bitorder="little"), repeats)
        bitmap = self._of_level[used]
        selector = faiss.IDSelectorBitmap(int(self.codes.ntotal), faiss.swig_ptr(bitmap))
        return faiss.SearchParametersIVF(sel=selector, nprobe=self.plan.probes)  # type: ignore[call-arg]

    def _scored(self, query: NDArray[np.float32], rows: NDArray[np.int64], used: int) -> Hits:
        """The pictures in `rows`, ranked by the similarity of their decoded patches."""
        if self.ahead is not None:
            self.ahead.patches(rows * self.patches_per_image, used)
        runs = [self._similarities(query, rows[at : at + RUN], used) for at in range(0, len(rows), RUN)]
        scores = np.concatenate(runs) if runs else np.empty((0, used), np.float32)
        cells = scores.argmax(axis=1).astype(np.int64)
        best = scores.max(axis=1, initial=-np.inf)
        order = np.lexsort((self.image_ids[rows], -best))
        return Hits(rows[order], best[order], cells[order])

    def meta(self) -> dict[str, Any]:
        """How the index was made and of what, as plain JSON values."""
        listed = None if isinstance(self.images, PictureTable) else [asdict(image) for image in self.images]
        return super().meta() | {"images": listed} | ({} if self.plan is None else {"search": asdict(self.plan)})

    def write(self, folder: Path, root: str, packed: PackedMaps | None = None) -> None:
        """Writes the files into an existing folder; see `folder.write_index`."""
        from patchify_core.index.folder import write_index

        write_index(self, folder, root, packed)

    @classmethod
    def load(cls, folder: str | Path) -> PatchIndex:
        """Loads an index folder if all of it fits together; see `folder.load_index`."""
        from patchify_core.index.folder import load_index

        return load_index(Path(folder))
