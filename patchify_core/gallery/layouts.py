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
from patchify_core.filenames import FileNames

ANNOTATIONS_FILE = "annotations.json"
_BESIDE = ("_annotations.coco.json", "result.json", "labels.json", "instances*.json", "coco.json", "*.coco.json")
_HEAD_BYTES = 1 << 20
_PARTS = re.compile(r"^(instances|person_keypoints|annotations?|labels?|coco)_|(_annotations)?\.coco$|^_annotations$")
_SAMPLE = 1000


def annotation_files(folder: Path, nested: bool = True) -> list[Path]:
    """List the COCO files that a folder's layout has; the first kind of place where there is one decides.

    Args:
        folder: The folder.
        nested: Look also into the folders of parts, such as Roboflow's `train`, `valid` and `test`.

    Returns:
        `annotations.json` alone where it is there; else all that are found, sorted by name; empty for a plain folder.
    """
    if os.path.lexists(folder / ANNOTATIONS_FILE):
        return [folder / ANNOTATIONS_FILE]
    names = _entries(folder)
    places = [[folder / name for name in names if any(fnmatch(name.lower(), each) for each in _BESIDE)]]
    inner = [folder / name for name in names if not name.startswith(".") and (folder / name).is_dir()]
    places.append([each / name for each in inner if _has_annotations(each) for name in _entries(each)])
    if nested:
        places.append([each / name for each in inner for name in (_BESIDE[0], ANNOTATIONS_FILE)])
    for place in places:
        found = [path for path in place if path.suffix.lower() == ".json" and _is_coco(path)]
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


def listed(files: Sequence[Path], folder: Path) -> str:
    """Name files of a folder, the first five of many."""
    return ", ".join(path.relative_to(folder).as_posix() for path in files[:5]) + (", ..." if files[5:] else "")


def picture_names(json_file: Path, names: Sequence[str]) -> FileNames:
    """Find the folder below which the pictures of a COCO file lie.

    Args:
        json_file: The COCO file.
        names: The file names in it.

    Returns:
        The first folder of the layout that has any of the pictures; the file's own folder if none has. Names are taken
        as they are written if that leads anywhere, else however they may be spelled.

    Raises:
        GalleryError: Pictures of these names are in several folders, none of which is called like the file.
    """
    some = names[:: max(1, len(names) // _SAMPLE)]
    own, others = ([FileNames(folder) for folder in folders] for folders in picture_folders(json_file))
    for is_there in (lambda root, name: os.path.isfile(root.root / name), FileNames.contains):
        for root in own:
            if any(is_there(root, name) for name in some):
                return root
        counts = [sum(is_there(root, name) for name in some) for root in others]
        if any(counts):
            best = [root for root, count in zip(others, counts, strict=True) if count == max(counts)]
            if len(best) > 1:
                raise GalleryError(
                    f"The pictures that {str(json_file)!r} names are in {str(best[0].root)!r} and in "
                    f"{str(best[1].root)!r}: put the file beside its pictures as {ANNOTATIONS_FILE}."
                )
            return best[0]
    return own[0]


def picture_folders(json_file: Path) -> tuple[list[Path], list[Path]]:
    """List the folders in which the pictures of a COCO file may lie.

    Returns:
        Its own folder and those called like it, the likeliest first; then those that pictures usually lie in.
    """
    folder, part = json_file.parent, _PARTS.sub("", json_file.stem)
    bases = [folder, *([Path(os.path.abspath(folder)).parent] if _has_annotations(folder) else [])]
    own = [folder, *(path for base in bases if part for path in (base / "images" / part, base / part))]
    others = [path for base in bases for path in (base / "images", base / "data", *bases[1:])]
    others += [path for base in bases for path in sorted((base / "images").glob("*/"))]
    own = list(dict.fromkeys(path for path in own if path.is_dir())) or [folder]
    return own, [path for path in dict.fromkeys(others) if path.is_dir() and path not in own]


def _has_annotations(folder: Path) -> bool:
    """Say whether a folder is called as those are that contain annotations and no pictures."""
    name = Path(os.path.abspath(folder)).name.lower()
    return "annotation" in name or name in ("annots", "labels", "json", "coco")


def _is_coco(path: Path) -> bool:
    """Say whether a JSON file looks like COCO, by the names in its first megabyte."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES).replace(b"\0", b"")  # UTF-16 too
    except OSError:
        return False
    return sum(word in head for word in (b'"images"', b'"annotations"', b'"categories"', b'"licenses"')) > 1


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []
