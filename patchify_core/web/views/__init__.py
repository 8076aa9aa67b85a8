"""The HTML of what the page shows.

Each view fills a template, which escapes every text. Boxes are drawn in percent of the picture, so they fit it at any size and
stay sharp on any screen.
"""

from patchify_core.web.views.compression import controls, effect, gallery, training
from patchify_core.web.views.detail import detail
from patchify_core.web.views.frame import below, footer, galleries, header, own, share
from patchify_core.web.views.html import FileUrl, place
from patchify_core.web.views.search import about, cards, examples, loading, query, strip
from patchify_core.web.views.story import story
from patchify_core.web.views.trial import trial
from patchify_core.web.views.trials import evaluation

__all__ = [
    "FileUrl",
    "about",
    "below",
    "cards",
    "controls",
    "detail",
    "effect",
    "evaluation",
    "examples",
    "footer",
    "galleries",
    "gallery",
    "header",
    "loading",
    "own",
    "place",
    "query",
    "share",
    "story",
    "strip",
    "training",
    "trial",
]
