"""Reads what the browser sends, in which anything may be wrong or missing, and turns refusals into notices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from patchify_core.demo.box_methods import WINNING
from patchify_core.demo.queries import UserQuery
from patchify_core.errors import PatchifyError
from patchify_core.web.paths import without_folders

NOTICE = "That did not work"
NO_RERANKING = "none"


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """A query with its options; every event of the search tab comes with one.

    Attributes:
        query: The visitor's current query.
        level: Number of the stage to search with, from 1, as the page has it.
        top: Number of results.
        reranker: Name of a re-ranker, or None.
        box_method: Method of finding boxes (`box_methods`), as the page has it.
        expired: Whether the server has dropped the query, so that `query` is that of a page just opened.
    """

    query: UserQuery
    level: int
    top: int
    reranker: str | None
    box_method: str
    expired: bool = False


def refusal(sentence: str) -> gr.Error:
    """Return an error that reaches the sender, page or program, as this sentence, without a traceback in the log."""
    return gr.Error(sentence, title=NOTICE, print_exception=False)


def warn(message: str) -> None:
    """Show a notice."""
    gr.Warning(escape(without_folders(message)), title=NOTICE)


def event_value(event: gr.EventData, name: str) -> Any:
    """Return a value that an event carries; None if it carries none of that name."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def event_picture(event: gr.EventData) -> int:
    """Return the id of the picture or example that an event is about.

    Raises:
        PatchifyError: If there is none.
    """
    value = event_value(event, "id")
    if not isinstance(value, int):
        raise PatchifyError("The page sent no picture number: reload it.")
    return value


@dataclass(frozen=True, eq=False)
class Guard:
    """Makes Gradio handlers from the visitors' actions: a refusal becomes a notice and leaves the page as it is.

    Attributes:
        first: The query of a page just opened.
        renewed: Brings a query up to date, see `Visits.renewed`.
        parts: Components of the page by the names under which actions return new values.
    """

    first: UserQuery
    renewed: Callable[[UserQuery], UserQuery]
    parts: Mapping[str, Any]

    def values(
        self,
        handler: Callable[..., Any],
        anew: bool = False,
        otherwise: Callable[[UserQuery], Any] | None = None,
        elsewhere: bool = False,
    ) -> Callable[..., Any]:
        """Return a function that takes the fields of `SearchRequest`, `started` and the handler's further arguments.

        Args:
            handler: Takes a `SearchRequest` and more; None from it changes nothing on the page.
            anew: Whether it starts a new query, so that it does not matter whether the old one still exists.
            otherwise: Returns what to show after a refusal; by default nothing changes.
            elsewhere: Whether it switches to another gallery, which must work from one that no longer exists.
        """

        def run(
            query: UserQuery | None,
            level: int | None,
            top: int | None,
            reranker: str | None,
            box_method: str | None,
            started: bool,
            *more: Any,
        ) -> Any:
            try:
                if query is None and started and not anew:
                    # Queries expire, or the server was restarted: do not answer with another query.
                    raise PatchifyError("The server no longer has your query: choose an example or reload the page.")
                if not level or not top:
                    raise PatchifyError("The page sent no level or no number of results: reload it.")
                chosen = None if reranker in (None, NO_RERANKING) else reranker
                current, lost = self.first, False
                try:
                    current = self.first if query is None else self.renewed(query)
                except PatchifyError:  # it no longer exists; a new query can be made all the same
                    if not anew and not elsewhere:
                        raise
                    lost = True
                expired = lost or (query is None and started)
                box_method = box_method if isinstance(box_method, str) else WINNING
                answer = handler(SearchRequest(current, level, top, chosen, box_method, expired), *more)
            except PatchifyError as error:
                warn(str(error))
                answer = None
            return self._placed(otherwise(query or self.first) if answer is None and otherwise else answer)

        return run

    def event(self, handler: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """As `values`, for a handler that also takes the event."""
        guarded = self.values(handler, **options)

        def run(
            query: UserQuery | None,
            level: int | None,
            top: int | None,
            reranker: str | None,
            box_method: str | None,
            started: bool,
            event: gr.EventData,
        ) -> Any:
            return guarded(query, level, top, reranker, box_method, started, event)

        return run

    def named(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function for a handler that takes only values and never refuses."""
        return lambda *values: self._placed(handler(*values))

    def _placed(self, answer: Any) -> Any:
        """Replace names by components; None changes nothing, and the value of a single output stays as it is."""
        if answer is None:
            return gr.skip()
        return {self.parts[name]: value for name, value in answer.items()} if isinstance(answer, dict) else answer


def warn_from_browser(event: gr.EventData) -> None:
    """Show a notice about something that the browser refused: a file that is too large, a missing camera."""
    warn(str(event_value(event, "message"))[:200])
