"""What a re-ranker is given, what it must do, and what a verification leaves behind for the page to draw."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from patchify_core.errors import PatchifyError
from patchify_core.files import sha256_of_file
from patchify_core.retrieval.rerank.expansion import QueryExpansion
from patchify_core.retrieval.rerank.names import INSTALL
from patchify_core.retrieval.searcher import QueryView

if TYPE_CHECKING:
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import QueryView, Searcher


class Reranker(Protocol):
    """Orders a shortlist anew.

    Attributes:
        name: as `load_reranker` takes it, e.g. `patch-qe+sift`.
        shortlist: how many matches it needs to do its work; a search fetches at least these.
        needs_picture: whether the query must be a picture.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def shortlist(self) -> int: ...  # noqa: D102

    @property
    def needs_picture(self) -> bool: ...  # noqa: D102

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """Orders matches anew.

        Args:
            engine: index, encoder and, through its root, the original pictures.
            query: see `QueryView`.
            matches: best first, as `Searcher.search_descriptor` gives them; not changed.
            level: the level that they were found at; None for all of the index's.

        Returns:
            As many matches, best first.

        Raises:
            PatchifyError: one sentence, if the query is words and pictures are compared.
            IndexFolderError: if a picture of the shortlist has vanished or changed since it was indexed.
        """
        ...


# Optional packages of learned local features -------------------------------------------------------------------


def import_extra(module: str, method: str) -> ModuleType:
    """Imports an optional package.

    Raises:
        PatchifyError: one sentence with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PatchifyError(
            f"Re-ranking with {method} needs packages that are not here ({error.name or module}): install them with "
            f"{INSTALL}, or use sift, which needs none."
        ) from error


def weights_file(package: str, folder: str, name: str, sha256: str) -> Path:
    """A weights file inside an installed package, once its digest has been compared.

    The packages would fetch a missing file from the web; this program never does that behind a person's back.

    Raises:
        PatchifyError: if the file is missing or another one.
    """
    path = Path(str(resources.files(package))) / folder / name
    if not path.is_file() or sha256_of_file(path) != sha256:
        raise PatchifyError(
            f"The package {package} lacks {name}, or has other weights than this version knows: install the pinned "
            f"one with {INSTALL}."
        )
    return path


# One re-ranker after another -------------------------------------------------------------------------------------


class Chain:
    """Hands each re-ranker's answer to the next one.

    A re-ranker that follows an expansion sees the expanded query's descriptor, because the scores it gets are
    similarities with that one.

    Args:
        parts: at least one re-ranker, the first to work first.
    """

    def __init__(self, parts: Sequence[Reranker]) -> None:
        """Keeps them."""
        self.parts = tuple(parts)

    @property
    def name(self) -> str:
        """The parts' names with a plus between them."""
        return "+".join(part.name for part in self.parts)

    @property
    def shortlist(self) -> int:
        """The most that any part needs."""
        return max(part.shortlist for part in self.parts)

    @property
    def needs_picture(self) -> bool:
        """Whether any part does."""
        return any(part.needs_picture for part in self.parts)

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """See `Reranker.rerank`."""
        for part in self.parts:
            following = query
            if isinstance(part, QueryExpansion):
                following = replace(query, descriptor=part.expand(engine, query, matches))
            matches = part.rerank(engine, query, matches, level)
            query = following
        return matches
