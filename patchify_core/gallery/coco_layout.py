"""Find the COCO file of a folder, and the pictures that a COCO file names, in the layouts of annotation tools.

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
from patchify_core.gallery.folder import is_hidden
from patchify_core.imaging.filenames import FileFinder

ANNOTATIONS_FILE = "annotations.json"
_SPECIFIC_NAMES = ("_annotations.coco*.json", "instances*.json", "*.coco.json")
"""Names that only annotation tools use."""

_GENERIC_NAMES = ("result.json", "labels.json", "coco*.json")
"""Names that annotation tools use, among others."""

_NAME_AFFIXES = re.compile(
    r"^(instances|person_keypoints|image_info|annotations?|labels?|coco)_|(_annotations)?\.coco$|^_annotations$"
)
"""What a COCO file's name has beside the name of its split, such as `instances_` in `instances_train2017`."""

_SAMPLE, _CHUNK_BYTES, _MAX_DEPTH = 1000, 1 << 22, 3


def find_annotation_files(folder: Path, nested: bool = True) -> list[Path]:
    """Find the COCO files of a folder's layout.

    Args:
        folder: The folder.
        nested: Also look into the folders of splits, such as Roboflow's `train`, `valid` and `test`, and at files of
            any name beside the pictures.

    Returns:
        `annotations.json` alone if it is there; else the files in the first place of the layouts that has any, sorted
        by name; empty for a plain folder. A file with the name and place of a layout that is not JSON is included, so
        that its reader says what it is.
    """
    entries = _entries(folder)
    for name in entries:
        if name.lower() == ANNOTATIONS_FILE and not (folder / name).is_dir():
            return [folder / name]
    files = [folder / name for name in entries if name.lower().endswith(".json")]
    subfolders = [folder / name for name in entries if not is_hidden(name) and (folder / name).is_dir()]
    places = [
        [path for path in files if _matches(path, _SPECIFIC_NAMES) and _may_be_coco(path)]
        + [path for path in files if _matches(path, _GENERIC_NAMES) and _is_coco(path)],
        [path for each in subfolders if _is_for_annotations(each) for path in _json_files(each) if _may_be_coco(path)],
    ]
    if nested:
        inner = [path for each in subfolders for path in _json_files(each)]
        names = (*_SPECIFIC_NAMES, ANNOTATIONS_FILE)
        places.append([path for path in inner if _matches(path, names) and _may_be_coco(path)])
        places.append([path for path in files if _is_coco(path)])
    for paths in places:
        if paths:  # prefer instances to the keypoints and captions of the same pictures
            return [path for path in paths if path.name.lower().startswith("instances")] or paths
    return []


def find_annotation_file(folder: Path) -> Path | None:
    """Return the COCO file of a folder, None for a plain folder. See `find_annotation_files`.

    Raises:
        GalleryError: There are several, of which the user must choose one.
    """
    files = find_annotation_files(folder)
    if len(files) > 1:
        names = join_names(files, folder)
        raise GalleryError(f"{str(folder)!r} has {len(files)} annotation files ({names}): name one of them instead.")
    return files[0] if files else None


def any_annotation_files(folder: Path) -> list[Path]:
    """List the COCO files of any name in a folder and up to three levels of subfolders."""
    paths = []
    for inner, folders, files in os.walk(folder):
        below = Path(inner).relative_to(folder)
        folders[:] = sorted(name for name in folders if not is_hidden(name) and len(below.parts) < _MAX_DEPTH)
        paths += [Path(inner) / name for name in sorted(files) if name.lower().endswith((".json", ".json.txt"))]
    return [path for path in paths if _is_coco(path)]


def join_names(files: Sequence[Path], folder: Path) -> str:
    """Join the names of up to five files of a folder for a message."""
    return ", ".join(path.relative_to(folder).as_posix() for path in files[:5]) + (", ..." if files[5:] else "")


def find_picture_folder(json_file: Path, names: Sequence[str]) -> FileFinder:
    """Find the folder that the file names in a COCO file are relative to.

    Args:
        json_file: The COCO file.
        names: The file names in it.

    Returns:
        The first folder of the layout that has any of the pictures; the outermost folder of the layout if none has.
        Exact names take precedence over other spellings.

    Raises:
        GalleryError: Pictures of these names are in several folders, none of which has the name of the file.
    """
    sample = names[:: max(1, len(names) // _SAMPLE)]
    bases = _bases(json_file)
    if sample and bases[1:] and all(name.startswith("../") for name in sample):
        return FileFinder(bases[1], "../")  # relative to a folder that contains annotations only
    own, *others = ([FileFinder(folder) for folder in folders] for folders in picture_folders(json_file))
    for contains in (lambda finder, name: os.path.isfile(finder.root / name), FileFinder.contains):
        for finder in own:
            if any(contains(finder, name) for name in sample):
                return finder
        for finders in others:
            counts = [sum(contains(finder, name) for name in sample) for finder in finders]
            best = [finder for finder, count in zip(finders, counts, strict=True) if count and count == max(counts)]
            if len(best) > 1:
                raise GalleryError(
                    f"The pictures that {str(json_file)!r} names are in {str(best[0].root)!r} and in "
                    f"{str(best[1].root)!r}: put the file beside its pictures as {ANNOTATIONS_FILE}."
                )
            if best:
                return best[0]
    return FileFinder(bases[-1])


def picture_folders(json_file: Path) -> list[list[Path]]:
    """List the folders that may contain the pictures of a COCO file, in three tiers; letter case is ignored.

    Returns:
        Its own folder and those with its name, the likeliest first; the usual folders of pictures; and all others
        beside it.
    """
    folder, split = json_file.parent, _NAME_AFFIXES.sub("", json_file.stem)
    bases = _bases(json_file)
    images = [path for base in bases for path in _named(base, "images")]
    splits = [each for each in dict.fromkeys([split, split.rpartition("_")[2]]) if each]
    own = [path for each in (*images, *bases) for one in splits for path in _named(each, one)]
    usual = [*images, *(path for base in bases for path in _named(base, "data")), *bases[1:]]
    tiers: list[list[Path]] = []
    for tier in ([folder, *own], [*usual, *_subfolders(images)], _subfolders(bases)):
        previous = {path for earlier in tiers for path in earlier}
        tiers.append([path for path in dict.fromkeys(tier) if path not in previous])
    return tiers


def _bases(json_file: Path) -> list[Path]:
    """Return the folder of a COCO file, and its parent if that folder is for annotations only."""
    folder = json_file.parent
    return [folder, *([Path(os.path.abspath(folder)).parent] if _is_for_annotations(folder) else [])]


def _subfolders(folders: Sequence[Path]) -> list[Path]:
    return [
        each / name for each in folders for name in _entries(each) if not is_hidden(name) and (each / name).is_dir()
    ]


def _named(folder: Path, name: str) -> list[Path]:
    return [folder / each for each in _entries(folder) if each.lower() == name.lower() and (folder / each).is_dir()]


def _is_for_annotations(folder: Path) -> bool:
    """Return whether a folder has a name of folders that contain annotations and no pictures."""
    name = Path(os.path.abspath(folder)).name.lower()
    return "annotation" in name or name in ("ann", "anns", "annots", "labels", "json", "coco")


def _json_files(folder: Path) -> list[Path]:
    return [folder / name for name in _entries(folder) if name.lower().endswith(".json") and not is_hidden(name)]


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path.name.lower(), pattern) for pattern in patterns)


def _may_be_coco(path: Path) -> bool:
    """Return whether a file in a layout's place is COCO or should be: also if it is not JSON or is unreadable."""
    try:
        with open(path, "rb") as file:
            start = file.read(64).lstrip(b"\xef\xbb\xbf\xff\xfe\0\t\r\n ")
    except OSError:
        return True
    return not start.startswith((b"{", b"[")) or _count_keys(path) >= 1


def _is_coco(path: Path) -> bool:
    """Return whether a JSON file looks like COCO."""
    return _count_keys(path) >= 2


def _count_keys(path: Path) -> int:
    """Count which of COCO's keys "images" and "annotations" occur in a file, at any place; 0 if it cannot be read."""
    missing, previous = {b'"images"', b'"annotations"'}, b""
    try:
        with open(path, "rb") as file:
            while missing and (chunk := file.read(_CHUNK_BYTES)):
                chunk = previous + chunk.replace(b"\0", b"")  # also matches UTF-16
                missing -= {key for key in missing if key in chunk}
                previous = chunk[-16:]
    except OSError:
        return 0
    return 2 - len(missing)


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []
