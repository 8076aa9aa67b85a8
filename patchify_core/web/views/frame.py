"""The frame of the page: its head, how the method works, and whose work it is."""

from __future__ import annotations

from html import escape

from patchify_core.web.front import BIBTEX


def header(logo: str) -> str:
    """Name, promise, and the switch between light and dark."""
    return (
        '<a class="pf-skip" href="#pf-results">Skip to the results</a>'
        f'<header class="pf-head"><img src="{escape(logo)}" alt="" width="34" height="34"><div><h1>Patchify</h1>'
        "<p>Show it <b>one object</b>: it finds the pictures that hold it, and <b>where</b>.</p></div>"
        '<nav aria-label="Page"><a href="#pf-cite">Cite</a>'
        '<button type="button" class="pf-btn ghost" data-do="theme" aria-label="Switch between light and dark">◐</button>'
        "</nav></header>"
    )


def below() -> str:
    """What the method does, in four steps, and what the colours mean."""
    return (
        '<section class="pf-how" id="pf-how"><div class="wk-head"><h2>How it works, in short</h2>'
        '<button type="button" class="pf-btn ghost" data-tab="how-it-works">Step by step, with your own question</button></div>'
        '<div class="pf-steps">'
        "<div><h3>1 · Cut</h3><p>Each gallery picture is cut into grids: 1×1, 2×2, 3×3 and 4×4 cells, 30 patches in all. "
        "A small object fills a small cell, so it is no longer drowned by the rest of the picture.</p></div>"
        "<div><h3>2 · Describe</h3><p>A neural network that has never seen these objects turns every patch, and the box "
        "that you draw, into a list of numbers. What looks alike gets similar numbers.</p></div>"
        "<div><h3>3 · Compare</h3><p>A picture scores as high as its <b>best</b> patch. Pictures are ranked by that "
        "score, and the winning patch says about where the object is. Set the pyramid to <b>Global</b> to see what is "
        "lost without patches.</p></div>"
        "<div><h3>4 · Refine</h3><p>A patch is a cell of a grid, not the object. Where the index keeps what the network "
        "saw of each picture, boxes of <b>every size and place</b> are compared too, and the best one ends where "
        "something ends. This step is ours, not the paper’s.</p></div></div>"
        '<ul class="pf-key" aria-label="What the colours mean">'
        '<li class="v-right"><b>✓ found, box right</b> the picture holds the object, and the box fits it (IoU, overlap ÷ union, of ½ or more)</li>'
        '<li class="v-off"><b>≈ found, box off</b> the picture holds the object, but the box fits it badly</li>'
        '<li class="v-wrong"><b>✕ another object</b> the picture does not hold the object</li>'
        '<li class="v-unknown"><b>? not scored</b> nobody has said what the object is</li></ul></section>'
    )


def footer(pictures: int, encoder: str) -> str:
    """Whose method, whose pictures, whose weights."""
    return (
        '<footer class="pf-foot" id="pf-cite"><div><h2>The paper</h2><p>Choi, Lim, Hyeon-Woo, Ye-Bin, Jeong, Hwang, Oh: '
        "<cite>Patch-wise Retrieval: A Bag of Practical Techniques for Instance-level Matching</cite>, WACV 2026, "
        "arXiv 2512.12610. This is an independent implementation.</p>"
        f"<details><summary>BibTeX</summary><pre tabindex='0'>{escape(BIBTEX)}</pre></details>"
        '<p class="pf-cite"><button type="button" class="pf-btn ghost" data-do="bibtex">Copy BibTeX</button> '
        '<span role="status" aria-live="polite"></span></p></div>'
        f"<div><h2>The pictures</h2><p>The {pictures} gallery pictures and the queries are <b>renders</b> (Blender Cycles, "
        "CC BY 4.0, with the credits of sample_db/ATTRIBUTION.md), apart from 8 photographs. Their boxes are exact.</p></div>"
        f"<div><h2>The rest</h2><p>Encoder {escape(encoder)}: EfficientNet-Lite, ImageNet weights, Apache-2.0. Code: MIT. "
        "Your own pictures are on this server for your visit alone and are then deleted; nothing is sent anywhere "
        'else. Programs can ask too: <a href="gradio_api/openapi.json">API</a>.</p></div></footer>'
    )
