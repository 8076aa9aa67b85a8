"""Big indexes: millions of pictures on one machine, built from a stream, in parts, within a memory budget."""

from patchify_core.index.big.build import ScaleReport, ScaleSettings, build_big, build_fitting
from patchify_core.index.big.choice import CodecChoice, choose
from patchify_core.index.big.finer import FinerReport, add_finer

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
