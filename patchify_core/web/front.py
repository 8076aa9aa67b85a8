"""The first page, "See the paper": plain HTML made of answers that are there already, live or as a folder of files.

It needs neither Gradio nor a network that is loaded, so it is there first, and any static host can serve it
(`showcase`). Where its parts are below the page is the same in both cases: `paper/...`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from patchify_core.demo.gallery_info import FILE, stored_answers
from patchify_core.demo.queueing import BoundedQueue, BusyError, Slots
from patchify_core.errors import PatchifyError, PictureError
from patchify_core.files import ASSETS
from patchify_core.web.callers import CALLER
from patchify_core.web.paths import file_at, without_folders
from patchify_core.web.templating import PAGES
from patchify_core.web.try_page import TRY_PARTS, try_route

if TYPE_CHECKING:
    from patchify_core.demo.paper import Paper

TITLE = "Patchify: whole-image search misses small objects, patches find them"
DESCRIPTION = (
    "An interactive demo of “Patch-wise Retrieval: A Bag of Practical Techniques for Instance-level Matching” "
    "(WACV 2026): find the pictures that contain one object, and see where."
)
BIBTEX = """@inproceedings{choi2026patchwise,
  title     = {Patch-wise Retrieval: A Bag of Practical Techniques for Instance-level Matching},
  author    = {Choi and Lim and Hyeon-Woo and Ye-Bin and Jeong and Hwang and Oh},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)},
  year      = {2026},
  note      = {arXiv:2512.12610}
}"""

PHOTOS = "photos"
"""Where the Gradio page is, below the server's own address."""

THEIRS = ("words", "box", "object", "index", "boxes", "rerank", "top", "look", "tab", "embed", "view")
"""Parameters of the Gradio page alone, which was at / before there was a first page: links to it still open it."""

FILMS, FILMS_OF_ONE, FILMS_KEPT = 4, 2, 64
"""Animations that are made at a time, in all and for one address, and that are kept, some 70 kB each."""

AT_ONCE, ANSWERS_KEPT = (1, 1), 64
"""Other boxes of examples that are answered at a time, in all and of one address, beside the queue of the Gradio page;
and answers that are kept, some 40 kB each."""

WAITING, WAITING_OF_ONE = 60, 30
"""Boxes that may wait for it, in all and of one address. Whoever left still counts: nobody sees them leave."""

BOX = re.compile(r"\d{1,6}(?:\.\d{1,3})?(?:,\d{1,6}(?:\.\d{1,3})?){3}", re.ASCII)
"""A box in an address: four numbers of pixels."""

PARTS = ("paper.css", "paper.js", "box.css", "box.js", "logo.svg", "preview.jpg")
"""Files of `assets` that the first page has."""

GalleryLink = tuple[str, str, bool]
"""A gallery among those of a server: its title, its address, and whether it is the one that is shown."""


def page(document: Mapping[str, Any], root: str = "", example: int | None = None, **links: Any) -> str:
    """The HTML of the first page.

    Args:
        document: the answers (`demo.paper.Paper.document`).
        root: what every address begins with; empty for a folder of files.
        example: id of the query that is shown first; the document's own by default.
        links: `search`, whether other boxes are answered; `live`, address of a server with all other pages, ended by a
            slash; `code`, of the source; `preview`, of the picture for link previews; `film`, whether animations can be
            saved; `galleries`, the (title, address, whether it is this one) of each that can be chosen.
    """
    known = {one["id"]: one for one in document["examples"]}
    first = known.get(example if example in known else document["first"])
    named = {str(row["picture"]) for level in first["levels"] for row in level["results"]} if first else set()
    data = {name: document[name] for name in ("levels", "first", "limits", "sizes", "overall")}
    data["examples"] = [first]
    data["pictures"] = {key: value for key, value in document["pictures"].items() if key in named}
    return PAGES.get_template("paper.html").render(
        title=TITLE,
        description=DESCRIPTION,
        root=root,
        home=root or "./",
        bibtex=BIBTEX,
        pictures_note=document["note"],
        first=first["id"] if first else 0,
        index=Path(document["index"]).name,
        levels=document["levels"],
        overall=document["overall"],
        queries=document["overall"][0]["queries"],
        sized=any(one["positives"] for one in document["sizes"]),
        gallery=document["gallery"],
        encoder=document["encoder"],
        dim=document["dim"],
        data=Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")),
        **links,
    )


def part(folder: Path, name: str) -> Path | None:
    """The file of a gallery or of the package that `paper/NAME` means; None if there is none."""
    if name in (*PARTS, *TRY_PARTS):
        path = ASSETS / name
        return path if path.is_file() else None
    return file_at(folder, name) if name.partition("/")[0] in ("gallery", "queries") else None


class Front:
    """The first page of a server, or of one of its galleries.

    Args:
        folder: the gallery.
        root: the path below which a proxy shows the page; empty for the whole host.
        code: address of the source; empty for no link.
        galleries: (title, address, whether it is this one) of each that can be chosen.

    Attributes:
        document: the answers; None as long as there are none, and then the Gradio page is the first one.
        paper: answers other boxes of the examples; None until the gallery is loaded, and where it cannot be.
        ready: whether the gallery is loaded.
    """

    def __init__(
        self,
        folder: Path,
        root: str = "",
        code: str = "",
        galleries: Sequence[GalleryLink] = (),
    ) -> None:
        self.folder, self.root, self._code, self._galleries = folder, f"{root}/", code, galleries
        self.document, self._filming = stored_answers(folder), Slots(FILMS, FILMS_OF_ONE)
        self.paper: Paper | None = None
        self.ready = False
        self._turns = BoundedQueue(AT_ONCE, (WAITING, WAITING_OF_ONE))
        self._boxed = lru_cache(maxsize=ANSWERS_KEPT)(self._make_answer)
        self._made = lru_cache(maxsize=FILMS_KEPT)(self._make_film)
        self._text: tuple[Mapping[str, Any], bytes] | None = None

    def routes(self) -> list[Route]:
        """The addresses, each with what answers it."""
        return [
            Route("/", self._page),
            try_route(self.root, f"{self.root}{PHOTOS}", lambda: self.document),
            Route("/paper/film.webp", self._film),
            Route("/paper/answer", self._answer),
            Route("/paper/{name:path}", self._part),
        ]

    def _page(self, request: Request) -> Response:
        given = request.query_params
        if self.document is None or any(name in given for name in THEIRS) or given.get("q", "").startswith("picture-"):
            query = urlencode(list(given.multi_items()))
            return RedirectResponse(f"{self.root}{PHOTOS}{query and '?'}{query}", 307)
        asked = re.fullmatch(r"example-(\d{1,9})", given.get("q", ""))
        address = str(request.base_url).rstrip("/")
        return HTMLResponse(
            page(
                self.document,
                self.root,
                int(asked[1]) if asked else None,
                live=self.root,
                code=self._code,
                preview=f"{address}{self.root}paper/preview.jpg",
                film=True,
                search=True,
                galleries=self._galleries,
            ),
            headers={"Cache-Control": "no-cache"},
        )

    async def _answer(self, request: Request) -> Response:
        """An example with another box; addresses take turns."""
        number, box = (request.query_params.get(name, "") for name in ("q", "box"))
        if not re.fullmatch(r"\d{1,9}", number, re.ASCII) or not (box == "whole" or BOX.fullmatch(box)):
            return JSONResponse({"detail": "There is no such query: give an example and a box in pixels."}, 404)
        if self.paper is None and self.ready:
            return JSONResponse({"detail": "This gallery has no index as in the paper: search on the other page."}, 404)
        if self.paper is None:
            return JSONResponse({"detail": "The server is starting: try again in a few seconds."}, 503)
        try:
            async with self._turns.turn(CALLER.get()):
                answer = await run_in_threadpool(self._boxed, int(number), box)
        except BusyError as error:
            return JSONResponse({"detail": str(error)}, 503)
        except PatchifyError as error:
            return JSONResponse({"detail": without_folders(str(error))}, 404)
        return Response(answer, media_type="application/json", headers={"Cache-Control": "max-age=60"})

    def _make_answer(self, query: int, box: str) -> bytes:
        assert self.paper is not None
        found = self.paper.answer(query, None if box == "whole" else [float(value) for value in box.split(",")])
        return json.dumps(found, separators=(",", ":")).encode()

    async def _film(self, request: Request) -> Response:
        """How one result of an example got its score, as an animation. It is made once, and few at a time."""
        asked = [request.query_params.get(name, "") for name in ("q", "picture")]
        if self.document is None or not all(re.fullmatch(r"\d{1,9}", value) for value in asked):
            return JSONResponse({"detail": "There is no such animation: open a result, then save it."}, 404)
        caller = CALLER.get()
        if not self._filming.acquire(caller):
            return JSONResponse({"detail": "The server is making animations: try again in a moment."}, 503)
        try:
            made = await run_in_threadpool(self._made, *map(int, asked))
        except (KeyError, PictureError):
            return JSONResponse({"detail": "There is no such animation: open a result, then save it."}, 404)
        finally:
            self._filming.release(caller)
        name = f"patchify-{asked[0]}-{asked[1]}.webp"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "max-age=60"}
        return Response(made, media_type="image/webp", headers=headers)

    def _make_film(self, query: int, picture: int) -> bytes:
        from patchify_core.demo.animation import film

        return film(self.document or {}, self.folder, query, picture)

    def _answers(self) -> bytes | None:
        """The document as JSON, written once; None as long as there is none."""
        document = self.document
        if document is not None and (self._text is None or self._text[0] is not document):
            self._text = document, json.dumps(document, separators=(",", ":")).encode()
        return None if document is None or self._text is None else self._text[1]

    def _part(self, request: Request) -> Response:
        name = str(request.path_params["name"])
        if name == FILE and (answers := self._answers()) is not None:
            return Response(answers, media_type="application/json", headers={"Cache-Control": "max-age=60"})
        path = part(self.folder, name)
        if path is None:
            return JSONResponse({"detail": "There is no such file: reload the page."}, 404)
        return FileResponse(path, content_disposition_type="inline", headers={"Cache-Control": "max-age=60"})
