"""What a file is that should be a zip archive or a picture: archives of other kinds, by their first bytes."""

from __future__ import annotations

PARTS = "The archive is one of several parts: pack the pictures into a single zip."

SPANNED = (b"PK\x07\x08", b"PK00PK\x03\x04")  # the first part of several: APPNOTE.TXT 8.5.3 to 8.5.5

_STARTS = {
    "a RAR archive": (b"Rar!\x1a\x07",),
    "a 7-Zip archive": (b"7z\xbc\xaf\x27\x1c",),
    "a gzip archive": (b"\x1f\x8b",),
    "a bzip2 archive": tuple(b"BZh%d1AY&SY" % level for level in range(1, 10)),
    "an XZ archive": (b"\xfd7zXZ\0",),
    "a Zstandard archive": (b"\x28\xb5\x2f\xfd",),
    "a cabinet file": (b"MSCF\0\0\0\0",),
    "a StuffIt archive": (b"StuffIt", b"SIT!"),
    "an ARJ archive": (b"\x60\xea",),
}


def other_archive(head: bytes) -> str | None:
    """Name the kind of an archive that is not a zip.

    Args:
        head: The file's first bytes; 512 are enough.

    Returns:
        A noun with its article; None if the file is no archive of a kind that is known, or a zip.

    Example:
        >>> other_archive(b"Rar!" + bytes([26, 7, 1, 0]))
        'a RAR archive'
    """
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[2:5] == b"-lh" and head[6:7] == b"-":
        return "an LHA archive"
    return next((kind for kind, starts in _STARTS.items() if head.startswith(starts)), None)


def what_no_zip_is(head: bytes) -> str:
    """Say in one sentence what a file is that has no zip archive's table of contents, and what to do.

    Args:
        head: The file's first bytes; 1,024 are enough.
    """
    text = head.decode("utf-8-sig", "ignore").lstrip().lower()
    if not head.strip(b"\0"):
        what = "begins with nothing but zeros" if head else "is empty"
        return f"That file {what}: its copy or download was not finished, so repeat it and send it again."
    if head.startswith(SPANNED):
        return PARTS
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "The zip archive is cut short: its copy or download was not finished, so repeat it and send it again."
    if kind := other_archive(head):
        return f"That is {kind}, not a zip archive: pack the pictures as a zip."
    if text.startswith(("<!doctype html", "<html")):
        return "That is a web page, not a zip archive: download the archive itself."
    if text.startswith("version https://git-lfs.github.com/spec/"):
        return "That is a Git LFS pointer, not a zip archive: fetch the file with 'git lfs pull'."
    if text.startswith("%pdf"):
        return "That is a PDF document, not a zip archive: export its pages as pictures."
    return "That is no zip archive: choose a .zip file, or send the pictures themselves."
