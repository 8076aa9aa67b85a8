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
"""The command that installs OpenVINO."""

Network = Callable[["torch.Tensor"], "torch.Tensor"]


class OpenVino:
    """A converted network. Thread-safe: calls are serialised.

    Args:
        normalise: (N, H, W, 3) uint8 pixels -> (N, 3, H, W) float, on the CPU.
        describe: The network, (N, 3, S, S) -> (N, D).
        side: S, in pixels.
        dim: D.
        spec: The encoder's spec, for error messages.

    Raises:
        EncoderError: If OpenVINO is not installed or cannot convert the network.
    """

    def __init__(self, normalise: Network, describe: Network, side: int, dim: int, spec: str) -> None:
        import torch

        self._openvino = import_openvino()
        self._normalise, self._side, self._dim, self._spec = normalise, side, dim, spec
        self._threads = torch.get_num_threads()
        self._lock = threading.Lock()
        # One crop at a time per thread: batches were no faster, and no thread waits for another.
        self._crops = self._openvino.AsyncInferQueue(
            self._compiled(describe, (1, side, side, 3), streams=self._threads), self._threads
        )
        self._maps: Any = None

    def describe(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe crops: (N, S, S, 3) uint8 -> (N, D) float32."""
        descriptors = np.empty((len(crops), self._dim), np.float32)

        def store(request: Any, row: int) -> None:
            descriptors[row] = request.get_output_tensor().data[0]

        with self._lock:
            self._crops.set_callback(store)
            for row in range(len(crops)):
                self._crops.start_async([crops[row : row + 1]], userdata=row)
            self._crops.wait_all()
        return descriptors

    def cells(self, cells: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the feature map of a whole picture; all threads share each layer.

        Args:
            cells: (1, 3, H, W) -> (1, H', W', C) for any H and W; converted at the first call, so it must be the same
                function in every call.
            pixels: (H, W, 3) uint8.

        Returns:
            (H', W', C) float32.

        Raises:
            EncoderError: If the network cannot be converted.
        """
        with self._lock:
            if self._maps is None:
                self._maps = self._compiled(cells, (1, -1, -1, 3), streams=1).create_infer_request()
            output: NDArray[np.float32] = self._maps.infer([np.ascontiguousarray(pixels[None])])[0][0].copy()
        return output

    def _compiled(self, network: Network, shape: tuple[int, ...], streams: int) -> Any:
        """Compile normalisation and network for an input shape, in which -1 is any size."""
        import torch

        normalise = self._normalise

        class FromPixels(torch.nn.Module):
            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                return network(normalise(pixels))

        example = torch.zeros([self._side if length < 0 else length for length in shape], dtype=torch.uint8)
        level = logging.root.level
        try:
            with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
                warnings.simplefilter("ignore")  # torch's tracer warns about every size in the computation
                model = self._openvino.convert_model(FromPixels().eval(), example_input=example)
            model.reshape(list(shape))
            return self._openvino.Core().compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": self._threads,
                    "NUM_STREAMS": streams,
                    "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 if the CPU supports it
                },
            )
        except Exception as error:  # converter and compiler raise all kinds of errors
            raise EncoderError(
                f"OpenVINO cannot compute {self._spec}: choose the engine torch (--engine, or the variable "
                "PATCHIFY_ENGINE)."
            ) from error
        finally:
            logging.root.setLevel(level)  # the converter changes it, and does not restore it on failure


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry.

    Raises:
        EncoderError: If it is not installed, with the command that installs it.
    """
    # The telemetry package, which we do not install, would contact a server on import.
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # makes its import fail
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EncoderError(
            f"The engine openvino is not installed: install it with {INSTALL}, or use the engine torch."
        ) from error
