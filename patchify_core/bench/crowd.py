"""A large gallery to serve: the bundled one among many pictures that are mixed from it.

A mixed picture is a real file under another name, so that a page can show it, with descriptors between those of two
bundled pictures, cell by cell, mirrored along axes drawn for each thousand pictures: clusters as real galleries have
them, of objects that are not among the bundled ones, whose true answers still come first. Nothing goes through a
network, so a hundred thousand pictures take half a minute and not hours.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.index.codec.codes import CodeSettings, encode_codes
from patchify_core.index.folder import write_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import IndexedImage, Pictures
from patchify_core.index.recipe import Recipe

FACTORY = "small"
"""Codec of the descriptors: a preset whose searches miss nothing."""

SHARE = (0.35, 0.65)
"""A mixed descriptor has between these of the one picture, the rest of the other."""

A_FOLDER = 1000
"""Mixed pictures per folder, so that no folder is large; as many are mixed at a time."""


def make_crowd(source: Path, folder: Path, pictures: int, seed: int = 0) -> None:
    """Write a gallery with queries, annotations and an index, as `app.py` serves it.

    Args:
        source: the bundled gallery.
        folder: a new folder for it; hard links to the pictures where the disk allows, copies elsewhere.
        pictures: how many, the bundled ones among them.
        seed: of the mixing.

    Raises:
        PatchifyError: if there are to be fewer pictures than the bundled ones.
    """
    index = PatchIndex.load(source / "index")
    real = len(index.images)
    if pictures < real:
        raise PatchifyError(f"Give at least --pictures {real}: so many are in the bundled gallery.")
    shutil.copytree(source / "queries", folder / "queries")
    listed = json.loads((source / "annotations.json").read_text(encoding="utf-8"))
    entries = {entry["id"]: entry for entry in listed["images"]}
    rows = np.random.default_rng(seed).integers(real, size=(pictures - real, 2))
    shares = np.random.default_rng(seed + 1).uniform(*SHARE, pictures - real).astype(np.float32)
    free = max(entries) + 1
    images = list(index.images)
    for number, row in enumerate(rows[:, 0].tolist()):
        of = index.images[row]
        name = f"gallery/mixed/{number // A_FOLDER:04}/{number:07}{Path(of.file_name).suffix}"
        images.append(replace(of, id=free + number, file_name=name))
        listed["images"].append(entries[of.id] | {"id": free + number, "file_name": name})
    for image, of in zip(images, [*index.images, *(index.images[row] for row in rows[:, 0].tolist())], strict=True):
        _link(source / of.file_name, folder / image.file_name)
    (folder / "annotations.json").write_text(json.dumps(listed), encoding="utf-8")
    crowd = _indexed(index, images, rows, shares, seed + 2)
    (folder / "index").mkdir()
    write_index(crowd, folder / "index", "..")


def _indexed(
    index: PatchIndex, images: list[IndexedImage], rows: NDArray[np.int64], shares: NDArray[np.float32], seed: int
) -> PatchIndex:
    """The bundled descriptors, projected and coded as `index` would, and then the mixed ones."""
    real, settings = len(index.images), CodeSettings(FACTORY)
    kept = encode_codes(index.descriptors_of, real, index.regions, index.encoder.dim, settings)
    assert kept.projection is not None, "the codec projects"
    random, dim = np.random.default_rng(seed), kept.projection.dim
    bundled = np.stack([kept.projection(index.descriptors_of(row)) for row in range(real)])
    for start in range(0, len(rows), A_FOLDER):
        part, share = rows[start : start + A_FOLDER], shares[start : start + A_FOLDER, None, None]
        mixed = share * bundled[part[:, 0]] + (1 - share) * bundled[part[:, 1]]
        mixed *= random.choice(np.array([-1, 1], np.float32), dim)
        mixed /= np.linalg.norm(mixed, axis=2, keepdims=True)
        kept.codes.add(mixed.reshape(-1, dim))
    recipe = Recipe.of(index.encoder, index.regions, index.features, settings)
    return PatchIndex(recipe, Pictures(images), kept)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
