"""Select the patches that a codec is trained on, which decides how much is lost at the same bytes: the paper's point.

- `global`: whole pictures only, as in a codebook for global retrieval.
- `uniform`: random patches.
- `informative`: random patches without near-duplicates of earlier ones (ours). Sky, wall and floor repeat everywhere
  and fill a random sample; one of each is enough.
- `distinctive`: the half of the patches that is least similar to the patches of other pictures (ours).

The last two are two definitions of what the paper calls informative. `study compression` compares all four at equal
bytes; the one that won on more data sets has the paper's name.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.index.codec.factory import CODEBOOKS

DISTINCTIVE_SHARE = 0.5
"""Share of the patches that `distinctive` selects."""

NEIGHBOURS = 5
"""Nearest patches of other pictures whose mean similarity measures how common a patch is."""

NEAR_DUPLICATE = 0.8
"""Cosine similarity above which `informative` treats two patches as the same."""

REFERENCE = 8192
"""Maximum number of patches that every patch is compared with, so that the cost is linear."""


def select_patches(descriptors: NDArray[np.float32], codebook: str, seed: int = 0) -> NDArray[np.intp]:
    """Select the training patches.

    Args:
        descriptors: (N, P, d) float32 of N pictures, rows of length 1, projected. For `global`, patch 0 must be the
            whole picture.
        codebook: One of `CODEBOOKS`.
        seed: Of random choices.

    Returns:
        Ascending indices into the (N * P, d) patches.

    Raises:
        PatchifyError: The codebook is unknown.
    """
    pictures, patches, _ = descriptors.shape
    if codebook == "global":
        return np.arange(pictures) * patches
    if codebook == "uniform":
        return np.arange(pictures * patches)
    if codebook == "distinctive":
        count = max(1, round(DISTINCTIVE_SHARE * pictures * patches))
        return np.sort(np.argsort(commonness(descriptors, seed), kind="stable")[:count])
    if codebook == "informative":
        return without_near_duplicates(descriptors.reshape(pictures * patches, -1), NEAR_DUPLICATE, seed)
    raise PatchifyError(f"Unknown codebook '{codebook}': choose {', '.join(CODEBOOKS)}.")


def commonness(descriptors: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Measure how similar each patch is to patches of other pictures.

    Args:
        descriptors: (N, P, d) float32, rows of length 1.
        seed: Of the reference sample, if there are more than `REFERENCE` patches.

    Returns:
        (N * P,) float32, mean cosine similarity with the `NEIGHBOURS` nearest patches of other pictures, -1..1.
    """
    pictures, patches, _ = descriptors.shape
    vectors = descriptors.reshape(pictures * patches, -1)
    owner = np.repeat(np.arange(pictures), patches)
    sample = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:REFERENCE])
    near = min(NEIGHBOURS, len(sample))
    means = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), 1024):
        block = slice(start, start + 1024)
        similar = vectors[block] @ vectors[sample].T
        similar[owner[block][:, None] == owner[sample][None]] = -1  # a picture's own patches overlap each other
        means[block] = np.partition(similar, -near, axis=1)[:, -near:].mean(axis=1)
    return means


def without_near_duplicates(vectors: NDArray[np.float32], threshold: float, seed: int = 0) -> NDArray[np.intp]:
    """Go through vectors in random order and select those that are unlike all selected before.

    Args:
        vectors: (M, d) float32, rows of length 1.
        threshold: Cosine similarity above which two vectors are the same.
        seed: Of the order.

    Returns:
        Ascending indices of the selected vectors, at least one.
    """
    order = np.random.default_rng(seed).permutation(len(vectors))
    selected: list[int] = []
    for start in range(0, len(order), 1024):
        block = order[start : start + 1024]
        new = np.ones(len(block), bool)
        for at in range(0, len(selected), 8192):  # matrix products: one vector at a time takes hours
            new &= (vectors[block] @ vectors[selected[at : at + 8192]].T).max(axis=1) <= threshold
        block = block[new]
        similar = vectors[block] @ vectors[block].T > threshold
        taken = np.zeros(len(block), bool)
        for at in range(len(block)):
            taken[at] = not (similar[at] & taken).any()
        selected.extend(block[taken].tolist())
    return np.sort(np.array(selected, np.intp))
