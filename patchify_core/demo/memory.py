"""Keeps glibc from holding on to memory that threads once used. Under other C libraries nothing happens."""

from __future__ import annotations

import ctypes
import sys

M_ARENA_MAX = -8
"""Number of glibc's setting (malloc.h)."""

ARENAS = 2


def limit_arenas() -> None:
    """Let all threads share two heaps; call this before threads are started.

    glibc gives threads up to eight heaps per core, and each keeps what its threads once needed: sixty-four searches,
    eight at a time, added 1,030 MB to an idle server, and with two heaps 204 MB.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(M_ARENA_MAX, ARENAS)


def release_memory() -> None:
    """Return freed memory to the system; takes some milliseconds."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library
        return None
    return library if hasattr(library, "malloc_trim") else None
