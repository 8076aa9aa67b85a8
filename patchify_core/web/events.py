"""Reads what the browser sends, in which anything may be wrong or missing. Refusals become notices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal

from patchify_core.demo.box_methods import WINNING
from patchify_core.demo.queries import UserQuery
from patchify_core.errors import PatchifyError, PictureError
from patchify_core.web.places import without_places
from patchify_core.web.uploads import forget_folders

NOTICE = "That did not work"
NO_RERANKING = "none"


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """What every event of the search comes with.

    Attributes:
        query: the visitor's query at present.
        level: number of the stage to search with, from 1, as the page has it.
        top: result cards.
        reranker: name of a re-ranker, or None.
        box_method: how boxes are found (`box_methods`), as the page has it.
        forgotten: the server no longer knew the query, so `query` is that of a page that was just opened.
    """

    query: UserQuery
    level: int
    top: int
    reranker: str | None
    box_method: str
    forgotten: bool = False


def warn(message: str) -> None:
    """Shows a notice."""
    gr.Warning(escape(without_places(message)), title=NOTICE)


def sent(event: gr.EventData, name: str) -> Any:
    """What an event carries under a name; None where it carries nothing of that name."""
    return event._data.get(name) if isinstance(event._data, dict) else None


def sent_id(event: gr.EventData) -> int:
    """The picture or example that an event is about.

    Raises:
        PatchifyError: if the event names none.
    """
    value = sent(event, "id")
    if not isinstance(value, int):
        raise PatchifyError("The page sent no picture number: reload it.")
    return value


def take_file(path: Any) -> bytes:
    """Reads an upload and deletes its file, so that nobody can ask the server for it.

    Args:
        path: where the browser says that its upload went; believed only inside the folder that uploads go to.

    Raises:
        PictureError: if there is no upload.
    """
    try:
        if not isinstance(path, str) or not is_in_or_equal(path, get_upload_folder()):
            raise FileNotFoundError
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: no file can have such a name
        raise PictureError("The upload did not arrive: send the picture again.") from error
    with suppress(OSError):  # the sweep of old files gets what is in use now
        Path(path).unlink()
    forget_folders(Path(path), Path(get_upload_folder()))
    return data


@dataclass(frozen=True, eq=False)
class Guard:
    """Stands between the page and what can be done on it: a refusal becomes a notice and leaves the page as it was.

    Attributes:
        first: the query of a page that was just opened.
        renewed: the visitor's query as it can be asked now.
        parts: components of the page by the names under which handlers return new values.
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
        """What Gradio calls with the fields of `SearchRequest` and `started`, and with what the handler takes besides.

        Args:
            handler: takes `SearchRequest` and more; None from it changes nothing on the page.
            anew: whether it asks something new, whatever was asked before.
            otherwise: what is returned after a refusal; by default nothing changes.
            elsewhere: whether it leads to another gallery, also from one that is gone.
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
                    # The server forgets after a while, or was started again: it must not answer about another picture.
                    raise PatchifyError("The server no longer has your query: choose an example or reload the page.")
                if not level or not top:
                    raise PatchifyError("The page sent no level or no number of results: reload it.")
                chosen = None if reranker in (None, NO_RERANKING) else reranker
                now, lost = self.first, False
                try:
                    now = self.first if query is None else self.renewed(query)
                except PatchifyError:  # what was asked is gone; something new may be asked all the same
                    if not anew and not elsewhere:
                        raise
                    lost = True
                forgotten = lost or (query is None and started)
                asked = SearchRequest(
                    now, level, top, chosen, box_method if isinstance(box_method, str) else WINNING, forgotten
                )
                answer = handler(asked, *more)
            except PatchifyError as error:
                warn(str(error))
                answer = None
            return self._placed(otherwise(query or self.first) if answer is None and otherwise else answer)

        return run

    def event(self, handler: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """As `values`, for a handler that reads what the event carries."""
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
        """What Gradio calls for a handler that refuses nothing and returns values by name."""
        return lambda *values: self._placed(handler(*values))

    def _placed(self, answer: Any) -> Any:
        """Values by component; None is no change at all, and a single output's value is returned as it is."""
        if answer is None:
            return gr.skip()
        return {self.parts[name]: value for name, value in answer.items()} if isinstance(answer, dict) else answer


def say(event: gr.EventData) -> None:
    """A notice for what the browser refused: a file that is too large, a camera that is not there."""
    warn(str(sent(event, "message"))[:200])
