"""Answers queries about one visitor's pictures, as `ExampleGallery` does about the bundled gallery."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.decoding import decode_untrusted
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.indexes import GalleryIndexes, IndexChoice
from patchify_core.demo.queries import OWN, UserQuery, description
from patchify_core.demo.results import UNMARKED, WRONG, Judge, Result
from patchify_core.demo.server_folders import PREFIX
from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.retrieval.ranking import Match


class OwnIndexes(GalleryIndexes):
    """The only index of a visitor's pictures. It is returned under any name, as the name changes while it grows."""

    def __init__(self, name: str, label: str, engine: Patchify) -> None:
        self.first = name
        assert isinstance(engine.index, PatchIndex)  # visitors' pictures are in no other store
        self.choices = {name: IndexChoice(name, label, engine.index)}
        self._calibrations = {}
        self._engine = engine

    def choice(self, name: str) -> IndexChoice:
        """Return the index."""
        return self.choices[self.first]

    def engine(self, name: str) -> Patchify:
        """Return index and encoder."""
        return self._engine

    def is_loaded(self, name: str) -> bool:
        """Return True."""
        return True


class OwnJudge(Judge):
    """Judges by the boxes that a visitor drew. Pictures without a box may contain the object all the same."""

    def result(self, query: UserQuery, rank: int, match: Match, cell: NDArray[np.float64]) -> Result:
        """As `Judge.result`, except that a picture without a box of the object is unmarked and not wrong."""
        judged = super().result(query, rank, match, cell)
        return replace(judged, verdict=UNMARKED) if judged.verdict == WRONG else judged


class OwnGallery(ExampleGallery):
    """A snapshot of a visitor's indexed pictures and boxes.

    Args:
        name: Of the index, for queries (`own_index_name`).
        gallery: The indexed pictures, with the boxes that were drawn.
        engine: Index and encoder.
        bundled: The page's own gallery, whose re-rankers are used.
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
        """What the page calls the pictures among its indexes."""
        return self.indexes.choices[self.indexes.first].label

    def picture(self, image_id: int) -> UserQuery:
        """Make a query of one of the pictures: its box if there is one, else all of it; it is left out of the score.

        Raises:
            PatchifyError: If it is not indexed.
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
            path=image.path,
            itself=image_id,
            index_name=self.indexes.first,
            **decode_untrusted(image.path, lambda picture: description(self.engine.view(picture, box))),
        )

    def example(self, query_id: int, index_name: str | None = None) -> UserQuery:
        """Make a query of a picture; a visitor's pictures take the place of examples."""
        return self.picture(query_id)

    def adopt(self, query: UserQuery) -> UserQuery:
        """Return a query of another gallery for this one."""
        if query.index_name == self.indexes.first:
            return query
        if own_token(query.index_name) is not None:  # these pictures, when fewer were indexed
            known = query.instance if query.instance in self.gallery.instances else None
            return replace(query, index_name=self.indexes.first, instance=known)
        name = self.indexes.first
        described = self._describe(query, name)
        return replace(query, instance=None, example=None, itself=None, index_name=name, **described)


def own_index_name(token: str, version: int) -> str:
    """Name the index of a visitor's pictures, for `UserQuery.index_name`."""
    return f"{OWN}:{token}:{version}"


def own_picture_url(path: Path) -> str | None:
    """Return the URL of a visitor's own picture, which contains the visitor's token; None for other pictures."""
    for at, part in enumerate(path.parts):
        if part.startswith(PREFIX) and path.parts[at + 2 : at + 3] == ("pictures",):
            return f"own/{path.parts[at + 1]}/picture/{quote('/'.join(path.parts[at + 3 :]))}"
    return None


def own_token(index_name: str) -> str | None:
    """Return the visitor's token in the name of an index; None for a bundled index."""
    kind, _, rest = index_name.partition(":")
    return rest.partition(":")[0] if kind == OWN else None


def own_index_choice(index_name: str) -> str | None:
    """Return the name of a visitor's own index without its version, by which it is chosen; None for a bundled one."""
    token = own_token(index_name)
    return None if token is None else f"{OWN}:{token}"


def pictures_gone() -> PatchifyError:
    """Return the error for a visitor's pictures that have been deleted."""
    return PatchifyError(
        "Your pictures are no longer on the server, as they are deleted when a visit ends: add them again, or choose "
        "an example."
    )
