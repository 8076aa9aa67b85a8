"""Is a faster way to compute a network still that network? Half precision and compilation, checked on a probe.

The probe is a batch of pictures from broad fields of colour to fine grain. A way that describes each of them as float32
does is kept, so that descriptors of both can be compared with each other and an index need not remember it.
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
"""The least cosine of a descriptor to that by float32."""

CELLS = (2, 3, 5, 8, 13, 21, 34, 55)
"""Patches of colour along a side of each picture of the probe."""


def probe(side: int) -> NDArray[np.uint8]:
    """(8, S, S, 3) pictures, always the same."""
    from PIL import Image

    random = np.random.default_rng(0)
    colours = [random.integers(0, 256, (cells, cells, 3), np.uint8) for cells in CELLS]
    smooth = [Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC) for each in colours]
    return np.stack([np.asarray(picture) for picture in smooth])


def disagreement(describe: Callable[[], NDArray[np.float32]], exact: NDArray[np.float32]) -> str | None:
    """What is wrong with another way to compute the same descriptors.

    Args:
        describe: Gives them; it may fail in any way.
        exact: (N, D) float32 with rows of length 1.

    Returns:
        A clause, or None where each row agrees to a cosine above `SAME_COSINE`.

    Raises:
        torch.OutOfMemoryError: If that is what `describe` raises.
    """
    import torch

    try:
        found = describe()
    except torch.OutOfMemoryError:
        raise
    except EncoderError:
        return "it gives numbers that are not finite"
    except Exception:  # what a device or a layer cannot do shows in any way
        return "it cannot be computed"
    cosine = float((found * exact).sum(1).min())
    return None if cosine > SAME_COSINE else f"its descriptors agree with float32's only to a cosine of {cosine:.4f}"


class Compiled:
    """A network that torch.compile has compiled, or will at the first call.

    Where that fails, at whichever call (a further size is compiled when it first comes), the network itself computes
    that call and all later ones, and that is said.

    Args:
        network: Tensor in, tensor out.
        spec: The encoder's.
    """

    def __init__(self, network: Callable[[Any], Any], spec: str) -> None:
        import torch

        self.network, self._spec = network, spec
        self._fast: Callable[[Any], Any] | None = torch.compile(network)

    @property
    def works(self) -> bool:
        """Whether no call has failed so far."""
        return self._fast is not None

    def __call__(self, inputs: Any) -> Any:
        """What the network gives."""
        import torch

        if self._fast is not None:
            try:
                return self._fast(inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # a missing C++ compiler, a layer that the compiler does not know ...
                self.give_up("torch.compile cannot compile it on this machine")
        return self.network(inputs)

    def give_up(self, why: str) -> None:
        """Leave it to the network itself from now on, and says why."""
        if self._fast is not None:
            log.warning("%s runs as it is, not compiled: %s.", self._spec, why)
        self._fast = None
