"""Check half precision and compilation against float32 on probe pictures.

The probe pictures range from large areas of colour to fine texture. A faster computation is used only if it describes
each of them like float32, so that descriptors are interchangeable and an index need not record how they were computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import EncoderError

log = logging.getLogger(__name__)

SAME_COSINE = 0.999
"""Minimum cosine similarity of a descriptor with its float32 version."""

CELLS = (2, 3, 5, 8, 13, 21, 34, 55)
"""Colour patches along each side, for each probe picture."""


def probe(side: int) -> NDArray[np.uint8]:
    """Return the probe pictures, (8, S, S, 3) uint8; always the same."""
    from PIL import Image

    random = np.random.default_rng(0)
    colours = [random.integers(0, 256, (cells, cells, 3), np.uint8) for cells in CELLS]
    smooth = [Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC) for each in colours]
    return np.stack([np.asarray(picture) for picture in smooth])


def disagreement(describe: Callable[[], NDArray[np.float32]], exact: NDArray[np.float32]) -> str | None:
    """Compare descriptors of a faster computation with the exact ones.

    Args:
        describe: Computes (N, D) descriptors; may raise any exception.
        exact: (N, D) float32 with rows of length 1.

    Returns:
        What is wrong, as a clause for a log message; None if all cosines are above `SAME_COSINE`.

    Raises:
        torch.OutOfMemoryError: If `describe` raises it.
    """
    import torch

    try:
        descriptors = describe()
    except torch.OutOfMemoryError:
        raise
    except EncoderError:
        return "it gives numbers that are not finite"
    except Exception:  # unsupported layers and devices raise all kinds of errors
        return "it cannot be computed"
    cosine = float((descriptors * exact).sum(1).min())
    return None if cosine > SAME_COSINE else f"its descriptors agree with float32's only to a cosine of {cosine:.4f}"


class Compiled:
    """A network compiled by torch.compile, lazily at the first call of each input size.

    If compilation fails at any call, this call and all later ones run the original network, and a warning is logged.

    Args:
        network: Tensor in, tensor out.
        spec: The encoder's spec, for the log.
    """

    def __init__(self, network: Callable[[Any], Any], spec: str) -> None:
        import torch

        self.network, self._spec = network, spec
        self._fast: Callable[[Any], Any] | None = torch.compile(network)

    @property
    def works(self) -> bool:
        """Whether compilation has not failed so far."""
        return self._fast is not None

    def __call__(self, inputs: Any) -> Any:
        """Run the network."""
        import torch

        if self._fast is not None:
            try:
                return self._fast(inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # no C++ compiler, an unsupported layer ...
                self.give_up("torch.compile cannot compile it on this machine")
        return self.network(inputs)

    def give_up(self, why: str) -> None:
        """Run the original network from now on, and log why."""
        if self._fast is not None:
            log.warning("%s runs as it is, not compiled: %s.", self._spec, why)
        self._fast = None
