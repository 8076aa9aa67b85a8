"""OpenVINO as the engine of an encoder: convert its network and run it on the processor."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    import torch

INSTALL = "`pip install --no-deps -r requirements-fast.txt`"
"""What installs OpenVINO."""

Network = Callable[["torch.Tensor"], "torch.Tensor"]


class OpenVino:
    """One encoder's network, converted. Safe to use from several threads, which wait for each other.

    Args:
        normalise: (N, H, W, 3) uint8 pixels -> (N, 3, H, W) float, on the processor.
        describe: (N, 3, S, S) -> (N, D).
        side: S, in pixels.
        dim: D.
        spec: The encoder's, for the sentence that says why it cannot be converted.

    Raises:
        EncoderError: If OpenVINO is not installed or cannot convert the network.
    """

    def __init__(self, normalise: Network, describe: Network, side: int, dim: int, spec: str) -> None:
        import torch

        self._openvino = import_openvino()
        self._normalise, self._side, self._dim, self._spec = normalise, side, dim, spec
        self._threads = torch.get_num_threads()
        self._lock = threading.Lock()
        # A crop at a time on each thread: batches were no faster, and this way no thread waits for another.
        self._crops = self._openvino.AsyncInferQueue(
            self._compiled(describe, (1, side, side, 3), streams=self._threads), self._threads
        )
        self._maps: Any = None

    def describe(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 -> (N, D) float32."""
        found = np.empty((len(crops), self._dim), np.float32)

        def keep(request: Any, row: int) -> None:
            found[row] = request.get_output_tensor().data[0]

        with self._lock:
            self._crops.set_callback(keep)
            for row in range(len(crops)):
                self._crops.start_async([crops[row : row + 1]], userdata=row)
            self._crops.wait_all()
        return found

    def cells(self, cells: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The map of a whole picture; all threads share each layer.

        Args:
            cells: (1, 3, H, W) -> (1, H', W', C), the same function in every call, of a network that takes pictures
                of any size; converted at the first call.
            pixels: (H, W, 3) uint8.

        Returns:
            (H', W', C) float32.

        Raises:
            EncoderError: If it cannot be converted.
        """
        with self._lock:
            if self._maps is None:
                self._maps = self._compiled(cells, (1, -1, -1, 3), streams=1).create_infer_request()
            found: NDArray[np.float32] = self._maps.infer([np.ascontiguousarray(pixels[None])])[0][0].copy()
        return found

    def _compiled(self, network: Network, shape: tuple[int, ...], streams: int) -> Any:
        """The network from pixels on, for an input shape in which -1 is any number."""
        import torch

        normalise = self._normalise

        class FromPixels(torch.nn.Module):
            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                return network(normalise(pixels))

        example = torch.zeros([self._side if length < 0 else length for length in shape], dtype=torch.uint8)
        level = logging.root.level
        try:
            with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
                warnings.simplefilter("ignore")  # torch's tracer warns of every size that a network computes with
                model = self._openvino.convert_model(FromPixels().eval(), example_input=example)
            model.reshape(list(shape))
            return self._openvino.Core().compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": self._threads,
                    "NUM_STREAMS": streams,
                    "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
                },
            )
        except Exception as error:  # the converter and the compiler raise whatever they please
            raise EncoderError(
                f"OpenVINO cannot compute {self._spec}: choose the engine torch (--engine, or the variable "
                "PATCHIFY_ENGINE)."
            ) from error
        finally:
            logging.root.setLevel(level)  # which the converter raises, and leaves so where it fails


def import_openvino() -> ModuleType:
    """OpenVINO, which reports its use to nobody.

    Raises:
        EncoderError: One sentence with the command that installs it.
    """
    # Its telemetry, a package of its own that we do not install, would call a server as soon as it is imported.
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it now fails
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EncoderError(
            f"The engine openvino is not installed: install it with {INSTALL}, or use the engine torch."
        ) from error
