"""The tabs of the page, one module each; `search` is the first and always there.

To add one, write its module with a function that makes its components (called inside the tab), and list it in `MORE`:

    MORE = (("Evaluation", lambda showcase, state: build_evaluation_tab(showcase)),
            ("Compression", build_compression_tab))
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from patchify_core.web.showcase import Showcase

Build = Callable[[Showcase, gr.State], None]
"""Takes the showcase, which all visitors share, and the state that holds a visitor's `Question` (None at first, which
means `showcase.first()`)."""

MORE: tuple[tuple[str, Build], ...] = ()
"""(title, function) of the tabs after the search."""
