"""Answers queries about one visitor's pictures, as `showcase` does about the bundled gallery."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.decoding import decode_untrusted
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.indexes import GalleryIndexes, IndexChoice
from patchify_core.demo.queries import OWN, UserQuery
from patchify_core.demo.results import UNMARKED, WRONG, Judge, Result
from patchify_core.demo.server_folders import PREFIX
from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.retrieval.ranking import Match


class OwnIndexes(GalleryIndexes):
    """The one index of a visitor's pictures, in the place of a `GalleryIndexes`."""

    def __init__(self, name: str, label: str, engine: Patchify) -> None:
        self.first = name
        assert isinstance(engine.index, PatchIndex)  # visitors' pictures are kept nowhere else
        self.choices = {name: IndexChoice(name, label, engine.index)}
        self._calibrations = {}
        self._engine = engine

    def choice(self, name: str) -> IndexChoice:
        """The index; it is the only one."""
        return self.choices[self.first]

    def engine(self, name: str) -> Patchify:
        """Index and encoder."""
        return self._engine

    def is_loaded(self, name: str) -> bool:
        """Always."""
        return True

    def understands_text(self, name: str) -> bool:
        """Whether its encoder can be asked with words."""
        from patchify_core.encoders import TextEncoder

        return isinstance(self._engine.encoder, TextEncoder)


class OwnJudge(Judge):
    """Judges by the boxes that a visitor drew. Who drew a few has not said what all the others show."""

    def result(self, query: UserQuery, rank: int, match: Match, cell: NDArray[np.float64]) -> Result:
        """As `Judge.result`, except that a picture without a box of the object is not called wrong."""
        judged = super().result(query, rank, match, cell)
        return replace(judged, verdict=UNMARKED) if judged.verdict == WRONG else judged


class OwnGallery(ExampleGallery):
    """A visitor's indexed pictures and boxes, as they were when it was made.

    Args:
        name: what queries about them say that they ask.
        gallery: the indexed pictures, with the boxes that were drawn.
        engine: index and encoder.
        bundled: the page's own gallery, whose re-rankers are used.
    """

    def __init__(self, name: str, gallery: Gallery, engine: Patchify, bundled: ExampleGallery) -> None:
        self.folder, self.gallery = gallery.root, gallery
        label = f"your {len(gallery.images):,} picture{'' if len(gallery.images) == 1 else 's'}"
        self.indexes = OwnIndexes(name, label, engine)
        self.examples = ()
        self.rerankers, self.judge = bundled.rerankers, OwnJudge(gallery)
        self._described = {}

    @property
    def label(self) -> str:
        """What the pictures are called among the indexes of the page."""
        return self.indexes.choices[self.indexes.first].label

    def picture(self, image_id: int) -> UserQuery:
        """One of the pictures as the query: its box if there is one, else all of it; it is left out of the score.

        Raises:
            PatchifyError: if it is not indexed.
        """
        image = self.gallery.image(image_id)
        rows = self.gallery.annotations
        marked = (rows.image_ids == image_id).nonzero()[0]
        box = rows.boxes[marked[0]] if len(marked) else None
        return UserQuery(
            name=image.file_name,
            width=image.width,
            height=image.height,
            box=box,
            instance=int(rows.instances[marked[0]]) if len(marked) else None,
            descriptor=decode_untrusted(image.path, lambda picture: self.engine.describe_query(picture, box)),
            path=image.path,
            itself=image_id,
            index_name=self.indexes.first,
        )

    def example(self, query_id: int, engine: str | None = None) -> UserQuery:
        """There are no examples: a visitor's pictures take their place."""
        return self.picture(query_id)

    def welcome(self, query: UserQuery) -> UserQuery:
        """A query of another gallery, searched in this one."""
        if query.index_name == self.indexes.first:
            return query
        if own_token(query.index_name) is not None:  # the same pictures, more of which are indexed by now
            names = self.gallery.instances
            known = query.instance if query.instance in names else None
            return replace(query, index_name=self.indexes.first, instance=known)
        asked = replace(query, instance=None, example=None, itself=None, index_name=self.indexes.first)
        if query.words is not None:
            return replace(asked, descriptor=self.engine.describe_text(query.words))
        found = decode_untrusted(query.source, lambda picture: self.engine.describe_query(picture, query.box))
        return replace(asked, descriptor=found)


def own_index_name(token: str, version: int) -> str:
    """What queries about a visitor's pictures say that they ask."""
    return f"{OWN}:{token}:{version}"


def own_picture_url(path: Path) -> str | None:
    """Address of a visitor's own picture on the page's server, which has the visitor's token in it; None for others."""
    for at, part in enumerate(path.parts):
        if part.startswith(PREFIX) and path.parts[at + 2 : at + 3] == ("pictures",):
            return f"own/{path.parts[at + 1]}/picture/{quote('/'.join(path.parts[at + 3 :]))}"
    return None


def own_token(engine: str) -> str | None:
    """The visitor's token in such a name; None in the name of a bundled index."""
    kind, _, rest = engine.partition(":")
    return rest.partition(":")[0] if kind == OWN else None


def own_index_choice(engine: str) -> str | None:
    """What a visitor's own index is chosen by, however much of it is indexed by now; None for a bundled one."""
    token = own_token(engine)
    return None if token is None else f"{OWN}:{token}"


def pictures_gone() -> PatchifyError:
    """Said where a visitor's pictures are not there any more."""
    return PatchifyError(
        "Your pictures are no longer on the server, as they are deleted when a visit ends: add them again, or choose "
        "an example."
    )
