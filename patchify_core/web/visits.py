"""What a visitor does on the search tab: each action takes the query and its options, and gives what is shown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from patchify_core.demo import box_methods, decoding, stages
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.own.collection import natural
from patchify_core.demo.own.gallery import OwnGallery, own_index_choice, own_picture_url, pictures_gone
from patchify_core.demo.queries import OWN, UserQuery
from patchify_core.demo.reranking import NAMES
from patchify_core.demo.results import Answer
from patchify_core.demo.settings import PageSettings
from patchify_core.demo.storage import StoredPicture, VisitorStorage
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.gallery import Gallery
from patchify_core.index.patch_index import PatchIndex
from patchify_core.web import views
from patchify_core.web.events import NO_RERANKING, SearchRequest, sent, sent_id, take_file, warn
from patchify_core.web.served import address_of

if TYPE_CHECKING:
    from patchify_core.demo.own.registry import Registry
    from patchify_core.regions import Stage

OWN_ID = 1_000_000_000
"""Added to the ids of a visitor's own pictures, so that they are not taken for those of examples."""

OWN_SHOWN = 60
"""Of a visitor's own pictures that are shown as examples."""

UNKNOWN_OBJECT = "I don't know (no score)"

Parts = dict[str, Any]
"""New values of the parts of the page that change, by the names that `tabs.search` has for them."""


def file_url(path: Path) -> str:
    """Address of a picture on the page's own server; that of a visitor's own has the visitor's token in it."""
    return own_picture_url(path) or address_of(path)


class Visits:
    """What visitors can do, over one showcase.

    Args:
        showcase: the bundled gallery.
        settings: see `PageSettings`.
        own: visitors' own pictures; None if the page takes none.
    """

    def __init__(
        self, showcase: ExampleGallery, settings: PageSettings | None = None, own: Registry | None = None
    ) -> None:
        self.showcase, self.settings, self.own = showcase, settings or PageSettings(), own
        self.storage = VisitorStorage(self.settings) if own is None else own.storage
        gallery = showcase.gallery
        self.examples = [(query.id, gallery.name(query.instance), query.path) for query in showcase.examples]
        self.objects = _by_name(gallery)
        self._turns = itertools.count(1)

    def at(self, question: UserQuery | None) -> ExampleGallery:
        """Where a query is answered: gallery, indexes and annotations; None means that of a page just opened.

        Raises:
            PatchifyError: if it asks a visitor's own pictures, and they are not there any more.
        """
        return self.showcase if question is None else self.at_index(question.engine)

    def at_index(self, engine: str) -> ExampleGallery:
        """Where the index of this name is; see `at`."""
        own = self.own.gallery_of(engine) if self.own is not None and isinstance(engine, str) else None
        return own or self.showcase

    def renewed(self, question: UserQuery) -> UserQuery:
        """The query as it can be searched now: more of a visitor's own pictures may be indexed than before."""
        if isinstance(question.data, StoredPicture):
            question.data.touch()
        place = self.at(question)
        return place.welcome(question) if isinstance(place, OwnGallery) else question

    # What is shown --------------------------------------------------------------------------------------

    def first_view(self) -> tuple[UserQuery, Answer]:
        """The first example, searched with all patches and shown with the best boxes there are."""
        question = self.showcase.first()
        way = box_methods.best_method(self.showcase.index)
        return question, self.answer(SearchRequest(question, self.showcase.levels, self.settings.results, None, way))

    def answer(self, asked: SearchRequest) -> Answer:
        """Searches.

        A level or a kind of box that the index does not have, because another one was left, means its best. Where a map
        to search a box on turns out to be damaged, a notice says so and boxes are soft.
        """
        place = self.at(asked.question)
        level = min(asked.level, place.levels_of(asked.question.engine))
        way = self.way(asked)
        try:
            return place.answer(asked.question, level, asked.top, asked.reranker, way)
        except IndexFolderError as error:
            if way != box_methods.MAP:
                raise
            warn(str(error))
            return place.answer(asked.question, level, asked.top, asked.reranker, box_methods.SOFT)

    def way(self, asked: SearchRequest) -> str:
        """How boxes are found: as chosen, or in the best way that the index allows."""
        index = self.index_of(asked)
        return asked.way if box_methods.is_possible(asked.way, index) else box_methods.best_method(index)

    def shown(self, question: UserQuery, asked: SearchRequest) -> Parts:
        """A new query, searched with the level and options of the former one."""
        answer = self.answer(replace(asked, question=question))
        changed = asked.forgotten or question.engine != asked.question.engine
        return {
            "question": question,
            "query": views.query(question, file_url),
            "examples": self.thumbnails(question),
            "object": self.object_choice(asked.question, question, self.object_name(question)),
            "detail": "",
            "started": True,
            **(self.engine_parts(question.engine, answer.level, asked.question.engine) if changed else {}),
            **self.results(answer, question),
            **({"box": answer.way} if changed or answer.way != asked.way else {}),
        }

    def results(self, answer: Answer, question: UserQuery) -> Parts:
        """The scores and the result cards."""
        return {"strip": self.strip(answer, question), "cards": self.cards(answer, question)}

    def engine_parts(self, engine: str, level: int, before: str = "") -> Parts:
        """What depends on the encoder: its choice, the levels, and the box for words."""
        own = next((name for name in map(own_index_choice, (engine, before)) if name), None)
        choices: dict[str, Any] = {} if own is None else {"choices": self.engine_choices(own)}
        return {
            "engine": gr.update(value=own_index_choice(engine) or engine, interactive=True, **choices),
            "level": gr.update(choices=self.level_choices(engine), value=level, label=self.level_label(engine)),
            "words": gr.update(visible=self.at_index(engine).indexes.understands_text(engine)),
        }

    def thumbnails(self, question: UserQuery) -> str:
        """The examples, or a visitor's own pictures while those are searched."""
        place = self.at(question)
        if not isinstance(place, OwnGallery):
            return views.examples(self.examples, question.example, file_url)
        marked = set(place.gallery.annotations.image_ids.tolist())
        images = sorted(place.gallery.images, key=lambda image: (image.id not in marked, natural(image.file_name)))
        shown = [(OWN_ID + image.id, image.file_name, image.path) for image in images[:OWN_SHOWN]]
        return views.examples(shown, None if question.itself is None else OWN_ID + question.itself, file_url)

    def object_choice(self, before: UserQuery, question: UserQuery, name: str | None) -> Any:
        """The choice of object: other galleries have other objects, and a visitor may have named more by now."""
        known = self.objects_at(question)
        same = question.engine == before.engine and not question.is_private
        choices: dict[str, Any] = {} if same else {"choices": [UNKNOWN_OBJECT, *known]}
        return gr.update(value=name or UNKNOWN_OBJECT, **choices)

    def objects_at(self, question: UserQuery) -> dict[str, int]:
        """Name -> id of the objects among which a query's may be."""
        place = self.at(question)
        return self.objects if place is self.showcase else _by_name(place.gallery)

    def index_of(self, asked: SearchRequest) -> PatchIndex:
        """The index that is searched."""
        return self.at(asked.question).indexes.choice(asked.question.engine).index

    def strip(self, answer: Answer, question: UserQuery) -> str:
        """The scores of an answer, in the words that fit the query."""
        name, own = self.object_name(question), isinstance(self.at(question), OwnGallery)
        return views.strip(answer, name, question.words is not None, own, question.is_private)

    def cards(self, answer: Answer, question: UserQuery | None = None) -> str:
        """The result cards."""
        return views.cards(answer, partial(self.picture, question=question), file_url)

    def picture(self, image_id: int, question: UserQuery | None = None) -> tuple[int, int, Path]:
        """Width, height and file of a picture of the gallery that is searched; the bundled one by default."""
        image = self.at(question).gallery.image(image_id)
        return image.width, image.height, image.path

    def object_name(self, question: UserQuery) -> str | None:
        """Name of the object that the query is about, if it is known."""
        return None if question.instance is None else self.at(question).gallery.name(question.instance)

    def level_label(self, engine: str | None = None) -> str:
        """The label of the choice of level: an index need not have a pyramid."""
        found = self._stages(engine)
        return "Pyramid: finest grid" if all(map(stages.grid_of, found)) else "Patches"

    def level_choices(self, engine: str | None = None) -> list[tuple[str, int]]:
        """(label, number) of the stages of an index."""
        found = self._stages(engine)
        return [(stages.option(found, number), number) for number in range(1, len(found) + 1)]

    def engine_choices(self, own: str | None = None) -> list[tuple[str, str]]:
        """(label, name) of the indexes; the choice is shown only if there are several.

        Args:
            own: what a visitor's own index is chosen by (`own_index_choice`), if there is one.
        """
        found = [(offer.label, name) for name, offer in self.showcase.indexes.choices.items()]
        place = None if own is None else self.at_index(own)
        return [*found, (place.label, own)] if own is not None and isinstance(place, OwnGallery) else found

    def _stages(self, engine: str | None) -> Sequence[Stage]:
        name = engine or self.showcase.indexes.first
        return self.at_index(name).indexes.choice(name).index.regions.stages

    def box_choices(self) -> list[tuple[str, str]]:
        """(label, name) of the kinds of box; a notice says so where the index does not allow the chosen one."""
        return [(label, way) for way, label in box_methods.NAMES.items()]

    def rerank_choices(self) -> list[tuple[str, str]]:
        """(label, name) of the re-rankers that this machine has."""
        return [("none", NO_RERANKING), *((NAMES[name], name) for name in self.showcase.rerankers.names)]

    # What a visitor does --------------------------------------------------------------------------------

    def pick_example(self, asked: SearchRequest, event: gr.EventData) -> Parts:
        """An example was clicked."""
        identifier, place = sent_id(event), self.at(asked.question)
        if identifier <= OWN_ID:
            return self.shown(place.example(identifier, asked.question.engine), asked)
        if isinstance(place, OwnGallery):
            return self.shown(place.picture(identifier - OWN_ID), asked)
        warn(str(pictures_gone()))  # thumbnails of pictures that were deleted: the page begins anew
        return self.shown(self.showcase.first(), replace(asked, forgotten=True))

    def take_upload(self, asked: SearchRequest, event: gr.EventData) -> Parts:
        """A picture was uploaded, dropped, pasted or taken."""
        held = self.storage.store(take_file(sent(event, "path")), decoding.request_context.sender())
        return self.shown(self.at(asked.question).upload(held, engine=asked.question.engine), asked)

    def keep_query(self, question: UserQuery) -> Parts:
        """An upload was refused: the query is drawn anew, so that its preview goes."""
        return {"query": views.query(question, file_url, next(self._turns))}

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.storage.close_visit(str(request.session_hash or ""))

    def say_words(self, asked: SearchRequest, words: Any) -> Parts:
        """Words were typed."""
        return self.shown(self.at(asked.question).in_words(words, asked.question.engine), asked)

    def draw_box(self, asked: SearchRequest, event: gr.EventData) -> Parts | None:
        """A box was drawn, moved or resized, or the whole picture chosen; None changes nothing."""
        if sent(event, "picture") != asked.question.key:
            # Drawn while another picture was on its way, which is there by now and must not get this box.
            return None
        return self.shown(self.at(asked.question).with_box(asked.question, sent(event, "box")), asked)

    def search_again(self, asked: SearchRequest, event: gr.EventData) -> Parts:
        """A result becomes the query: its winning box."""
        image_id, question = sent_id(event), asked.question
        answer, place = self.answer(asked), self.at(question)
        found = place.detail(question, image_id, answer.level, asked.top, asked.reranker, answer.way, with_map=False)
        box = found.result.match.box
        return self.shown(place.from_result(image_id, box, question.instance, question.engine), asked)

    def change_options(self, asked: SearchRequest) -> Parts:
        """The grid or the number of results changed."""
        answer = self.answer(asked)
        boxes = {} if answer.way == asked.way else {"box": answer.way}  # what is shown, not what cannot be
        return self.results(answer, asked.question) | boxes

    def change_box(self, asked: SearchRequest) -> Parts:
        """Another kind of box was chosen; where the index does not allow it, it is the best that it does."""
        try:
            box_methods.checked_method(asked.way, self.index_of(asked))
        except PatchifyError as error:
            warn(str(error))
        return self.change_options(asked)

    def change_reranking(self, asked: SearchRequest) -> Parts:
        """Another re-ranker was chosen; one that cannot be used leaves none."""
        try:
            return self.change_options(asked)
        except PatchifyError as error:
            warn(str(error))
            return self.change_options(replace(asked, reranker=None)) | {"rerank": NO_RERANKING}

    def name_object(self, asked: SearchRequest, name: str) -> Parts:
        """The visitor chose which object the query shows."""
        instance = self.objects_at(asked.question).get(name)
        question = self.at(asked.question).with_instance(asked.question, instance)
        # The name goes back too: an answer that was under way meanwhile may have put the former one there.
        known = {"question": question, "object": name, "started": True}
        return known | self.change_options(replace(asked, question=question))

    def look_into(self, asked: SearchRequest, event: gr.EventData) -> str:
        """A result was clicked."""
        place = self.at(asked.question)
        level = min(asked.level, place.levels_of(asked.question.engine))
        way = self.way(asked)
        options = (asked.question, sent_id(event), level, asked.top, asked.reranker)
        try:
            found = place.detail(*options, way)
        except IndexFolderError as error:  # the map is damaged: all but what needs it is shown
            warn(str(error))
            way = box_methods.SOFT if way == box_methods.MAP else way
            found = place.detail(*options, way, with_map=False)
        shown = self.picture(found.result.match.image_id, asked.question)
        return views.detail(found, shown, asked.question, file_url)

    # Another encoder, in three steps: say so; load it, while others go on searching; then, in turn, use it ---

    def announce_engine(self, engine: str) -> Parts:
        """Another encoder was chosen. Until it is in use no further one can be."""
        try:
            shelf = self.at_index(engine).indexes
            loading = views.loading(shelf.choice(engine), shelf.is_loaded(engine))
            return {"engine": gr.update(interactive=False), "status": loading}
        except PatchifyError:  # said in the next step
            return {"status": ""}

    def load_engine(self, engine: str) -> None:
        """Loads its encoder; if that cannot be had, the last step finds it not loaded and goes back."""
        try:
            self.at_index(engine).indexes.engine(engine)
        except PatchifyError as error:
            warn(str(error))

    def use_engine(self, asked: SearchRequest, engine: str) -> Parts:
        """Asks the visitor's query of the chosen index."""
        place, there = self.at(asked.question), self.at_index(engine)
        if not there.indexes.is_loaded(engine):  # a notice has said why
            return self.keep_engine(asked.question)
        if isinstance(there, OwnGallery):
            question = there.welcome(asked.question)
        elif isinstance(place, OwnGallery):
            question = self._taken_out(asked.question, engine)
        else:
            question = there.with_engine(asked.question, engine)
        return self._moved(question, asked) | {"status": ""}

    def keep_engine(self, question: UserQuery) -> Parts:
        """The choice goes back to the encoder of the query; nothing else changes."""
        return {
            "engine": gr.update(value=own_index_choice(question.engine) or question.engine, interactive=True),
            "status": "",
        }

    # A visitor's own pictures ---------------------------------------------------------------------------

    def know_own(self, event: gr.EventData) -> Any:
        """Some of a visitor's pictures are indexed, so that they can be chosen."""
        own = f"{OWN}:{sent(event, 'token')}"
        try:
            return gr.update(choices=self.engine_choices(own), visible=True)
        except PatchifyError:  # deleted meanwhile: whoever chooses them is told
            return gr.skip()

    def search_own(self, asked: SearchRequest, event: gr.EventData) -> Parts:
        """One of a visitor's pictures becomes the query, in all of them; without one, the query stays."""
        name = sent(event, "name")
        own = f"{OWN}:{sent(event, 'token')}"
        place = self.at_index(own)
        if not isinstance(place, OwnGallery) or self.own is None:
            raise PatchifyError("The page sent no token of your pictures: reload it.")
        if isinstance(name, str):
            question = place.picture(self.own.visitor(sent(event, "token")).collection.named(name).id)
            if sent(event, "box") is not None:  # drawn, and maybe not saved
                question = place.with_box(question, sent(event, "box"))
        else:
            question = place.welcome(asked.question)
        return self._moved(question, asked)

    def _moved(self, question: UserQuery, asked: SearchRequest) -> Parts:
        """A query to another index: what was the best level or box stays the best."""
        before, after = len(self._stages(asked.question.engine)), len(self._stages(question.engine))
        level = after if asked.level >= before else min(asked.level, after)
        way = box_methods.fitting_method(
            asked.way, self.index_of(asked), self.index_of(replace(asked, question=question))
        )
        return self.shown(question, replace(asked, level=level, way=way, forgotten=True))

    def _taken_out(self, question: UserQuery, engine: str) -> UserQuery:
        """A query in a visitor's own pictures moves to a bundled index: their picture becomes an upload."""
        if question.words is not None:
            return self.showcase.in_words(question.words, engine)
        if question.path is None or own_picture_url(question.path) is None:
            plain = replace(question, instance=None, itself=None, engine=engine)
            return self.showcase.with_box(plain, question.box)
        held = self.storage.store(question.path.read_bytes(), decoding.request_context.sender())
        asked = self.showcase.upload(held, question.name, engine)
        return asked if question.box is None else self.showcase.with_box(asked, question.box)


def _by_name(gallery: Gallery) -> dict[str, int]:
    return {name: instance for instance, name in sorted(gallery.instances.items(), key=lambda item: item[1])}
