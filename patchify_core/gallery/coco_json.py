"""Load the JSON of a COCO file, and validate the plain values of its entries as annotation tools write them."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

from patchify_core.errors import GalleryError
from patchify_core.imaging.file_types import decoder_for, other_file_type
from patchify_core.imaging.filenames import is_unicode

_ADVICE = {
    "a Git LFS pointer": "fetch it with git lfs pull",
    "a web page or XML": "download or export it again",
    "archive": "unpack it and give the JSON in it",
}


class _DuplicateKeyError(Exception):
    """An object has one key with two values, of which `json` would silently keep the last."""


def load_json_object(path: Path) -> tuple[dict[str, Any], str]:
    """Read a JSON file whose top level is an object, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Returns:
        The object, and the file's encoding, "utf-8" or another.

    Raises:
        GalleryError: There is no such file, it cannot be read, or it is another kind of file, which is named.
    """
    name = str(path)
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GalleryError(f"There is no file {name!r}: check its name and folder.") from error
    except (OSError, ValueError) as error:
        if path.is_dir():
            raise GalleryError(f"{name!r} is a folder, not a JSON file: name the file with the annotations.") from error
        raise GalleryError(f"{name!r} cannot be read: check its permissions.") from error
    head = content[:512].lstrip()
    if head.startswith(b"<"):
        kind: str | None = "a web page or XML"
    else:
        kind = "a picture" if decoder_for(head) else other_file_type(head)
    if kind:
        advice = _ADVICE.get("archive" if kind.endswith("archive") else kind, "name the file with the annotations")
        raise GalleryError(f"{name!r} is {kind}, not a JSON file: {advice}.")
    if not content.strip(b"\0\t\r\n "):
        raise GalleryError(f"{name!r} is empty ({len(content):,} bytes), which is not valid JSON: export it again.")
    encoding = json.detect_encoding(content)
    try:
        data = json.loads(content.decode(encoding), object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError as error:
        raise GalleryError(
            f"{name!r} is not valid JSON: its text is in no Unicode encoding (byte {error.start}); save it as UTF-8."
        ) from error
    except _DuplicateKeyError as error:
        raise GalleryError(f"{name!r} cannot be used: {error}; correct that first.") from None
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise GalleryError(f"{name!r} is not valid JSON{where}: export it again.") from error
    if isinstance(data, list) and data and isinstance(data[0], dict) and "data" in data[0]:
        raise GalleryError(f"{name!r} is Label Studio's own export, which is not supported: export it as COCO.")
    if not isinstance(data, dict):
        raise GalleryError(f"{name!r} contains no dataset: its top level must be an object with 'images'.")
    if "shapes" in data and "images" not in data:
        raise GalleryError(f"{name!r} is a LabelMe file of one picture, which is not supported: export them as COCO.")
    return data, encoding.removesuffix("-sig")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        for key, value in pairs:
            if values[key] != value:
                raise _DuplicateKeyError(f"one of its objects has {reprlib.repr(key)} twice, with different values")
    return values


# Values of one entry --------------------------------------------------------------------------------------------


class EntryError(Exception):
    """What is wrong with one entry, as the end of a sentence that begins with the entry; collected by the reader."""


def whole_number(entry: dict[str, Any], key: str, minimum: int | None = None) -> int:
    """Return a whole number; `1.0` and `"1"`, which pandas and other tools write, are accepted.

    Raises:
        EntryError: The key is missing, or its value is not a whole number or less than `minimum`.
    """
    if key not in entry:
        raise EntryError(f"has no {key!r}")
    value = to_int(entry[key])
    if value is None or (minimum is not None and value < minimum):
        kind = "a whole number" if minimum is None else f"a whole number from {minimum} up"
        raise EntryError(f"has {key} {reprlib.repr(entry[key])}, which is not {kind}")
    return value


def label(entry: dict[str, Any], key: str, default: str) -> str:
    """Return text, or a number as text; `default` where it is absent, null or empty.

    Raises:
        EntryError: It is neither.
    """
    value = entry.get(key)
    if value is None or value == "":
        return default
    return str(value) if type(value) in (int, float) else text(entry, key)


def text(entry: dict[str, Any], key: str) -> str:
    """Return text that is not empty.

    Raises:
        EntryError: There is none.
    """
    if key not in entry:
        raise EntryError(f"has no {key!r}")
    value = entry[key]
    if not isinstance(value, str) or not value or not is_unicode(value):
        raise EntryError(f"has {key} {reprlib.repr(value)}, which is not text")
    return value


def flag(entry: dict[str, Any], key: str) -> bool:
    """Return a boolean, False where it is absent or null.

    Raises:
        EntryError: It is neither 0 nor 1.
    """
    value = entry.get(key)
    number = 0 if value is None else int(value) if isinstance(value, bool) else to_int(value)
    if number not in (0, 1):
        raise EntryError(f"has {key} {reprlib.repr(value)}, which is neither 0 nor 1")
    return number == 1


def fraction(entry: dict[str, Any], key: str) -> float:
    """Return a number 0..1, NaN where it is absent or null.

    Raises:
        EntryError: It is not such a number.
    """
    value = entry.get(key)
    number = to_number(value)
    if value is not None and (number is None or not 0 <= number <= 1):
        raise EntryError(f"has {key} {reprlib.repr(value)}, which is not between 0 and 1")
    return float("nan") if number is None else float(number)


def to_int(value: object) -> int | None:
    """Convert a number, perhaps written as text, to a whole number that fits 64 bits; None if it is not one."""
    number = to_number(value)
    if number is None or (isinstance(number, float) and not number.is_integer()):
        return None
    return int(number) if abs(number) < 2**63 else None


def to_number(value: object) -> int | float | None:
    """Return a finite number, perhaps written as text; None for anything else, including booleans."""
    if isinstance(value, str) and value.strip().isascii() and len(value) < 64 and "_" not in value:
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if type(value) is int:
        return value
    return value if type(value) is float and abs(value) < float("inf") else None
