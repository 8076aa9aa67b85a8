"""What a visitor's picture is called here, whatever it was called there."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

MOST_PARTS, LONGEST = 8, 80
"""Folders and name together; characters of each."""

_REFUSED = '<>:"|?*'
"""What Windows takes in no name."""

_JOINERS = "\u200c\u200d"
"""Persian and Hindi spell with them, and emoji are put together by them; other letters without a width can deceive."""

_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def clean(name: str) -> str:
    """A relative POSIX path that any file system takes, as near to the name that was sent as may be.

    Example:
        >>> clean("../../Holiday 2026/IMG<1>.jpg"), clean("/etc/passwd"), clean("CON.png"), clean("")
        ('Holiday 2026/IMG_1_.jpg', 'etc/passwd', '_CON.png', 'picture')
    """
    parts = []
    for part in unicodedata.normalize("NFC", name.replace("\\", "/")).split("/"):
        kept = "".join(c if _is_kept(c) else "_" for c in part).strip(" .")
        if kept:
            parts.append(_fitting(kept))
    return "/".join(parts[-MOST_PARTS:]) or "picture"


def _is_kept(letter: str) -> bool:
    if letter in _REFUSED:
        return False
    return letter == " " or letter in _JOINERS or unicodedata.category(letter)[0] in "LMNPS"


def unused(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name, or with a number where it is taken; file systems that do not tell letter cases apart are thought of."""
    stem, dot, ending = name.rpartition(".")
    if not dot or "/" in ending:
        stem, ending = name, ""
    number, found = 1, name
    while is_taken(found.casefold()):
        number += 1
        found = f"{stem} ({number}){dot}{ending}" if ending else f"{name} ({number})"
    return found


def _fitting(part: str) -> str:
    stem, dot, ending = part.rpartition(".")
    if not dot:
        stem, ending = part, ""
    if len(ending) > 5:
        stem, dot, ending = part.replace(".", "_"), "", ""
    if stem.casefold() in _DEVICES:
        stem = f"_{stem}"
    room = LONGEST - len(dot) - len(ending)
    # Most file systems count bytes, at most 255 of them.
    while len(stem) > room or len(stem.encode()) > 200:
        stem = stem[:-1]
    return f"{stem}{dot}{ending}"


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts names as people number them.

    Example:
        >>> sorted(["10.png", "2.png"], key=natural)
        ['2.png', '10.png']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]
