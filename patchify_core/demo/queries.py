"""What one visitor asks, and how it comes about: from an example, an upload, words, a result, or another query.

It lives in that visitor's state and nowhere else.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL.Image import Image

from patchify_core.demo.decoding import decode, decode_untrusted
from patchify_core.demo.indexes import DEFAULT, GalleryIndexes
from patchify_core.demo.storage import StoredPicture
from patchify_core.encoders import Encoder, EncoderSettings
from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery, Query, read_coco
from patchify_core.imaging.boxes import checked_box, iou
from patchify_core.imaging.filenames import is_unicode
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.retrieval.ranking import Ranking

OWN = "own"
"""What the name of an index of a visitor's own pictures begins with, before a colon."""

MAX_WORDS = 300
"""Longest query in words, in characters. Text encoders read some 77 tokens and cut off the rest."""


@dataclass(frozen=True, eq=False)
class UserQuery:
    """One visitor's query: a picture (and maybe a box in it), or words.

    Attributes:
        name: what the picture is called on the page; the words if it is none.
        width: upright width of the picture in pixels; 0 for words.
        height: upright height in pixels; 0 for words.
        box: (4,) float64 xyxy of the object in pixels; None for the whole picture, and for words.
        instance: which bundled object it is, if the visitor says; None means that nothing can be scored.
        descriptor: (dim,) float32 of the box or the words, as the index `engine` stores descriptors.
        path: a bundled picture, or None.
        data: a visitor's own picture, or None; in memory only, dropped when room runs out (`storage.StoredPicture`).
        display: a small upright JPEG of `data`, made once, to be shown to that visitor; None where `data` has it.
        words: what was asked in words, or None.
        example: id of the bundled query that this is, or None.
        itself: id of the gallery picture that this is, or None; it is left out of the score.
        engine: name of the index (see `shelf`) that is asked.
        rankings: whole rankings that were made already, by level and re-ranker: a look into a result needs the one
            that is shown, which re-ranking makes slowly.
        located: boxes that a search on maps found already (`box_methods`): the picture's row in the index -> how many
            objects were looked for, and their (M, 4) boxes.
    """

    name: str
    width: int
    height: int
    box: NDArray[np.float64] | None
    instance: int | None
    descriptor: NDArray[np.float32]
    path: Path | None = None
    data: bytes | StoredPicture | None = None
    display: bytes | None = None
    words: str | None = None
    example: int | None = None
    itself: int | None = None
    index_name: str = DEFAULT
    rankings: dict[tuple[int, str | None], Ranking] = field(default_factory=dict, init=False, repr=False)
    located: dict[int, tuple[int, NDArray[np.float64]]] = field(default_factory=dict, init=False, repr=False)

    @property
    def is_private(self) -> bool:
        """Whether it is about what the visitor brought, which no link leads to."""
        return self.data is not None or self.index_name.partition(":")[0] == OWN

    @property
    def key(self) -> str:
        """Tells this picture, whatever the box, from others that the same visitor may show."""
        if self.words is not None:
            return ""
        if self.path is not None:
            return self.path.name
        return f"{self.data.crc if isinstance(self.data, StoredPicture) else zlib.crc32(self.data or b''):08x}"

    @property
    def preview(self) -> bytes:
        """The small upright JPEG that is shown to the visitor; empty where there is none."""
        return (self.data.display if isinstance(self.data, StoredPicture) else self.display) or b""

    @property
    def source(self) -> Path | bytes:
        """Where the pixels are.

        Raises:
            PatchifyError: if it was asked in words, or a visitor's picture is not there any more.
        """
        if self.path is not None:
            return self.path
        source = self.data.read() if isinstance(self.data, StoredPicture) else self.data
        if source is None:
            raise PatchifyError("Your query is words, so there is no picture to use: upload one or choose an example.")
        return source


def checked_words(words: object) -> str:
    """What a visitor typed, on one line.

    Raises:
        PatchifyError: one sentence, if there are no words, too many of them, or characters that are none.
    """
    if not isinstance(words, str) or not words.strip():
        raise PatchifyError("There are no words to search for: describe the object, for example: a red kettle.")
    if len(words) > MAX_WORDS:
        raise PatchifyError(
            f"That is {len(words):,} characters, and only {MAX_WORDS} are read: describe the object in a few words."
        )
    if not is_unicode(words) or "\0" in words:
        raise PatchifyError("The words contain invalid characters: type them again.")
    return " ".join(words.split())


DISPLAY_SIDE = 1024
"""Longest side, in pixels, of the copy of a visitor's picture that is shown to them."""

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


class UserQueries:
    """The bundled gallery, its indexes and their encoders, shared by all visitors, and the queries that they ask.

    Where no index is named, the one that a visit begins with is asked.

    Args:
        folder: sample_db, or another dataset with `annotations.json` and an `index` folder beside it.
        encoder: used for the indexes that it made; by default each index's own is loaded, with `settings`.
        settings: how an encoder is run; on one thread by default.
        beside: another gallery, whose loaded encoders are used too.

    Raises:
        PatchifyError: if gallery, default index and encoder do not fit together.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder | None = None,
        settings: EncoderSettings | None = None,
        beside: UserQueries | None = None,
    ) -> None:
        self.folder = folder
        self.gallery: Gallery = read_coco(folder)
        self.indexes: GalleryIndexes = GalleryIndexes(
            folder, encoder, settings, None if beside is None else beside.indexes
        )
        order = {name: number for number, name in enumerate(FIRST_EXAMPLES)}
        self.examples: tuple[Query, ...] = tuple(
            sorted(self.gallery.queries, key=lambda q: order.get(self.gallery.name(q.instance), len(order)))
        )
        self._described: dict[tuple[str, int], UserQuery] = {}

    @property
    def index(self) -> PatchIndex:
        """The index that a visit begins with."""
        return self.indexes.choice(self.indexes.first).index

    @property
    def engine(self) -> Patchify:
        """That index and its encoder, which is loaded when it is first needed."""
        return self.indexes.engine(self.indexes.first)

    @property
    def levels(self) -> int:
        """How many levels that index has."""
        return self.levels_of(self.indexes.first)

    def levels_of(self, index_name: str) -> int:
        """How many levels an index has."""
        return len(self.indexes.choice(index_name).index.regions.stages)

    def first(self) -> UserQuery:
        """The query of a page that was just opened."""
        return self.example(self.examples[0].id)

    def example(self, query_id: int, index_name: str | None = None) -> UserQuery:
        """A bundled query with its annotated box. Descriptors of examples are kept: they are everybody's.

        Raises:
            PatchifyError: if there is no such example.
        """
        index_name = index_name or self.indexes.first
        key = index_name, query_id
        if key not in self._described:
            query = next((q for q in self.gallery.queries if q.id == query_id), None)
            if query is None:
                raise PatchifyError("There is no such example: choose one of those shown.")
            made = UserQuery(
                name=self.gallery.name(query.instance),
                width=query.width,
                height=query.height,
                box=query.box,
                instance=query.instance,
                descriptor=self.indexes.engine(index_name).describe_query(query.path, query.box),
                path=query.path,
                example=query.id,
                index_name=index_name,
            )
            self._described.setdefault(key, made)  # whoever was first: boxes are kept with the query
        return self._described[key]

    def forget_examples(self) -> None:
        """Drops the kept descriptors of examples, and what was found with them."""
        self._described.clear()

    def upload(
        self, data: bytes | StoredPicture, name: str = "your picture", index_name: str | None = None
    ) -> UserQuery:
        """A visitor's picture, all of it; the object is unknown until they say.

        Args:
            data: the file; it is kept with the query.
            name: what it is called.
            index_name: which index is asked.

        Raises:
            PictureError: one sentence, if it is not a picture that can be searched.
        """
        index_name = index_name or self.indexes.first
        patchify = self.indexes.engine(index_name)

        def looked_at(picture: Image) -> tuple[NDArray[np.float32], tuple[int, int], bytes]:
            descriptor, size, stream = patchify.describe_query(picture), picture.size, io.BytesIO()
            picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
            picture.save(stream, "JPEG", quality=85)
            return descriptor, size, stream.getvalue()

        shown: bytes | None
        descriptor, (width, height), shown = decode(data.read() if isinstance(data, StoredPicture) else data, looked_at)
        if isinstance(data, StoredPicture):
            data.display, shown = shown, None
        return UserQuery(name, width, height, None, None, descriptor, data=data, display=shown, index_name=index_name)

    def in_words(self, words: object, index_name: str | None = None) -> UserQuery:
        """A query in words; its object is unknown until the visitor chooses it.

        Raises:
            PatchifyError: one sentence, if there are no words or too many.
            EncoderError: if the encoder knows pictures only.
        """
        index_name, words = index_name or self.indexes.first, checked_words(words)
        descriptor = self.indexes.engine(index_name).describe_text(words)
        return UserQuery(words, 0, 0, None, None, descriptor, words=words, index_name=index_name)

    def from_result(
        self, image_id: int, box: NDArray[np.float64], instance: int | None, index_name: str | None = None
    ) -> UserQuery:
        """A gallery picture as the next query.

        Args:
            image_id: gallery image id.
            box: the part of it to search with.
            instance: the object asked for so far; kept if the picture is known to show it.
            index_name: which index is asked.
        """
        index_name = index_name or self.indexes.first
        image = self.gallery.image(image_id)
        shows = instance is not None and image_id in self.gallery.positives(instance)
        descriptor = self.indexes.engine(index_name).describe_query(image.path, box)
        return UserQuery(
            name=f"gallery picture {image_id}",
            width=image.width,
            height=image.height,
            box=box,
            instance=instance if shows else None,
            descriptor=descriptor,
            path=image.path,
            itself=image_id,
            index_name=index_name,
        )

    def with_box(self, query: UserQuery, box: ArrayLike | None) -> UserQuery:
        """The same picture with another box (xyxy in pixels, checked here); the whole picture if None.

        A box that has nothing in common with the one before it is round another object, so what that was is forgotten.

        Raises:
            BoxError: one sentence, if the box is empty or outside.
            PatchifyError: if it was asked in words.
        """
        source = query.source
        region = None if box is None else checked_box(box, query.width, query.height)
        patchify = self.indexes.engine(query.index_name)
        descriptor = decode_untrusted(source, lambda picture: patchify.describe_query(picture, region))
        elsewhere = region is not None and query.box is not None and not iou(region, query.box).any()
        instance = None if elsewhere else query.instance
        return replace(query, box=region, descriptor=descriptor, example=None, instance=instance)

    def with_instance(self, query: UserQuery, instance: int | None) -> UserQuery:
        """The same query, about this object."""
        named = replace(query, instance=instance)
        named.rankings.update(query.rankings)  # what it is called does not change what is found
        named.located.update(query.located)
        return named

    def with_index(self, query: UserQuery, index_name: str) -> UserQuery:
        """The same query in another index, and so described by its encoder.

        Raises:
            EncoderError: if it was asked in words and that encoder knows pictures only, or it cannot be had.
        """
        patchify = self.indexes.engine(index_name)
        if query.words is not None:
            descriptor = patchify.describe_text(query.words)
        elif query.example is not None:
            return self.with_instance(self.example(query.example, index_name), query.instance)
        else:
            descriptor = decode_untrusted(query.source, lambda picture: patchify.describe_query(picture, query.box))
        return replace(query, descriptor=descriptor, index_name=index_name)
