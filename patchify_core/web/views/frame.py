"""The frame of the page: its head, how the method works, and whose work it is."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from patchify_core.web.front import BIBTEX, Choice


def galleries(choices: Sequence[Choice]) -> str:
    """The galleries of the server, each a link to its page."""
    links = "".join(
        f'<a href="{escape(address)}photos"{" aria-current=page" if here else ""}>{escape(title)}</a>'
        for title, address, here in choices
    )
    return f'<nav class="pf-galleries" aria-label="Gallery">{links}</nav>'


def header(logo: str) -> str:
    """Name, the two lanes of the demo, and the switch between light and dark."""
    return (
        '<a class="pf-skip" href="#pf-results">Skip to the results</a>'
        f'<header class="pf-head"><img src="{escape(logo)}" alt="" width="34" height="34"><h1>Patchify</h1>'
        '<nav class="pf-lanes" aria-label="Parts of the demo"><a href="./">See the paper</a>'
        '<a href="photos" aria-current="page">Use it on my photos</a></nav>'
        '<nav class="pf-page" aria-label="Page"><a href="#pf-cite">Cite</a>'
        '<button type="button" class="pf-btn ghost" data-do="theme" aria-label="Switch between light and dark">◐</button>'
        "</nav></header>"
    )


def below() -> str:
    """What the method does, in four steps, and what the colours mean."""
    return (
        '<section class="pf-how" id="pf-how"><div class="wk-head"><h2>How it works, in short</h2>'
        '<button type="button" class="pf-btn ghost" data-tab="how-it-works">Walk through this search</button></div>'
        '<div class="pf-steps">'
        "<div><h3>1 · Cut</h3><p>Each gallery picture is cut into grids: 1×1, 2×2, 3×3 and 4×4 cells, 30 patches in all. "
        "A small object fills a small cell, so the rest of the picture no longer hides it.</p></div>"
        "<div><h3>2 · Encode</h3><p>A neural network that has never seen these objects turns every patch, and the box "
        "that you draw, into numbers. Things that look alike get similar numbers.</p></div>"
        "<div><h3>3 · Compare</h3><p>A picture’s score is that of its <b>best</b> patch. Pictures are ranked by that "
        "score, and the winning patch shows roughly where the object is. Set the pyramid to <b>Global</b> to see what is "
        "lost without patches.</p></div>"
        "<div><h3>4 · Refine</h3><p>A patch is a cell of a grid, not the object. The fast method also compares boxes of "
        "<b>every size and position</b> on each picture’s feature map; the best box is then aligned with visible edges. "
        "This step is ours, not the paper’s.</p></div></div>"
        '<ul class="pf-key" aria-label="What the colours mean">'
        '<li class="v-right"><b>✓ match, good box</b> the picture contains the object, and the box fits it (IoU, overlap ÷ union, of ½ or more)</li>'
        '<li class="v-off"><b>≈ match, poor box</b> the picture contains the object, but the box does not fit it</li>'
        '<li class="v-wrong"><b>✕ wrong object</b> the picture does not contain the object</li>'
        '<li class="v-unknown"><b>? not scored</b> the object is not known</li></ul></section>'
    )


def footer(note: str, encoder: str) -> str:
    """Whose method, whose pictures, whose weights."""
    return (
        '<footer class="pf-foot" id="pf-cite"><div><h2>The paper</h2><p>Choi, Lim, Hyeon-Woo, Ye-Bin, Jeong, Hwang, Oh: '
        "<cite>Patch-wise Retrieval: A Bag of Practical Techniques for Instance-level Matching</cite>, WACV 2026, "
        "arXiv 2512.12610. This is an independent implementation.</p>"
        f"<details><summary>BibTeX</summary><pre tabindex='0'>{escape(BIBTEX)}</pre></details>"
        '<p class="pf-cite"><button type="button" class="pf-btn ghost" data-do="bibtex">Copy BibTeX</button> '
        '<span role="status" aria-live="polite"></span></p></div>'
        f"<div><h2>The pictures</h2><p>{escape(note)}</p></div>"
        f"<div><h2>Model, code and privacy</h2><p>Encoder {escape(encoder)}: EfficientNet-Lite, ImageNet weights, Apache-2.0. Code: MIT. "
        "Your own pictures are kept for this visit only; nothing is sent to any other "
        'server. For programs: <a href="gradio_api/openapi.json">API</a>.</p></div></footer>'
    )
