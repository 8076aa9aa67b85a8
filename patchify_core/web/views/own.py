"""The frame of the tab for a visitor's own pictures; its script fills it."""

from __future__ import annotations

from patchify_core.demo.settings import PageSettings


def own(settings: PageSettings, offered: bool) -> str:
    """The tab before anything was sent.

    Args:
        settings: how much may be sent.
        offered: whether this server takes pictures at all.
    """
    if not offered:
        return '<p class="pf-lead">This server does not accept pictures of your own.</p>'
    minutes = settings.forget_s // 60
    return (
        '<section class="pf-own" aria-label="Your pictures"><div class="pf-own-left">'
        "<h2>Search your own pictures</h2>"
        '<p class="pf-lead">Holiday photos, a catalogue, frames of a video: add them, and search them like the '
        "bundled gallery. <b>Only you see them.</b></p>"
        '<div class="pf-drop"><p><b>Drop pictures, a folder or a zip here</b></p><div class="pf-tools">'
        '<button type="button" class="pf-btn" data-do="files">Choose pictures</button>'
        '<button type="button" class="pf-btn ghost" data-do="folder">Choose a folder</button>'
        '<button type="button" class="pf-btn ghost" data-do="zip">Choose a zip</button></div>'
        f"<small>Up to {settings.own_pictures:,} pictures or {settings.own_mb:,} MB; each picture up to {settings.upload_mb} MB, "
        f"a zip up to {settings.archive_mb} MB. You can also restore an index that you downloaded here.</small>"
        '<input type="file" data-for="files" accept="image/*,.heic,.heif,.hif,.avif,.jfif,.mpo" multiple hidden tabindex="-1" aria-label="Choose pictures">'
        '<input type="file" data-for="folder" webkitdirectory multiple hidden tabindex="-1" aria-label="Choose a folder">'
        '<input type="file" data-for="zip" accept=".zip" hidden tabindex="-1" aria-label="Choose a zip"></div>'
        '<div class="pf-own-progress"><p role="status" data-is="said">No pictures yet.</p>'
        '<progress max="1" value="0" aria-label="Pictures indexed"></progress>'
        '<div class="pf-tools"><button type="button" class="pf-btn ghost" data-do="cancel" hidden>Cancel</button>'
        '<button type="button" class="pf-btn" data-do="go-on" hidden>Continue</button></div></div>'
        '<p class="pf-own-notice" role="alert" hidden></p>'
        '<details class="pf-fold pf-own-skipped" hidden><summary></summary><ul></ul></details>'
        '<div class="pf-tools pf-own-actions" hidden><button type="button" class="pf-btn" data-do="search">Search them</button>'
        '<a class="pf-btn ghost" data-is="index" href="#" download>Download the index</a>'
        '<a class="pf-btn ghost" data-is="boxes" href="#" download>Download the boxes</a>'
        '<button type="button" class="pf-btn ghost" data-do="delete">Delete everything</button></div>'
        f'<p class="pf-note">They are kept for this visit only and deleted when you close the page, after '
        f"{minutes} idle minutes, or when you click Delete.</p></div>"
        '<div class="pf-own-right"><div class="pf-own-empty"><ol>'
        "<li><b>Add pictures.</b> You can search the first ones while the others are being indexed.</li>"
        "<li><b>Search.</b> Click a picture, draw a box around an object, and find the other pictures that contain it.</li>"
        "<li><b>Score (optional).</b> Draw a box around the same object on a few pictures to see AP and LocScore: whole "
        "pictures against patches, on your own data.</li></ol></div>"
        '<div class="pf-own-look" hidden><div class="pf-own-pane"><div class="pf-draw pf-own-stage"><img alt="" draggable="false">'
        '<div class="pf-own-boxes"></div></div></div>'
        '<div class="pf-own-side"><h3 data-is="name"></h3><p class="pf-note" data-is="hint">Draw a box around one object.</p>'
        '<label class="pf-field"><span>What is it called?</span><input type="text" maxlength="60" list="pf-own-objects" '
        'data-is="object" placeholder="e.g. blue mug" autocomplete="off"></label><datalist id="pf-own-objects"></datalist>'
        '<div class="pf-tools"><button type="button" class="pf-btn ghost" data-do="save">Save the box</button>'
        '<button type="button" class="pf-btn" data-do="search-this">Search with this picture</button></div>'
        '<ul class="pf-own-marks"></ul></div></div>'
        '<section class="pf-own-score" hidden><h3>Score on your boxes</h3>'
        '<p class="pf-note">Each box is used as a query, excluding its own picture. The other pictures with a box of that name '
        "are the correct results; all others count as wrong.</p>"
        '<div class="pf-tools"><button type="button" class="pf-btn ghost" data-do="score">Score</button>'
        '<p role="status" data-is="scored"></p></div><div data-is="scores"></div></section>'
        '<ol class="pf-own-grid" aria-label="Your pictures"></ol>'
        '<div class="pf-tools"><button type="button" class="pf-btn ghost" data-do="more" hidden>Show more</button></div>'
        "</div></section>"
    )
