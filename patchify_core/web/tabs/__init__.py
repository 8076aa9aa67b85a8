"""The tabs of the page, one module each; `search` is the first and always there.

To add one, write its module with a function that makes its components (called inside the tab), and list it in `MORE`.
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from patchify_core.web.tabs.compression import build_compression_tab
from patchify_core.web.tabs.evaluation import build_evaluation_tab
from patchify_core.web.tabs.search import build_own_tab
from patchify_core.web.tabs.walk import build_walk_tab
from patchify_core.web.visits import Visits

Build = Callable[[Visits, gr.State, gr.Tab], None]
"""Takes what visitors can do, the state that holds a visitor's `UserQuery` (None at first, which
means `showcase.first()`), and the tab itself, whose `select` says when it is opened."""

MORE: tuple[tuple[str, Build], ...] = (
    ("How it works", build_walk_tab),
    ("Your pictures", build_own_tab),
    ("Evaluation", build_evaluation_tab),
    ("Compression", build_compression_tab),
)
"""(title, function) of the tabs after the search."""
