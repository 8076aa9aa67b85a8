"""Milvus' kinds of index for vectors: what each is made with, searched with, and whether its scores are exact."""

from __future__ import annotations

from typing import Any

from patchify_core.errors import StoreError

LITE_KINDS = ("FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8", "AUTOINDEX")
"""What Milvus Lite 3.2 builds. It takes the name IVF_PQ too, and then fails in the background."""

UNROUNDED = ("FLAT", "HNSW", "IVF_FLAT", "AUTOINDEX")
"""Kinds that compare a query with whole vectors. Others compare it with codes, and their first pictures are compared
again with the whole vectors, which Milvus keeps too."""

LISTS, PROBES, NEIGHBOURS, CONSTRUCTION, SEARCH_WIDTH = 1024, 64, 16, 200, 128
"""Of inverted files: lists a segment, and how many of them a search visits; of HNSW: links a vector, and how many
candidates are kept while it is built and while it is searched, at least."""


def checked_kind(name: str | None, lite: bool) -> str:
    """The kind asked for in capitals; by default FLAT for Milvus Lite, which is exact, and HNSW for a server.

    Raises:
        StoreError: if Milvus Lite cannot build it. What a server has is found out by asking it.
    """
    kind = (name or ("FLAT" if lite else "HNSW")).strip().upper()
    if lite and kind not in LITE_KINDS:
        raise StoreError(
            f"Milvus Lite has no index kind {kind}: choose {', '.join(LITE_KINDS)} with --milvus-index, or use a "
            "Milvus server."
        )
    return kind


def build_params(kind: str, dim: int) -> dict[str, Any]:
    """What an index of this kind is made with.

    Example:
        >>> build_params("IVF_PQ", 128)
        {'nlist': 1024, 'm': 32, 'nbits': 8}
    """
    if kind.startswith("HNSW"):
        params: dict[str, Any] = {"M": NEIGHBOURS, "efConstruction": CONSTRUCTION}
        if kind == "HNSW_SQ":
            params["sq_type"] = "SQ8"
        if kind in ("HNSW_PQ", "HNSW_PRQ"):
            params |= {"m": code_bytes(dim), "nbits": 8}
        return params
    if kind.startswith("IVF") or kind == "SCANN":
        return {"nlist": LISTS} | ({"m": code_bytes(dim), "nbits": 8} if kind == "IVF_PQ" else {})
    return {}


def search_params(kind: str, limit: int) -> dict[str, Any]:
    """What an index of this kind is searched with for `limit` patches; HNSW must keep as many candidates."""
    if kind.startswith("HNSW"):
        return {"ef": max(SEARCH_WIDTH, limit)}
    if kind.startswith("IVF"):
        return {"nprobe": PROBES}
    if kind == "SCANN":
        return {"nprobe": PROBES, "reorder_k": max(SEARCH_WIDTH, limit)}
    if kind == "DISKANN":
        return {"search_list": max(SEARCH_WIDTH, limit)}
    return {}


def code_bytes(dim: int) -> int:
    """Bytes of a product quantiser's code: the most up to a quarter of the dimensions that divide them evenly."""
    return max(count for count in range(1, max(1, dim // 4) + 1) if dim % count == 0)
