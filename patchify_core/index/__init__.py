"""Indexes: how descriptors are stored, built and searched.

    pictures -> shards -> store -> hits

`recipe` says how descriptors were made, `store` is the interface that every index has, `patch_index` is the FAISS store
and `folder` its files; `build` runs a build, `codec` compresses, `shards` embeds, `big` exceeds memory and `milvus`
keeps vectors on a server.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patchify_core.index.store import PatchStore

__all__ = ["open_store"]


def open_store(folder: str | Path, token: str | None = None) -> PatchStore:
    """Open an index folder, wherever its descriptors are stored.

    Args:
        folder: Made by the index command.
        token: Of a Milvus server; the environment variable `MILVUS_TOKEN` by default.

    Raises:
        IndexFolderError: The folder is missing, damaged or not an index.
        StoreError: The descriptors are in Milvus, which does not answer or does not have them.
    """
    from patchify_core.index.milvus.store import MilvusStore, is_listing
    from patchify_core.index.patch_index import PatchIndex

    return MilvusStore.open(folder, token) if is_listing(Path(folder)) else PatchIndex.load(folder)
