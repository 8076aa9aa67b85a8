"""Locate the objects in a gallery picture that match a query.

A box search on the feature map (`search`) gives one box, the outline around it (`outline_box`) another. The outline is
weighted by how well its descriptor matches the query, because colours alone know nothing of the query. Further objects
are searched away from those found before (non-maximum suppression).
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
from patchify_core.retrieval.localize.outline import OutlineSettings, outline_box
from patchify_core.retrieval.localize.search import BoxResult, BoxSearch, BoxSearchSettings, overlap

if TYPE_CHECKING:
    from patchify_core.retrieval.searcher import QueryView, Searcher


@dataclass(frozen=True)
class LocalizeSettings:
    """Settings of refined boxes; the defaults were measured (NUMBERS.md).

    Attributes:
        search: See `BoxSearchSettings`.
        outline: See `OutlineSettings`.
        tolerance: In units of the search's v (contrast aside): an outline whose box matches worse than the searched
            box by this or more is ignored; one that matches as well replaces it; in between, the two are averaged by
            weight. With 0, outlines are never used.
        objects: Maximum objects per picture.
        another: Minimum `Location.alike` of a further object, 0..1; chosen so that at most 5 % of the pictures of one
            object get a second box (`study several`). With a tolerance of 0 there are no further objects.
        apart: Maximum overlap of a further object's box with an earlier one, as a share of the smaller of the two.
        cached: Pictures whose maps are kept in memory, about 6 MB each.
    """

    search: BoxSearchSettings = field(default_factory=BoxSearchSettings)
    outline: OutlineSettings = field(default_factory=OutlineSettings)
    tolerance: float = 1.0
    objects: int = 1
    another: float = 0.58
    apart: float = 0.1
    cached: int = 16


@dataclass(frozen=True, eq=False)
class Location:
    """One object of a picture.

    Attributes:
        box: (4,) float64 xyxy in pixels of the upright gallery picture.
        score: Cosine similarity of the query with the descriptor of the box, -1..1.
        outlined: Weight of the object's outline in the box, 0..1; the rest is the searched box.
        evidence: Cosine similarity of the query with the best box of the search, plus its contrast term; for ranking
            pictures; about -1..1.
        alike: Confidence that this is a further instance of the first object, about 0..1: its share of the first one's
            evidence, times `outlined`. Parts of the first object and chance matches rarely have an outline of their
            own that matches as well. 1 for the first object.
    """

    box: NDArray[np.float64]
    score: float
    outlined: float
    evidence: float
    alike: float = 1.0


@dataclass(frozen=True, eq=False)
class SimilarityMap:
    """Similarity of each place of a picture with the query, for drawing.

    Attributes:
        values: (h, w) float32 cosine similarities, rows from the top; covers the whole picture.
    """

    values: NDArray[np.float32]


class Localizer:
    """Locates objects on the feature maps of an index. Thread-safe.

    Args:
        engine: An index with pooled features and its encoder. If the index stores no maps, the network runs over a
            picture when it is first needed.
        settings: See `LocalizeSettings`.

    Raises:
        PatchifyError: If the index was made of crops.
    """

    def __init__(self, engine: Searcher, settings: LocalizeSettings | None = None) -> None:
        if not isinstance(engine.extractor, Pooled):
            raise PatchifyError(
                "A box is searched for on the feature maps of pooled features, and this index was made of crops: make "
                "one with --features pooled --keep-maps, or refine with soft."
            )
        self.engine, self.extractor, self.settings = engine, engine.extractor, settings or LocalizeSettings()
        self._ready: OrderedDict[int, BoxSearch] = OrderedDict()
        self._lock = Lock()

    def locate(self, query: QueryView, row: int, objects: int | None = None) -> list[Location]:
        """Locate the query's object in one gallery picture.

        Args:
            query: From `Searcher.view`.
            row: Position of the picture in `PatchIndex.images`.
            objects: Maximum number of objects; default: `settings.objects`.

        Returns:
            At least one location, best first.

        Raises:
            IndexFolderError: If the stored map is damaged, or no map is stored and the picture has vanished or changed.
        """
        image = self.engine.index.images[row]
        size = np.array([image.width, image.height] * 2, np.float64)
        locations = self.objects_of(self.search_of(row), query, objects)
        return [replace(location, box=location.box * size) for location in locations]

    def objects_of(self, search: BoxSearch, query: QueryView, objects: int | None = None) -> list[Location]:
        """Locate the query's object on any map (`prepare`); see `locate`, but boxes are fractions of the sides."""
        locations: list[Location] = []
        while len(locations) < (objects or self.settings.objects):
            previous = [location.box for location in locations]
            candidate = search.search(query.descriptor, query.parts, previous, self.settings.apart)
            if candidate is None:
                break
            share = candidate.score * candidate.sigma / max(locations[0].evidence, 1e-6) if locations else 1.0
            limit = self.settings.another if locations else -np.inf
            if share < limit:  # an outline can only lower it, and is the slowest step
                break
            location = self._outlined(search, query.descriptor, candidate, previous)
            alike = share * location.outlined if locations else 1.0
            if alike < limit:
                break
            locations.append(replace(location, alike=alike))
        return locations

    def similarity(self, query: QueryView, row: int) -> SimilarityMap:
        """Return the similarity map of one gallery picture; args and errors: see `locate`."""
        return SimilarityMap(self.search_of(row).similarity(query.descriptor))

    def _outlined(
        self,
        search: BoxSearch,
        query: NDArray[np.float32],
        candidate: BoxResult,
        previous: Sequence[NDArray[np.float64]],
    ) -> Location:
        """Align a searched box with the outline around it, unless that overlaps boxes in `previous`."""
        score, evidence = search.match(query, candidate.box), candidate.score * candidate.sigma
        outline = outline_box(search.picture_map.thumbnail, candidate.box.tolist(), self.settings.outline)
        if outline is None:
            return Location(candidate.box, score, 0.0, evidence)
        worse = (score - search.match(query, outline)) / candidate.sigma
        if candidate.agreement is not None:
            worse += candidate.agreement.of(candidate.box) - candidate.agreement.of(outline)
        weight = float(np.clip(1 - worse / self.settings.tolerance, 0, 1)) if self.settings.tolerance > 0 else 0.0
        box = weight * outline + (1 - weight) * candidate.box
        if weight == 0 or any(overlap(other[None], box)[0] > self.settings.apart for other in previous):
            return Location(candidate.box, score, 0.0, evidence)
        return Location(box, search.match(query, box), weight, evidence)

    def search_of(self, row: int) -> BoxSearch:
        """Return the prepared map of one gallery picture, from the cache if it is there."""
        with self._lock:
            if row in self._ready:
                self._ready.move_to_end(row)
                return self._ready[row]
        search = self.prepare(self._map(row))
        with self._lock:
            self._ready[row] = search
            while len(self._ready) > self.settings.cached:
                self._ready.popitem(last=False)
        return search

    def prepare(self, picture_map: PictureMap) -> BoxSearch:
        """Prepare a map, of a gallery picture or any other, for box searches."""
        return BoxSearch(picture_map, self.extractor.encoder, self.engine.index.project, self.settings.search)

    def forget(self) -> None:
        """Clear the cache of prepared maps."""
        with self._lock:
            self._ready.clear()

    def _map(self, row: int) -> PictureMap:
        index = self.engine.index
        if index.maps is not None:
            try:
                return index.maps[row]
            except (OSError, ValueError):
                raise IndexFolderError(
                    f"The feature maps in {index.maps.path} were damaged or removed since the index was opened: "
                    "build the index again."
                ) from None
        if index.root is None:
            raise IndexFolderError("The index keeps no feature maps and does not know where its pictures are.")
        index.check_pictures(index.root, content=True, rows=[row])
        path = picture_path(index.root, index.images[row].file_name)
        picture, _ = self.extractor.read(path.read_bytes(), path.name)
        return self.extractor.picture_map(picture)
