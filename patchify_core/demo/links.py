"""Addresses that reopen a search: a query and its options as URL parameters, and back.

An address is a stranger's: whatever is wrong in it is left out and said in one sentence, and the rest still counts.
Nothing of it is repeated in what is said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from patchify_core.demo.queries import MAX_WORDS, UserQuery, checked_words
from patchify_core.errors import PatchifyError

Box = tuple[float, float, float, float]

WHOLE = "whole"
"""Instead of a box: the whole picture."""

NOBODY = "none"
"""Instead of an object's name: it is not known."""

MAX_LENGTH = 8 * MAX_WORDS
"""Longest address that is read, in characters: words take most, in an alphabet of three bytes a letter."""

PRIVATE = (
    "Your own pictures have no link: only you can see them, and they are deleted after your visit. Save the results as "
    "a picture instead."
)
"""Why there is no link."""

NUMBER = re.compile(r"[0-9]{1,9}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,99}")
SIZE = re.compile(r"[0-9]{1,7}(\.[0-9]{1,6})?")

OPENS = ("q", "words", "box", "object", "index", "level", "boxes", "rerank", "top", "look", "tab")
"""Parameters that change what the page shows; others are the browser's business or nobody's."""


class LinkError(PatchifyError):
    """What is shown cannot be linked."""


@dataclass(frozen=True)
class Link:
    """What an address says. None where it says nothing, which means: as on a page that was just opened.

    At most one of `example`, `picture` and `words` is given.

    Attributes:
        example: id of a bundled query.
        picture: id of a gallery picture that asks.
        words: what is asked in words.
        box: x1, y1, x2, y2 in pixels of the picture that asks; `whole` for all of it.
        object: name of the object that it is said to be; `none` where nobody has said.
        index: name of the index that is asked (see `shelf`).
        level: number of the set of patches, from 1.
        boxes: how boxes are found (see `box_methods`).
        rerank: name of a re-ranker.
        top: results that are shown.
        look: id of the gallery picture that is looked into.
        tab: the tab that is in front.
    """

    example: int | None = None
    picture: int | None = None
    words: str | None = None
    box: Box | str | None = None
    object: str | None = None
    index: str | None = None
    level: int | None = None
    boxes: str | None = None
    rerank: str | None = None
    top: int | None = None
    look: int | None = None
    tab: str | None = None

    @property
    def asks(self) -> bool:
        """Whether it says what to ask."""
        return self.example is not None or self.picture is not None or self.words is not None

    def query(self) -> str:
        """The part of an address after its question mark, e.g. `q=example-12&box=12,30.5,200,180&level=4`."""
        pairs: dict[str, object] = {}
        if self.example is not None:
            pairs["q"] = f"example-{self.example}"
        elif self.picture is not None:
            pairs["q"] = f"picture-{self.picture}"
        for name in OPENS[1:]:
            value = getattr(self, name)
            if value is not None:
                pairs[name] = ",".join(map(_short, value)) if isinstance(value, tuple) else value
        return urlencode(pairs, safe=",/")


def _short(value: float) -> str:
    """To a thousandth of a pixel, without zeros at the end."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def link_to(query: UserQuery, queries: Mapping[Path, int], objects: Mapping[int, str], **options: Any) -> Link:
    """The address of what a visitor asks.

    Args:
        query: asked of the bundled gallery.
        queries: file of each bundled query picture -> its id.
        objects: id of each bundled object -> its name.
        options: the other attributes of `Link`, as they are on the page.

    Raises:
        LinkError: one sentence, if the picture is the visitor's own.
    """
    name = NOBODY if query.instance is None else objects[query.instance]
    box: Box | str = WHOLE
    if query.box is not None:
        x1, y1, x2, y2 = (float(value) for value in query.box)
        box = x1, y1, x2, y2
    if query.words is not None:
        return Link(words=query.words, object=None if query.instance is None else name, **options)
    if query.itself is not None:
        return Link(picture=query.itself, box=box, object=None if query.instance is None else name, **options)
    if query.example is not None:
        return Link(example=query.example, **options)  # with its own box, and the object that it shows
    if query.path is not None and query.path in queries:
        return Link(example=queries[query.path], box=box, object=name, **options)
    raise LinkError(PRIVATE)


def parse_link(text: object) -> tuple[Link, tuple[str, ...]]:
    """What an address says, as far as it can be read at all; whether there is such a picture or index is not known yet.

    Args:
        text: the part after the question mark; the mark itself may be there.

    Returns:
        What could be read, and what was wrong with the rest, in words without a full stop.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        return Link(), ("it is too long to be a link of this page",)
    try:
        pairs = parse_qsl(text.removeprefix("?"), keep_blank_values=True, max_num_fields=40, errors="strict")
    except ValueError:
        return Link(), ("it is not written as links are",)
    given: dict[str, str] = {}
    wrong: list[str] = []
    for name, value in pairs:
        if name not in OPENS:
            continue
        if name in given:
            wrong.append(f"it has two values for “{name}”")
        given.setdefault(name, value)
    found: dict[str, Any] = {}
    for name, value in given.items():
        try:
            found |= _READERS[name](value)
        except ValueError:
            wrong.append(_MEANT[name])
    if "words" in found and ("example" in found or "picture" in found):
        del found["words"]
        wrong.append("it has both a picture and words")
    if "box" in found and not ("example" in found or "picture" in found):
        del found["box"]
        if "q" not in given:  # else that was said already
            wrong.append("it has a box, but no picture")
    if "object" in found and not ("example" in found or "picture" in found or "words" in found):
        del found["object"]
        if "q" not in given and "words" not in given:
            wrong.append("it names an object, but nothing to search with")
    return Link(**found), tuple(dict.fromkeys(wrong))


def _asked(text: str) -> dict[str, Any]:
    kind, _, number = text.partition("-")
    if kind not in ("example", "picture"):
        raise ValueError
    return {kind: _number(number)}


def _words(text: str) -> dict[str, Any]:
    try:
        return {"words": checked_words(text)}
    except PatchifyError as error:
        raise ValueError from error


def _box(text: str) -> dict[str, Any]:
    if text == WHOLE:
        return {"box": WHOLE}
    parts = text.split(",")
    if len(parts) != 4 or not all(SIZE.fullmatch(part) for part in parts):
        raise ValueError
    x1, y1, x2, y2 = map(float, parts)
    if not (x1 < x2 and y1 < y2 and math.isfinite(x2 + y2)):
        raise ValueError
    return {"box": (x1, y1, x2, y2)}


def _object(text: str) -> dict[str, Any]:
    if not 0 < len(text) <= 100 or not text.isprintable():
        raise ValueError
    return {"object": text}


def _number(text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise ValueError
    return int(text)


def _numbered(name: str) -> Callable[[str], dict[str, Any]]:
    return lambda text: {name: _number(text)}


def _named(name: str) -> Callable[[str], dict[str, Any]]:
    def take(text: str) -> dict[str, Any]:
        if not NAME.fullmatch(text):
            raise ValueError
        return {name: text}

    return take


_READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "q": _asked,
    "words": _words,
    "box": _box,
    "object": _object,
    **{name: _named(name) for name in ("index", "boxes", "rerank", "tab")},
    **{name: _numbered(name) for name in ("level", "top", "look")},
}

_MEANT = {
    "q": "its query picture is not one of this page",
    "words": f"its words are missing or longer than {MAX_WORDS} characters",
    "box": "its box is not four numbers of pixels",
    "object": "its object has no name",
    "index": "the page has no such method",
    "level": "its level is not a number",
    "boxes": "the page has no such kind of box",
    "rerank": "the page has no such re-ranker",
    "top": "its number of results is not a number",
    "look": "the result that it opens is not a picture of this page",
    "tab": "the page has no such tab",
}
"""The words for each parameter that cannot be read."""
