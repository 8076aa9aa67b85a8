"""The HTML of the page.

Each view fills a template, which escapes every text. Boxes are drawn in percent of the picture, so that they fit at any
size and stay sharp on any screen.
"""

from patchify_core.web.views.compression import controls, effect, gallery, training
from patchify_core.web.views.detail import detail
from patchify_core.web.views.evaluation import evaluation, trial
from patchify_core.web.views.html import render
from patchify_core.web.views.search import about, cards, examples, loading, query, strip
from patchify_core.web.views.story import story

__all__ = [
    "about",
    "cards",
    "controls",
    "detail",
    "effect",
    "evaluation",
    "examples",
    "gallery",
    "loading",
    "query",
    "render",
    "story",
    "strip",
    "training",
    "trial",
]
