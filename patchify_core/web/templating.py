"""The Jinja2 environments of `web/templates`, in which every text is escaped unless it is marked as HTML."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension

PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
"""Whole pages."""


class Lines(Extension):
    """Joins the lines of a template: a line break between two tags is dropped, one within text becomes a space.

    Spaces between parts of the page would be visible, and Gradio compares new HTML with the old node by node.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Return the template in one line."""
        return re.sub(r"\s*\n\s*", " ", re.sub(r"(?<=[>}])\s*\n\s*(?=[<{])", "", source)).strip()


PARTS = PAGES.overlay(extensions=[Lines], undefined=StrictUndefined)
"""Parts of the Gradio page; `views.html` adds the functions that its templates use."""
