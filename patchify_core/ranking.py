"""A whole ranking whose matches are made when they are looked at: of a large gallery that is only a few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from patchify_core.index import Hits
from patchify_core.retrieval import Match, as_matches
from patchify_core.stores import PatchStore

PIECE = 256
"""Matches that are made at a time when all are gone through."""


class Ranking(Sequence[Match]):
    """The pictures that a search found, best first.

    Args:
        index: that was searched.
        hits: what the search found.
        first: matches that stand in the place of the first ones: the same pictures, ordered anew.
    """

    def __init__(self, index: PatchStore, hits: Hits, first: Sequence[Match] = ()) -> None:
        """Takes the parts as they are."""
        self.searched, self.hits, self.first = index, hits, tuple(first)

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """(N,) gallery image ids, best first."""
        front = np.array([match.image_id for match in self.first], np.int64)
        return np.concatenate([front, self.searched.image_ids[self.hits.rows[len(front) :]]])

    def with_first(self, first: Sequence[Match]) -> Ranking:
        """The same ranking with its first pictures ordered anew."""
        return Ranking(self.searched, self.hits, first)

    def __len__(self) -> int:
        """How many pictures it holds."""
        return len(self.hits.rows)

    @overload
    def __getitem__(self, at: int) -> Match: ...

    @overload
    def __getitem__(self, at: slice) -> list[Match]: ...

    def __getitem__(self, at: int | slice) -> Match | list[Match]:
        """One match, or a list of them."""
        places = range(len(self))[at]
        if isinstance(places, int):
            return self._made([places])[0]
        return self._made(places)

    def __iter__(self) -> Iterator[Match]:
        """All matches, made in pieces."""
        for start in range(0, len(self), PIECE):
            yield from self[start : start + PIECE]

    def _made(self, places: Sequence[int]) -> list[Match]:
        front = len(self.first)
        made = iter(as_matches(self.searched, self.hits[np.array([at for at in places if at >= front], np.intp)]))
        return [self.first[at] if at < front else next(made) for at in places]
