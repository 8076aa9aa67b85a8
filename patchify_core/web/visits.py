"""The visitors' actions on the search tab: each takes the query with its options, and returns what the page shows."""

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
from patchify_core.web.events import NO_RERANKING, SearchRequest, event_picture, event_value, warn
from patchify_core.web.paths import address_of
from patchify_core.web.uploads import take_upload

if TYPE_CHECKING:
    from patchify_core.demo.own.registry import Registry
    from patchify_core.regions import Stage

OWN_ID = 1_000_000_000
"""Offset of the ids of a visitor's own pictures, which distinguishes them from those of examples."""

OWN_SHOWN = 60
"""Number of a visitor's own pictures shown as examples."""

UNKNOWN_OBJECT = "I don't know (no score)"

Parts = dict[str, Any]
"""Name of a part of the page, as in `tabs.search` -> its new value; parts that are missing do not change."""


def file_url(path: Path) -> str:
    """Return the address of a picture on this server; that of a visitor's own picture contains their token."""
    return own_picture_url(path) or address_of(path)


class Visits:
    """The actions on one bundled gallery and the visitors' own pictures.

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
        """Return the gallery that a query searches; None is the query of a page just opened.

        Raises:
            PatchifyError: if it searches a visitor's own pictures, and they no longer exist.
        """
        return self.showcase if question is None else self.at_index(question.engine)

    def at_index(self, engine: str) -> ExampleGallery:
        """Return the gallery with the index of this name; see `at`."""
        own = self.own.gallery_of(engine) if self.own is not None and isinstance(engine, str) else None
        return own or self.showcase

    def renewed(self, question: UserQuery) -> UserQuery:
        """Bring a query up to date: more of a visitor's own pictures may be indexed than before."""
        if isinstance(question.data, StoredPicture):
            question.data.touch()
        place = self.at(question)
        return place.welcome(question) if isinstance(place, OwnGallery) else question

    # Rendering ------------------------------------------------------------------------------------------

    def first_view(self) -> tuple[UserQuery, Answer]:
        """Search the first example with all patches and the best available boxes."""
        question = self.showcase.first()
        way = box_methods.best_method(self.showcase.index)
        return question, self.answer(SearchRequest(question, self.showcase.levels, self.settings.results, None, way))

    def answer(self, request: SearchRequest) -> Answer:
        """Search.

        A level or a kind of box that the index does not have, because the visitor came from another one, means its
        best. If a feature map is damaged, a notice says so and boxes are soft.
        """
        place = self.at(request.question)
        level = min(request.level, place.levels_of(request.question.engine))
        way = self.way(request)
        try:
            return place.answer(request.question, level, request.top, request.reranker, way)
        except IndexFolderError as error:
            if way != box_methods.MAP:
                raise
            warn(str(error))
            return place.answer(request.question, level, request.top, request.reranker, box_methods.SOFT)

    def way(self, request: SearchRequest) -> str:
        """Return the method of finding boxes: the chosen one, or the best that the index allows."""
        index = self.index_of(request)
        return request.way if box_methods.is_possible(request.way, index) else box_methods.best_method(index)

    def shown(self, question: UserQuery, request: SearchRequest) -> Parts:
        """Search a new query with the level and options of the last one."""
        answer = self.answer(replace(request, question=question))
        changed = request.expired or question.engine != request.question.engine
        return {
            "question": question,
            "query": views.query(question, file_url),
            "examples": self.thumbnails(question),
            "object": self.object_choice(request.question, question, self.object_name(question)),
            "detail": "",
            "started": True,
            **(self.engine_parts(question.engine, answer.level, request.question.engine) if changed else {}),
            **self.results(answer, question),
            **({"box": answer.way} if changed or answer.way != request.way else {}),
        }

    def results(self, answer: Answer, question: UserQuery) -> Parts:
        """Render the scores and the result cards."""
        return {"strip": self.strip(answer, question), "cards": self.cards(answer, question)}

    def engine_parts(self, engine: str, level: int, before: str = "") -> Parts:
        """Return what depends on the index: its choice, the levels, and the text box."""
        own = next((name for name in map(own_index_choice, (engine, before)) if name), None)
        choices: dict[str, Any] = {} if own is None else {"choices": self.engine_choices(own)}
        return {
            "engine": gr.update(value=own_index_choice(engine) or engine, interactive=True, **choices),
            "level": gr.update(choices=self.level_choices(engine), value=level, label=self.level_label(engine)),
            "words": gr.update(visible=self.at_index(engine).indexes.understands_text(engine)),
        }

    def thumbnails(self, question: UserQuery) -> str:
        """Render the examples, or the visitor's own pictures if those are searched."""
        place = self.at(question)
        if not isinstance(place, OwnGallery):
            return views.examples(self.examples, question.example, file_url)
        marked = set(place.gallery.annotations.image_ids.tolist())
        images = sorted(place.gallery.images, key=lambda image: (image.id not in marked, natural(image.file_name)))
        shown = [(OWN_ID + image.id, image.file_name, image.path) for image in images[:OWN_SHOWN]]
        return views.examples(shown, None if question.itself is None else OWN_ID + question.itself, file_url)

    def object_choice(self, before: UserQuery, question: UserQuery, name: str | None) -> Any:
        """Return the choice of object: other galleries have other objects, and a visitor may have named more."""
        known = self.objects_at(question)
        same = question.engine == before.engine and not question.is_private
        choices: dict[str, Any] = {} if same else {"choices": [UNKNOWN_OBJECT, *known]}
        return gr.update(value=name or UNKNOWN_OBJECT, **choices)

    def objects_at(self, question: UserQuery) -> dict[str, int]:
        """Return name -> id of the objects in the gallery that a query searches."""
        place = self.at(question)
        return self.objects if place is self.showcase else _by_name(place.gallery)

    def index_of(self, request: SearchRequest) -> PatchIndex:
        """Return the index that is searched."""
        return self.at(request.question).indexes.choice(request.question.engine).index

    def strip(self, answer: Answer, question: UserQuery) -> str:
        """Render the scores of an answer."""
        name, own = self.object_name(question), isinstance(self.at(question), OwnGallery)
        return views.strip(answer, name, question.words is not None, own, question.is_private)

    def cards(self, answer: Answer, question: UserQuery | None = None) -> str:
        """Render the result cards."""
        return views.cards(answer, partial(self.picture, question=question), file_url)

    def picture(self, image_id: int, question: UserQuery | None = None) -> tuple[int, int, Path]:
        """Return width, height and file of a picture of the searched gallery; the bundled one by default."""
        image = self.at(question).gallery.image(image_id)
        return image.width, image.height, image.path

    def object_name(self, question: UserQuery) -> str | None:
        """Return the name of the query's object, if it is known."""
        return None if question.instance is None else self.at(question).gallery.name(question.instance)

    def level_label(self, engine: str | None = None) -> str:
        """Return the label of the choice of level: an index need not have a pyramid."""
        return "Pyramid: finest grid" if all(map(stages.grid_of, self._stages(engine))) else "Patches"

    def level_choices(self, engine: str | None = None) -> list[tuple[str, int]]:
        """Return (label, number) of the stages of an index."""
        index_stages = self._stages(engine)
        return [(stages.option(index_stages, number), number) for number in range(1, len(index_stages) + 1)]

    def engine_choices(self, own: str | None = None) -> list[tuple[str, str]]:
        """Return (label, name) of the indexes; the page shows the choice only if there are several.

        Args:
            own: name of the visitor's own index (`own_index_choice`), if there is one.
        """
        choices = [(choice.label, name) for name, choice in self.showcase.indexes.choices.items()]
        place = None if own is None else self.at_index(own)
        return [*choices, (place.label, own)] if own is not None and isinstance(place, OwnGallery) else choices

    def _stages(self, engine: str | None) -> Sequence[Stage]:
        name = engine or self.showcase.indexes.first
        return self.at_index(name).indexes.choice(name).index.regions.stages

    def box_choices(self) -> list[tuple[str, str]]:
        """Return (label, name) of the kinds of box, whether or not the index allows them."""
        return [(label, way) for way, label in box_methods.NAMES.items()]

    def rerank_choices(self) -> list[tuple[str, str]]:
        """Return (label, name) of the re-rankers that are installed."""
        return [("none", NO_RERANKING), *((NAMES[name], name) for name in self.showcase.rerankers.names)]

    # Actions --------------------------------------------------------------------------------------------

    def pick_example(self, request: SearchRequest, event: gr.EventData) -> Parts:
        """Search an example that was clicked."""
        identifier, place = event_picture(event), self.at(request.question)
        if identifier <= OWN_ID:
            return self.shown(place.example(identifier, request.question.engine), request)
        if isinstance(place, OwnGallery):
            return self.shown(place.picture(identifier - OWN_ID), request)
        warn(str(pictures_gone()))  # thumbnails of deleted pictures: start again with the first example
        return self.shown(self.showcase.first(), replace(request, expired=True))

    def take_upload(self, request: SearchRequest, event: gr.EventData) -> Parts:
        """Search a picture that was uploaded, dropped, pasted or taken."""
        stored = self.storage.store(take_upload(event_value(event, "path")), decoding.request_context.sender())
        return self.shown(self.at(request.question).upload(stored, engine=request.question.engine), request)

    def keep_query(self, question: UserQuery) -> Parts:
        """Render the query again after an upload was refused, so that its preview disappears."""
        return {"query": views.query(question, file_url, next(self._turns))}

    def leave(self, request: gr.Request) -> None:
        """Release what belongs to a visit: the page was closed."""
        self.storage.close_visit(str(request.session_hash or ""))

    def search_words(self, request: SearchRequest, words: Any) -> Parts:
        """Search words that were typed."""
        return self.shown(self.at(request.question).in_words(words, request.question.engine), request)

    def draw_box(self, request: SearchRequest, event: gr.EventData) -> Parts | None:
        """Search another box of the query, or the whole picture; None changes nothing."""
        if event_value(event, "picture") != request.question.key:
            # Drawn on the last picture while this one was being loaded.
            return None
        return self.shown(self.at(request.question).with_box(request.question, event_value(event, "box")), request)

    def search_again(self, request: SearchRequest, event: gr.EventData) -> Parts:
        """Search the box of a result."""
        image_id, question = event_picture(event), request.question
        answer, place = self.answer(request), self.at(question)
        detail = place.detail(
            question, image_id, answer.level, request.top, request.reranker, answer.way, with_map=False
        )
        box = detail.result.match.box
        return self.shown(place.from_result(image_id, box, question.instance, question.engine), request)

    def change_options(self, request: SearchRequest) -> Parts:
        """Search with another grid or number of results."""
        answer = self.answer(request)
        boxes = {} if answer.way == request.way else {"box": answer.way}
        return self.results(answer, request.question) | boxes

    def change_box(self, request: SearchRequest) -> Parts:
        """Show another kind of box, or the best that the index allows."""
        try:
            box_methods.checked_method(request.way, self.index_of(request))
        except PatchifyError as error:
            warn(str(error))
        return self.change_options(request)

    def change_reranking(self, request: SearchRequest) -> Parts:
        """Search with another re-ranker, or without one if it cannot be used."""
        try:
            return self.change_options(request)
        except PatchifyError as error:
            warn(str(error))
            return self.change_options(replace(request, reranker=None)) | {"rerank": NO_RERANKING}

    def name_object(self, request: SearchRequest, name: str) -> Parts:
        """Score the results for the object that the visitor chose."""
        instance = self.objects_at(request.question).get(name)
        question = self.at(request.question).with_instance(request.question, instance)
        # Include the name: an answer that was under way may have restored the old one.
        known = {"question": question, "object": name, "started": True}
        return known | self.change_options(replace(request, question=question))

    def look_into(self, request: SearchRequest, event: gr.EventData) -> str:
        """Show the details of a result that was clicked."""
        place = self.at(request.question)
        level = min(request.level, place.levels_of(request.question.engine))
        way = self.way(request)
        options = (request.question, event_picture(event), level, request.top, request.reranker)
        try:
            detail = place.detail(*options, way)
        except IndexFolderError as error:  # the map is damaged: show everything else
            warn(str(error))
            way = box_methods.SOFT if way == box_methods.MAP else way
            detail = place.detail(*options, way, with_map=False)
        picture = self.picture(detail.result.match.image_id, request.question)
        return views.detail(detail, picture, request.question, file_url)

    # Another encoder, in three steps: announce it; load it, outside the queue of searches; search with it -----

    def announce_engine(self, engine: str) -> Parts:
        """Show that another encoder is being loaded; until it is in use no other one can be chosen."""
        try:
            indexes = self.at_index(engine).indexes
            loading = views.loading(indexes.choice(engine), indexes.is_loaded(engine))
            return {"engine": gr.update(interactive=False), "status": loading}
        except PatchifyError:  # the next step reports it
            return {"status": ""}

    def load_engine(self, engine: str) -> None:
        """Load the encoder of an index; if that fails, the last step finds it missing and restores the choice."""
        try:
            self.at_index(engine).indexes.engine(engine)
        except PatchifyError as error:
            warn(str(error))

    def use_engine(self, request: SearchRequest, engine: str) -> Parts:
        """Search the visitor's query in the chosen index."""
        place, there = self.at(request.question), self.at_index(engine)
        if not there.indexes.is_loaded(engine):  # a notice said why
            return self.keep_engine(request.question)
        if isinstance(there, OwnGallery):
            question = there.welcome(request.question)
        elif isinstance(place, OwnGallery):
            question = self._as_upload(request.question, engine)
        else:
            question = there.with_engine(request.question, engine)
        return self._moved(question, request) | {"status": ""}

    def keep_engine(self, question: UserQuery) -> Parts:
        """Restore the choice to the index of the query."""
        return {
            "engine": gr.update(value=own_index_choice(question.engine) or question.engine, interactive=True),
            "status": "",
        }

    # A visitor's own pictures ---------------------------------------------------------------------------

    def know_own(self, event: gr.EventData) -> Any:
        """Offer the visitor's own pictures, some of which are indexed now."""
        own = f"{OWN}:{event_value(event, 'token')}"
        try:
            return gr.update(choices=self.engine_choices(own), visible=True)
        except PatchifyError:  # deleted meanwhile
            return gr.skip()

    def search_own(self, request: SearchRequest, event: gr.EventData) -> Parts:
        """Search the visitor's own pictures, with one of them as the query if the event names one."""
        name = event_value(event, "name")
        own = f"{OWN}:{event_value(event, 'token')}"
        place = self.at_index(own)
        if not isinstance(place, OwnGallery) or self.own is None:
            raise PatchifyError("The page sent no token of your pictures: reload it.")
        if isinstance(name, str):
            question = place.picture(self.own.visitor(event_value(event, "token")).collection.named(name).id)
            if event_value(event, "box") is not None:  # drawn, and maybe not saved
                question = place.with_box(question, event_value(event, "box"))
        else:
            question = place.welcome(request.question)
        return self._moved(question, request)

    def _moved(self, question: UserQuery, request: SearchRequest) -> Parts:
        """Search in another index: what was the best level or box stays the best."""
        before, after = len(self._stages(request.question.engine)), len(self._stages(question.engine))
        level = after if request.level >= before else min(request.level, after)
        way = box_methods.fitting_method(
            request.way, self.index_of(request), self.index_of(replace(request, question=question))
        )
        return self.shown(question, replace(request, level=level, way=way, expired=True))

    def _as_upload(self, question: UserQuery, engine: str) -> UserQuery:
        """Move a query from a visitor's own pictures to a bundled index, where it is an upload."""
        if question.words is not None:
            return self.showcase.in_words(question.words, engine)
        if question.path is None or own_picture_url(question.path) is None:
            plain = replace(question, instance=None, itself=None, engine=engine)
            return self.showcase.with_box(plain, question.box)
        stored = self.storage.store(question.path.read_bytes(), decoding.request_context.sender())
        query = self.showcase.upload(stored, question.name, engine)
        return query if question.box is None else self.showcase.with_box(query, question.box)


def _by_name(gallery: Gallery) -> dict[str, int]:
    return {name: instance for instance, name in sorted(gallery.instances.items(), key=lambda item: item[1])}
