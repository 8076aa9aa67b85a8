"""The files that the page's server shows: pictures of its gallery, and what comes with the page.

Gradio's own route for files (6.31.0) names them by their paths on this machine, fetches any address for anybody, and
answers a request for a part of a file with the request's own headers. It is not used.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from urllib.parse import quote

from patchify_core.demo import studies
from patchify_core.files import ASSETS

ADDRESS = "gradio_api/file="
"""Where the files are, below the page; there follows a folder's name here, and the file's below it."""


def address_of(path: Path) -> str:
    """Address of a file that the server shows, without where it is on this machine.

    Args:
        path: a picture of a dataset, which is in `gallery` or `queries` beside its annotations.json; or a file that
            comes with the page.
    """
    return f"{ADDRESS}{quote(f'{_name_of(path.parent, studies.FOLDER)}/{path.name}')}"


@cache
def _name_of(folder: Path, study: Path) -> str:
    for name, root in {"study": study, "assets": ASSETS}.items():
        if folder.is_relative_to(root):
            return (Path(name) / folder.relative_to(root)).as_posix()
    dataset = next((one for one in (folder, *folder.parents) if (one / "annotations.json").is_file()), folder.parent)
    return folder.relative_to(dataset).as_posix()


def file_at(gallery: Path, name: str) -> Path | None:
    """The file that an address names; None if there is none, or it is not one that the server shows.

    Args:
        gallery: folder of the dataset that is shown.
        name: what follows `ADDRESS`, such as `gallery/1.jpg`.
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
