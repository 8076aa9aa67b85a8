"""Which files and folders systems leave among people's pictures: one rule for folders and for zip archives.

Nobody means them by "my pictures": thumbnails that a NAS made, deleted files, edits that a photo program keeps beside
each picture. They are passed over and counted, never called damaged.
"""

from __future__ import annotations

SIDE_FILES = frozenset(
    {
        ".ds_store",
        "icon\r",  # a folder's own icon on macOS
        "thumbs.db",  # Windows
        "thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "picasa.ini",
        "zbthumbnail.info",  # Canon ZoomBrowser
        "pspbrwse.jbf",  # Paint Shop Pro
    }
)
"""Names (lower case) of files that an operating system or a photo program writes into folders of pictures."""

SIDE_STARTS = ("._", "synophoto_thumb_", "synophoto:thumb_")
"""Beginnings: what macOS keeps about a file on other systems' disks, and Synology's thumbnails."""

SIDE_SUFFIXES = (".xmp", ".aae", ".thm", ".pp3", ".dop")
"""Endings: edits and thumbnails that a phone, camera or photo program keeps beside a picture or film."""

SIDE_FOLDERS = frozenset(
    {
        "__macosx",  # macOS, within zips
        "network trash folder",
        "temporary items",
        ".trashes",
        "@eadir",  # Synology
        "@tmp",
        "@sharebin",
        "@synoresource",
        "@synoeastream",
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "@transcode",
        "@__thumb",
        ".@__thumb",
        ".wdmc",  # Western Digital
        ".thumbnails",  # Linux, Android
        ".thumbnail",
        ".trash",
        "lost+found",
        ".zfs",
        ".snapshot",  # NetApp
        "~snapshot",
        "$recycle.bin",  # Windows
        "recycler",
        "recycled",
        "system volume information",
        "found.000",
    }
)
"""Names (lower case) of folders of thumbnails, deleted files and snapshots."""


def is_side_file(name: str) -> bool:
    """Whether a file is one that a system or a photo program keeps beside pictures.

    Args:
        name: of the file, without folders; the case of its letters does not count.

    Example:
        >>> [is_side_file(name) for name in ("Thumbs.db", "IMG_1.xmp", "._IMG_1.jpg", "IMG_1.jpg", "thumbs.jpg")]
        [True, True, True, False, False]
    """
    low = name.lower()
    return low in SIDE_FILES or low.startswith(SIDE_STARTS) or low.endswith(SIDE_SUFFIXES)


def is_side_folder(name: str) -> bool:
    """Whether a folder is for thumbnails, deleted files or snapshots, as NAS and operating systems make them.

    Args:
        name: of the folder, without those around it; the case of its letters does not count.

    Example:
        >>> [is_side_folder(name) for name in ("@eaDir", "$RECYCLE.BIN", ".thumbnails", "recycled paper")]
        [True, True, True, False]
    """
    low = name.lower()
    return low in SIDE_FOLDERS or low.startswith(".trash-")  # of one user each, as .Trash-1000


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden by its name, as on macOS and Linux: it starts with a dot."""
    return name.startswith(".") and name not in (".", "..")


def is_passed_over(path: str) -> bool:
    """Whether a file is a side file or hidden, or lies in a folder that is.

    Args:
        path: POSIX path of the file below the folder or archive that is read.

    Example:
        >>> [is_passed_over(path) for path in ("a/@eaDir/1.jpg", ".git/1.jpg", "a/Thumbs.db", "./a/1.jpg", "../1.jpg")]
        [True, True, True, False, False]
    """
    *folders, name = path.split("/")
    return is_side_file(name) or any(map(is_side_folder, folders)) or any(map(is_hidden, (*folders, name)))
