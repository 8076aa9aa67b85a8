"""Where annotation tools put their COCO files, and where the pictures lie that such a file names.

| layout | annotations | pictures |
|---|---|---|
| ours | `annotations.json` | beside it |
| COCO | `annotations/instances_train2017.json` | `train2017/` or `images/train2017/` |
| CVAT, Datumaro | `annotations/instances_default.json` | `images/default/` or `images/` |
| Roboflow | `train/_annotations.coco.json` | beside it |
| Label Studio | `result.json` | `images/`, which the file names contain |
| FiftyOne | `labels.json` | `data/` |
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from patchify_core.errors import GalleryError
from patchify_core.imaging.filenames import FileNames, is_hidden

ANNOTATIONS_FILE = "annotations.json"
_NAMED = ("_annotations.coco*.json", "instances*.json", "*.coco.json")
"""What only annotation tools call a file."""

_LIKELY = ("result.json", "labels.json", "coco*.json")
"""What they call it too, as others do."""

_PARTS = re.compile(
    r"^(instances|person_keypoints|image_info|annotations?|labels?|coco)_|(_annotations)?\.coco$|^_annotations$"
)
_SAMPLE, _PIECE_BYTES, _DEEP = 1000, 1 << 22, 3


def annotation_files(folder: Path, nested: bool = True) -> list[Path]:
    """List the COCO files that a folder's layout has; the first kind of place where there is one decides.

    Args:
        folder: The folder.
        nested: Look also into the folders of parts, such as Roboflow's `train`, `valid` and `test`, and at files of any
            name beside the pictures.

    Returns:
        `annotations.json` alone where it is there; else all that are found, sorted by name; empty for a plain folder. A
        file that is called and placed like one of a layout but is no JSON is among them, so that whoever reads it says
        what it is.
    """
    inside = _entries(folder)
    for name in inside:
        if name.lower() == ANNOTATIONS_FILE and not (folder / name).is_dir():
            return [folder / name]
    files = [folder / name for name in inside if name.lower().endswith(".json")]
    inner = [folder / name for name in inside if not is_hidden(name) and (folder / name).is_dir()]
    places = [
        [path for path in files if _is_called(path, _NAMED) and _may_be_coco(path)]
        + [path for path in files if _is_called(path, _LIKELY) and _is_coco(path)],
        [path for each in inner if _has_annotations(each) for path in _json_files(each) if _may_be_coco(path)],
    ]
    if nested:
        parts = [path for each in inner for path in _json_files(each)]
        places.append([path for path in parts if _is_called(path, (*_NAMED, ANNOTATIONS_FILE)) and _may_be_coco(path)])
        places.append([path for path in files if _is_coco(path)])
    for found in places:
        if found:  # not the keypoints and captions of the same pictures
            return [path for path in found if path.name.lower().startswith("instances")] or found
    return []


def the_annotation_file(folder: Path, nested: bool = True) -> Path | None:
    """Return the COCO file of a folder; None for a plain folder. Args as for `annotation_files`.

    Raises:
        GalleryError: There are several: which one is for the person to say.
    """
    found = annotation_files(folder, nested)
    if len(found) > 1:
        raise GalleryError(
            f"{str(folder)!r} has {len(found)} annotation files ({listed(found, folder)}): name one of them instead."
        )
    return found[0] if found else None


def other_annotation_files(folder: Path) -> list[Path]:
    """List the COCO files anywhere in a folder, a few folders deep, whatever they are called."""
    found = []
    for inner, folders, files in os.walk(folder):
        below = Path(inner).relative_to(folder)
        folders[:] = sorted(name for name in folders if not is_hidden(name) and len(below.parts) < _DEEP)
        found += [Path(inner) / name for name in sorted(files) if name.lower().endswith((".json", ".json.txt"))]
    return [path for path in found if _is_coco(path)]


def listed(files: Sequence[Path], folder: Path) -> str:
    """Name files of a folder, the first five of many."""
    return ", ".join(path.relative_to(folder).as_posix() for path in files[:5]) + (", ..." if files[5:] else "")


def picture_names(json_file: Path, names: Sequence[str]) -> FileNames:
    """Find the folder below which the pictures of a COCO file lie.

    Args:
        json_file: The COCO file.
        names: The file names in it.

    Returns:
        The first folder of the layout that has any of the pictures; the outermost folder of the layout if none has.
        Names are taken as they are written if that leads anywhere, else however they may be spelled.

    Raises:
        GalleryError: Pictures of these names are in several folders, none of which is called like the file.
    """
    some = names[:: max(1, len(names) // _SAMPLE)]
    bases = _bases(json_file)
    if some and bases[1:] and all(name.startswith("../") for name in some):
        return FileNames(bases[1], "../")  # relative to the file, whose folder is for annotations alone
    own, *others = ([FileNames(folder) for folder in folders] for folders in picture_folders(json_file))
    for is_there in (lambda root, name: os.path.isfile(root.root / name), FileNames.contains):
        for root in own:
            if any(is_there(root, name) for name in some):
                return root
        for roots in others:
            counts = [sum(is_there(root, name) for name in some) for root in roots]
            best = [root for root, count in zip(roots, counts, strict=True) if count and count == max(counts)]
            if len(best) > 1:
                raise GalleryError(
                    f"The pictures that {str(json_file)!r} names are in {str(best[0].root)!r} and in "
                    f"{str(best[1].root)!r}: put the file beside its pictures as {ANNOTATIONS_FILE}."
                )
            if best:
                return best[0]
    return FileNames(bases[-1])


def picture_folders(json_file: Path) -> list[list[Path]]:
    """List the folders in which the pictures of a COCO file may lie; the letter case of their names does not count.

    Returns:
        Its own folder and those called like it, the likeliest first; those that pictures usually lie in; and the others
        beside it.
    """
    folder, part = json_file.parent, _PARTS.sub("", json_file.stem)
    bases = _bases(json_file)
    images = [path for base in bases for path in _inner(base, "images")]
    parts = [each for each in dict.fromkeys([part, part.rpartition("_")[2]]) if each]
    own = [path for each in (*images, *bases) for one in parts for path in _inner(each, one)]
    usual = [*images, *(path for base in bases for path in _inner(base, "data")), *bases[1:]]
    tiers = [folder, *own], [*usual, *_folders(images)], _folders(bases)
    listed: list[list[Path]] = []
    for tier in tiers:
        known = {path for before in listed for path in before}
        listed.append([path for path in dict.fromkeys(tier) if path not in known])
    return listed


def _bases(json_file: Path) -> list[Path]:
    """The folder of a COCO file, and that around it where it is one for annotations alone."""
    folder = json_file.parent
    return [folder, *([Path(os.path.abspath(folder)).parent] if _has_annotations(folder) else [])]


def _folders(within: Sequence[Path]) -> list[Path]:
    """The folders in some folders, but for hidden ones."""
    return [each / name for each in within for name in _entries(each) if not is_hidden(name) and (each / name).is_dir()]


def _inner(folder: Path, name: str) -> list[Path]:
    return [folder / each for each in _entries(folder) if each.lower() == name.lower() and (folder / each).is_dir()]


def _has_annotations(folder: Path) -> bool:
    """Say whether a folder is called as those are that contain annotations and no pictures."""
    name = Path(os.path.abspath(folder)).name.lower()
    return "annotation" in name or name in ("ann", "anns", "annots", "labels", "json", "coco")


def _json_files(folder: Path) -> list[Path]:
    return [folder / name for name in _entries(folder) if name.lower().endswith(".json") and not is_hidden(name)]


def _is_called(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path.name.lower(), pattern) for pattern in patterns)


def _may_be_coco(path: Path) -> bool:
    """Say whether a file in a layout's place is COCO, or was meant to be: no JSON, cut short, or not readable."""
    try:
        with open(path, "rb") as file:
            start = file.read(64).lstrip(b"\xef\xbb\xbf\xff\xfe\0\t\r\n ")
    except OSError:
        return True
    return not start.startswith((b"{", b"[")) or _mentions(path) >= 1


def _is_coco(path: Path) -> bool:
    """Say whether a JSON file looks like COCO."""
    return _mentions(path) >= 2


def _mentions(path: Path) -> int:
    """How many of COCO's own two lists a file names, wherever in it; 0 if it cannot be read."""
    left, before = {b'"images"', b'"annotations"'}, b""
    try:
        with open(path, "rb") as file:
            while left and (piece := file.read(_PIECE_BYTES)):
                piece = before + piece.replace(b"\0", b"")  # UTF-16 too
                left -= {word for word in left if word in piece}
                before = piece[-16:]
    except OSError:
        return 0
    return 2 - len(left)


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []
