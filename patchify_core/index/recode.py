"""The same pictures and patches kept in another way, from an index that is there: nothing is embedded again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from patchify_core.index.base import Pictures
from patchify_core.index.codec.codes import CodeSettings, encode_codes
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.recipe import Recipe


def recode(
    index: PatchIndex, settings: CodeSettings, descriptors: Callable[[int], NDArray[np.float32]] | None = None
) -> PatchIndex:
    """Codes the descriptors of an index anew.

    Args:
        index: whose descriptors, as stored, are coded. What is projected now is what this index holds, so the new one
            says its dimension for the encoder's.
        settings: see `CodeSettings`.
        descriptors: row of a picture -> (P, dim) float32; the index's own by default.

    Raises:
        PatchifyError: if there are too few patches to learn from; it says how many are needed.
    """
    made = encode_codes(descriptors or index.descriptors_of, len(index.images), index.regions, index.dim, settings)
    encoder, maps = replace(index.encoder, dim=index.dim), index.maps is not None
    recipe = Recipe.of(encoder, index.regions, index.features, settings, maps)
    recipe = replace(recipe, factory=made.factory)
    return PatchIndex(recipe, Pictures(index.images, index.root, index.boxes, index.maps), made)
