"""Localisation: refine the box of a match beyond the winning cell.

soft    mean of the cells, weighted by their scores; works on any index
map     box search on the picture's feature map, aligned with the object's outline; needs pooled features

`tap` finds the box of an object in a query picture from one point.
"""

from __future__ import annotations

from patchify_core.retrieval.localize.locate import (
    Localizer,
    LocalizeSettings,
    Location,
    SimilarityMap,
)
from patchify_core.retrieval.localize.outline import OutlineSettings
from patchify_core.retrieval.localize.refine import (
    REFINERS,
    MapRefiner,
    Refiner,
    SoftRefiner,
    load_refiner,
    refine_matches,
    refiner_of,
)
from patchify_core.retrieval.localize.search import BoxSearch, BoxSearchSettings, expected_box
from patchify_core.retrieval.localize.tap import TapSettings, box_around, box_in_pixels, tapped_box

__all__ = [
    "REFINERS",
    "BoxSearch",
    "BoxSearchSettings",
    "LocalizeSettings",
    "Localizer",
    "Location",
    "MapRefiner",
    "OutlineSettings",
    "Refiner",
    "SimilarityMap",
    "SoftRefiner",
    "TapSettings",
    "box_around",
    "box_in_pixels",
    "expected_box",
    "load_refiner",
    "refine_matches",
    "refiner_of",
    "tapped_box",
]
