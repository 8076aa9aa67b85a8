"""The page for a phone, "Try it on your photos": one photograph, a tap, a few more photographs, two rankings.

As the first page it needs neither Gradio nor a network that is loaded; what it asks (`own_pictures`) waits for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from patchify_core.web.templating import PAGES

PHOTOS = 5
"""Photographs that the page asks for, and that its example has."""

EXAMPLE = "gift box"
"""The example's object, where the gallery has it: small in its pictures, so that the two rankings differ."""


TRY_PARTS = ("try.css", "try.js", "try-rank.js", "box.css", "box.js")
"""Files of `assets` that the page has besides those of the first page."""


def try_route(root: str, full: str, answers: Callable[[], Mapping[str, Any] | None]) -> Route:
    """The page's address, with what answers it.

    Args:
        root: what every address begins with.
        full: address of the page with all tools.
        answers: gives those of the first page (`demo.paper`), whose pictures serve as an example; None without any.
    """

    def page(request: Request) -> Response:
        text = PAGES.get_template("try.html").render(root=root, full=full, sample=sample(answers()), photos=PHOTOS)
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    return Route("/try", page)


def sample(document: Mapping[str, Any] | None) -> dict[str, Any]:
    """Pictures for whoever has none at hand, and whether they contain the object; empty where there are none.

    Args:
        document: the answers of the first page.

    Returns:
        `query` and `photos`, addresses below `paper/`, and `contain`, of each photo. The photos are those that whole
        images rank last among the ones that contain the object, and the first ones that do not.
    """
    examples = document["examples"] if document else []
    entry = next((one for one in examples if one["name"] == EXAMPLE), examples[0] if examples else None)
    if document is None or entry is None:
        return {}
    results = entry["levels"][0]["results"]
    last = sorted(entry["positives"], key=lambda row: -row["ranks"][0])
    right = [row["picture"] for row in last if str(row["picture"]) in document["pictures"]][: PHOTOS - 2]
    wrong = [row["picture"] for row in results if row["verdict"] == "wrong"][: PHOTOS - len(right)]
    photos = sorted((*right, *wrong))
    return {
        "query": entry["picture"],
        "photos": [document["pictures"][str(one)][0] for one in photos],
        "contain": [one in right for one in photos],
    }
