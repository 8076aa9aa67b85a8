"""What is searched, what is asked, and what would be right.

A gallery is read once from a folder of pictures (`read_folder`), from a COCO-style `annotations.json`
(`read_coco`), or from whichever of the two is there (`read_gallery`). Boxes become xyxy pixels of the upright
picture here, and all that is wrong with a dataset is said here: whoever holds a `Gallery` may trust it.
"""

from __future__ import annotations

import os
from pathlib import Path

from patchify_core.gallery.coco import ANNOTATIONS_FILE, GallerySettings, read_coco
from patchify_core.gallery.folder import read_folder
from patchify_core.gallery.model import Annotations, Gallery, GalleryImage, Query

__all__ = [
    "ANNOTATIONS_FILE",
    "Annotations",
    "Gallery",
    "GalleryImage",
    "GallerySettings",
    "Query",
    "read_coco",
    "read_folder",
    "read_gallery",
]


def read_gallery(path: Path | str) -> Gallery:
    """Read a dataset where there is an `annotations.json` (or `path` is a .json file), else a plain folder.

    Raises:
        GalleryError: As `read_coco` or `read_folder` does.
    """
    path = Path(path)
    if path.suffix.lower() == ".json" and not os.path.isdir(path):
        return read_coco(path)
    return read_coco(path) if os.path.lexists(path / ANNOTATIONS_FILE) else read_folder(path)
