"""Writes a stream of shards one after the other, as tests need them."""

from __future__ import annotations

from pathlib import Path

from patchify_core.index.recipe import Recipe
from patchify_core.index.shards.folder import seal_shards
from patchify_core.index.shards.shard import write_shard


class ShardWriter:
    """`add` as the pictures come, `finish` at the end."""

    def __init__(self, folder, encoder, regions, features="crop", projection=None, kind="float32"):
        self.folder, self._made = Path(folder), (Recipe(encoder, regions, features), projection)
        self._kind, self._next = kind, 0

    def add(self, pictures, descriptors):
        write_shard(self.folder, self._next, pictures, descriptors, self._kind)
        self._next += 1

    def finish(self):
        seal_shards(self.folder, *self._made, shards=self._next)
