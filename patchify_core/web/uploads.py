"""Where uploads go until they are read: each into a folder of its own."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any


def keep_uploads_apart() -> None:
    """Gives each upload a folder of its own.

    Gradio names an upload's folder after its content, so two visitors who send the same picture at once (a class with
    the same handout) share one file, and whoever is answered first deletes it under the other. It also answers before
    a file that lies on another disk has been moved to where it says.
    """
    import gradio.routes

    plain = gradio.routes.upload_fn
    if getattr(plain, "apart", False):
        return

    async def upload(request: Any, upload_dir: str, *arguments: Any, **named: Any) -> Any:
        folder = Path(upload_dir) / secrets.token_hex(8)
        try:
            return await plain(request, str(folder), *arguments, **(named | {"force_move": True}))
        except BaseException:
            forget_folders(folder / "nothing", Path(upload_dir))
            raise

    upload.apart = True  # type: ignore[attr-defined]
    gradio.routes.upload_fn = upload  # where the route looks for it


def forget_folders(path: Path, root: Path) -> None:
    """Deletes the folders that a file lay in, below `root`, as far as they are empty."""
    with suppress(OSError):  # the first one that is not empty ends it
        for folder in path.parents:
            if folder == root or root not in folder.parents:
                return
            folder.rmdir()
