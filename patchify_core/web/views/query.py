"""What is asked: the query picture or words, the examples, and which encoders there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from patchify_core.demo.locating import has_maps
from patchify_core.demo.questions import Question
from patchify_core.demo.shelf import Offer, shown_spec
from patchify_core.demo.stages import patches_in_words
from patchify_core.index.patch_index import PatchIndex
from patchify_core.web.views.html import FileUrl, place, query_address

DRAW = (
    '<span class="is-fine">Draw a box around <b>one object</b> to search.</span>'
    '<span class="is-coarse">Hold, then draw a box around <b>one object</b> to search.</span>'
)
"""What is said below the picture, to whoever has a mouse and whoever has fingers."""


def query(question: Question, url: FileUrl, turn: int = 0) -> str:
    """The query picture with its box, which the script of the page lets the visitor draw, move and resize; or words.

    `turn` makes it another text than the last one, so that the script learns of an upload that was refused.
    """
    whole = question.box is None
    if question.words is None:
        stage, hint = _stage(question, url), DRAW
    else:
        stage = f'<div class="pf-said" role="img" aria-label="Query in words: {escape(question.words)}">'
        stage += f"<small>in words</small><q>{escape(question.words)}</q></div>"
        hint = "The query is <b>words</b>. Upload a picture or choose an example to search with a picture."
    return (
        f'<div class="pf-stage-wrap{"" if question.words is None else " is-words"}" '
        f'data-index="{escape(question.engine)}" data-turn="{turn}">{stage}</div>'
        '<div class="pf-camera" hidden><video playsinline muted></video>'
        '<div><button type="button" class="pf-btn" data-do="shoot">Take picture</button>'
        '<button type="button" class="pf-btn ghost" data-do="stop">Cancel</button></div></div>'
        f'<p class="pf-hint">{hint}</p>'
        '<div class="pf-tools">'
        '<button type="button" class="pf-btn" data-do="upload">Upload</button>'
        '<button type="button" class="pf-btn ghost" data-do="paste">Paste</button>'
        '<button type="button" class="pf-btn ghost" data-do="camera">Camera</button>'
        f'<button type="button" class="pf-btn ghost" data-do="whole"{" disabled" if whole else ""}>Whole picture</button>'
        '<input type="file" accept="image/*,.heic,.heif,.hif,.avif,.jfif,.mpo" hidden aria-label="Upload a picture" tabindex="-1">'
        "</div>"
    )


def _stage(question: Question, url: FileUrl) -> str:
    whole = question.box is None
    box = np.array([0, 0, question.width, question.height], float) if question.box is None else question.box
    corners = ",".join(f"{value:.1f}" for value in box)
    label = "Query box. Arrow keys move it, Shift and arrow keys resize it, Home selects the whole picture."
    return (
        f'<div class="pf-draw pf-stage" data-picture="{escape(question.key)}" '
        f'data-width="{question.width}" data-height="{question.height}" '
        f'style="--ratio:{question.width / question.height:.5f}">'
        f'<img class="pf-query-img" src="{escape(query_address(question, url))}" alt="Query: {escape(question.name)}" '
        'draggable="false">'
        f'<div class="pf-draw-box pf-query-box{" is-whole" if whole else ""}" tabindex="0" role="application" '
        f'aria-label="{label}" data-box="{corners}" style="{place(box, question.width, question.height)}">'
        '<i class="h nw"></i><i class="h ne"></i><i class="h sw"></i><i class="h se"></i></div></div>'
    )


def examples(items: Sequence[tuple[int, str, Path]], chosen: int | None, url: FileUrl) -> str:
    """Thumbnails of the bundled queries; items are (query id, name, file)."""
    buttons = "".join(
        f'<button type="button" class="pf-example" data-example="{query_id}" title="{escape(name)}" '
        f'aria-pressed="{str(query_id == chosen).lower()}">'
        f'<img src="{escape(url(path))}" alt="{escape(name)}" loading="lazy" width="64" height="48"></button>'
        for query_id, name, path in items
    )
    return f'<div class="pf-examples" role="group" aria-label="Example queries">{buttons}</div>'


def loading(offer: Offer, ready: bool) -> str:
    """What is said while another encoder is loaded."""
    spec = escape(shown_spec(offer.index.encoder))
    words = f"Searching with {spec} …" if ready else f"Loading {spec} …"
    return f'<p class="pf-loading"><i aria-hidden="true"></i>{words}</p>'


def about(offers: Iterable[Offer]) -> str:
    """Help for the choices of method and box."""
    return (
        '<details class="pf-what pf-encoders"><summary>What do these settings mean?</summary><div>'
        f"<dl>{''.join(f'<dt>{term}</dt><dd>{words}</dd>' for term, words in WHAT_THEY_ARE)}</dl>{_encoders(offers)}</div></details>"
    )


WHAT_THEY_ARE = (
    ("Paper", "Every patch is cut out and encoded separately: 30 passes of the network per picture."),
    ("Fast", "The network sees the whole picture once; patches are read from its feature map. Much faster."),
    ("Winning patch", "The box of the most similar patch: it shows roughly, not exactly, where."),
    ("Soft box", "The mean of all patches’ boxes; better matches count more."),
    ("Refined box", "Boxes of every size and position are compared; the best box is then aligned with visible edges."),
)
"""Terms of the choices, and one sentence each."""


def _encoders(offers: Iterable[Offer]) -> str:
    """What each index is, and which of them know words."""
    rows = "".join(
        f'<tr><th scope="row">{escape(shown_spec(offer.index.encoder))}</th><td>{escape(patches_in_words(offer.index.regions))}</td>'
        f"<td>{'picture' if has_maps(offer.index) else 'patch'}</td><td>{offer.index.dim}</td>"
        f"<td>{_size(offer.index)}</td><td>{escape(offer.index.encoder.licence)}</td></tr>"
        for offer in offers
    )
    return (
        "<p>An encoder turns a picture, or a part of one, into numbers. Each was trained by others and is not changed here. "
        "<b>Salient</b> patches are placed on what stands out in a picture instead of on a grid: boxes fit better.</p>"
        '<table><thead><tr><th scope="col">Encoder</th><th scope="col">Patches</th><th scope="col">One pass per</th>'
        '<th scope="col">Dimension</th><th scope="col">Per picture</th><th scope="col">Licence of weights</th></tr></thead>'
        f"<tbody>{rows}</tbody></table><p>{WHO_KNOWS_WORDS}</p>"
    )


def _size(index: PatchIndex) -> str:
    """Kilobytes a picture, and those of its kept map."""
    maps = "" if index.maps is None else f" + {index.maps.size / len(index.images) / 1024:,.0f} KB map"
    return f"{index.bytes_per_image / 1024:,.1f} KB{maps}"


WHO_KNOWS_WORDS = (
    "Encoders of the open_clip family (such as CLIP and SigLIP) can also search with <b>words</b>: while one of them is "
    "chosen, a text box appears below the query."
)
