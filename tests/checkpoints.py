"""Checkpoints that the tests of the encoders make: whole ones of real architectures, and files that must be refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchify_core.gallery import read_gallery
from patchify_core.index.build import build_index
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from tests.tiny import picture, write_pictures


class Code:
    """Pickled, this makes a folder when it is read by an unpickler that trusts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def save_bad(kind: str, good: Path, folder: Path) -> Path:
    """A file that is no checkpoint, made from a good one. `code` would make the folder `ran` if it were run."""
    path = folder / f"{kind}.pt"
    if kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(good.read_bytes()[:-1000])
    elif kind == "safetensors that are none":
        path = path.with_suffix(".safetensors")
        path.write_bytes(good.read_bytes())
    elif kind == "truncated safetensors":
        from safetensors.torch import save

        path = path.with_suffix(".safetensors")
        path.write_bytes(save({"weight": torch.zeros(100)})[:-100])
    elif kind == "a plain pickle":
        path.write_bytes(pickle.dumps({"weight": [1, 2, 3]}))
    elif kind == "no tensors":
        torch.save({"epoch": 3}, path)
    elif kind == "code":
        torch.save({"weight": torch.zeros(3), "extra": Code(folder / "ran")}, path)
    elif kind == "code in a plain pickle":
        path.write_bytes(pickle.dumps(Code(folder / "ran")))
    elif kind == "a folder":
        path.mkdir()
    return path


BAD = (
    "text",
    "empty",
    "truncated",
    "safetensors that are none",
    "truncated safetensors",
    "a plain pickle",
    "no tensors",
    "code",
    "code in a plain pickle",
    "a folder",
    "missing",
)


def assert_searches(encoder: Any, folder: Path, words: str | None = None) -> None:
    """Build, save, reload (by the spec that the index remembers) and search: pictures are found by their parts."""
    photos = write_pictures(folder / "photos", [1, 2, 3, 4], (96, 64))
    build_index(read_gallery(photos), folder / "idx", encoder, Pyramid(2))
    engine = Patchify.open(folder / "idx")  # nobody says which encoder: the index does
    assert engine.encoder is not encoder and engine.encoder.info == encoder.info
    whole, part = engine.search(photos / "0003.png"), engine.search(photos / "0002.png", (48, 32, 96, 64))
    assert whole[0].file_name == "0003.png" and whole[0].patch == 0 and whole[0].score > 0.9999
    assert part[0].file_name == "0002.png" and part[0].box.tolist() == [48, 32, 96, 64] and part[0].score > 0.9999
    if words is not None:
        query = engine.describe_text(words)
        found = engine.search(text=words)
        assert len(found) == 4 and [m.score for m in found] == sorted((m.score for m in found), reverse=True)
        slow = [engine.index.cell_scores(query, row).max() for row in range(4)]
        np.testing.assert_allclose([match.score for match in found], sorted(slow, reverse=True), atol=1e-5)


def assert_is_an_encoder(encoder: Any) -> None:
    """The promises of `encoders.base.Encoder`."""
    info = encoder.info
    crops = np.stack([encoder.prepare(picture(seed, (90, 40)), (3.5, 2, 80, 33.25)) for seed in (1, 2, 3)])
    assert crops.shape == (3, info.input_size, info.input_size, 3) and crops.dtype == np.uint8
    together = encoder.encode(crops)
    assert together.shape == (3, info.dim) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.encode(crop[None]) for crop in crops])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert abs(together[0] - together[1]).max() > 1e-3  # it looks at the pixels
    assert not encoder.network.training
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())


def assert_sees_as_the_library(encoder: Any, transform: Any) -> None:
    """On a square picture squash and centre crop are one, so ours must be the library's own transform."""
    square = picture(5, (300, 300), cells=60)
    ours = encoder.as_input(encoder.prepare(square, (0, 0, 300, 300))[None])[0]
    theirs = transform(square)
    grey_level = 1 / 255 / float(min(encoder.preprocessing.std))
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1.01 * grey_level
