"""Where the page's HTML is: templates, in which every text is escaped unless it is marked as HTML."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension

PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
"""Whole pages."""


class Lines(Extension):
    """Line breaks of a template are for its reader: between two tags they are nothing, within a text they are a space.

    Spaces between parts of the page could be seen, and Gradio compares what it draws with what it drew before, piece by
    piece.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """The template in one line."""
        return re.sub(r"\s*\n\s*", " ", re.sub(r"(?<=[>}])\s*\n\s*(?=[<{])", "", source)).strip()


PARTS = PAGES.overlay(extensions=[Lines], undefined=StrictUndefined)
"""Parts of the page that Gradio puts together; what `views` offers its templates is in `views.html`."""
