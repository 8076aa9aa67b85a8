"""Opens whichever store an index folder names: its own files (`PatchIndex`), or a collection in Milvus."""

from __future__ import annotations

from pathlib import Path

from patchify_core.index.base import PatchStore

__all__ = ["KINDS", "PatchStore", "open_store"]

KINDS = ("faiss", "milvus")
"""What `--store` takes; the first is the default."""


def open_store(folder: str | Path, token: str | None = None) -> PatchStore:
    """Opens an index folder, wherever its descriptors are.

    Args:
        folder: made by the index command.
        token: of a Milvus server; that of the environment variable `MILVUS_TOKEN` by default.

    Raises:
        IndexFolderError: if the folder is not a whole index.
        StoreError: if its descriptors are in Milvus, which does not answer or does not hold them.
    """
    from patchify_core.index.milvus.store import MilvusStore, is_listing
    from patchify_core.index.patch_index import PatchIndex

    return MilvusStore.open(folder, token) if is_listing(Path(folder)) else PatchIndex.load(folder)
