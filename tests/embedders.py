"""An encoder for workers in other processes: it writes down what it embeds, and ends its process when told to.

The folder `PATCHIFY_TEST_FOLDER` is where it writes `log` (a line per picture: process, picture) and looks for orders:
`once-PICTURE` ends the first process that is given the picture, `always-PICTURE` every one. A picture is called by its
digest (`called`).
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchify_core.encoders import EncoderInfo, EncoderSettings
from patchify_core.errors import EncoderError
from tests.tiny import INFO, TinyEncoder

VARIABLE = "PATCHIFY_TEST_FOLDER"


class WatchedEncoder(TinyEncoder):
    """A `TinyEncoder` that does as the folder says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(INFO)
        self.folder = folder

    def prepare(self, picture: Image.Image, box: Sequence[float]) -> NDArray[np.uint8]:
        if tuple(box) == (0, 0, *picture.size):  # the first patch of a pyramid
            self._seen(called(picture))
        return super().prepare(picture, box)

    def _seen(self, name: str) -> None:
        once = self.folder / f"once-{name}"
        if once.exists() or (self.folder / f"always-{name}").exists():
            once.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self.folder / "log", "a", encoding="utf-8") as log:
            log.write(f"{os.getpid()} {name}\n")
        if (self.folder / "slowly").exists():
            time.sleep(0.02)


def called(picture: Image.Image) -> str:
    """What a picture is called in the folder."""
    return hashlib.sha256(picture.tobytes()).hexdigest()[:16]


def load(spec: str = "tiny", settings: EncoderSettings | None = None) -> TinyEncoder:
    """What workers load their encoder with."""
    folder = os.environ.get(VARIABLE)
    return TinyEncoder() if folder is None else WatchedEncoder(Path(folder))


def load_other(spec: str = "tiny", settings: EncoderSettings | None = None) -> TinyEncoder:
    """A worker whose weights are others."""
    return TinyEncoder(EncoderInfo(INFO.spec, INFO.dim, INFO.input_size, "1" * 64, INFO.pooling, INFO.licence))


def load_none(spec: str = "tiny", settings: EncoderSettings | None = None) -> TinyEncoder:
    """A worker that has no weights."""
    raise EncoderError("The weights of tiny are not installed: pip install tiny-weights.")


def logged(folder: Path) -> list[tuple[int, str]]:
    """(process, picture) of all that was embedded, in order."""
    log = folder / "log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [(int(line.split()[0]), line.split()[1]) for line in lines]
