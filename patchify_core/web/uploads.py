"""Where uploads go until they are read: each into a folder of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

PARTS = 8
"""Files, and fields, that one form may have. The page and gradio_client send one file."""


def keep_uploads_apart() -> None:
    """Gives each upload a folder of its own.

    Gradio names an upload's folder after its content, so two visitors who send the same picture at once (a class with
    the same handout) share one file, and whoever is answered first deletes it under the other. It also answers before
    a file that lies on another disk has been moved to where it says, takes a thousand files in one form, and keeps what
    had come of an upload whose sender has left (6.31.0).
    """
    import gradio.route_utils
    import gradio.routes

    plain = gradio.routes.upload_fn
    if getattr(plain, "apart", False):
        return

    async def upload(request: Any, upload_dir: str, *arguments: Any, **named: Any) -> Any:
        folder = Path(upload_dir) / secrets.token_hex(8)
        try:
            return await plain(request, str(folder), *arguments, **(named | {"force_move": True}))
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            forget_folders(folder / "nothing", Path(upload_dir))
            if isinstance(error, (TypeError, AttributeError)):  # a field where a file should be
                raise HTTPException(400, "The upload is no form of files: send each as a field named files.") from None
            raise

    class Few(gradio.route_utils.GradioMultiPartParser):
        """Gradio's parser, for few parts."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **(named | {"max_files": PARTS, "max_fields": PARTS}))

    upload.apart = True  # type: ignore[attr-defined]
    gradio.routes.upload_fn = upload  # where the route looks for it
    gradio.route_utils.GradioMultiPartParser = Few  # type: ignore[misc]  # where `plain` does


def upload_folder() -> Path:
    """A folder for uploads whose name, which Gradio's upload protocol tells everybody, says nothing of this machine."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"uploads-{user}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if not hasattr(os, "getuid") or (folder.stat().st_uid == user and not folder.is_symlink()):
            return folder
    return Path(tempfile.mkdtemp(prefix="uploads-"))  # somebody else has that name


def forget_folders(path: Path, root: Path) -> None:
    """Deletes the folders that a file lay in, below `root`, as far as they are empty."""
    with suppress(OSError):  # the first one that is not empty ends it
        for folder in path.parents:
            if folder == root or root not in folder.parents:
                return
            folder.rmdir()
