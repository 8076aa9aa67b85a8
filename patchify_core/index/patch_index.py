"""PatchIndex: the descriptors of every patch of every gallery picture in FAISS, searched by inner product.

Every picture has the same number of patches, stored consecutively, so the patch table is implicit:
patch id = picture row * patches per image + cell. `build` makes an index, `folder` reads and writes it.
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
from patchify_core.index.codec.codes import Codes
from patchify_core.index.codec.factory import code_storage, visits_everything
from patchify_core.index.pictures import Pictures, PictureTable
from patchify_core.index.recipe import Recipe
from patchify_core.index.store import Hits, PatchStore

if TYPE_CHECKING:
    import faiss

    from patchify_core.features.maps import PackedMaps
    from patchify_core.index.mapped import PatchCodes, ReadAhead

RESCORED = 100
"""Minimum number of pictures that finer codes re-score."""

LEAST_FETCH = 64
"""Minimum number of patches to request from a codec that does not visit every code."""

DECODED_PICTURES = 256
"""Pictures whose patches are decoded at a time."""

WALK_SHARE = 32
"""A graph walk visits about thirty times as many patches as it returns, at random places: once that is all of them, an
exhaustive scan is as fast and misses none."""


@dataclass(frozen=True)
class SearchPlan:
    """How to search inverted lists; measured by `tune` and stored in `meta.json`.

    Attributes:
        probes: Lists that a search visits.
        fetch: Patches to request first, per picture wanted.
        recall: Share of the top pictures of an exhaustive search that is found, 0..1; None if not measured.
    """

    probes: int
    fetch: int = 16
    recall: float | None = None

    def check(self, codes: faiss.Index) -> None:
        """Raise ValueError unless the plan fits the codes."""
        import faiss

        lists = codes.nlist if isinstance(codes, faiss.IndexIVF) else 0
        valid = all(isinstance(number, int) and number > 0 for number in (self.probes, self.fetch))
        if not valid or self.probes > lists or self.fetch > 1 << 20:
            raise ValueError("a plan that does not fit the codes")


FindPatches = Callable[..., Any]
"""(1, dim) query and K -> (1, K) similarities and (1, K) patch ids, best first."""


class PatchIndex(PatchStore):
    """A `PatchStore` in FAISS, in memory or mapped from an index folder.

    Args:
        recipe: How the descriptors were made and coded.
        pictures: The pictures, in the order of their patches.
        codes: FAISS codes of `len(pictures.images) * P` patches, with projection and finer codes if any.
        plan: How to search inverted lists; None for FAISS's own parameters.
        located: Finds the mapped codes of a big index by patch id; None if in memory, or if there are finer codes.
        ahead: Prefetches the mapped codes of a big index; None if in memory.

    Attributes:
        codes: FAISS index of one vector per patch, inner product.
        fine: Finer codes of the same patches that re-score the top pictures of a search, or None.

    Raises:
        ValueError: The parts do not fit together.
    """

    def __init__(
        self,
        recipe: Recipe,
        pictures: Pictures,
        codes: Codes,
        plan: SearchPlan | None = None,
        located: PatchCodes | None = None,
        ahead: ReadAhead | None = None,
    ) -> None:
        super().__init__(recipe, pictures, codes.projection)
        codes.check(len(self.images) * self.patches_per_image, recipe.dim)
        if (codes.fine is None) != (recipe.rescore is None):
            raise ValueError("finer codes that do not fit the recipe")
        if plan is not None:
            plan.check(codes.codes)
        self.codes, self.fine = codes.codes, codes.fine
        self.plan, self.located, self.ahead = plan, located, ahead
        self._exhaustive, self._stored = visits_everything(self.codes), code_storage(self.codes)
        self._of_level: dict[int, NDArray[np.uint8]] = {}

    @property
    def codebook(self) -> str:
        """The training set of the codec, one of `codec.factory.CODEBOOKS`."""
        return self.recipe.codebook

    @property
    def rescore(self) -> str | None:
        """Factory string of the finer codes, or None."""
        return self.recipe.rescore

    @property
    def bytes_per_patch(self) -> int:
        """Bytes of codes per patch, finer codes included, without the links of a graph."""
        return int(self._stored.sa_code_size() + (self.fine.sa_code_size() if self.fine is not None else 0))

    def descriptors_of(self, row: int) -> NDArray[np.float32]:
        """(P, dim) float32 descriptors of the picture in `row` as stored (decoded from the finest codes)."""
        return self._decoded(np.array([row]), self.patches_per_image)

    def _decoded(self, rows: NDArray[np.int64], used: int) -> NDArray[np.float32]:
        """(K * used, dim) float32 descriptors of the first `used` patches of each picture, from the finest codes."""
        import faiss

        patches = (rows[:, None] * self.patches_per_image + np.arange(used)).ravel()
        if self.fine is None and self.located is not None:
            return self.located.decode(patches)
        codes = self._stored if self.fine is None else self.fine
        if isinstance(codes, faiss.IndexPreTransform):  # rounding depends on how many are rotated back at once
            every = self.patches_per_image
            return np.concatenate([codes.reconstruct_n(row * every, every)[:used] for row in rows.tolist()])
        if isinstance(codes, (faiss.IndexScalarQuantizer, faiss.IndexPQ)):  # FAISS would create a decoder per vector
            return np.asarray(codes.sa_decode(self._bytes[patches]))
        return np.asarray(codes.reconstruct_batch(patches))

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        """(N * P, bytes per code) view of the finest codes, where they are stored consecutively."""
        import faiss

        codes: Any = self._stored if self.fine is None else self.fine
        size = int(codes.code_size)
        return np.asarray(faiss.rev_swig_ptr(codes.codes.data(), int(codes.ntotal) * size)).reshape(-1, size)

    def cell_scores(self, query: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """See `PatchStore.cell_scores`; bit-identical to the similarities in `search`.

        Where FAISS visits every code it computes the scores here too, because numpy rounds differently, which could
        break ties another way. (Pictures that finer codes do not re-score have coarse scores in `search` and fine ones
        here.)
        """
        import faiss

        query = np.ascontiguousarray(query, np.float32)
        if not self._exhaustive or self.fine is not None:
            return self._similarities(query, np.array([row]), self.patches_per_image)[0]
        patches = self.patches_per_image
        first = row * patches
        options = faiss.SearchParameters(sel=faiss.IDSelectorRange(first, first + patches))  # type: ignore[call-arg]
        scores, ids = self.codes.search(query[None], patches, params=options)
        self._check_results(scores[0], ids[0])
        by_cell = np.empty(patches, np.float32)
        by_cell[ids[0] - first] = scores[0]
        return by_cell

    def _similarities(self, query: NDArray[np.float32], rows: NDArray[np.int64], used: int) -> NDArray[np.float32]:
        """(K, used) similarities with the first `used` decoded patches of each picture in `rows`."""
        scores: NDArray[np.float32] = np.einsum("pd,d->p", self._decoded(rows, used), query)
        self._check_results(scores)
        return scores.reshape(len(rows), used)

    def _check_results(self, scores: NDArray[np.float32] | None, patches: NDArray[np.int64] | None = None) -> None:
        """Raise IndexFolderError for scores or patch ids that only a forged index can produce."""
        valid = patches is None or not len(patches) or 0 <= patches.min() <= patches.max() < self.codes.ntotal
        if not valid or (scores is not None and not np.isfinite(scores).all()):
            raise IndexFolderError("The index has invalid codes: build it again.")

    def search(self, query: NDArray[np.float32], top: int | None = None, level: int | None = None) -> Hits:
        """Rank pictures by their best patch, one hit per picture; see `PatchStore.search`.

        Codecs that visit every code (Flat, SQ) are searched exactly. Others (PQ, IVF, ...) propose a shortlist, longer
        than wanted, whose decoded patches are then compared with the query, so that every score is the one that
        `cell_scores` returns. Inverted lists visit part of the collection, so a full ranking may lack pictures at its
        end.

        Finer codes score the whole shortlist or, where every code is visited, the first `RESCORED` (or `top`)
        pictures; the others follow with their coarse scores.
        """
        query = self.checked_query(query, top)
        # Without a level skip the stages, which cost a tenth of a graph walk.
        used = self.patches_per_image if level is None else self.regions.stages[self.checked_level(level) - 1].patches
        wanted = len(self.images) if top is None else min(top, len(self.images))
        proposed = wanted if self.fine is None else min(max(wanted, RESCORED), len(self.images))
        if self._exhaustive:
            hits = self._search_every_code(query, proposed, used)
        else:
            hits = self._scored(query, self._propose(query, proposed, used), used)
        if self.fine is not None and self._exhaustive:  # other codecs have used the finer codes already
            first = max(RESCORED, top or 0)
            scored = self._scored(query, hits.rows[:first], used)
            hits = scored.followed_by(hits[first:])
        return hits[:wanted]

    def _search_every_code(self, query: NDArray[np.float32], pictures: int, used: int) -> Hits:
        """Search all patches once; again only if ties at the end could hide a picture with a smaller id.

        The best `pictures * used` patches cover at least `pictures` pictures, because a picture has only `used`.
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
            scores, patches = (result[0] for result in self._stored.search(query[None], fetch, params=options))
            self._check_results(scores, patches)
            rows, cells = np.divmod(patches, self.patches_per_image)
            order = np.lexsort((cells, self.image_ids[rows], -scores))
            _, first = np.unique(rows[order], return_index=True)
            best = order[np.sort(first)][:pictures]
            if fetch == available or scores[order[-1]] < scores[best[-1]]:
                return Hits(rows[best], scores[best], cells[best])
            fetch = min(2 * fetch, available)

    def _propose(self, query: NDArray[np.float32], pictures: int, used: int) -> NDArray[np.int64]:
        """Return the rows of a shortlist of at least `pictures` pictures (fewer if the codec finds fewer), best first.

        FAISS cannot return one hit per picture, and not every codec can filter patches, so the number of patches
        requested grows until they cover enough pictures.
        """
        every = int(self.codes.ntotal)
        # Twice as many as wanted, because the codec's own scores are rounded.
        fetch, enough = min(every, max(LEAST_FETCH, 4 * pictures)), 2 * pictures
        search: FindPatches = self.codes.search
        if self.plan is not None:
            fetch, search = min(every, max(LEAST_FETCH, self.plan.fetch * pictures)), self._planned(query, used)
        graph = self._stored is not self.codes
        if graph:
            search, enough = self._search_graph, pictures  # a graph walk compares with the stored codes themselves
        while True:
            if graph and (used < self.patches_per_image or fetch * WALK_SHARE > every):
                return self._search_every_code(query, pictures, used).rows
            _, patches = search(query[None], fetch)
            ids = patches[0][patches[0] >= 0]
            self._check_results(None, ids)
            rows, cells = np.divmod(ids, self.patches_per_image)
            rows = rows[cells < used]
            _, first = np.unique(rows, return_index=True)
            if len(first) >= min(enough, len(self.images)) or fetch == every or len(ids) < fetch:
                return rows[np.sort(first)][:enough]
            fetch = min(4 * fetch, every)

    def _search_graph(self, query: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find similarities and patch ids by a walk over the graph."""
        import faiss

        codes: Any = self.codes
        options = faiss.SearchParametersHNSW(efSearch=max(codes.hnsw.efSearch, count))  # type: ignore[attr-defined]
        scores, patches = codes.search(query, count, params=options)
        return scores, patches

    def _planned(self, query: NDArray[np.float32], used: int) -> FindPatches:
        """Return a search of the lists that the plan selects.

        It does the two steps of FAISS's `search` separately, to prefetch the selected lists from disk in between.
        """
        import faiss

        options, codes = self._search_parameters(used), cast("Any", self.codes)
        if self.ahead is None:
            return partial(codes.search, params=options)
        similarities, lists = codes.quantizer.search(query[None], options.nprobe)
        self.ahead.lists(lists[0])

        def visit(query: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            scores, patches = np.empty((1, count), np.float32), np.empty((1, count), np.int64)
            at = [faiss.swig_ptr(array) for array in (query, lists, similarities, scores, patches)]
            codes.search_preassigned_c(1, at[0], count, *at[1:], False, options)  # the Python wrapper takes no options
            return scores, patches

        return visit

    def _search_parameters(self, used: int) -> faiss.SearchParametersIVF:
        """Search parameters for FAISS: how many lists, and which patches of a picture."""
        import faiss

        assert self.plan is not None
        if used == self.patches_per_image:
            return faiss.SearchParametersIVF(nprobe=self.plan.probes)  # type: ignore[call-arg]
        if used not in self._of_level:  # cached: a bit per patch, 300 million take 37 MB and half a second
            counts = np.arange(self.patches_per_image * 8) % self.patches_per_image < used
            repeats = -(-int(self.codes.ntotal) // len(counts))
            self._of_level[used] = np.tile(np.packbits(counts, bitorder="little"), repeats)
        bitmap = self._of_level[used]
        selector = faiss.IDSelectorBitmap(int(self.codes.ntotal), faiss.swig_ptr(bitmap))
        return faiss.SearchParametersIVF(sel=selector, nprobe=self.plan.probes)  # type: ignore[call-arg]

    def _scored(self, query: NDArray[np.float32], rows: NDArray[np.int64], used: int) -> Hits:
        """Rank the pictures in `rows` by their most similar decoded patch."""
        if self.ahead is not None:
            self.ahead.patches(rows * self.patches_per_image, used)
        steps = range(0, len(rows), DECODED_PICTURES)
        blocks = [self._similarities(query, rows[at : at + DECODED_PICTURES], used) for at in steps]
        scores = np.concatenate(blocks) if blocks else np.empty((0, used), np.float32)
        cells = scores.argmax(axis=1).astype(np.int64)
        best = scores.max(axis=1, initial=-np.inf)
        order = np.lexsort((self.image_ids[rows], -best))
        return Hits(rows[order], best[order], cells[order])

    def meta(self) -> dict[str, Any]:
        """Recipe, pictures and search plan, as plain JSON values."""
        listed = None if isinstance(self.images, PictureTable) else [asdict(image) for image in self.images]
        return super().meta() | {"images": listed} | ({} if self.plan is None else {"search": asdict(self.plan)})

    def write(self, folder: Path, root: str, packed: PackedMaps | None = None) -> None:
        """Write the index into an existing folder; see `folder.write_index`."""
        from patchify_core.index.folder import write_index

        write_index(self, folder, root, packed)

    @classmethod
    def load(cls, folder: str | Path) -> PatchIndex:
        """Load an index folder; see `folder.load_index`."""
        from patchify_core.index.folder import load_index

        return load_index(Path(folder))
