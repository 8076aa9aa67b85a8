"""The box of a picture that best explains a match, searched for on the picture's feature map from coarse to fine.

A box b of a fixed lattice scores

    v(b) = cos(query, descriptor of b) / sigma + weight * contrast(b)

where the descriptor is pooled from the map, and sigma is the cosine's standard deviation over the coarse boxes. The
contrast (`regions.salient`) says how much the box stands out from its surroundings, whatever the query, and the
agreement (`localize.dense`) how many of its cells match parts of the query, and how many do not. Cosines alone favour a
distinctive part of the object, or the object with its surroundings; the other two favour boxes that end where it ends. Then the mean of the best box and those that share their place with it is taken, weighted by
exp(v / temperature) (`soft`); boxes elsewhere have no part in it, or of two equal objects it would be the middle.

Coarse to fine: all coarse boxes are scored, then the fine ones that overlap the best coarse ones.
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
"""Least spread of cosines that is counted with: where a picture is alike everywhere, rounding is no difference."""


def expected_box(boxes: ArrayLike, scores: ArrayLike, temperature: float = TEMPERATURE) -> NDArray[np.float64]:
    """The mean of the boxes, weighted by how well they match.

    Args:
        boxes: (P, 4) xyxy, in any unit.
        scores: (P,) similarities; only their differences count, in units of their spread.
        temperature: T in standard deviations of `scores`; towards 0 the best box alone counts.

    Returns:
        (4,) float64, inside what encloses the boxes. The best box where all scores are equal, as the first is it.
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
    """What a person may tune about the search; the defaults were measured (NUMBERS.md).

    Attributes:
        contrast: Weight of the contrast.
        agreement: Weight of the agreement; 0 leaves it out.
        threshold: Of the agreement, see `dense.Agreement`.
        temperature: Of the mean over boxes, in the units of v.
        refined: Coarse boxes whose neighbours are looked at.
        neighbour: IoU from which a fine box is a neighbour.
        together: Boxes count in the mean whose overlap with the best one is at least this share of the smaller one.
    """

    contrast: float = 0.5
    agreement: float = 1.0
    threshold: float = 0.17
    temperature: float = 0.15
    refined: int = 24
    neighbour: float = 0.5
    together: float = 0.5


@dataclass(frozen=True, eq=False)
class FoundBox:
    """What a search found.

    Attributes:
        box: (4,) float64 xyxy as fractions of the picture's sides: the mean.
        best: (4,) float64, the best box of the lattice.
        score: v of `best` without the agreement, which is scaled to each picture's own best box.
        sigma: The standard deviation that v is in units of.
    """

    box: NDArray[np.float64]
    best: NDArray[np.float64]
    score: float
    sigma: float


class BoxSearch:
    """One picture's map, made ready for questions about boxes.

    Args:
        kept: The picture's map and thumbnail.
        encoder: The encoder that made the map.
        project: Brings descriptors into the space that is searched (`PatchIndex.project`).
        settings: See `BoxSearchSettings`.
    """

    def __init__(
        self, kept: PictureMap, encoder: MapEncoder, project: Project, settings: BoxSearchSettings | None = None
    ) -> None:
        self.kept, self.encoder, self.project = kept, encoder, project
        self.settings = settings or BoxSearchSettings()
        self._table = integral_image(kept.cells, encoder.power)
        self._coarse: NDArray[np.float32] | None = None  # descriptors of the coarse boxes, which no query changes

    def describe(self, boxes: NDArray[np.float64]) -> NDArray[np.float32]:
        """(N, 4) xyxy fractions of the picture -> (N, dim) float32 rows of length 1, in the space of the index."""
        return self.project(self.encoder.describe_pooled(pool_boxes(self._table, boxes, self.encoder.power)))

    def match(self, query: NDArray[np.float32], box: NDArray[np.float64]) -> float:
        """Cosine similarity of the query (dim,) with one box (4,), -1..1."""
        return float(self.describe(box[None])[0] @ query)

    def agreement(self, parts: NDArray[np.float32] | None) -> Agreement | None:
        """How this picture's boxes agree with the parts of a query; None without parts, or if it has no weight."""
        if parts is None or self.settings.agreement == 0:
            return None
        return Agreement(self._cells, parts, self.settings.threshold, lattice(CELLS), CELLS)

    @cached_property
    def _cells(self) -> NDArray[np.float32]:
        """(h, w, dim) descriptors of the single cells."""
        cells = self.kept.cells
        return self.project(describe_cells(cells, self.encoder)).reshape(*cells.shape[:2], -1)

    def search(
        self,
        query: NDArray[np.float32],
        agreement: Agreement | None = None,
        away_from: Sequence[NDArray[np.float64]] = (),
        apart: float = 0.0,
    ) -> FoundBox | None:
        """The box that explains the match.

        Args:
            query: (dim,) float32 of length 1.
            agreement: From `agreement`, of the same query.
            away_from: Boxes (4,) of objects that were found before, as fractions of the picture's sides.
            apart: Only boxes are considered whose overlap with each of those is at most this share of the smaller one.

        Returns:
            What was found: from the coarse boxes and the neighbours of the best of them. None if no coarse box is left.
        """
        coarse, fine = lattice(CELLS, COARSE_STEP), lattice(CELLS)
        grid = self._grid()
        if self._coarse is None:
            self._coarse = self._describe_steps(coarse, grid)
        matches = self._coarse @ query
        sigma = max(float(matches.std()), FLAT)
        evidence = matches / sigma + self.settings.contrast * self._coarse_contrast
        values = evidence + self._weighted(agreement, coarse)
        allowed, fine_allowed = np.ones(len(coarse), bool), np.ones(len(fine), bool)
        for taken in away_from:
            allowed &= overlap(coarse / CELLS, taken) <= apart
            fine_allowed &= overlap(fine / CELLS, taken) <= apart
        if not allowed.any():
            return None
        order = np.flatnonzero(allowed)[np.argsort(-values[allowed], kind="stable")]
        near = _neighbours(self.settings.neighbour)[order[: self.settings.refined]].any(axis=0) & fine_allowed
        boxes = fine[near]
        scored = self._describe_steps(boxes, grid) @ query / sigma + self.settings.contrast * self._contrast(boxes)
        every = np.concatenate([boxes, coarse[allowed]]) / CELLS
        all_values = np.concatenate([scored + self._weighted(agreement, boxes), values[allowed]])
        best = int(all_values.argmax())
        there = overlap(every, every[best]) >= self.settings.together
        here = all_values[there]
        box = expected_box(every[there], here, self.settings.temperature / max(float(here.std()), 1e-12))
        if any(overlap(taken[None], box)[0] > apart for taken in away_from):
            box = every[best]
        return FoundBox(box, every[best], float(np.concatenate([scored, evidence[allowed]])[best]), sigma)

    def _weighted(self, agreement: Agreement | None, boxes: NDArray[np.intp]) -> NDArray[np.float64] | float:
        return 0.0 if agreement is None else self.settings.agreement * agreement.of_steps(boxes)

    def around(self, point: NDArray[np.float64], contrast: float, centred: float) -> NDArray[np.float64]:
        """The box of what is at a point: like that point, standing out, and with the point near its middle.

        Args:
            point: (2,) x, y as fractions of the picture's sides, 0..1.
            contrast: Weight of the contrast.
            centred: Weight of the squared distance of the point from the box's middle, in half sides of the box.

        Returns:
            (4,) float64 xyxy as fractions: a box of the lattice that contains the point.
        """
        cells = np.array(self.kept.cells.shape[1::-1])
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
        """How well each place matches, for drawing.

        Args:
            query: (dim,) float32 of length 1.

        Returns:
            (h, w) float32 cosine similarities of the query with the 3 x 3 cells around each cell of the map.
        """
        height, width = self.kept.cells.shape[:2]
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        around = np.stack([x - 1, y - 1, x + 2, y + 2], axis=1) / (width, height, width, height)
        return (self.describe(np.clip(around, 0, 1)) @ query).reshape(height, width)

    def _grid(self) -> NDArray[np.floating]:
        """The summed-area table at the lattice's own corners: four plain look-ups a box. Made anew: it takes 11 MB."""
        corners = np.linspace(0, 1, CELLS + 1)
        return resampled(self._table, corners, corners)

    def _describe_steps(self, boxes: NDArray[np.intp], grid: NDArray[np.floating]) -> NDArray[np.float32]:
        """As `describe`, for boxes in steps of the lattice; `grid` is `_grid()`."""
        x1, y1, x2, y2 = boxes.T
        flat = grid.reshape(-1, grid.shape[2])
        totals = flat.take(y2 * (CELLS + 1) + x2, 0)
        totals -= flat.take(y1 * (CELLS + 1) + x2, 0)
        totals -= flat.take(y2 * (CELLS + 1) + x1, 0)
        totals += flat.take(y1 * (CELLS + 1) + x1, 0)
        totals /= (np.prod(self.kept.cells.shape[:2]) / CELLS**2 * areas(boxes))[:, None]
        # Differences need double precision, roots do not.
        pooled = rooted(totals.astype(np.float32), self.encoder.power)
        return self.project(self.encoder.describe_pooled(pooled))

    @cached_property
    def _stands_out(self) -> NDArray[np.float64]:
        """How much each place stands out (`regions.saliency`), on a grid whose steps divide the lattice's."""
        from PIL import Image

        return saliency(Image.fromarray(self.kept.thumbnail))

    def _contrast(self, boxes: NDArray[np.intp]) -> NDArray[np.float64]:
        return contrast(self._stands_out, boxes * (len(self._stands_out) // CELLS))

    @cached_property
    def _coarse_contrast(self) -> NDArray[np.float64]:
        return self._contrast(lattice(CELLS, COARSE_STEP))


def overlap(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) intersection of each box with one, as a share of the smaller of the two."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    smaller = np.minimum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), (box[2:] - box[:2]).prod())
    shares: NDArray[np.float64] = common / np.maximum(smaller, 1e-12)
    return shares


@cache
def _neighbours(iou: float) -> NDArray[np.bool_]:
    """(coarse, fine) which fine boxes overlap each coarse one at least so much."""
    coarse, fine = lattice(CELLS, COARSE_STEP).astype(np.float32), lattice(CELLS).astype(np.float32)
    low, high = np.maximum(coarse[:, None, :2], fine[None, :, :2]), np.minimum(coarse[:, None, 2:], fine[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (coarse, fine)]
    near: NDArray[np.bool_] = common >= iou * (area[0][:, None] + area[1][None] - common)
    near.flags.writeable = False
    return near
