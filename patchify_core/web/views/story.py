"""The Evaluation tab's story: charts of the levels, bars by object size, and failures that open in the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from patchify_core.demo.overview import Curve, FailedQuery, SizeBand
from patchify_core.demo.results import WRONG
from patchify_core.gallery import Gallery
from patchify_core.gallery.model import GalleryImage
from patchify_core.retrieval.presence import Calibration, Learned
from patchify_core.web.views.html import FileUrl, rendered

SETS = {
    "sample_db": ("Rendered scenes", "small objects among others; bundled with this page"),
    "davis20": ("DAVIS video frames", "20 objects in frames of videos, photographs"),
    "dreambooth30": ("DreamBooth photographs", "30 objects, each filling much of its picture"),
}
"""name -> (title, what it is) of the sets that are known here; others are called by their own names."""

WIDTH, HEIGHT = 400, 218
LEFT, RIGHT, TOP, BOTTOM = 32, 106, 12, 186
"""Of a chart, in units of its drawing: its size, and the edges of what is plotted (the right one as a margin)."""

SIDE, BOTTOM_SIDE = 260, 232
"""Of a reliability diagram: its width, which is its height too, and where its lower edge is."""

APART = 15
"""Smallest distance of two labels."""


@dataclass(frozen=True)
class Label:
    """Words at the right end of a line, moved so that no two lie on each other."""

    text: str
    kind: str
    y: float


@dataclass(frozen=True)
class Chart:
    """One set's chart: corners of its lines in units of the drawing."""

    curve: Curve
    title: str
    about: str
    xs: tuple[float, ...]
    ap: tuple[float, ...]
    locscore: tuple[float, ...]
    labels: tuple[Label, ...]

    def line(self, ys: Sequence[float]) -> str:
        """Points of a polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(self.xs, ys, strict=True))


def story(
    curves: Sequence[Curve],
    bands: Sequence[SizeBand],
    failing: Sequence[FailedQuery],
    queries: int,
    gallery: Gallery,
    url: FileUrl,
    page: str,
    calibrated: Sequence[tuple[str, str, Calibration]] = (),
) -> Markup:
    """The charts, the bars and the cards; a part without numbers is left out.

    Args:
        curves: of the sets.
        bands: of the bundled gallery, the smallest objects first.
        failing: its worst queries.
        queries: how many it has.
        gallery: where its pictures are.
        url: address of a picture.
        page: address of the page that a card opens, without parameters.
        calibrated: label and folder of each index of which it is known how likely its results are, and that.
    """
    best = max(bands, key=lambda band: band.ap[-1] - band.ap[0], default=None)
    return rendered(
        "story.html",
        charts=[chart(curve) for curve in curves],
        size=(WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, TOP, BOTTOM),
        height=_height,
        bands=bands,
        best=best,
        size_words=size_words,
        failing=failing,
        queries=queries,
        image=gallery.image,
        shows=_shows(gallery),
        url=url,
        page=page,
        calibrated=[(*one, [_diagram(one[2].learned, kind) for kind in ("first", "later")]) for one in calibrated],
        sides=(SIDE, LEFT, BOTTOM_SIDE),
        WRONG=WRONG,
    )


def chart(curve: Curve) -> Chart:
    """Where its lines lie."""
    title, about = SETS.get(curve.dataset, (curve.dataset, ""))
    step = (WIDTH - RIGHT - LEFT - 24) / max(1, len(curve.grids) - 1)
    labels = [("AP", "ap", curve.ap[-1]), ("Global AP", "ap base", curve.ap[0])]
    if curve.locscore is not None:
        labels += [("LocScore", "loc", curve.locscore[-1]), ("Global", "loc base", curve.locscore[0])]
    return Chart(
        curve,
        title,
        about,
        tuple(LEFT + 12 + n * step for n in range(len(curve.grids))),
        tuple(map(_height, curve.ap)),
        tuple(map(_height, curve.locscore or ())),
        _spread([Label(f"{name} {value:.2f}", kind, _height(value)) for name, kind, value in labels]),
    )


def _diagram(learned: Learned, kind: str) -> list[tuple[float, float, float, float, int]]:
    """x, y in units of the drawing, probability, share that is right and number of results of each point."""
    points = learned.reliability[kind]
    return [
        (LEFT + chance * (SIDE - LEFT - TOP), BOTTOM_SIDE - right * (BOTTOM_SIDE - TOP), chance, right, number)
        for chance, right, number in points
    ]


def _height(value: float) -> float:
    """Where a score from 0 to 1 is drawn."""
    return BOTTOM - value * (BOTTOM - TOP)


def _spread(labels: Sequence[Label]) -> tuple[Label, ...]:
    """The labels from the top down, each `APART` or more below the one before; the whole stays inside the drawing."""
    ordered = sorted(labels, key=lambda label: label.y)
    ys: list[float] = []
    for label in ordered:
        ys.append(max([label.y, *(y + APART for y in ys[-1:])]))
    for n in reversed(range(len(ys))):  # those that were pushed off the lower edge, and what is above them
        ys[n] = min(ys[n], BOTTOM - APART * (len(ys) - 1 - n))
    return tuple(Label(label.text, label.kind, y) for label, y in zip(ordered, ys, strict=True))


def size_words(band: SizeBand) -> str:
    """The sizes of a band in words, e.g. `2 to 10 % of the picture`."""
    low, high = f"{100 * band.low:g}", "" if band.high is None else f"{100 * band.high:g}"
    if not band.low:
        return f"Under {high} % of the picture"
    return f"{low} to {high} % of the picture" if high else f"{low} % of the picture or more"


def _shows(gallery: Gallery) -> Callable[[GalleryImage], list[str]]:
    """Gives the names of the objects that a picture contains."""
    return lambda image: sorted(name for key, name in gallery.instances.items() if image.id in gallery.positives(key))
