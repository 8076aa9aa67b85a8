"""Big indexes: millions of pictures on one machine, built from a stream, in parts, within a memory budget."""

from patchify_core.index.big.build import FinerReport, ScaleReport, add_finer, build_big, build_fitting
from patchify_core.index.big.plan import CodecChoice, ScaleSettings, choose

__all__ = [
    "CodecChoice",
    "FinerReport",
    "ScaleReport",
    "ScaleSettings",
    "add_finer",
    "build_big",
    "build_fitting",
    "choose",
]
