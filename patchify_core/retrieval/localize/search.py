"""Coarse-to-fine search for the box that best explains a match, on the picture's feature map.

A box b of a fixed lattice scores

    v(b) = cos(query, descriptor of b) / sigma + w1 * contrast(b) + w2 * agreement(b)

where the descriptor is pooled from the map, and sigma is the cosine's standard deviation over the coarse boxes. The
contrast (`regions.salient`) measures how much the box stands out from its surroundings, independent of the query, and
the agreement (`localize.dense`) how many of its cells match parts of the query. Cosines alone favour a distinctive part
of the object, or the object with its surroundings; the other two favour boxes that end where the object ends.

The result is the mean of the best box and the boxes that overlap it, weighted by exp(v / temperature). Boxes elsewhere
are excluded: with two equal objects the mean would lie between them.

All coarse boxes are scored first, then the fine boxes that overlap the best coarse ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.encoders.maps import MapEncoder
from patchify_core.features.maps import PictureMap
from patchify_core.features.pooled import describe_cells, integral_image, pool_boxes, resampled, rooted
from patchify_core.regions.salient import areas, contrast, lattice, saliency
from patchify_core.retrieval.localize.dense import Agreement

TEMPERATURE = 0.4
"""In standard deviations of the scores (measured: `evaluate --refine soft`; 0.3 to 0.5 are equally good)."""


FLAT = 0.001
"""Lower bound of sigma: in a uniform picture, cosines differ by rounding only."""


def expected_box(boxes: ArrayLike, scores: ArrayLike, temperature: float = TEMPERATURE) -> NDArray[np.float64]:
    """Return the mean of boxes, weighted by exp(score / (temperature * standard deviation of the scores)).

    Args:
        boxes: (P, 4) xyxy, in any unit.
        scores: (P,) similarities; only differences count, in units of their standard deviation.
        temperature: In standard deviations of `scores`; towards 0, the result is the best box.

    Returns:
        (4,) float64, inside the bounding box of all boxes. The first box if all scores are equal.
    """
    boxes, scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
    spread = float(scores.std()) * temperature
    best = int(scores.argmax())
    if not spread > 1e-12:
        return boxes[best].copy()
    weights = np.exp((scores - scores[best]) / spread)
    mean: NDArray[np.float64] = weights @ boxes / weights.sum()
    return mean


CELLS = 32
"""Steps of the lattice along each side of the picture."""

COARSE_STEP = 1.0
"""Distance of neighbouring coarse boxes of one size, as a fraction of their side."""

Project = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class BoxSearchSettings:
    """Settings of the box search; the defaults were measured (NUMBERS.md).

    Attributes:
        contrast: Weight of the contrast, w1.
        agreement: Weight of the agreement, w2.
        threshold: Threshold of the agreement, see `dense.Agreement`.
        large: Share of the picture from which an object has enough cells for w2: if the best coarse box without the
            agreement is smaller, w2 falls in proportion.
        temperature: Temperature of the mean over boxes, in units of v.
        refined: Number of coarse boxes that are refined.
        neighbour: Minimum IoU of a fine box with a refined coarse box.
        together: Minimum overlap of a box in the mean with the best box, as a share of the smaller one.
    """

    contrast: float = 0.5
    agreement: float = 1.0
    threshold: float = 0.17
    large: float = 0.03
    temperature: float = 0.15
    refined: int = 24
    neighbour: float = 0.5
    together: float = 0.5


@dataclass(frozen=True, eq=False)
class BoxResult:
    """Result of a box search.

    Attributes:
        box: (4,) float64 xyxy as fractions of the picture's sides: the weighted mean.
        best: (4,) float64, the best box of the lattice.
        score: v of `best` without its agreement, which is relative to the picture's own best box.
        sigma: The standard deviation in v, see the module's formula.
        agreement: The agreement in v; None without parts.
    """

    box: NDArray[np.float64]
    best: NDArray[np.float64]
    score: float
    sigma: float
    agreement: Agreement | None


class BoxSearch:
    """Scores boxes of one picture on its feature map.

    Args:
        picture_map: The picture's map and thumbnail.
        encoder: The encoder that made the map.
        project: Projects descriptors into the space of the index (`PatchIndex.project`).
        settings: See `BoxSearchSettings`.
    """

    def __init__(
        self, picture_map: PictureMap, encoder: MapEncoder, project: Project, settings: BoxSearchSettings | None = None
    ) -> None:
        self.picture_map, self.encoder, self.project = picture_map, encoder, project
        self.settings = settings or BoxSearchSettings()
        self._table = integral_image(picture_map.cells, encoder.power)
        self._coarse: NDArray[np.float32] | None = None  # descriptors of the coarse boxes, independent of queries

    def describe(self, boxes: NDArray[np.float64]) -> NDArray[np.float32]:
        """(N, 4) xyxy fractions of the picture -> (N, dim) float32 rows of length 1, in the space of the index."""
        return self.project(self.encoder.describe_pooled(pool_boxes(self._table, boxes, self.encoder.power)))

    def match(self, query: NDArray[np.float32], box: NDArray[np.float64]) -> float:
        """Cosine similarity of the query (dim,) with one box (4,), -1..1."""
        return float(self.describe(box[None])[0] @ query)

    def _agreement(self, parts: NDArray[np.float32] | None, share: float) -> Agreement | None:
        """Match the picture's cells with a query, whose object probably covers this share of the picture."""
        if parts is None or self.settings.agreement == 0:
            return None
        weight = self.settings.agreement * min(1.0, share / self.settings.large)
        return Agreement(self._cells, parts, self.settings.threshold, lattice(CELLS), CELLS, weight)

    @cached_property
    def _cells(self) -> NDArray[np.float32]:
        """(h, w, dim) descriptors of single cells, in the space of the index."""
        cells = describe_cells(self.picture_map.cells, self.encoder)
        height, width, dim = cells.shape
        return self.project(cells.reshape(-1, dim)).reshape(height, width, -1)

    def search(
        self,
        query: NDArray[np.float32],
        parts: NDArray[np.float32] | None = None,
        away_from: Sequence[NDArray[np.float64]] = (),
        apart: float = 0.0,
    ) -> BoxResult | None:
        """Find the box that best matches a query.

        Args:
            query: (dim,) float32 of length 1.
            parts: (n, dim) float32, see `QueryView.parts`; None leaves the agreement out of v.
            away_from: Boxes (4,) of objects found before, as fractions of the picture's sides.
            apart: Maximum overlap with each of them, as a share of the smaller box.

        Returns:
            The result; None if no coarse box satisfies `apart`.
        """
        coarse, fine = lattice(CELLS, COARSE_STEP), lattice(CELLS)
        grid = self._grid()
        if self._coarse is None:
            self._coarse = self._describe_steps(coarse, grid)
        matches = self._coarse @ query
        sigma = max(float(matches.std()), FLAT)
        evidence = matches / sigma + self.settings.contrast * self._coarse_contrast
        agreement = self._agreement(parts, float(areas(coarse[[evidence.argmax()]])[0]) / CELLS**2)
        values = evidence if agreement is None else evidence + agreement.of_steps(coarse)
        allowed, fine_allowed = np.ones(len(coarse), bool), np.ones(len(fine), bool)
        for previous in away_from:
            allowed &= overlap(coarse / CELLS, previous) <= apart
            fine_allowed &= overlap(fine / CELLS, previous) <= apart
        if not allowed.any():
            return None
        order = np.flatnonzero(allowed)[np.argsort(-values[allowed], kind="stable")]
        near = _neighbours(self.settings.neighbour)[order[: self.settings.refined]].any(axis=0) & fine_allowed
        boxes = fine[near]
        scored = self._describe_steps(boxes, grid) @ query / sigma + self.settings.contrast * self._contrast(boxes)
        every = np.concatenate([boxes, coarse[allowed]]) / CELLS
        agreed = 0.0 if agreement is None else agreement.of_steps(boxes)
        all_values = np.concatenate([scored + agreed, values[allowed]])
        best = int(all_values.argmax())
        there = overlap(every, every[best]) >= self.settings.together
        here = all_values[there]
        box = expected_box(every[there], here, self.settings.temperature / max(float(here.std()), 1e-12))
        if any(overlap(previous[None], box)[0] > apart for previous in away_from):
            box = every[best]
        return BoxResult(box, every[best], float(np.concatenate([scored, evidence[allowed]])[best]), sigma, agreement)

    def around(self, point: NDArray[np.float64], contrast: float, centred: float) -> NDArray[np.float64]:
        """Find the box of the object at a point: similar to the point, with contrast, and centred on the point.

        Args:
            point: (2,) x, y as fractions of the picture's sides, 0..1.
            contrast: Weight of the contrast.
            centred: Weight of the squared distance between point and box centre, in half sides of the box.

        Returns:
            (4,) float64 xyxy as fractions: a box of the lattice that contains the point.
        """
        cells = np.array(self.picture_map.cells.shape[1::-1])
        reach = 1.5 / cells
        query = self.describe(np.clip(np.concatenate([point - reach, point + reach]), 0, 1)[None])[0]
        boxes = lattice(CELLS)
        boxes = boxes[((boxes[:, :2] <= point * CELLS) & (boxes[:, 2:] >= point * CELLS)).all(axis=1)]
        grid = self._grid()
        sigma = max(float((self._describe_steps(lattice(CELLS, COARSE_STEP), grid) @ query).std()), FLAT)
        middles, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        away = np.abs(middles - point * CELLS) / halves
        values = self._describe_steps(boxes, grid) @ query / sigma + contrast * self._contrast(boxes)
        best: NDArray[np.float64] = boxes[int((values - centred * away.max(axis=1) ** 2).argmax())] / CELLS
        return best

    def similarity(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute a similarity map, for drawing.

        Args:
            query: (dim,) float32 of length 1.

        Returns:
            (h, w) float32 cosine similarities of the query with the 3 x 3 cells around each cell.
        """
        height, width = self.picture_map.cells.shape[:2]
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        around = np.stack([x - 1, y - 1, x + 2, y + 2], axis=1) / (width, height, width, height)
        return (self.describe(np.clip(around, 0, 1)) @ query).reshape(height, width)

    def _grid(self) -> NDArray[np.floating]:
        """Resample the summed-area table at the lattice's corners, for four look-ups per box; not cached: 11 MB."""
        corners = np.linspace(0, 1, CELLS + 1)
        return resampled(self._table, corners, corners)

    def _describe_steps(self, boxes: NDArray[np.intp], grid: NDArray[np.floating]) -> NDArray[np.float32]:
        """Like `describe`, for boxes in lattice steps; `grid` is `_grid()`."""
        x1, y1, x2, y2 = boxes.T
        flat = grid.reshape(-1, grid.shape[2])
        totals = flat.take(y2 * (CELLS + 1) + x2, 0)
        totals -= flat.take(y1 * (CELLS + 1) + x2, 0)
        totals -= flat.take(y2 * (CELLS + 1) + x1, 0)
        totals += flat.take(y1 * (CELLS + 1) + x1, 0)
        totals /= (np.prod(self.picture_map.cells.shape[:2]) / CELLS**2 * areas(boxes))[:, None]
        # Differences need double precision, roots do not.
        pooled = rooted(totals.astype(np.float32), self.encoder.power)
        return self.project(self.encoder.describe_pooled(pooled))

    @cached_property
    def _saliency(self) -> NDArray[np.float64]:
        """Saliency of the picture (`regions.salient`), on a grid whose steps divide the lattice's."""
        from PIL import Image

        return saliency(Image.fromarray(self.picture_map.thumbnail))

    def _contrast(self, boxes: NDArray[np.intp]) -> NDArray[np.float64]:
        return contrast(self._saliency, boxes * (len(self._saliency) // CELLS))

    @cached_property
    def _coarse_contrast(self) -> NDArray[np.float64]:
        return self._contrast(lattice(CELLS, COARSE_STEP))


def overlap(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N,) intersections of boxes with one box, as shares of the smaller of the two."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    smaller = np.minimum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (box[2:] - box[:2]).prod())
    shares: NDArray[np.float64] = common / np.maximum(smaller, 1e-12)
    return shares


@cache
def _neighbours(iou: float) -> NDArray[np.bool_]:
    """Return (coarse, fine) bool: which fine boxes have at least this IoU with each coarse one."""
    coarse, fine = lattice(CELLS, COARSE_STEP).astype(np.float32), lattice(CELLS).astype(np.float32)
    low, high = np.maximum(coarse[:, None, :2], fine[None, :, :2]), np.minimum(coarse[:, None, 2:], fine[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (coarse, fine)]
    near: NDArray[np.bool_] = common >= iou * (area[0][:, None] + area[1][None] - common)
    near.flags.writeable = False
    return near
