"""Region specs such as `pyramid:4+random:10,7`, read strictly: a slip is refused with what was meant to be there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from patchify_core.errors import PatchifyError
from patchify_core.regions.base import Regions, shown
from patchify_core.regions.combined import Combined
from patchify_core.regions.draws import Random
from patchify_core.regions.pyramid import MAX_LEVELS, Pyramid
from patchify_core.regions.salient import Salient
from patchify_core.regions.sliding import Sliding


@dataclass(frozen=True)
class _Form:
    """How one selector is written: the form that a message shows, its numbers, and how many may be left out."""

    text: str
    make: Callable[..., Regions]
    numbers: tuple[Callable[[str], float], ...]
    optional: int = 0


def _whole(text: str) -> int:
    """Digits only: no sign, no exponent, no digits of other scripts, and not so many that int() gives up."""
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise ValueError
    return int(text)


def _decimal(text: str) -> float:
    """Digits with an optional decimal point. The length is that of the smallest float, written out."""
    if len(text) > 400 or not re.fullmatch(r"[0-9]+(\.[0-9]+)?|\.[0-9]+", text):
        raise ValueError
    return float(text)


_FORMS = {
    "pyramid": _Form(f"pyramid:N (N from 1, the whole picture only, to {MAX_LEVELS})", Pyramid, (_whole,)),
    "sliding": _Form("sliding:SCALE,OVERLAP (as in sliding:0.4,0.5)", Sliding, (_decimal, _decimal)),
    "random": _Form("random:N or random:N,SEED", Random, (_whole, _whole), optional=1),
    "salient": _Form("salient:N", Salient, (_whole,)),
}

FORMS = ", ".join(form.text for form in _FORMS.values())
"""What may be written, for help texts: `pyramid:N (...), sliding:SCALE,OVERLAP (...), ...`."""


def parse_regions(spec: str) -> Regions:
    """Reads a region spec such as `pyramid:4`, `sliding:0.4,0.5`, `random:30,7` or several joined with `+`.

    White space around any part and any number does not count, nor does how a number is written: `1.0` is `1`.

    Args:
        spec: what a person or an index wrote.

    Returns:
        The selector, whose own `spec` is the canonical form.

    Raises:
        PatchifyError: if the spec names no known selector, or a number is malformed or out of its range.

    Example:
        >>> parse_regions(" pyramid:2 + random:10").spec
        'pyramid:2+random:10,0'
    """
    parts = [_part(text.strip(), spec) for text in spec.split("+")]
    return parts[0] if len(parts) == 1 else Combined(tuple(parts))


def _part(text: str, spec: str) -> Regions:
    name, colon, rest = (piece.strip() for piece in text.partition(":"))
    form = _FORMS.get(name)
    if form is None:
        whose = f" in '{shown(spec)}'" if text != spec.strip() else ""
        near = difflib.get_close_matches(name.lower(), _FORMS, n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise PatchifyError(f"Unknown regions '{shown(text)}'{whose}{guess}: write {FORMS}, or several with + between.")
    texts = [piece.strip() for piece in rest.split(",")] if colon else []
    try:
        if not len(form.numbers) - form.optional <= len(texts) <= len(form.numbers):
            raise ValueError
        numbers = [read(piece) for read, piece in zip(form.numbers, texts, strict=False)]
    except ValueError:
        raise PatchifyError(f"The regions '{shown(text)}' cannot be read: write {form.text}.") from None
    return form.make(*numbers)
