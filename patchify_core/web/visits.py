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
from patchify_core.demo.storage import VisitorStorage
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

    def at(self, query: UserQuery | None) -> ExampleGallery:
        """Where a query is answered: gallery, indexes and annotations; None means that of a page just opened.

        Raises:
            PatchifyError: if it asks a visitor's own pictures, and they are not there any more.
        """
        return self.showcase if query is None else self.at_index(query.index_name)

    def at_index(self, engine: str) -> ExampleGallery:
        """Where the index of this name is; see `at`."""
        own = self.own.gallery_of(engine) if self.own is not None and isinstance(engine, str) else None
        return own or self.showcase

    def renewed(self, query: UserQuery) -> UserQuery:
        """The query as it can be searched now: more of a visitor's own pictures may be indexed than before."""
        if query.data is not None:
            query.data.touch()
        place = self.at(query)
        return place.adopt(query) if isinstance(place, OwnGallery) else query

    # What is shown --------------------------------------------------------------------------------------

    def first_view(self) -> tuple[UserQuery, Answer]:
        """The first example, searched with all patches and shown with the best boxes there are."""
        query = self.showcase.first()
        box_method = box_methods.best_method(self.showcase.index)
        return query, self.answer(SearchRequest(query, self.showcase.levels, self.settings.results, None, box_method))

    def answer(self, asked: SearchRequest) -> Answer:
        """Searches.

        A level or a kind of box that the index does not have, because another one was left, means its best. Where a map
        to search a box on turns out to be damaged, a notice says so and boxes are soft.
        """
        place = self.at(asked.query)
        level = min(asked.level, place.levels_of(asked.query.index_name))
        box_method = self.box_method(asked)
        try:
            return place.answer(asked.query, level, asked.top, asked.reranker, box_method)
        except IndexFolderError as error:
            if box_method != box_methods.MAP:
                raise
            warn(str(error))
            return place.answer(asked.query, level, asked.top, asked.reranker, box_methods.SOFT)

    def box_method(self, asked: SearchRequest) -> str:
        """How boxes are found: as chosen, or in the best way that the index allows."""
        index = self.index_of(asked)
        return asked.box_method if box_methods.is_possible(asked.box_method, index) else box_methods.best_method(index)

    def shown(self, query: UserQuery, asked: SearchRequest) -> Parts:
        """A new query, searched with the level and options of the former one."""
        answer = self.answer(replace(asked, query=query))
        changed = asked.forgotten or query.index_name != asked.query.index_name
        return {
            "question": query,
            "query": views.query(query, file_url),
            "examples": self.thumbnails(query),
            "object": self.object_choice(asked.query, query, self.object_name(query)),
            "detail": "",
            "started": True,
            **(self.engine_parts(query.index_name, answer.level, asked.query.index_name) if changed else {}),
            **self.results(answer, query),
            **({"box": answer.box_method} if changed or answer.box_method != asked.box_method else {}),
        }

    def results(self, answer: Answer, query: UserQuery) -> Parts:
        """The scores and the result cards."""
        return {"strip": self.strip(answer, query), "cards": self.cards(answer, query)}

    def engine_parts(self, engine: str, level: int, before: str = "") -> Parts:
        """What depends on the encoder: its choice, the levels, and the box for words."""
        own = next((name for name in map(own_index_choice, (engine, before)) if name), None)
        choices: dict[str, Any] = {} if own is None else {"choices": self.engine_choices(own)}
        return {
            "engine": gr.update(value=own_index_choice(engine) or engine, interactive=True, **choices),
            "level": gr.update(choices=self.level_choices(engine), value=level, label=self.level_label(engine)),
            "words": gr.update(visible=self.at_index(engine).indexes.understands_text(engine)),
        }

    def thumbnails(self, query: UserQuery) -> str:
        """The examples, or a visitor's own pictures while those are searched."""
        place = self.at(query)
        if not isinstance(place, OwnGallery):
            return views.examples(self.examples, query.example, file_url)
        marked = set(place.gallery.annotations.image_ids.tolist())
        images = sorted(place.gallery.images, key=lambda image: (image.id not in marked, natural(image.file_name)))
        shown = [(OWN_ID + image.id, image.file_name, image.path) for image in images[:OWN_SHOWN]]
        return views.examples(shown, None if query.itself is None else OWN_ID + query.itself, file_url)

    def object_choice(self, before: UserQuery, query: UserQuery, name: str | None) -> Any:
        """The choice of object: other galleries have other objects, and a visitor may have named more by now."""
        known = self.objects_at(query)
        same = query.index_name == before.index_name and not query.is_private
        choices: dict[str, Any] = {} if same else {"choices": [UNKNOWN_OBJECT, *known]}
        return gr.update(value=name or UNKNOWN_OBJECT, **choices)

    def objects_at(self, query: UserQuery) -> dict[str, int]:
        """Name -> id of the objects among which a query's may be."""
        place = self.at(query)
        return self.objects if place is self.showcase else _by_name(place.gallery)

    def index_of(self, asked: SearchRequest) -> PatchIndex:
        """The index that is searched."""
        return self.at(asked.query).indexes.choice(asked.query.index_name).index

    def strip(self, answer: Answer, query: UserQuery) -> str:
        """The scores of an answer, in the words that fit the query."""
        name, own = self.object_name(query), isinstance(self.at(query), OwnGallery)
        return views.strip(answer, name, query.words is not None, own, query.is_private)

    def cards(self, answer: Answer, query: UserQuery | None = None) -> str:
        """The result cards."""
        return views.cards(answer, partial(self.picture, query=query), file_url)

    def picture(self, image_id: int, query: UserQuery | None = None) -> tuple[int, int, Path]:
        """Width, height and file of a picture of the gallery that is searched; the bundled one by default."""
        image = self.at(query).gallery.image(image_id)
        return image.width, image.height, image.path

    def object_name(self, query: UserQuery) -> str | None:
        """Name of the object that the query is about, if it is known."""
        return None if query.instance is None else self.at(query).gallery.name(query.instance)

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
        return [(label, box_method) for box_method, label in box_methods.NAMES.items()]

    def rerank_choices(self) -> list[tuple[str, str]]:
        """(label, name) of the re-rankers that this machine has."""
        return [("none", NO_RERANKING), *((NAMES[name], name) for name in self.showcase.rerankers.names)]

    # What a visitor does --------------------------------------------------------------------------------

    def pick_example(self, asked: SearchRequest, event: gr.EventData) -> Parts:
        """An example was clicked."""
        identifier, place = sent_id(event), self.at(asked.query)
        if identifier <= OWN_ID:
            return self.shown(place.example(identifier, asked.query.index_name), asked)
        if isinstance(place, OwnGallery):
            return self.shown(place.picture(identifier - OWN_ID), asked)
        warn(str(pictures_gone()))  # thumbnails of pictures that were deleted: the page begins anew
        return self.shown(self.showcase.first(), replace(asked, forgotten=True))

    def take_upload(self, asked: SearchRequest, event: gr.EventData) -> Parts:
        """A picture was uploaded, dropped, pasted or taken."""
        held = self.storage.store(take_file(sent(event, "path")), decoding.request_context.sender())
        return self.shown(self.at(asked.query).upload(held, index_name=asked.query.index_name), asked)

    def keep_query(self, query: UserQuery) -> Parts:
        """An upload was refused: the query is drawn anew, so that its preview goes."""
        return {"query": views.query(query, file_url, next(self._turns))}

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.storage.close_visit(str(request.session_hash or ""))

    def say_words(self, asked: SearchRequest, words: Any) -> Parts:
        """Words were typed."""
        return self.shown(self.at(asked.query).in_words(words, asked.query.index_name), asked)

    def draw_box(self, asked: SearchRequest, event: gr.EventData) -> Parts | None:
        """A box was drawn, moved or resized, or the whole picture chosen; None changes nothing."""
        if sent(event, "picture") != asked.query.key:
            # Drawn while another picture was on its way, which is there by now and must not get this box.
            return None
        return self.shown(self.at(asked.query).with_box(asked.query, sent(event, "box")), asked)

    def search_again(self, asked: SearchRequest, event: gr.EventData) -> Parts:
        """A result becomes the query: its winning box."""
        image_id, query = sent_id(event), asked.query
        answer, place = self.answer(asked), self.at(query)
        found = place.detail(
            query, image_id, answer.level, asked.top, asked.reranker, answer.box_method, with_map=False
        )
        box = found.result.match.box
        return self.shown(place.from_result(image_id, box, query.instance, query.index_name), asked)

    def change_options(self, asked: SearchRequest) -> Parts:
        """The grid or the number of results changed."""
        answer = self.answer(asked)
        boxes = (
            {} if answer.box_method == asked.box_method else {"box": answer.box_method}
        )  # what is shown, not what cannot be
        return self.results(answer, asked.query) | boxes

    def change_box(self, asked: SearchRequest) -> Parts:
        """Another kind of box was chosen; where the index does not allow it, it is the best that it does."""
        try:
            box_methods.checked_method(asked.box_method, self.index_of(asked))
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
        instance = self.objects_at(asked.query).get(name)
        query = self.at(asked.query).with_instance(asked.query, instance)
        # The name goes back too: an answer that was under way meanwhile may have put the former one there.
        known = {"question": query, "object": name, "started": True}
        return known | self.change_options(replace(asked, query=query))

    def look_into(self, asked: SearchRequest, event: gr.EventData) -> str:
        """A result was clicked."""
        place = self.at(asked.query)
        level = min(asked.level, place.levels_of(asked.query.index_name))
        box_method = self.box_method(asked)
        options = (asked.query, sent_id(event), level, asked.top, asked.reranker)
        try:
            found = place.detail(*options, box_method)
        except IndexFolderError as error:  # the map is damaged: all but what needs it is shown
            warn(str(error))
            box_method = box_methods.SOFT if box_method == box_methods.MAP else box_method
            found = place.detail(*options, box_method, with_map=False)
        shown = self.picture(found.result.match.image_id, asked.query)
        return views.detail(found, shown, asked.query, file_url)

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
        place, there = self.at(asked.query), self.at_index(engine)
        if not there.indexes.is_loaded(engine):  # a notice has said why
            return self.keep_engine(asked.query)
        if isinstance(there, OwnGallery):
            query = there.adopt(asked.query)
        elif isinstance(place, OwnGallery):
            query = self._taken_out(asked.query, engine)
        else:
            query = there.with_index(asked.query, engine)
        return self._moved(query, asked) | {"status": ""}

    def keep_engine(self, query: UserQuery) -> Parts:
        """The choice goes back to the encoder of the query; nothing else changes."""
        return {
            "engine": gr.update(value=own_index_choice(query.index_name) or query.index_name, interactive=True),
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
            query = place.picture(self.own.visitor(sent(event, "token")).collection.named(name).id)
            if sent(event, "box") is not None:  # drawn, and maybe not saved
                query = place.with_box(query, sent(event, "box"))
        else:
            query = place.adopt(asked.query)
        return self._moved(query, asked)

    def _moved(self, query: UserQuery, asked: SearchRequest) -> Parts:
        """A query to another index: what was the best level or box stays the best."""
        before, after = len(self._stages(asked.query.index_name)), len(self._stages(query.index_name))
        level = after if asked.level >= before else min(asked.level, after)
        box_method = box_methods.fitting_method(
            asked.box_method, self.index_of(asked), self.index_of(replace(asked, query=query))
        )
        return self.shown(query, replace(asked, level=level, box_method=box_method, forgotten=True))

    def _taken_out(self, query: UserQuery, engine: str) -> UserQuery:
        """A query in a visitor's own pictures moves to a bundled index: their picture becomes an upload."""
        if query.words is not None:
            return self.showcase.in_words(query.words, engine)
        if query.path is None or own_picture_url(query.path) is None:
            plain = replace(query, instance=None, itself=None, index_name=engine)
            return self.showcase.with_box(plain, query.box)
        held = self.storage.store(query.path.read_bytes(), decoding.request_context.sender())
        asked = self.showcase.upload(held, query.name, engine)
        return asked if query.box is None else self.showcase.with_box(asked, query.box)


def _by_name(gallery: Gallery) -> dict[str, int]:
    return {name: instance for instance, name in sorted(gallery.instances.items(), key=lambda item: item[1])}
