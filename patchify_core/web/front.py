"""The plain HTML pages: "See the paper", live or as a folder of static files, and "Use it on my photos" for a phone.

They need neither Gradio nor a loaded network, so that they are there first. Files of both pages are below `paper/`, on
the live server and on a static host alike.
"""

from __future__ import annotations

import json
import re
import shutil
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
from patchify_core.files import ASSETS, atomic, write_json
from patchify_core.web.callers import CALLER
from patchify_core.web.paths import file_at, without_folders
from patchify_core.web.templating import PAGES

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
"""Address of the Gradio page, below the server's own."""

GRADIO_PARAMETERS = ("words", "box", "object", "index", "boxes", "rerank", "top", "look", "tab", "embed", "view")
"""Parameters that only the Gradio page has. It was at / once, and links with them still open it."""

FILMS, FILMS_OF_ONE, FILMS_CACHED = 4, 2, 64
"""Animations made at a time, in total and per address, and cached, some 70 kB each."""

AT_ONCE, ANSWERS_CACHED = (1, 1), 64
"""Other boxes of examples answered at a time, in total and per address, outside the queue of the Gradio page; and
answers cached, some 40 kB each."""

WAITING, WAITING_OF_ONE = 60, 30
"""Boxes that may wait for an answer, in total and per address, including those whose sender has left unnoticed."""

BOX = re.compile(r"\d{1,6}(?:\.\d{1,3})?(?:,\d{1,6}(?:\.\d{1,3})?){3}", re.ASCII)
"""A box in an address: four numbers of pixels."""

PARTS = ("paper.css", "paper.js", "box.css", "box.js", "logo.svg", "preview.jpg")
"""Files of `assets` for the first page."""

TRY_PARTS = ("try.css", "try.js", "try-rank.js", "box.css", "box.js")
"""Files of `assets` for the page on a phone, besides those."""

TRY_PHOTOS = 5
"""Photos that the page on a phone asks for, and that its sample has."""

TRY_OBJECT = "gift box"
"""Object of the sample, if the gallery has it: small in its pictures, so that the two rankings differ."""

GalleryLink = tuple[str, str, bool]
"""A gallery of the server: title, address, and whether it is the one shown."""


def page(document: Mapping[str, Any], root: str = "", example: int | None = None, **links: Any) -> str:
    """Render the first page.

    Args:
        document: The answers (`demo.paper.Paper.document`).
        root: Prefix of every address; empty for static files.
        example: Id of the query shown first; by default the document's own.
        links: `search`, whether other boxes are answered; `live`, address of a server with all other pages, with a
            final slash; `code`, of the source; `preview`, of the picture for link previews; `film`, whether animations
            can be saved; `galleries`, all galleries of the server.
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


def sample(document: Mapping[str, Any] | None) -> dict[str, Any]:
    """Choose pictures for visitors of the page on a phone who have none at hand.

    Args:
        document: The answers of the first page.

    Returns:
        `query` and `photos`, addresses below `paper/`, and `contain`: whether each photo contains the object. The
        photos are the matches that whole images rank last, and the first wrong results. Empty if there are none.
    """
    examples = document["examples"] if document else []
    entry = next((one for one in examples if one["name"] == TRY_OBJECT), examples[0] if examples else None)
    if document is None or entry is None:
        return {}
    results = entry["levels"][0]["results"]
    last = sorted(entry["positives"], key=lambda row: -row["ranks"][0])
    right = [row["picture"] for row in last if str(row["picture"]) in document["pictures"]][: TRY_PHOTOS - 2]
    wrong = [row["picture"] for row in results if row["verdict"] == "wrong"][: TRY_PHOTOS - len(right)]
    photos = sorted((*right, *wrong))
    return {
        "query": entry["picture"],
        "photos": [document["pictures"][str(one)][0] for one in photos],
        "contain": [one in right for one in photos],
    }


def part(folder: Path, name: str) -> Path | None:
    """Return the file of a gallery or of the package at `paper/NAME`; None if there is none."""
    if name in (*PARTS, *TRY_PARTS):
        path = ASSETS / name
        return path if path.is_file() else None
    return file_at(folder, name) if name.partition("/")[0] in ("gallery", "queries") else None


class Front:
    """The plain pages of one gallery of a server.

    Args:
        folder: The gallery.
        root: Path below which a proxy shows the page; empty for the whole host.
        code: Address of the source; empty for no link.
        galleries: All galleries of the server.

    Attributes:
        document: The answers; as long as they are None, the Gradio page is the first one.
        paper: Answers other boxes of the examples; None until the gallery is loaded, or if it cannot.
        ready: Whether the gallery is loaded.
    """

    def __init__(
        self,
        folder: Path,
        root: str = "",
        code: str = "",
        galleries: Sequence[GalleryLink] = (),
    ) -> None:
        self.folder, self.root, self._code, self._galleries = folder, f"{root}/", code, galleries
        self.document, self._film_slots = stored_answers(folder), Slots(FILMS, FILMS_OF_ONE)
        self.paper: Paper | None = None
        self.ready = False
        self._queue = BoundedQueue(AT_ONCE, (WAITING, WAITING_OF_ONE))
        self._cached_answer = lru_cache(maxsize=ANSWERS_CACHED)(self._compute_answer)
        self._cached_film = lru_cache(maxsize=FILMS_CACHED)(self._make_film)
        self._text: tuple[Mapping[str, Any], bytes] | None = None

    def routes(self) -> list[Route]:
        """Return the routes of both pages."""
        return [
            Route("/", self._page),
            Route("/try", self._try_page),
            Route("/paper/film.webp", self._film),
            Route("/paper/answer", self._answer),
            Route("/paper/{name:path}", self._part),
        ]

    def _page(self, request: Request) -> Response:
        parameters = request.query_params
        query = parameters.get("q", "")
        if self.document is None or query.startswith("picture-") or any(one in parameters for one in GRADIO_PARAMETERS):
            text = urlencode(list(parameters.multi_items()))
            return RedirectResponse(f"{self.root}{PHOTOS}{text and '?'}{text}", 307)
        example = re.fullmatch(r"example-(\d{1,9})", query)
        address = str(request.base_url).rstrip("/")
        return HTMLResponse(
            page(
                self.document,
                self.root,
                int(example[1]) if example else None,
                live=self.root,
                code=self._code,
                preview=f"{address}{self.root}paper/preview.jpg",
                film=True,
                search=True,
                galleries=self._galleries,
            ),
            headers={"Cache-Control": "no-cache"},
        )

    def _try_page(self, request: Request) -> Response:
        text = PAGES.get_template("try.html").render(
            root=self.root, full=f"{self.root}{PHOTOS}", sample=sample(self.document), photos=TRY_PHOTOS
        )
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    async def _answer(self, request: Request) -> Response:
        """Answer an example with another box; addresses take turns."""
        number, box = (request.query_params.get(name, "") for name in ("q", "box"))
        if not re.fullmatch(r"\d{1,9}", number, re.ASCII) or not (box == "whole" or BOX.fullmatch(box)):
            return _refusal("There is no such query: give an example and a box in pixels.")
        if self.paper is None and self.ready:
            return _refusal("This gallery has no index as in the paper: search on the other page.")
        if self.paper is None:
            return _refusal("The server is starting: try again in a few seconds.", 503)
        try:
            async with self._queue.turn(CALLER.get()):
                answer = await run_in_threadpool(self._cached_answer, int(number), box)
        except BusyError as error:
            return _refusal(str(error), 503)
        except PatchifyError as error:
            return _refusal(without_folders(str(error)))
        return Response(answer, media_type="application/json", headers={"Cache-Control": "max-age=60"})

    def _compute_answer(self, query: int, box: str) -> bytes:
        assert self.paper is not None
        answer = self.paper.answer(query, None if box == "whole" else [float(value) for value in box.split(",")])
        return json.dumps(answer, separators=(",", ":")).encode()

    async def _film(self, request: Request) -> Response:
        """Return an animation of how one result of an example gets its score."""
        ids = [request.query_params.get(name, "") for name in ("q", "picture")]
        if self.document is None or not all(re.fullmatch(r"\d{1,9}", value) for value in ids):
            return _refusal("There is no such animation: open a result, then save it.")
        caller = CALLER.get()
        if not self._film_slots.acquire(caller):
            return _refusal("The server is making animations: try again in a moment.", 503)
        try:
            film = await run_in_threadpool(self._cached_film, *map(int, ids))
        except (KeyError, PictureError):
            return _refusal("There is no such animation: open a result, then save it.")
        finally:
            self._film_slots.release(caller)
        name = f"patchify-{ids[0]}-{ids[1]}.webp"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "max-age=60"}
        return Response(film, media_type="image/webp", headers=headers)

    def _make_film(self, query: int, picture: int) -> bytes:
        from patchify_core.demo.animation import animate

        return animate(self.document or {}, self.folder, query, picture)

    def _document_json(self) -> bytes | None:
        """Return the document as JSON, encoded once; None as long as there is none."""
        document = self.document
        if document is not None and (self._text is None or self._text[0] is not document):
            self._text = document, json.dumps(document, separators=(",", ":")).encode()
        return None if document is None or self._text is None else self._text[1]

    def _part(self, request: Request) -> Response:
        name = str(request.path_params["name"])
        if name == FILE and (text := self._document_json()) is not None:
            return Response(text, media_type="application/json", headers={"Cache-Control": "max-age=60"})
        path = part(self.folder, name)
        if path is None:
            return _refusal("There is no such file: reload the page.")
        return FileResponse(path, content_disposition_type="inline", headers={"Cache-Control": "max-age=60"})


def _refusal(sentence: str, status: int = 404) -> Response:
    return JSONResponse({"detail": sentence}, status)


def write_showcase(
    document: Mapping[str, Any],
    folder: Path,
    out: Path,
    live: str | None = None,
    code: str | None = None,
    url: str | None = None,
) -> int:
    """Write the first page as a folder of plain files for any static host, or update one.

    Args:
        document: The answers (`demo.paper.Paper.document`).
        folder: The gallery.
        out: Folder to write: new, empty, or an earlier showcase.
        live: Address of a live demo that the page links to; None for no link.
        code: Address of the source; None for no link.
        url: Address where the page will be, which link previews need for their picture; None for no picture.

    Returns:
        Bytes of all files.

    Raises:
        PatchifyError: One sentence, if something else is at `out`, or it cannot be written.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "paper" / FILE).is_file())):
        raise PatchifyError(f"{out} holds something else: choose another folder for the showcase.")
    names = {row[0] for row in document["pictures"].values()} | {one["picture"] for one in document["examples"]}
    sources = {name: folder / name for name in names} | {name: ASSETS / name for name in PARTS}
    preview = None if url is None else f"{url.rstrip('/')}/paper/preview.jpg"
    address = None if live is None else f"{live.rstrip('/')}/"
    paper = out / "paper"
    try:
        paper.mkdir(parents=True, exist_ok=True)
        write_json(paper / FILE, document)  # first: it marks the folder as a showcase
        for name, source in sources.items():
            target = paper / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        for path in [one for one in paper.glob("*/*") if one.relative_to(paper).as_posix() not in sources]:
            path.unlink()  # of pictures that the gallery no longer has
        (out / ".nojekyll").touch()  # GitHub Pages then serves the files as they are
        with atomic(out / "index.html") as file:
            file.write(page(document, "", None, live=address, code=code, preview=preview, film=False).encode())
    except OSError as error:
        raise PatchifyError(f"The showcase could not be written to {out} ({error.strerror or error}).") from error
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
