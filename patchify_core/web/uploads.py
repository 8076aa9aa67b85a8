"""Uploads through Gradio's route: each goes into a folder of its own, is counted, and is deleted when it is read."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio.route_utils
import gradio.routes
from gradio.utils import get_upload_folder, is_in_or_equal
from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from patchify_core.demo.storage import Owner, Upload, VisitorStorage
from patchify_core.errors import PatchifyError, PictureError
from patchify_core.web.callers import caller_group

PARTS = 8
"""Files, and fields, that one form may have. The page and gradio_client send one file."""

CUT_OFF = "The upload was cut off: send the file again."
NO_FORM = "The upload is not a form with files: send each as a field named files."


def keep_uploads_apart(storage: VisitorStorage | None = None) -> None:
    """Give each upload a folder of its own, and count it.

    Gradio (6.31.0) names the folder of an upload after its content, so that two visitors who send the same picture at
    once (a class with the same handout) share one file, and the first to be answered deletes it for the other. It also
    answers before a file from another disk has been moved, takes a thousand files in one form, and leaves behind files
    of forms that were cut off and files in fields of other names.

    Args:
        storage: Counts uploads; None counts nothing.
    """
    original = gradio.routes.upload_fn
    if getattr(original, "apart", False):
        original.storage = storage  # type: ignore[attr-defined]
        return

    async def upload(request: Any, upload_dir: str, *arguments: Any, **named: Any) -> Any:
        folder = Path(upload_dir) / secrets.token_hex(8)
        storage = upload.storage  # type: ignore[attr-defined]
        record = None if storage is None else storage.begin_upload(folder, Owner(address=caller_group(request)))
        try:
            counted = request if record is None else _CountedRequest(request, storage, record)
            return await original(counted, str(folder), *arguments, **(named | {"force_move": True}))
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, PatchifyError):
                raise MultiPartException(str(error)) from None
            if isinstance(error, ClientDisconnect):  # nobody reads the answer, and the log needs no traceback
                raise MultiPartException(CUT_OFF) from None
            if isinstance(error, (TypeError, AttributeError, FormParserError)):  # a field where a file should be
                raise HTTPException(400, NO_FORM) from None
            if isinstance(error, MultiPartException) and not error.message.endswith("."):  # the parser's own message
                raise MultiPartException(NO_FORM) from None
            raise
        finally:
            if record is not None:
                record.arriving = False

    class LimitedParser(gradio.route_utils.GradioMultiPartParser):
        """Gradio's parser, limited to a few files, which refuses forms without an end or with other fields."""

        complete = False

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **(named | {"max_files": PARTS, "max_fields": PARTS}))

        def on_end(self) -> None:
            self.complete = True

        async def parse(self) -> Any:
            form = await super().parse()
            if not self.complete or set(form) != {"files"}:
                await form.close()
                raise MultiPartException(NO_FORM if self.complete else CUT_OFF)
            return form

    upload.apart, upload.storage = True, storage  # type: ignore[attr-defined]
    gradio.routes.upload_fn = upload  # where the route looks for it
    gradio.route_utils.GradioMultiPartParser = LimitedParser  # type: ignore[misc]  # where `original` does


class _CountedRequest(Request):
    """A request whose body is counted in the storage while it arrives."""

    def __init__(self, request: Request, storage: VisitorStorage, record: Upload) -> None:
        super().__init__(request.scope, request.receive)
        self._storage, self._record = storage, record

    async def stream(self) -> AsyncGenerator[bytes, None]:
        async for piece in super().stream():
            self._storage.grow(self._record, len(piece))
            yield piece


def take_upload(path: Any) -> bytes:
    """Read an upload and delete its file, so that nobody can ask the server for it.

    Args:
        path: Of the file as the browser says; only paths inside the folder of uploads are read.

    Raises:
        PictureError: If there is no upload.
    """
    try:
        if not isinstance(path, str) or not is_in_or_equal(path, get_upload_folder()):
            raise FileNotFoundError
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise PictureError("The upload did not arrive: send the picture again.") from error
    with suppress(OSError):  # still open: the sweep of old files deletes it
        Path(path).unlink()
    forget_folders(Path(path), Path(get_upload_folder()))
    return data


def forget_folders(path: Path, root: Path) -> None:
    """Delete the empty folders above a file, up to `root`."""
    with suppress(OSError):  # the first one that is not empty
        for folder in path.parents:
            if folder == root or root not in folder.parents:
                return
            folder.rmdir()
