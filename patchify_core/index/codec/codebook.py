"""What a codec is trained on. The paper's point: this choice decides how much is lost at the same bytes.

- `global`: the descriptors of whole pictures alone, as a codebook made for global retrieval has them.
- `uniform`: patches drawn at random.
- `informative`: patches in random order, leaving out those that nearly repeat one taken before (ours). Sky, wall and
  floor repeat each other everywhere and fill a random sample; one of each is enough.
- `distinctive`: the patches that are unlike everything in other pictures (ours), half of them.

The last two are two definitions of what the paper calls informative. `study compression` compares all four at equal
bytes; the one that won on more of the sets has the paper's name.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.index.codec.factory import CODEBOOKS

DISTINCTIVE_SHARE = 0.5
"""Share of the patches that `distinctive` keeps."""

NEIGHBOURS = 5
"""Nearest patches of other pictures whose mean similarity says how much a patch stands alone."""

NEAR_DUPLICATE = 0.8
"""Cosine similarity from which `informative` counts two patches as one."""

REFERENCE = 8192
"""Patches that every patch is compared with, at most: enough to know the commonplace, and the cost stays linear."""


def choose(descriptors: NDArray[np.float32], codebook: str, seed: int = 0) -> NDArray[np.intp]:
    """Chooses the training patches.

    Args:
        descriptors: (N, P, d) float32 of N pictures, rows of length 1, in the space that is coded. For `global`,
            patch 0 must be the whole picture.
        codebook: one of `CODEBOOKS`.
        seed: of what is random.

    Returns:
        Indices into the (N * P, d) patches, ascending.

    Raises:
        PatchifyError: if the codebook is unknown.
    """
    pictures, patches, _ = descriptors.shape
    if codebook == "global":
        return np.arange(pictures) * patches
    if codebook == "uniform":
        return np.arange(pictures * patches)
    if codebook == "distinctive":
        alone = -commonness(descriptors, seed)
        count = max(1, round(DISTINCTIVE_SHARE * pictures * patches))
        return np.sort(np.argsort(-alone, kind="stable")[:count])
    if codebook == "informative":
        return without_near_duplicates(descriptors.reshape(pictures * patches, -1), NEAR_DUPLICATE, seed)
    raise PatchifyError(f"Unknown codebook '{codebook}': choose {', '.join(CODEBOOKS)}.")


def commonness(descriptors: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """How like other pictures' patches each patch is.

    Args:
        descriptors: (N, P, d) float32, rows of length 1.
        seed: of the reference sample, where there are more than `REFERENCE` patches.

    Returns:
        (N * P,) float32, mean cosine similarity with the `NEIGHBOURS` nearest patches of other pictures, -1..1.
    """
    pictures, patches, _ = descriptors.shape
    vectors = descriptors.reshape(pictures * patches, -1)
    owner = np.repeat(np.arange(pictures), patches)
    sample = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:REFERENCE])
    near = min(NEIGHBOURS, len(sample))
    found = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), 1024):
        block = slice(start, start + 1024)
        similar = vectors[block] @ vectors[sample].T
        similar[owner[block][:, None] == owner[sample][None]] = -1  # a picture's own patches overlap each other
        found[block] = np.partition(similar, -near, axis=1)[:, -near:].mean(axis=1)
    return found


def without_near_duplicates(vectors: NDArray[np.float32], threshold: float, seed: int = 0) -> NDArray[np.intp]:
    """Goes through vectors in random order and keeps those unlike all that were kept before.

    Args:
        vectors: (M, d) float32, rows of length 1.
        threshold: cosine similarity from which two count as the same.
        seed: of the order.

    Returns:
        Indices of the kept ones, ascending; at least one.
    """
    order = np.random.default_rng(seed).permutation(len(vectors))
    kept: list[int] = []
    for start in range(0, len(order), 1024):
        block = order[start : start + 1024]
        new = np.ones(len(block), bool)
        for at in range(0, len(kept), 8192):  # a matrix product for all of them: one vector at a time takes hours
            new &= (vectors[block] @ vectors[kept[at : at + 8192]].T).max(axis=1) <= threshold
        block = block[new]
        similar = vectors[block] @ vectors[block].T > threshold
        taken = np.zeros(len(block), bool)
        for at in range(len(block)):
            taken[at] = not (similar[at] & taken).any()
        kept.extend(block[taken].tolist())
    return np.sort(np.array(kept, np.intp))
