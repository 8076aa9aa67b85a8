"""The first page as a folder of plain files, for any static host: the same template, script, style and answers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patchify_core.demo.gallery_info import FILE
from patchify_core.errors import PatchifyError
from patchify_core.files import ASSETS, atomic, write_json
from patchify_core.web.front import PARTS, page


def write_showcase(
    document: Mapping[str, Any],
    folder: Path,
    out: Path,
    live: str | None = None,
    code: str | None = None,
    url: str | None = None,
) -> int:
    """Writes the page, or brings one that was written before up to date.

    Args:
        document: the answers (`demo.paper.Paper.document`).
        folder: the gallery.
        out: folder to write; a new or empty one, or an earlier showcase.
        live: address of a live demo that the page links to; None for no link.
        code: address of the source; None for no link.
        url: address at which the page will be, which link previews need for their picture; None for no picture.

    Returns:
        Bytes of all files.

    Raises:
        PatchifyError: one sentence, if something else is at `out`, or it cannot be written.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "paper" / FILE).is_file())):
        raise PatchifyError(f"{out} holds something else: choose another folder for the showcase.")
    names = {row[0] for row in document["pictures"].values()} | {one["picture"] for one in document["examples"]}
    sources = {name: folder / name for name in names} | {name: ASSETS / name for name in PARTS}
    preview = None if url is None else f"{url.rstrip('/')}/paper/preview.jpg"
    address = None if live is None else f"{live.rstrip('/')}/"
    try:
        (out / "paper").mkdir(parents=True, exist_ok=True)
        write_json(out / "paper" / FILE, document)  # first: it says whose folder this is
        for name, source in sources.items():
            target = out / "paper" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        for path in [
            path for path in out.glob("paper/*/*") if path.relative_to(out / "paper").as_posix() not in sources
        ]:
            path.unlink()  # of pictures that the gallery does not have any more
        (out / ".nojekyll").touch()  # GitHub Pages serves the files as they are
        with atomic(out / "index.html") as file:
            file.write(page(document, "", None, live=address, code=code, preview=preview, film=False).encode())
    except OSError as error:
        raise PatchifyError(f"The showcase could not be written to {out} ({error.strerror or error}).") from error
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
