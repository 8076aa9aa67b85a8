"""Region selection: the boxes of a picture that become patches.

A region selector (`Regions`) turns every picture into the same number of boxes. Specs:

- `pyramid:N`: the paper's grids 1x1 .. NxN; `pyramid:1` is the global baseline, `pyramid:4` the paper's L3.
- `sliding:SCALE,OVERLAP`: overlapping windows of one size that cover the picture.
- `random:N,SEED`: random boxes, the same in every picture.
- `salient:N`: the most salient boxes of each picture.
- several joined by `+`: the patches of each, in order.
"""

from patchify_core.regions.base import MAX_PATCHES, Regions, Stage, boxes_for
from patchify_core.regions.grids import MAX_LEVELS, Pyramid, Random, Sliding, level_of, patches_up_to
from patchify_core.regions.parse import FORMS, Combined, parse_regions
from patchify_core.regions.salient import Salient

__all__ = [
    "FORMS",
    "MAX_LEVELS",
    "MAX_PATCHES",
    "Combined",
    "Pyramid",
    "Random",
    "Regions",
    "Salient",
    "Sliding",
    "Stage",
    "boxes_for",
    "level_of",
    "parse_regions",
    "patches_up_to",
]
