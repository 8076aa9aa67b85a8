"""Lays the page out and wires its events. A visitor's question lives in `gr.State`, so visitors never meet."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal

from patchify_core.errors import PatchifyError, PictureError
from patchify_core.paths import ASSETS
from patchify_core.web import views
from patchify_core.web.showcase import Answer, Question, Showcase

UNKNOWN_OBJECT = "I don't know (no score)"
NOTICE = "That did not work"

FIRST_EXAMPLES = (
    "birthday cake",
    "potted fern",
    "traffic cone",
    "moka pot",
    "soccer ball",
    "gift box",
    "flowered teapot",
    "flowered creamer",
    "blue vase",
    "toy train",
    "headphones",
    "toy biplane",
)
"""Shown first: easy ones, look-alikes (the tea set, the blue pots) and two of the hardest."""


@dataclass(frozen=True)
class PageSettings:
    """What a person may tune about the page.

    Attributes:
        results: result cards shown at first.
        result_choices: numbers of cards that may be asked for.
        upload_mb: largest upload in megabytes.
        forget_s: seconds after which what a visitor sent is deleted.
    """

    results: int = 10
    result_choices: tuple[int, ...] = (5, 10, 20, 40)
    upload_mb: int = 30
    forget_s: int = 1800


def file_url(path: Path) -> str:
    """Address of a bundled picture on the page's own server."""
    return f"gradio_api/file={quote(path.as_posix())}"


class Page:
    """Handlers of one page over one showcase.

    Args:
        showcase: the bundled gallery.
        settings: see `PageSettings`.
    """

    def __init__(self, showcase: Showcase, settings: PageSettings | None = None) -> None:
        """Puts the examples into their order; nothing is computed yet."""
        self.showcase, self.settings = showcase, settings or PageSettings()
        gallery = showcase.gallery
        names = {query.id: gallery.name(query.instance) for query in gallery.queries}
        order = {name: number for number, name in enumerate(FIRST_EXAMPLES)}
        queries = sorted(gallery.queries, key=lambda query: order.get(names[query.id], len(order)))
        self.examples = [(query.id, names[query.id], query.path) for query in queries]
        self.objects = {
            name: instance for instance, name in sorted(gallery.instances.items(), key=lambda item: item[1])
        }

    # What is shown --------------------------------------------------------------------------------------

    def first_view(self) -> tuple[Question, Answer]:
        """The first example, searched with the paper's default."""
        question = self.showcase.example(self.examples[0][0])
        return question, self.showcase.answer(question, self.showcase.levels, self.settings.results)

    def shown(self, question: Question, level: int, top: int) -> list[Any]:
        """Values of all outputs for a new question."""
        answer = self.showcase.answer(question, level, top)
        name = self.object_name(question)
        return [
            question,
            views.query(question, file_url),
            views.examples(self.examples, question.example, file_url),
            gr.update(value=name or UNKNOWN_OBJECT),
            views.strip(answer, name),
            self.cards(answer),
            "",
            True,
        ]

    def cards(self, answer: Answer) -> str:
        """The result cards."""
        return views.cards(answer, self.picture, file_url)

    def picture(self, image_id: int) -> tuple[int, int, Path]:
        """Width, height and file of a gallery picture."""
        image = self.showcase.gallery.image(image_id)
        return image.width, image.height, image.path

    def object_name(self, question: Question) -> str | None:
        """Name of the object that the question is about, if it is known."""
        return None if question.instance is None else self.showcase.gallery.name(question.instance)

    # What a visitor does --------------------------------------------------------------------------------

    def pick_example(self, _question: Question | None, level: int, top: int, event: gr.EventData) -> list[Any]:
        """An example was clicked."""
        return self.shown(self.showcase.example(sent_id(event)), level, top)

    def take_upload(self, _question: Question | None, level: int, top: int, event: gr.EventData) -> list[Any]:
        """A picture was uploaded, dropped, pasted or taken."""
        return self.shown(self.showcase.upload(take_file(sent(event, "path"))), level, top)

    def draw_box(self, question: Question, level: int, top: int, event: gr.EventData) -> list[Any] | None:
        """A box was drawn, moved or resized, or the whole picture chosen; None changes nothing."""
        if sent(event, "picture") != question.key:
            # Drawn while another picture was on its way, which is there by now and must not get this box.
            return None
        return self.shown(self.showcase.with_box(question, sent(event, "box")), level, top)

    def search_again(self, question: Question, level: int, top: int, event: gr.EventData) -> list[Any]:
        """A result becomes the query: its winning box."""
        image_id = sent_id(event)
        found = self.showcase.detail(question, image_id, level, top)
        return self.shown(self.showcase.from_result(image_id, found.result.match.box, question.instance), level, top)

    def change_options(self, question: Question, level: int, top: int) -> list[Any]:
        """The grid or the number of results changed."""
        answer = self.showcase.answer(question, level, top)
        return [views.strip(answer, self.object_name(question)), self.cards(answer)]

    def name_object(self, question: Question, level: int, top: int, name: str) -> list[Any]:
        """The visitor said which object it is."""
        question = self.showcase.with_instance(question, self.objects.get(name))
        # The name goes back too: an answer that was under way meanwhile may have put the former one there.
        return [question, name, True, *self.change_options(question, level, top)]

    def look_into(self, question: Question, level: int, top: int, event: gr.EventData) -> str:
        """A result was clicked."""
        found = self.showcase.detail(question, sent_id(event), level, top)
        return views.detail(found, self.picture(found.result.match.image_id), question, file_url)


# What the browser sends is a stranger's: anything may be in it, or missing -----------------------------


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
        raise PatchifyError("The page sent no number of a picture: reload it.")
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
    return data


def noticed(handler: Callable[..., Any], first: Question, outputs: int, anew: bool = False) -> Callable[..., Any]:
    """Shows a refusal as a notice and leaves everything on the page as it was.

    Args:
        handler: takes question, level, top and more; None from it changes nothing on the page.
        first: the question of a page that was just opened.
        outputs: how many values the handler returns.
        anew: whether the handler asks something new, whatever was asked before.
    """

    def run(question: Question | None, level: int, top: int, started: bool, *more: Any) -> Any:
        try:
            if question is None and started and not anew:
                # The server forgets after a while, or was started again: it must not answer about another picture.
                raise PatchifyError("The server no longer knows what you asked: choose an example or reload the page.")
            if not level or not top:
                raise PatchifyError("The page sent no level or no number of results: reload it.")
            answer = handler(question or first, level, top, *more)
        except PatchifyError as error:
            gr.Warning(escape(str(error)), title=NOTICE)
            answer = None
        if answer is None:
            return gr.skip() if outputs == 1 else [gr.skip()] * outputs
        return answer

    return run


def with_event(handler: Callable[..., Any], first: Question, outputs: int, anew: bool = False) -> Callable[..., Any]:
    """As `noticed`, for handlers that read what the event carries."""
    guarded = noticed(handler, first, outputs, anew)

    def run(question: Question | None, level: int, top: int, started: bool, event: gr.EventData) -> Any:
        return guarded(question, level, top, started, event)

    return run


def build(showcase: Showcase, settings: PageSettings | None = None) -> gr.Blocks:
    """The page, with the first example already searched."""
    page = Page(showcase, settings)
    settings = page.settings
    question, answer = page.first_view()
    name = page.object_name(question)
    level_choices = [
        ("Global" if level == 1 else f"L{level - 1} · {level}×{level}", level)
        for level in range(1, showcase.levels + 1)
    ]
    private: dict[str, Any] = {"api_visibility": "private"}

    with gr.Blocks(
        title="Patchify: find an object, and where it is",
        delete_cache=(settings.forget_s // 3, settings.forget_s),
        analytics_enabled=False,
    ) as demo:
        # None until something is asked, and again once the server has forgotten it; `started` stays in the browser.
        state = gr.State(None, time_to_live=settings.forget_s * 2)
        started = gr.Checkbox(False, visible=False)
        plain: dict[str, Any] = {"container": False, "padding": False, "apply_default_css": False}
        gr.HTML(views.header(file_url(ASSETS / "logo.svg")), elem_id="pf-header", **plain)
        with gr.Row(elem_id="pf-main"):
            with gr.Column(elem_id="pf-left", scale=0, min_width=340):
                query = gr.HTML(
                    views.query(question, file_url), elem_id="pf-query", js_on_load=_script("query.js"), **plain
                )
                named = gr.Dropdown(
                    [UNKNOWN_OBJECT, *page.objects],
                    value=name,
                    label="Which object is it? (for the score)",
                    elem_id="pf-object",
                )
                examples = gr.HTML(
                    views.examples(page.examples, question.example, file_url),
                    elem_id="pf-examples",
                    js_on_load=_script("examples.js"),
                    **plain,
                )
            with gr.Column(elem_id="pf-right", min_width=320):
                with gr.Row(elem_id="pf-options"):
                    level = gr.Radio(
                        level_choices, value=showcase.levels, label="Pyramid: finest grid", elem_id="pf-level"
                    )
                    top = gr.Radio(
                        list(settings.result_choices), value=settings.results, label="Results", elem_id="pf-top"
                    )
                strip = gr.HTML(
                    views.strip(answer, name), elem_id="pf-strip", js_on_load=_script("options.js"), **plain
                )
                cards = gr.HTML(page.cards(answer), elem_id="pf-results", js_on_load=_script("results.js"), **plain)
        detail = gr.HTML("", elem_id="pf-detail", js_on_load=_script("detail.js"), **plain)
        gr.HTML(views.below(), elem_id="pf-below", **plain)
        gr.HTML(views.footer(len(page.showcase.gallery.images), page.showcase.index.encoder.spec), **plain)

        asked = [state, level, top, started]
        everything = [state, query, examples, named, strip, cards, detail, started]
        # One queue for all that asks, and nothing dropped: the answers come in the order of the questions, so the last
        # one is always what stays on the page.
        encode: dict[str, Any] = {
            "concurrency_id": "encoder",
            "concurrency_limit": 1,
            "trigger_mode": "multiple",
            "show_progress": "minimal",
            "show_progress_on": cards,
        }

        def on(event: Callable[..., Any], handler: Callable[..., Any], anew: bool = False) -> None:
            event(with_event(handler, question, len(everything), anew), asked, everything, **(encode | private))

        on(examples.example, page.pick_example, anew=True)
        on(query.picked, page.take_upload, anew=True)
        on(query.drawn, page.draw_box)
        on(cards.again, page.search_again)
        on(detail.again, page.search_again)
        look = with_event(page.look_into, question, 1)
        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple", **private}
        cards.look(look, asked, detail, concurrency_id="look", concurrency_limit=1, **quiet)
        detail.look(look, asked, detail, concurrency_id="look", concurrency_limit=1, **quiet)
        for option in (level, top):
            option.input(noticed(page.change_options, question, 2), asked, [strip, cards], **(encode | private))
        named.input(
            noticed(page.name_object, question, 5),
            [*asked, named],
            [state, named, started, strip, cards],
            **(encode | private),
        )
        query.refused(_say, None, None, **quiet)  # through the queue: without it, no notice reaches the page
    return demo


def _say(event: gr.EventData) -> None:
    """A notice for what the browser refused: a file that is too large, a camera that is not there."""
    gr.Warning(escape(str(sent(event, "message"))[:200]), title=NOTICE)


def _script(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
