"""Links that reopen a search: a query and its options as URL parameters, and back.

A link may come from anybody. Whatever is wrong in it is skipped and reported in words that repeat nothing of it, and
the rest still counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from patchify_core.demo.queries import MAX_WORDS, UserQuery, checked_words
from patchify_core.errors import PatchifyError

Box = tuple[float, float, float, float]

WHOLE = "whole"
"""Instead of a box: the whole picture."""

NO_OBJECT = "none"
"""Instead of an object's name: it is unknown."""

MAX_LENGTH = 8 * MAX_WORDS
"""Longest query string that is read, in characters: words take most, in an alphabet of three bytes per letter."""

PRIVATE = (
    "Your own pictures have no link: only you can see them, and they are deleted after your visit. Save the results as "
    "a picture instead."
)
"""Why a query with a visitor's own pictures has no link."""

NUMBER = re.compile(r"[0-9]{1,9}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,99}")
COORDINATE = re.compile(r"[0-9]{1,7}(\.[0-9]{1,6})?")


class LinkError(PatchifyError):
    """There is no link to what is shown."""


@dataclass(frozen=True)
class Link:
    """The content of a link. None means: as on a page that was just opened.

    At most one of `example`, `picture` and `words` is given.

    Attributes:
        example: Id of a bundled query.
        picture: Id of a gallery picture used as the query.
        words: Of a query in words.
        box: x1, y1, x2, y2 in pixels of the query picture; `whole` for all of it.
        object: Name of the query's object; `none` if unknown.
        index: Name of the index to search (see `indexes`).
        level: Number of the set of patches, from 1.
        boxes: How boxes are found (see `box_methods`).
        rerank: Name of a re-ranker.
        top: Number of results.
        look: Id of the result that is open.
        tab: The tab in front.
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
    def has_picture(self) -> bool:
        """Whether it names a query picture."""
        return self.example is not None or self.picture is not None

    @property
    def has_query(self) -> bool:
        """Whether it names a query."""
        return self.has_picture or self.words is not None

    def query(self) -> str:
        """Return the query string of the URL, e.g. `q=example-12&box=12,30.5,200,180&level=4`."""
        pairs: dict[str, object] = {}
        if self.example is not None:
            pairs["q"] = f"example-{self.example}"
        elif self.picture is not None:
            pairs["q"] = f"picture-{self.picture}"
        for name in list(_PARAMETERS)[1:]:
            value = getattr(self, name)
            if value is not None:
                pairs[name] = ",".join(map(_short, value)) if isinstance(value, tuple) else value
        return urlencode(pairs, safe=",/")


def _short(value: float) -> str:
    """Write a number to a thousandth of a pixel, without zeros at the end."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def link_to(query: UserQuery, queries: Mapping[Path, int], objects: Mapping[int, str], **options: Any) -> Link:
    """Return the link to a visitor's query.

    Args:
        query: A query of the bundled gallery.
        queries: File of each bundled query picture -> its id.
        objects: Id of each bundled object -> its name.
        options: The other attributes of `Link`.

    Raises:
        LinkError: One sentence, if the picture is the visitor's own.
    """
    name = None if query.instance is None else objects[query.instance]
    box: Box | str = WHOLE
    if query.box is not None:
        x1, y1, x2, y2 = (float(value) for value in query.box)
        box = x1, y1, x2, y2
    if query.words is not None:
        return Link(words=query.words, object=name, **options)
    if query.itself is not None:
        return Link(picture=query.itself, box=box, object=name, **options)
    if query.example is not None:
        return Link(example=query.example, **options)  # with its own box and object
    if query.path is not None and query.path in queries:
        return Link(example=queries[query.path], box=box, object=name or NO_OBJECT, **options)
    raise LinkError(PRIVATE)


def parse_link(text: object) -> tuple[Link, tuple[str, ...]]:
    """Parse a query string; whether its pictures, index and so on exist is not checked here.

    Args:
        text: The query string, with or without its question mark; may be anything.

    Returns:
        What could be parsed, and what is wrong with the rest, in phrases without a full stop.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        return Link(), ("it is too long to be a link of this page",)
    try:
        pairs = parse_qsl(text.removeprefix("?"), keep_blank_values=True, max_num_fields=40, errors="strict")
    except ValueError:
        return Link(), ("it is not written as links are",)
    texts: dict[str, str] = {}
    problems: list[str] = []
    for name, value in pairs:
        if name in texts:
            problems.append(f"it has two values for “{name}”")
        elif name in _PARAMETERS:  # others are the browser's business
            texts[name] = value
    values: dict[str, Any] = {}
    for name, value in texts.items():
        parse, problem = _PARAMETERS[name]
        try:
            parsed = parse(value)
            values |= {parsed[0]: parsed[1]} if name == "q" else {name: parsed}
        except (ValueError, PatchifyError):
            problems.append(problem)
    link = Link(**values)
    if link.words is not None and link.has_picture:
        link = replace(link, words=None)
        problems.append("it has both a picture and words")
    if link.box is not None and not link.has_picture:
        link = replace(link, box=None)
        if "q" not in texts:  # else that is reported already
            problems.append("it has a box, but no picture")
    if link.object is not None and not link.has_query:
        link = replace(link, object=None)
        if "q" not in texts and "words" not in texts:
            problems.append("it names an object, but nothing to search with")
    return link, tuple(dict.fromkeys(problems))


def _query(text: str) -> tuple[str, int]:
    kind, _, number = text.partition("-")
    if kind not in ("example", "picture"):
        raise ValueError
    return kind, _number(number)


def _box(text: str) -> Box | str:
    if text == WHOLE:
        return WHOLE
    parts = text.split(",")
    if len(parts) != 4 or not all(COORDINATE.fullmatch(part) for part in parts):
        raise ValueError
    x1, y1, x2, y2 = map(float, parts)
    if not (x1 < x2 and y1 < y2 and math.isfinite(x2 + y2)):
        raise ValueError
    return x1, y1, x2, y2


def _object(text: str) -> str:
    if not 0 < len(text) <= 100 or not text.isprintable():
        raise ValueError
    return text


def _number(text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise ValueError
    return int(text)


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError
    return text


_PARAMETERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "q": (_query, "its query picture is not one of this page"),
    "words": (checked_words, f"its words are missing or longer than {MAX_WORDS} characters"),
    "box": (_box, "its box is not four numbers of pixels"),
    "object": (_object, "its object has no name"),
    "index": (_name, "the page has no such method"),
    "level": (_number, "its level is not a number"),
    "boxes": (_name, "the page has no such kind of box"),
    "rerank": (_name, "the page has no such re-ranker"),
    "top": (_number, "its number of results is not a number"),
    "look": (_number, "the result that it opens is not a picture of this page"),
    "tab": (_name, "the page has no such tab"),
}
"""Each parameter's parser, and the problem if it fails; all but `q` are attributes of `Link`."""
