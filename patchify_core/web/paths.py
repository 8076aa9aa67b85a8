"""Keeps paths of this machine out of what strangers see: public addresses of files, and sentences without folders.

Gradio's own route for files (6.31.0) is not used: it names files by their paths on this machine, fetches any address
for anybody, and answers a range request with the request's own headers.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import quote

from patchify_core.demo import studies
from patchify_core.files import ASSETS, ROOT

ADDRESS = "gradio_api/file="
"""Address of the files, below the page; the name of a public folder and the path of a file in it follow."""


def address_of(path: Path) -> str:
    """Return the public address of a file.

    Args:
        path: A picture of a dataset, in `gallery` or `queries` beside its annotations.json; or a file of the package.
    """
    return f"{ADDRESS}{quote(f'{_public_folder(path.parent, studies.FOLDER)}/{path.name}')}"


@cache
def _public_folder(folder: Path, study: Path) -> str:
    for name, root in {"study": study, "assets": ASSETS}.items():
        if folder.is_relative_to(root):
            return (Path(name) / folder.relative_to(root)).as_posix()
    dataset = next((one for one in (folder, *folder.parents) if (one / "annotations.json").is_file()), folder.parent)
    return folder.relative_to(dataset).as_posix()


def file_at(gallery: Path, name: str) -> Path | None:
    """Return the file at a public address; None if there is none.

    Args:
        gallery: Folder of the dataset.
        name: What follows `ADDRESS`, such as `gallery/1.jpg`.
    """
    first, *rest = name.split("/")
    folders = {
        "gallery": gallery / "gallery",
        "queries": gallery / "queries",
        "assets": ASSETS,
        "study": studies.FOLDER,
    }
    folder = folders.get(first)
    if folder is None or not rest or any(part in ("", ".", "..") or "\0" in part or os.sep in part for part in rest):
        return None
    path = folder.joinpath(*rest)
    if os.path.normpath(path) != str(path) or not path.is_relative_to(folder):  # drives and backslashes on Windows
        return None
    try:
        return path if path.is_file() else None
    except OSError:  # a name that no file can have
        return None


_hidden: set[str] = set()


def hide(*folders: Path) -> None:
    """Leave these folders out of sentences from now on."""
    _hidden.update(spelled for folder in folders for spelled in (str(folder), str(folder.absolute())))


def without_folders(sentence: str) -> str:
    """Return a sentence for strangers, in which paths begin below a hidden folder: gallery, checkout, home ..."""
    for folder in sorted(_hidden, key=len, reverse=True):
        if os.path.isabs(folder) and len(folder) > len(Path(folder).anchor):
            within = re.escape(folder) + r"(?:([/\\])|(?![\w.-]))"
            sentence = re.sub(within, lambda match: "" if match[1] else "the folder", sentence)
    return sentence


hide(ROOT, Path.home(), Path(tempfile.gettempdir()), Path(sys.prefix))
