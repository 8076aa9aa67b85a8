"""Where uploads go until they are read: each into a folder of its own."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from patchify_core.demo.storage import Owner, Upload, VisitorStorage
from patchify_core.errors import PatchifyError
from patchify_core.web.callers import caller_group
from patchify_core.web.pace import paced

PARTS = 8
"""Files, and fields, that one form may have. The page and gradio_client send one file."""


CUT_OFF = "The upload was cut off: send the file again."
NO_FORM = "The upload is no form of files: send each as a field named files."


def keep_uploads_apart(storage: VisitorStorage | None = None) -> None:
    """Gives each upload a folder of its own, and counts it.

    Gradio (6.31.0) names an upload's folder after its content, so two visitors who send the same picture at once (a
    class with the same handout) share one file, and whoever is answered first deletes it under the other. It also
    answers before a file that lies on another disk has been moved to where it says, waits for a body for ever, takes a
    thousand files in one form, and leaves what was cut midway and files in fields of other names.

    Args:
        storage: what visitors leave; None counts nothing.
    """
    import gradio.route_utils
    import gradio.routes

    plain = gradio.routes.upload_fn
    if getattr(plain, "apart", False):
        plain.storage = storage  # type: ignore[attr-defined]
        return

    async def upload(request: Any, upload_dir: str, *arguments: Any, **named: Any) -> Any:
        folder = Path(upload_dir) / secrets.token_hex(8)
        kept = upload.storage  # type: ignore[attr-defined]
        parcel = None if kept is None else kept.begin_upload(folder, Owner(address=caller_group(request)))
        try:
            taken = request if parcel is None else _Counted(request, kept, parcel)
            return await plain(taken, str(folder), *arguments, **(named | {"force_move": True}))
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, PatchifyError):
                raise MultiPartException(str(error)) from None
            if isinstance(error, ClientDisconnect):  # nobody is there to be told, and the log need not be
                raise MultiPartException(CUT_OFF) from None
            if isinstance(error, (TypeError, AttributeError, FormParserError)):  # a field where a file should be
                raise HTTPException(400, NO_FORM) from None
            if isinstance(error, MultiPartException) and not error.message.endswith("."):  # the parser's own words
                raise MultiPartException(NO_FORM) from None
            raise
        finally:
            if parcel is not None:
                parcel.arriving = False

    class Few(gradio.route_utils.GradioMultiPartParser):
        """Gradio's parser, for few parts, each a file that is answered about; it takes forms without an end too."""

        whole = False

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **(named | {"max_files": PARTS, "max_fields": PARTS}))

        def on_end(self) -> None:
            self.whole = True

        async def parse(self) -> Any:
            form = await super().parse()
            if not self.whole or set(form) != {"files"}:
                await form.close()
                raise MultiPartException(NO_FORM if self.whole else CUT_OFF)
            return form

    upload.apart, upload.storage = True, storage  # type: ignore[attr-defined]
    gradio.routes.upload_fn = upload  # where the route looks for it
    gradio.route_utils.GradioMultiPartParser = Few  # type: ignore[misc]  # where `plain` does


class _Counted(Request):
    """A request whose body must keep its pace, and is counted among what visitors leave."""

    def __init__(self, request: Request, storage: VisitorStorage, parcel: Upload) -> None:
        super().__init__(request.scope, request.receive)
        self._kept, self._parcel = storage, parcel

    async def stream(self) -> AsyncGenerator[bytes, None]:
        async for piece in paced(Request(self.scope, self.receive)):
            self._kept.grow(self._parcel, len(piece))
            yield piece


def forget_folders(path: Path, root: Path) -> None:
    """Deletes the folders that a file lay in, below `root`, as far as they are empty."""
    with suppress(OSError):  # the first one that is not empty ends it
        for folder in path.parents:
            if folder == root or root not in folder.parents:
                return
            folder.rmdir()
