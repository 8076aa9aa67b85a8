"""Lays the page out and wires its events. A visitor's question lives in `gr.State`, so visitors never meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder, is_in_or_equal

from patchify_core.boxes import as_boxes
from patchify_core.errors import PatchifyError, PictureError
from patchify_core.paths import ASSETS
from patchify_core.web import views
from patchify_core.web.showcase import Answer, Question, Showcase

UNKNOWN_OBJECT = "I don't know (no score)"

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

    def pick_example(self, _question: Question, level: int, top: int, event: gr.EventData) -> list[Any]:
        """An example was clicked."""
        return self.shown(self.showcase.example(int(event._data["id"])), level, top)

    def take_upload(self, _question: Question, level: int, top: int, event: gr.EventData) -> list[Any]:
        """A picture was uploaded, dropped, pasted or taken."""
        path = Path(str(event._data["path"]))
        # The browser names the file, so it is believed only inside the folder that uploads go to.
        if not is_in_or_equal(path, get_upload_folder()) or not path.is_file():
            raise PictureError("The upload did not arrive: send the picture again.")
        return self.shown(self.showcase.upload(path.read_bytes()), level, top)

    def draw_box(self, question: Question, level: int, top: int, event: gr.EventData) -> list[Any]:
        """A box was drawn, moved or resized, or the whole picture chosen."""
        box = event._data.get("box")
        region = None if box is None else as_boxes(np.array(box, float))[0]
        return self.shown(self.showcase.with_box(question, region), level, top)

    def search_again(self, question: Question, level: int, top: int, event: gr.EventData) -> list[Any]:
        """A result becomes the query: its winning box."""
        image_id = int(event._data["id"])
        found = self.showcase.detail(question, image_id, level, top)
        return self.shown(self.showcase.from_result(image_id, found.result.match.box, question.instance), level, top)

    def change_options(self, question: Question, level: int, top: int) -> list[Any]:
        """The grid or the number of results changed."""
        answer = self.showcase.answer(question, level, top)
        return [views.strip(answer, self.object_name(question)), self.cards(answer)]

    def name_object(self, question: Question, level: int, top: int, name: str) -> list[Any]:
        """The visitor said which object it is."""
        question = self.showcase.with_instance(question, self.objects.get(name))
        return [question, *self.change_options(question, level, top)]

    def look_into(self, question: Question, level: int, top: int, event: gr.EventData) -> str:
        """A result was clicked."""
        found = self.showcase.detail(question, int(event._data["id"]), level, top)
        return views.detail(found, self.picture(found.result.match.image_id), question, file_url)


def noticed(handler: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    """Shows a refusal as a notice and leaves everything on the page as it was."""

    def run(*arguments: Any) -> Any:
        try:
            if arguments and arguments[0] is None:
                raise PatchifyError("This page was left alone for too long: reload it.")
            return handler(*arguments)
        except PatchifyError as error:
            gr.Warning(str(error), title="That did not work")
            return gr.skip() if outputs == 1 else [gr.skip()] * outputs

    return run


def with_event(handler: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    """As `noticed`, for handlers that read what the event carries."""
    guarded = noticed(handler, outputs)

    def run(question: Question, level: int, top: int, event: gr.EventData) -> Any:
        return guarded(question, int(level), int(top), event)

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
        state = gr.State(question, time_to_live=settings.forget_s * 2)
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
                strip = gr.HTML(views.strip(answer, name), elem_id="pf-strip", **plain)
                cards = gr.HTML(page.cards(answer), elem_id="pf-results", js_on_load=_script("results.js"), **plain)
        detail = gr.HTML("", elem_id="pf-detail", js_on_load=_script("detail.js"), **plain)
        gr.HTML(views.below(), elem_id="pf-below", **plain)
        gr.HTML(views.footer(len(page.showcase.gallery.images), page.showcase.index.encoder.spec), **plain)

        asked = [state, level, top]
        everything = [state, query, examples, named, strip, cards, detail]
        encode: dict[str, Any] = {"concurrency_id": "encoder", "concurrency_limit": 1, **private}
        busy: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": cards}

        def on(event: Callable[..., Any], handler: Callable[..., Any], **more: Any) -> None:
            event(with_event(handler, len(everything)), asked, everything, **(encode | busy | more))

        on(examples.example, page.pick_example)
        on(query.picked, page.take_upload)
        on(query.drawn, page.draw_box, trigger_mode="always_last")
        on(cards.again, page.search_again)
        on(detail.again, page.search_again)
        look = with_event(page.look_into, 1)
        quiet: dict[str, Any] = {"show_progress": "hidden", **private}
        cards.look(look, asked, detail, **quiet)
        detail.look(look, asked, detail, **quiet)
        for option in (level, top):
            option.input(
                noticed(page.change_options, 2), asked, [strip, cards], trigger_mode="always_last", **(private | busy)
            )
        named.input(noticed(page.name_object, 3), [*asked, named], [state, strip, cards], **(private | busy))
        query.refused(_say, None, None, queue=False, **quiet)
    return demo


def _say(event: gr.EventData) -> None:
    """A notice for what the browser refused: a file that is too large, a camera that is not there."""
    gr.Warning(str(event._data.get("message", ""))[:200], title="That did not work")


def _script(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
