"""The page's own Jinja environment: every text is escaped unless it is marked as HTML."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from patchify_core.demo import stages
from patchify_core.web.views.html import WORDS, overlap, place, signed, verdict_text


def rendered(template: str, **given: Any) -> Markup:
    """A template of `web/templates` with these values."""
    return Markup(_environment().get_template(template).render(**given))


def macro(template: str, name: str, *given: Any, **named: Any) -> Markup:
    """One macro of a template with these values."""
    return Markup(getattr(_environment().get_template(template).module, name)(*given, **named))


@cache
def _environment() -> Environment:
    folder = Path(__file__).parents[1] / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "WORDS": WORDS,
        "place": place,
        "signed": signed,
        "overlap": overlap,
        "stages": stages,
        "dict": dict,
    }
    environment.globals["verdict_text"] = verdict_text
    environment.filters |= {"three": three, "two": two, "plural": plural, "signed": signed}
    return environment


def three(value: float | None) -> str:
    """A score to three digits; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.3f}"


def two(value: float) -> str:
    """A score to two digits."""
    return f"{value:.2f}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number of things, e.g. `1 query`, `36 queries`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
