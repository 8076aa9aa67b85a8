"""Where exactly: a better box than the winning cell, for a picture that a search found.

soft    the box that all cells together point at; from the scores alone, on any index
map     a search over boxes of any size on the picture's feature map, ended at the outline; needs pooled features

And in a query picture: the box of what was tapped (`tap`).
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
