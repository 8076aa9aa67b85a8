"""Identify a file by its first bytes: choose the decoder, or explain why the file cannot be read as a picture.

Content decides what a file is. Its name decides only whether it was meant to be a picture (`PICTURE_SUFFIXES`): a
damaged `photo.jpg` is a damaged picture, while `notes.txt` is not a picture at all.
"""

from __future__ import annotations

import re
from pathlib import PurePath

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    features,
)

from patchify_core.imaging.tiff import TiffFile

SUPPORTED_FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF"

RAW_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .ori .pef .raf "
    ".raw .rw2 .rwl .sr2 .srf .srw .x3f".split()
)
PICTURE_SUFFIXES = RAW_SUFFIXES | frozenset(
    ".jpg .jpeg .jpe .jif .jfif .jfi .jps .pjpeg .pjp .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif .avifs "
    ".heic .heif .heics .heifs .hif .jxl .jp2 .j2k .j2c .jpf .jpx .jpm .jxr .wdp .svg .svgz .psd .psb .ico .icns .tga "
    ".exr .hdr .xcf .kra .dds .pcx .sgi .qoi .ppm .pgm .pbm .pnm .pam .pfm".split()
)
"""Suffixes (lower case) of pictures, whether or not their format is supported here."""

AVIF_BRANDS = frozenset({b"avif", b"avis"})
SEQUENCE_BRANDS = frozenset({b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"})
HEIC_BRANDS = SEQUENCE_BRANDS - {b"msf1"} | {b"heic", b"heix", b"heim", b"heis"}
_BMP_HEADER_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_UNSUPPORTED = {
    "a JPEG XL picture": (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    "a JPEG 2000 picture": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "a JPEG XR picture": (b"II\xbc",),
    "a Photoshop document": (b"8BPS",),
    "an OpenEXR picture": (b"v/1\x01",),
    "a Radiance HDR picture": (b"#?RADIANCE", b"#?RGBE"),
    "a GIMP document": (b"gimp xcf",),
    "a DirectDraw texture": (b"DDS |",),
    "a QOI picture": (b"qoif",),
    "an Apple icon": (b"icns",),
}
_DOCUMENTS = {
    "a PDF document": (b"%PDF",),
    "a Krita document": (b"PK\3\4.{26}mimetypeapplication/x-krita",),
    "an OpenRaster document": (b"PK\3\4.{26}mimetypeimage/openraster",),
    "an Office document": (
        b"PK\3\4.{26}(\\[Content_Types\\]|_rels/|docProps/|word/|xl/|ppt/|mimetypeapplication/vnd)",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        b"{\\\\rtf",
    ),
    "a ZIP archive": (b"PK(\3\4|\5\6|\7\x08)",),
    "an audio recording": (
        b"ID3[\\2-\\4]",
        b"fLaC",
        b"OggS",
        b"RIFF.{4}WAVE",
        b".{4}ftypM4[AB] ",
        b"\xff[\xfb\xf3\xf2]",
    ),
    "a video": (
        b"[\\0-\\x08].{3}(ftyp|moov|mdat|wide|skip|free)",
        b"RIFF.{4}AVI ",
        b"\x1aE\xdf\xa3",
        b"\0\0\1[\xb0-\xbf]",
        b"(G.{187}){3}",
        b"FLV\1",
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    ),
    "an array of numbers": (b"\x93NUMPY", b"\x89HDF\r\n", b"MATLAB 5"),
    "a DICOM file": (b".{128}DICM",),
    "a FITS file": (b"SIMPLE  =",),
    "a database": (b"SQLite format 3",),
    "a program": (b"MZ[^ -~]", b"\x7fELF"),
}
_ADVICE = {
    "a Git LFS pointer": "fetch the file with 'git lfs pull'",
    "a web page": "save the picture itself",
    "a video": "export a frame of it as PNG or JPEG",
    "a PDF document": "export its page as PNG or JPEG",
    "an Office document": "export its pictures as PNG or JPEG",
}
_RAW = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"\0MRM", b"FOVb")
_UNSUPPORTED_SUFFIXES = {
    "an icon": (".ico",),
    "a Targa picture": (".tga",),
    "a Netpbm picture": (".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pfm"),
}


def has_picture_suffix(name: str) -> bool:
    """Return whether a file name has a suffix that only pictures have."""
    return PurePath(name).suffix.lower() in PICTURE_SUFFIXES


def decoder_for(head: bytes) -> type[ImageFile.ImageFile] | None:
    """Choose the Pillow plugin by the file's first bytes; None if its format is not supported."""
    if head.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile  # an MPO too: its first picture is a complete JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and WebPImagePlugin.SUPPORTED:
        return WebPImagePlugin.WebPImageFile
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile
    if head.startswith(_TIFF) and head[8:10] != b"CR":
        return TiffFile
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return BmpImagePlugin.BmpImageFile
    kind = _iso_format(head)
    if kind == "AVIF" and features.check("avif"):
        from PIL import AvifImagePlugin  # added in Pillow 11.3

        return AvifImagePlugin.AvifImageFile
    if kind == "HEIC":
        try:
            from pi_heif.as_plugin import HeifImageFile  # used directly: registering it would change Image.open()
        except ImportError:
            return None
        return HeifImageFile
    return None


def brands(head: bytes) -> list[bytes]:
    """Return the major and compatible brands of an ISO media file (AVIF, HEIC, MP4); empty for any other file."""
    if head[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]


def _iso_format(head: bytes) -> str | None:
    """Distinguish AVIF and HEIC by their brands; if these are ambiguous (`mif1`), by the codec of the items."""
    listed = set(brands(head))
    avif, heic = bool(listed & AVIF_BRANDS), bool(listed & HEIC_BRANDS)
    if avif == heic:
        if not listed & (AVIF_BRANDS | {b"mif1", b"mif2", b"msf1"}):
            return None
        avif = b"av01" in head and b"hvc1" not in head
    return "AVIF" if avif else "HEIC"


def other_file_type(head: bytes) -> str | None:
    """Name the type of a file that is not a picture, by its first 512 bytes.

    Returns:
        A noun with its article, such as "a Git LFS pointer", "a web page" or "a RAR archive"; None for pictures, other
        text and unknown types.

    Example:
        >>> other_file_type(b"%PDF-1.7"), other_file_type(b"words")
        ('a PDF document', None)
    """
    text = _text(head)
    if text.startswith("version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer"
    if text.startswith(("<!doctype html", "<html")):
        return "a web page"
    if (
        _iso_format(head)
        or _is_raw(head)
        or head.startswith(tuple(start for starts in _UNSUPPORTED.values() for start in starts))
    ):
        return None
    documents = (kind for kind, patterns in _DOCUMENTS.items() if any(re.match(p, head, re.DOTALL) for p in patterns))
    return other_archive_type(head) or next(documents, None)


def _text(head: bytes) -> str:
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return head.decode(encoding, "ignore").lstrip().lower()


def explain_unsupported(head: bytes, name: str, suffix: str) -> tuple[str, bool]:
    """Explain what a file without a decoder is, and what the user can do.

    Args:
        head: The file's first bytes.
        name: The file's name as it appears in the message.
        suffix: The suffix of its name, lower case.

    Returns:
        The message, and whether the content is a picture of a known but unsupported format.
    """
    text, kind = _text(head), other_file_type(head)
    if not head.strip(b"\0"):
        return f"{name} begins with nothing but zeros: its copy or download was not finished, so repeat it.", False
    if kind:
        return f"{name} is {kind}, not a picture: {_advice(kind)}.", False
    drawn = re.match(r"(?:<\?xml[^>]*>|<!--.*?-->|<!doctype[^>]*>|\s)*<(\w+:)?svg\b", text, re.DOTALL)
    if drawn or suffix in (".svg", ".svgz"):
        return f"{name} is an SVG drawing, which has no pixels: export it as PNG or JPEG.", bool(drawn)
    if _iso_format(head) == "HEIC":
        return f"{name} is a HEIC photo, for which pi-heif is missing: install it, or save the photo as JPEG.", True
    if _iso_format(head) == "AVIF":
        return f"{name} is an AVIF picture, which this Pillow cannot read: save it as JPEG or PNG.", True
    if _is_raw(head):
        return raw_photo_message(name), True
    for unsupported, starts in _UNSUPPORTED.items():
        if head.startswith(starts):
            return f"{name} is {unsupported}, which is not supported: save it as JPEG or PNG.", True
    if re.match(r"[\[{]\s*([\[{\"\]}]|-?\d)", text):
        return f"{name} is a JSON file, not a picture: choose the picture itself.", False
    for unsupported, suffixes in _UNSUPPORTED_SUFFIXES.items():
        if suffix in suffixes:
            return f"{name} is {unsupported}, which is not supported: save it as JPEG or PNG.", True
    if not re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f]", text):
        kind = "a PostScript document" if text.startswith("%!ps") else "text"
        return f"{name} is {kind}, not a picture: choose the picture itself.", False
    if suffix in RAW_SUFFIXES:
        return raw_photo_message(name), True
    return f"{name} is not a picture in a supported format ({SUPPORTED_FORMATS}): save it as JPEG or PNG.", False


def _advice(kind: str) -> str:
    """Advise what to do with a file that is not a picture."""
    if kind.endswith("archive"):
        return "unpack it first"
    if kind.endswith(("program", "database", "recording")):
        return "choose the picture itself"
    return _ADVICE.get(kind, "export it as PNG or JPEG")


def _is_raw(head: bytes) -> bool:
    """Return whether the first bytes are those of a camera raw file that is not a plain TIFF."""
    return head.startswith(_RAW) or (head.startswith(_TIFF) and head[8:10] == b"CR") or b"crx " in brands(head)


def raw_photo_message(name: str) -> str:
    """Return the message for a camera raw file."""
    return f"{name} is a camera raw file, whose first picture is only a preview: export it as JPEG or TIFF."


# Archives --------------------------------------------------------------------------------------------------------


SPLIT_ARCHIVE = "The archive is one of several parts: pack the pictures into a single zip."

SPANNED = (b"PK\x07\x08", b"PK00PK\x03\x04")  # first part of a split archive: APPNOTE.TXT 8.5.3 to 8.5.5

_ARCHIVES = {
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


def other_archive_type(head: bytes) -> str | None:
    """Name the type of an archive other than zip, by its first 512 bytes.

    Returns:
        A noun with its article; None for zip archives and files of other types.

    Example:
        >>> other_archive_type(b"Rar!" + bytes([26, 7, 1, 0]))
        'a RAR archive'
    """
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[2:5] == b"-lh" and head[6:7] == b"-":
        return "an LHA archive"
    return next((kind for kind, starts in _ARCHIVES.items() if head.startswith(starts)), None)
