"""Region selection: which boxes of a picture become patches.

A region selector turns a picture into boxes, always the same number of them (`Regions`). A spec names one:

- `pyramid:N`: the paper's grids 1x1 .. NxN; `pyramid:1` is the global baseline, `pyramid:4` the paper's L3.
- `sliding:SCALE,OVERLAP`: windows of one size that cover the picture.
- `random:N,SEED`: boxes drawn once, the same in every picture.
- `salient:N`: the boxes of each picture that stand out most.
- several with `+` between: the patches of each, one after the other.
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
