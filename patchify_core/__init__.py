"""Patch-wise instance retrieval: find the gallery pictures that contain an object, and where in them it is.

A picture (`imaging`) becomes boxes (`regions`), boxes become descriptors (`encoders`, `features`), descriptors become
an index (`index`), a query becomes matches (`retrieval`), matches become a score (`evaluation`). `patchify` is the way
in; `cli`, `demo`, `web` and `bench` stand above it.

    from patchify_core import Patchify
    engine = Patchify.open("sample_db/index")
    matches = engine.search("sample_db/queries/C051.jpg", box=(180, 60, 470, 420))

Every error that a person can cause is a `PatchifyError` whose message is one sentence.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from patchify_core.version import __version__

if TYPE_CHECKING:
    from patchify_core.encoders import load_encoder
    from patchify_core.errors import PatchifyError
    from patchify_core.evaluation.run import evaluate
    from patchify_core.gallery import read_dataset, read_gallery
    from patchify_core.imaging.pictures import read_picture
    from patchify_core.index.build import BuildSettings, build_index
    from patchify_core.index.patch_index import PatchIndex
    from patchify_core.patchify import Patchify
    from patchify_core.regions import Pyramid, parse_regions
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.rerank import load_reranker


_HOME = {
    "BuildSettings": "index.build",
    "Match": "retrieval.ranking",
    "PatchIndex": "index.patch_index",
    "Patchify": "patchify",
    "PatchifyError": "errors",
    "Pyramid": "regions",
    "build_index": "index.build",
    "evaluate": "evaluation",
    "load_encoder": "encoders",
    "load_reranker": "retrieval.rerank",
    "parse_regions": "regions",
    "read_dataset": "gallery",
    "read_gallery": "gallery",
    "read_picture": "imaging.pictures",
}

__all__ = [
    "BuildSettings",
    "Match",
    "PatchIndex",
    "Patchify",
    "PatchifyError",
    "Pyramid",
    "__version__",
    "build_index",
    "evaluate",
    "load_encoder",
    "load_reranker",
    "parse_regions",
    "read_dataset",
    "read_gallery",
    "read_picture",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `--help` does not wait for numpy and torch."""
    if name == "draw":  # the module, as notebooks import it
        return importlib.import_module(f"{__name__}.imaging.draw")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
