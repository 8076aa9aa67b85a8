"""The overview on the Evaluation tab: charts over the levels, bars by object size, and failed queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from patchify_core.demo.overview import Curve, FailedQuery, SizeBand
from patchify_core.demo.results import WRONG
from patchify_core.gallery import Gallery
from patchify_core.gallery.model import GalleryImage
from patchify_core.retrieval.presence import Calibration, Learned
from patchify_core.web.views.html import FileUrl, render_text

SETS = {
    "sample_db": ("Rendered scenes", "small objects among others; bundled with this page"),
    "davis20": ("DAVIS video frames", "20 objects in frames of videos, photographs"),
    "dreambooth30": ("DreamBooth photographs", "30 objects, each filling much of its picture"),
}
"""Name of a dataset -> (title, description); others appear under their own names."""

WIDTH, HEIGHT = 400, 218
LEFT, RIGHT, TOP, BOTTOM = 32, 106, 12, 186
"""Size of a chart and edges of its plot (the right one as a margin), in units of the drawing."""

SIDE, BOTTOM_SIDE = 260, 232
"""Width and height of a reliability diagram, and the position of its lower edge."""

APART = 15
"""Smallest distance between two labels."""


@dataclass(frozen=True)
class Label:
    """The label at the right end of a line, moved so that labels do not overlap."""

    text: str
    kind: str
    y: float


@dataclass(frozen=True)
class Chart:
    """The chart of one dataset: the corners of its lines in units of the drawing."""

    curve: Curve
    title: str
    about: str
    xs: tuple[float, ...]
    ap: tuple[float, ...]
    locscore: tuple[float, ...]
    labels: tuple[Label, ...]

    def line(self, ys: Sequence[float]) -> str:
        """Return the `points` of an SVG polyline."""
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
    """Render the charts, the bars and the cards; a part without numbers is left out.

    Args:
        curves: One per dataset.
        bands: Of the bundled gallery, the smallest objects first.
        failing: Its worst queries.
        queries: Number of its queries.
        gallery: The bundled gallery.
        url: Address of a picture.
        page: Address of the page that a card opens, without parameters.
        calibrated: Label, folder and calibration of each index that has one.
    """
    best = max(bands, key=lambda band: band.ap[-1] - band.ap[0], default=None)
    return render_text(
        "story",
        charts=[chart(curve) for curve in curves],
        size=(WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, TOP, BOTTOM),
        height=_height,
        bands=bands,
        best=best,
        size_text=size_text,
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
    """Compute the lines and labels of a chart."""
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
    """Return x, y in units of the drawing, probability, share of correct results and number of results of each point."""
    points = learned.reliability[kind]
    return [
        (LEFT + chance * (SIDE - LEFT - TOP), BOTTOM_SIDE - right * (BOTTOM_SIDE - TOP), chance, right, number)
        for chance, right, number in points
    ]


def _height(value: float) -> float:
    """Return the y of a score from 0 to 1."""
    return BOTTOM - value * (BOTTOM - TOP)


def _spread(labels: Sequence[Label]) -> tuple[Label, ...]:
    """Return the labels from top to bottom, at least `APART` apart and inside the drawing."""
    ordered = sorted(labels, key=lambda label: label.y)
    ys: list[float] = []
    for label in ordered:
        ys.append(max([label.y, *(y + APART for y in ys[-1:])]))
    for n in reversed(range(len(ys))):  # those that were pushed off the lower edge, and what is above them
        ys[n] = min(ys[n], BOTTOM - APART * (len(ys) - 1 - n))
    return tuple(Label(label.text, label.kind, y) for label, y in zip(ordered, ys, strict=True))


def size_text(band: SizeBand) -> str:
    """Describe the sizes of a band, e.g. `2 to 10 % of the picture`."""
    low, high = f"{100 * band.low:g}", "" if band.high is None else f"{100 * band.high:g}"
    if not band.low:
        return f"Under {high} % of the picture"
    return f"{low} to {high} % of the picture" if high else f"{low} % of the picture or more"


def _shows(gallery: Gallery) -> Callable[[GalleryImage], list[str]]:
    """Return a function that lists the objects in a picture."""
    return lambda image: sorted(name for key, name in gallery.instances.items() if image.id in gallery.positives(key))
