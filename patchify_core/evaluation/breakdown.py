"""Break an evaluation's scores down by object size, visibility and instance.

The positives outside a band are ignored, as in the easy, medium and hard protocols of Oxford and Paris (Radenović et
al., "Revisiting Oxford and Paris", CVPR 2018): they leave the ranking before ranks are counted, so that finding them is
neither right nor wrong. A query without a positive in the band is left out of its averages. ILIAS' own evaluation does
the same for its groups of object scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.evaluation.metrics import Report, score_positives, summarise
from patchify_core.evaluation.positives import RankedPositives
from patchify_core.gallery import Gallery
from patchify_core.imaging.boxes import area


@dataclass(frozen=True)
class Bands:
    """Limits between bands; a value on a limit belongs to the upper band.

    Attributes:
        size: Limits of the share of its picture that the instance's largest annotated box covers, in 0..1.
        visible: Limits of the visible share of the object, in 0..1.
    """

    size: tuple[float, ...] = (0.02, 0.10, 0.33)
    visible: tuple[float, ...] = (0.5, 0.9)


DEFAULTS = Bands()
UNKNOWN = "unknown"


@dataclass(frozen=True)
class ScoredPart:
    """The scores over some of the positives.

    Attributes:
        name: Name of the part, e.g. `2-10 %`, `unknown`, or an instance's name.
        report: Averages over the queries that have such positives.
        positives: Number of such positives, summed over those queries.
        instance: The instance's id if the part is an instance.
    """

    name: str
    report: Report
    positives: int
    instance: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Flatten for JSON: name, positives, the report's numbers without `left_out`, and perhaps the instance."""
        numbers = {key: value for key, value in self.report.as_dict().items() if key != "left_out"}
        which = {} if self.instance is None else {"instance": self.instance}
        return {"name": self.name, **which, "positives": self.positives, **numbers}


def break_down(
    ranked: Mapping[int, RankedPositives | None], gallery: Gallery, cutoff: int | None = None, bands: Bands = DEFAULTS
) -> dict[str, tuple[ScoredPart, ...]]:
    """Break an evaluation's scores down.

    Args:
        ranked: Query id -> the ranks of its positives; None if it has none.
        gallery: The dataset, which knows sizes, visibilities and names.
        cutoff: See `metrics.score_positives`; it counts the ranks that are left.
        bands: Limits of sizes and visibilities.

    Returns:
        kind -> its parts; parts without any positive are not listed. Kinds are "size", "visibility" (the last part
        of both may be `unknown`: no box, no visibility annotated) and "instance" (in the order of the ids, where
        every positive counts).
    """
    positives = {query: one for query, one in ranked.items() if one is not None}
    parts = {}
    for kind, values, limits in (
        ("size", object_shares(gallery), bands.size),
        ("visibility", _visible(gallery), bands.visible),
    ):
        by_band = split_by_band(positives, gallery, values, limits)
        names = (*band_names(limits), UNKNOWN)
        parts[kind] = tuple(_part(name, some, cutoff) for name, some in zip(names, by_band, strict=True) if some)
    return parts | {"instance": _by_instance(positives, gallery, cutoff)}


def band_names(limits: tuple[float, ...]) -> tuple[str, ...]:
    """Name the bands between limits in percent.

    Example:
        >>> band_names((0.02, 0.1))
        ('< 2 %', '2-10 %', '>= 10 %')
    """
    percent = [f"{100 * limit:g}" for limit in limits]
    between = [f"{low}-{high} %" for low, high in pairwise(percent)]
    return (f"< {percent[0]} %", *between, f">= {percent[-1]} %")


_Values = Mapping[tuple[int, int], float]  # (instance, image) -> a value in 0..1; missing where unknown


def object_shares(gallery: Gallery) -> _Values:
    """Compute the share of its picture that an instance's largest box covers."""
    pixels = {image.id: image.width * image.height for image in gallery.images}
    return _largest(gallery, lambda image_ids, boxes: area(boxes) / [pixels[i] for i in image_ids.tolist()], boxed=True)


def _visible(gallery: Gallery) -> _Values:
    """Look up the largest visible share among an instance's annotations in a picture."""
    visible = gallery.annotations.visible[~gallery.annotations.ignore]
    return _largest(gallery, lambda image_ids, boxes: visible, boxed=False)


def _largest(
    gallery: Gallery, values_of: Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]], boxed: bool
) -> _Values:
    """Return the largest value of each (instance, image) over its annotations that are not ignored; NaN is no value."""
    rows = gallery.annotations
    use = ~rows.ignore
    if boxed:
        use &= ~np.isnan(rows.boxes).any(axis=1)
    values = values_of(rows.image_ids[use], rows.boxes[use])
    largest: dict[tuple[int, int], float] = {}
    for instance, image, value in zip(
        rows.instances[use].tolist(), rows.image_ids[use].tolist(), values.tolist(), strict=True
    ):
        if value == value:
            largest[instance, image] = max(value, largest.get((instance, image), 0.0))
    return largest


def in_bands(
    images: Iterable[int], instance: int, values: Mapping[tuple[int, int], float], limits: tuple[float, ...]
) -> list[set[int]]:
    """Sort an instance's images into bands.

    Args:
        images: Ids of the images.
        instance: The instance's id.
        values: (instance, image) -> its value, e.g. `object_shares`.
        limits: Limits between the bands.

    Returns:
        The ids in each band of `band_names`, and last those whose value is unknown.
    """
    members: list[set[int]] = [set() for _ in range(len(limits) + 2)]
    for image in images:
        value = values.get((instance, image))
        members[-1 if value is None else int(np.searchsorted(limits, value, side="right"))].add(image)
    return members


def split_by_band(
    positives: Mapping[int, RankedPositives], gallery: Gallery, values: _Values, limits: tuple[float, ...]
) -> list[dict[int, RankedPositives]]:
    """Split the positives of each query into bands; in each band the other positives are ignored.

    Args:
        positives: Query id -> the ranks of its positives.
        gallery: The dataset of the queries.
        values: See `in_bands`.
        limits: See `in_bands`.

    Returns:
        For each band, and last for unknown values: query id -> the ranks of its positives there, if there are any.
    """
    queries = {query.id: query for query in gallery.queries}
    by_band: list[dict[int, RankedPositives]] = [{} for _ in range(len(limits) + 2)]
    for query_id, ranked in positives.items():
        query = queries[query_id]
        boxes = gallery.positives(query.instance, query.exclude)
        for band, images in zip(by_band, in_bands(boxes, query.instance, values, limits), strict=True):
            located = all(boxes[image] is not None for image in images)
            if (some := ranked.only(images, located)) is not None:
                band[query_id] = some
    return by_band


def _by_instance(
    positives: Mapping[int, RankedPositives], gallery: Gallery, cutoff: int | None
) -> tuple[ScoredPart, ...]:
    grouped: dict[int, dict[int, RankedPositives]] = {}
    for query in gallery.queries:
        if query.id in positives:
            grouped.setdefault(query.instance, {})[query.id] = positives[query.id]
    return tuple(_part(gallery.name(instance), some, cutoff, instance) for instance, some in sorted(grouped.items()))


def _part(
    name: str, positives: Mapping[int, RankedPositives], cutoff: int | None, instance: int | None = None
) -> ScoredPart:
    report = summarise({query: score_positives(one, cutoff) for query, one in positives.items()})
    return ScoredPart(name, report, sum(one.total for one in positives.values()), instance)
