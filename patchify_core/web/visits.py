"""What a visitor does on the search tab: each action goes from what is asked to what is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.index import PatchIndex
from patchify_core.web import locating, stages, views
from patchify_core.web.answers import Answer
from patchify_core.web.events import NO_RERANKING, Asked, sent, sent_id, take_file, warn
from patchify_core.web.questions import Question
from patchify_core.web.reranking import NAMES
from patchify_core.web.settings import PageSettings
from patchify_core.web.showcase import Showcase

UNKNOWN_OBJECT = "I don't know (no score)"


def file_url(path: Path) -> str:
    """Address of a bundled picture on the page's own server."""
    return f"gradio_api/file={quote(path.as_posix())}"


class Visits:
    """What visitors can do, over one showcase.

    Args:
        showcase: the bundled gallery.
        settings: see `PageSettings`.
    """

    def __init__(self, showcase: Showcase, settings: PageSettings | None = None) -> None:
        """Takes the names of examples and objects; nothing is computed yet."""
        self.showcase, self.settings = showcase, settings or PageSettings()
        gallery = showcase.gallery
        self.examples = [(query.id, gallery.name(query.instance), query.path) for query in showcase.examples]
        self.objects = {
            name: instance for instance, name in sorted(gallery.instances.items(), key=lambda item: item[1])
        }

    def at(self, question: Question | None) -> Showcase:
        """Where a question is answered: gallery, indexes and annotations; None means that of a page just opened."""
        return self.showcase

    # What is shown --------------------------------------------------------------------------------------

    def first_view(self) -> tuple[Question, Answer]:
        """The first example, searched with all patches and shown with the best boxes there are."""
        question = self.showcase.first()
        way = locating.best_way(self.showcase.index)
        return question, self.answer(Asked(question, self.showcase.levels, self.settings.results, None, way))

    def answer(self, asked: Asked) -> Answer:
        """Searches.

        A level or a kind of box that the index does not have, because another one was left, means its best. Where a map
        to search a box on turns out to be damaged, a notice says so and boxes are soft.
        """
        level = min(asked.level, self.showcase.levels_of(asked.question.engine))
        way = self.way(asked)
        try:
            return self.showcase.answer(asked.question, level, asked.top, asked.reranker, way)
        except IndexFolderError as error:
            if way != locating.MAP:
                raise
            warn(str(error))
            return self.showcase.answer(asked.question, level, asked.top, asked.reranker, locating.SOFT)

    def way(self, asked: Asked) -> str:
        """How boxes are found: as asked, or in the best way that the index allows."""
        index = self.index_of(asked)
        return asked.way if locating.is_possible(asked.way, index) else locating.best_way(index)

    def shown(self, question: Question, asked: Asked) -> list[Any]:
        """Values of all outputs for a new question, asked with the level and options of the former one."""
        answer = self.answer(replace(asked, question=question))
        name = self.object_name(question)
        changed = asked.forgotten or question.engine != asked.question.engine
        return [
            question,
            views.query(question, file_url),
            views.examples(self.examples, question.example, file_url),
            gr.update(value=name or UNKNOWN_OBJECT),
            views.strip(answer, name, question.words is not None),
            self.cards(answer),
            "",
            True,
            *(self.engine_parts(question.engine, answer.level) if changed else [gr.skip()] * 3),
            answer.way if changed else self.box_choice(asked, answer),
        ]

    def engine_parts(self, engine: str, level: int) -> list[Any]:
        """Values of the parts that depend on the encoder: its choice, the levels, and the box for words."""
        return [
            gr.update(value=engine, interactive=True),
            gr.update(choices=self.level_choices(engine), value=level, label=self.level_label(engine)),
            gr.update(visible=self.showcase.shelf.knows_words(engine)),
        ]

    def box_choice(self, asked: Asked, answer: Answer) -> Any:
        """Value of the choice of boxes: what is shown, where that is not what was asked for."""
        return gr.skip() if answer.way == asked.way else answer.way

    def index_of(self, asked: Asked) -> PatchIndex:
        """The index that is asked."""
        return self.showcase.shelf.offer(asked.question.engine).index

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

    def level_label(self, engine: str | None = None) -> str:
        """What the choice of level is called: an index need not hold a pyramid."""
        found = self.showcase.shelf.offer(engine or self.showcase.shelf.first).index.regions.stages
        return "Pyramid: finest grid" if all(map(stages.grid_of, found)) else "Patches"

    def level_choices(self, engine: str | None = None) -> list[tuple[str, int]]:
        """(label, number) of the stages of an index."""
        found = self.showcase.shelf.offer(engine or self.showcase.shelf.first).index.regions.stages
        return [(stages.option(found, number), number) for number in range(1, len(found) + 1)]

    def engine_choices(self) -> list[tuple[str, str]]:
        """(label, name) of the indexes; the choice is shown only if there are several."""
        return [(offer.label, name) for name, offer in self.showcase.shelf.offers.items()]

    def box_choices(self) -> list[tuple[str, str]]:
        """(label, name) of the ways to a box; which of them an index allows is said when one is chosen."""
        return [(label, way) for way, label in locating.NAMES.items()]

    def rerank_choices(self) -> list[tuple[str, str]]:
        """(label, name) of the re-rankers that this machine has."""
        return [("none", NO_RERANKING), *((NAMES[name], name) for name in self.showcase.rerankers.names)]

    # What a visitor does --------------------------------------------------------------------------------

    def pick_example(self, asked: Asked, event: gr.EventData) -> list[Any]:
        """An example was clicked."""
        return self.shown(self.showcase.example(sent_id(event), asked.question.engine), asked)

    def take_upload(self, asked: Asked, event: gr.EventData) -> list[Any]:
        """A picture was uploaded, dropped, pasted or taken."""
        data = take_file(sent(event, "path"))
        return self.shown(self.showcase.upload(data, engine=asked.question.engine), asked)

    def say_words(self, asked: Asked, words: Any) -> list[Any]:
        """Words were typed."""
        return self.shown(self.showcase.in_words(words, asked.question.engine), asked)

    def draw_box(self, asked: Asked, event: gr.EventData) -> list[Any] | None:
        """A box was drawn, moved or resized, or the whole picture chosen; None changes nothing."""
        if sent(event, "picture") != asked.question.key:
            # Drawn while another picture was on its way, which is there by now and must not get this box.
            return None
        return self.shown(self.showcase.with_box(asked.question, sent(event, "box")), asked)

    def search_again(self, asked: Asked, event: gr.EventData) -> list[Any]:
        """A result becomes the query: its winning box."""
        image_id, question = sent_id(event), asked.question
        answer = self.answer(asked)
        found = self.showcase.detail(
            question, image_id, answer.level, asked.top, asked.reranker, answer.way, with_map=False
        )
        box = found.result.match.box
        return self.shown(self.showcase.from_result(image_id, box, question.instance, question.engine), asked)

    def change_options(self, asked: Asked) -> list[Any]:
        """The grid or the number of results changed."""
        answer = self.answer(asked)
        name, in_words = self.object_name(asked.question), asked.question.words is not None
        return [views.strip(answer, name, in_words), self.cards(answer), self.box_choice(asked, answer)]

    def change_box(self, asked: Asked) -> list[Any]:
        """Another kind of box was chosen; where the index does not allow it, it is the best that it does."""
        try:
            locating.checked_way(asked.way, self.index_of(asked))
        except PatchifyError as error:
            warn(str(error))
        return self.change_options(asked)

    def change_reranking(self, asked: Asked) -> list[Any]:
        """Another re-ranker was chosen; one that cannot be used leaves none."""
        try:
            return [*self.change_options(asked), gr.skip()]
        except PatchifyError as error:
            warn(str(error))
            return [*self.change_options(replace(asked, reranker=None)), NO_RERANKING]

    def name_object(self, asked: Asked, name: str) -> list[Any]:
        """The visitor said which object it is."""
        question = self.showcase.with_instance(asked.question, self.objects.get(name))
        # The name goes back too: an answer that was under way meanwhile may have put the former one there.
        return [
            question,
            name,
            True,
            *self.change_options(replace(asked, question=question)),
        ]

    def look_into(self, asked: Asked, event: gr.EventData) -> str:
        """A result was clicked."""
        level = min(asked.level, self.showcase.levels_of(asked.question.engine))
        way = self.way(asked)
        options = (asked.question, sent_id(event), level, asked.top, asked.reranker)
        try:
            found = self.showcase.detail(*options, way)
        except IndexFolderError as error:  # the map is damaged: all but what needs it is shown
            warn(str(error))
            way = locating.SOFT if way == locating.MAP else way
            found = self.showcase.detail(*options, way, with_map=False)
        return views.detail(found, self.picture(found.result.match.image_id), asked.question, file_url)

    # Another encoder, in three steps: say so; load it, while others go on searching; then, in turn, use it ---

    def announce_engine(self, engine: str) -> list[Any]:
        """Another encoder was chosen. Until it is in use no further one can be."""
        offer = self.showcase.shelf.offer(engine)
        return [gr.update(interactive=False), views.loading(offer, self.showcase.shelf.is_loaded(engine))]

    def load_engine(self, engine: str) -> None:
        """Loads its encoder; if that cannot be had, the last step finds it not loaded and goes back."""
        try:
            self.showcase.shelf.engine(engine)
        except PatchifyError as error:
            warn(str(error))

    def use_engine(self, asked: Asked, engine: str) -> list[Any]:
        """Asks the visitor's question of the chosen index."""
        if not self.showcase.shelf.is_loaded(engine):  # a notice has said why
            return self.keep_engine(asked.question)
        question = self.showcase.with_engine(asked.question, engine)
        before, after = self.showcase.levels_of(asked.question.engine), self.showcase.levels_of(engine)
        level = after if asked.level >= before else min(asked.level, after)
        index = self.showcase.shelf.offer(engine).index
        way = locating.fitting_way(asked.way, self.index_of(asked), index)
        return [*self.shown(question, replace(asked, level=level, way=way, forgotten=True)), ""]

    def keep_engine(self, question: Question) -> list[Any]:
        """The choice goes back to the encoder of the question; nothing else changes."""
        kept = gr.update(value=question.engine, interactive=True)
        return [*[gr.skip()] * 8, kept, *[gr.skip()] * 3, ""]
