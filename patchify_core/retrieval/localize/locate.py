"""The objects of a picture that match a query, and where each of them ends.

The search on the map (`search`) gives a box, the outline around it (`outline_box`) another one. The better the
descriptor of the outline's box matches the query, the more the outline counts, for colours alone know nothing of the
query. Further objects are looked for away from those found already (non-maximum suppression).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.extract import Pooled
from patchify_core.features.maps import PictureMap
from patchify_core.imaging.filenames import picture_path
from patchify_core.retrieval.localize.search import BoxSearch, BoxSearchSettings, FoundBox, overlap

if TYPE_CHECKING:
    from patchify_core.retrieval.searcher import Searcher


@dataclass(frozen=True)
class OutlineSettings:
    """What a person may tune about outlines.

    Attributes:
        margin: how far around the box the object may reach, as a fraction of its side.
        iterations: rounds of GrabCut; more did not give better boxes (NUMBERS.md).
    """

    margin: float = 0.35
    iterations: int = 2


def outline_box(
    thumbnail: NDArray[np.uint8], box: Sequence[float], settings: OutlineSettings | None = None
) -> NDArray[np.float64] | None:
    """The box of the object that a box holds or touches.

    Args:
        thumbnail: (S, S, 3) uint8 RGB, the whole picture squashed to a square.
        box: (4,) xyxy as fractions of the picture's sides.
        settings: see `OutlineSettings`.

    Returns:
        (4,) float64 xyxy as fractions: the largest connected piece of foreground. None if there is none, or nothing
        to tell it from.
    """
    import cv2

    settings = settings or OutlineSettings()
    side = len(thumbnail)
    x1, y1, x2, y2 = (float(v) for v in box)
    dx, dy = settings.margin * (x2 - x1), settings.margin * (y2 - y1)
    mask = np.full((side, side), cv2.GC_BGD, np.uint8)
    mask[_pixels((x1 - dx, y1 - dy, x2 + dx, y2 + dy), side)] = cv2.GC_PR_BGD
    mask[_pixels((x1, y1, x2, y2), side)] = cv2.GC_PR_FGD
    if (mask == cv2.GC_BGD).mean() < 0.02:  # nearly everything is in question: the picture's rim stands for background
        mask[:2] = mask[-2:] = cv2.GC_BGD
        mask[:, :2] = mask[:, -2:] = cv2.GC_BGD
    sure = mask == cv2.GC_BGD
    if not (mask == cv2.GC_PR_FGD).any() or not sure.any():
        return None
    cv2.setRNGSeed(0)  # k-means starts from random centres; this generator is the thread's own
    try:
        cv2.grabCut(
            thumbnail,
            mask,
            (0, 0, side, side),  # not looked at: the mask says it all
            np.zeros((1, 65)),
            np.zeros((1, 65)),
            settings.iterations,
            cv2.GC_INIT_WITH_MASK,
        )
    except cv2.error:  # a colour model without any pixel
        return None
    foreground = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    count, _, pieces, _ = cv2.connectedComponentsWithStats(foreground)
    if count < 2:
        return None
    left, top, width, height, _ = pieces[1 + int(pieces[1:, cv2.CC_STAT_AREA].argmax())].tolist()
    return np.array([left, top, left + width, top + height], np.float64) / side


def _pixels(box: tuple[float, float, float, float], side: int) -> tuple[slice, slice]:
    x1, y1, x2, y2 = (min(max(round(v * side), 0), side) for v in box)
    return slice(y1, y2), slice(x1, x2)


@dataclass(frozen=True)
class LocalizeSettings:
    """What a person may tune about refined boxes; the defaults were measured (NUMBERS.md).

    Attributes:
        search: see `BoxSearchSettings`.
        outline: see `OutlineSettings`.
        tolerance: in units of the search's sigma: an outline whose box matches that much worse than the searched one
            does not count; one that matches as well replaces it; between the two lies their weighted mean. With 0
            outlines never count.
        objects: at most so many of one picture.
        another: a further object's evidence must be at least this share of the first one's, 0..1.
        apart: a further object's box is looked for among those whose overlap with a found one is at most this share of
            the smaller of the two.
        cached: pictures whose maps stay ready, some 6 MB each.
    """

    search: BoxSearchSettings = field(default_factory=BoxSearchSettings)
    outline: OutlineSettings = field(default_factory=OutlineSettings)
    tolerance: float = 1.0
    objects: int = 1
    another: float = 0.9
    apart: float = 0.1
    cached: int = 16


@dataclass(frozen=True, eq=False)
class Location:
    """One object of a picture.

    Attributes:
        box: (4,) float64 xyxy in pixels of the upright gallery picture.
        score: cosine similarity of the query with the descriptor of the box, -1..1.
        outlined: how much the object's outline counts in the box, 0..1; the rest is the box that was searched for.
        evidence: cosine similarity of the query with the best box of the search plus what that box's contrast adds, for
            ranking pictures; about -1..1.
    """

    box: NDArray[np.float64]
    score: float
    outlined: float
    evidence: float


@dataclass(frozen=True, eq=False)
class SimilarityMap:
    """How well each place of a picture matches, for drawing.

    Attributes:
        values: (h, w) float32 cosine similarities, rows from the top; the map covers the whole picture.
    """

    values: NDArray[np.float32]


class Localizer:
    """Finds objects on the maps of an index. Safe to use from several threads.

    Args:
        engine: an index with pooled features and its encoder. Where the index keeps no maps, the network runs over a
            picture again when it is first asked about.
        settings: see `LocalizeSettings`.

    Raises:
        PatchifyError: if the index was made of crops.
    """

    def __init__(self, engine: Searcher, settings: LocalizeSettings | None = None) -> None:
        """Checks that the index can be asked."""
        if not isinstance(engine.extractor, Pooled):
            raise PatchifyError(
                "A box is searched for on the feature maps of pooled features, and this index was made of crops: make "
                "one with --features pooled --keep-maps, or refine with soft."
            )
        self.engine, self.extractor, self.settings = engine, engine.extractor, settings or LocalizeSettings()
        self._ready: OrderedDict[int, BoxSearch] = OrderedDict()
        self._lock = Lock()

    def locate(self, query: NDArray[np.float32], row: int, objects: int | None = None) -> list[Location]:
        """Where the query's object is in one picture.

        Args:
            query: (dim,) float32 of length 1, from `Searcher.describe_query`.
            row: position of the picture in `PatchIndex.images`.
            objects: at most so many; the settings' by default.

        Returns:
            At least one, the best first.

        Raises:
            IndexFolderError: if the map has to be made and the picture has vanished or changed, or the kept map is
                damaged.
        """
        search = self.search_of(row)
        image = self.engine.index.images[row]
        size = np.array([image.width, image.height] * 2, np.float64)
        found: list[Location] = []
        while len(found) < (objects or self.settings.objects):
            taken = [one.box for one in found]
            another = search.search(query, taken, self.settings.apart)
            if another is None:
                break
            if found and another.score * another.sigma < self.settings.another * found[0].evidence:
                break
            found.append(self._outlined(search, query, another, taken))
        return [replace(one, box=one.box * size) for one in found]

    def similarity(self, query: NDArray[np.float32], row: int) -> SimilarityMap:
        """How well each place of one picture matches the query; the arguments and errors are those of `locate`."""
        return SimilarityMap(self.search_of(row).similarity(query))

    def _outlined(
        self, search: BoxSearch, query: NDArray[np.float32], found: FoundBox, taken: Sequence[NDArray[np.float64]]
    ) -> Location:
        """The found box, drawn towards the outline around it, away from those taken; in fractions of the picture."""
        score, evidence = search.match(query, found.box), found.score * found.sigma
        outline = outline_box(search.kept.thumbnail, found.box.tolist(), self.settings.outline)
        if outline is None:
            return Location(found.box, score, 0.0, evidence)
        worse = (score - search.match(query, outline)) / found.sigma
        weight = float(np.clip(1 - worse / self.settings.tolerance, 0, 1)) if self.settings.tolerance > 0 else 0.0
        box = weight * outline + (1 - weight) * found.box
        if weight == 0 or any(overlap(one[None], box)[0] > self.settings.apart for one in taken):
            return Location(found.box, score, 0.0, evidence)
        return Location(box, search.match(query, box), weight, evidence)

    def search_of(self, row: int) -> BoxSearch:
        """One picture's map, ready for questions; kept ready for the next ones."""
        with self._lock:
            if row in self._ready:
                self._ready.move_to_end(row)
                return self._ready[row]
        made = BoxSearch(self._map(row), self.extractor.encoder, self.engine.index.project, self.settings.search)
        with self._lock:
            self._ready[row] = made
            while len(self._ready) > self.settings.cached:
                self._ready.popitem(last=False)
        return made

    def forget(self) -> None:
        """Lets go of the maps that are ready; each is made again when it is needed."""
        with self._lock:
            self._ready.clear()

    def _map(self, row: int) -> PictureMap:
        index = self.engine.index
        if index.maps is not None:
            try:
                return index.maps[row]
            except (OSError, ValueError):
                raise IndexFolderError(
                    f"The feature maps in {index.maps.path} were damaged or taken away since the index was opened: "
                    "build the index again."
                ) from None
        if index.root is None:
            raise IndexFolderError("The index keeps no feature maps and does not know where its pictures are.")
        index.check_pictures(index.root, content=True, rows=[row])
        path = picture_path(index.root, index.images[row].file_name)
        picture, _ = self.extractor.read(path.read_bytes(), path.name)
        return self.extractor.picture_map(picture)
