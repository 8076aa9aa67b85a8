"""The frame of the page: its head, how the method works, whose work it is, and what a visitor can take along."""

from __future__ import annotations

from collections.abc import Sequence

from patchify_core.demo.links import PRIVATE
from patchify_core.demo.settings import PageSettings
from patchify_core.web.front import BIBTEX, GalleryLink
from patchify_core.web.views.html import render

FILES = (
    ("png", "Picture (PNG)", "for slides"),
    ("svg", "Vector (SVG)", "boxes stay sharp"),
    ("csv", "CSV", "for a spreadsheet"),
    ("json", "JSON", "all digits, all matches"),
)
"""Kinds of files, their names, and what they are for."""


def galleries(choices: Sequence[GalleryLink]) -> str:
    """The galleries of the server, each a link to its page."""
    return render("galleries", choices=choices)


def header(logo: str) -> str:
    """Name, the two lanes of the demo, and the switch between light and dark."""
    return render("header", logo=logo)


def below() -> str:
    """What the method does, in four steps, and what the colours mean."""
    return render("below")


def footer(note: str, encoder: str) -> str:
    """Whose method, whose pictures, whose weights."""
    return render("footer", note=note, encoder=encoder, bibtex=BIBTEX)


def share() -> str:
    """The menu for a link, the code of a frame for another page, and files; its script does what is clicked."""
    return render("share", private=PRIVATE, kinds=FILES)


def own(settings: PageSettings, offered: bool) -> str:
    """The tab for a visitor's own pictures before any was sent; its script fills it.

    Args:
        settings: how much may be sent.
        offered: whether this server takes pictures at all.
    """
    return render("own", settings=settings, offered=offered)
