"""What a visitor can take along: a link, the code of a frame for another page, and the results as files."""

from __future__ import annotations

from patchify_core.demo.links import PRIVATE

ENTRIES = (
    ("png", "Picture (PNG)", "for slides"),
    ("svg", "Vector (SVG)", "boxes stay sharp"),
    ("csv", "CSV", "for a spreadsheet"),
    ("json", "JSON", "all digits, all matches"),
)
"""Kinds of files, their names, and what they are for."""


def share() -> str:
    """The menu. It is a template of Gradio's, filled with nothing: its script does what is clicked."""
    files = "".join(
        f'<button type="button" class="pf-btn ghost" data-export="{kind}">{name} <small>{use}</small></button>'
        for kind, name, use in ENTRIES
    )
    return (
        '<details class="pf-share"><summary>Share</summary><div>'
        '<div class="pf-share-links"><p class="pf-share-head">A link to this query and its results</p>'
        '<div class="pf-share-row"><button type="button" class="pf-btn" data-export="link">Copy link</button>'
        '<button type="button" class="pf-btn ghost" data-export="embed">Copy embed code</button></div></div>'
        f'<p class="pf-share-none">{PRIVATE}</p>'
        '<input class="pf-share-text" type="text" readonly hidden aria-label="What was copied">'
        '<p class="pf-share-head">Save these results</p>'
        f'<div class="pf-share-row is-files">{files}</div>'
        '<p class="pf-share-said" role="status" aria-live="polite"></p></div></details>'
        '<p class="pf-share-frame"><b role="heading" aria-level="1">Patchify</b> <span>finds the pictures that contain one object, and shows where.</span> '
        '<a href="./" target="_blank" rel="noopener">Open in Patchify</a></p>'
    )
