"""ILIAS in its published layout: ilias_core, and optional lists and archives of distractors. See BENCHMARKS.md."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import ArchiveError, GalleryError
from patchify_core.gallery.benchmark_files import (
    BoxReader,
    annotate,
    enclosing_box,
    query_notes,
    read_images,
    require_files,
    rotation_notes,
    unlocated_notes,
)
from patchify_core.gallery.model import Benchmark, Gallery, GalleryImage, Progress, Query
from patchify_core.imaging.filenames import name_key
from patchify_core.imaging.tar_members import list_members

CORE, DISTRACTORS, LISTS = "ilias_core", "yfcc100m", "image_ids"
MINI_LIST = f"{LISTS}/mini_ilias_yfcc100m_ids.txt"
ALL_LIST = f"{LISTS}/distractor_ids.txt.gz"
TAXONOMY = ("taxonomy.json", "misc/taxonomy.json", f"{LISTS}/taxonomy.json")
"""Where ILIAS' categories may be."""

SUBSETS = ("all", "core", "mini")
SUFFIXES = (".jpg", ".jpeg", ".png")
"""The suffixes that ILIAS' own code looks for, in any letter case."""


def read_ilias(
    folder: Path | str, subset: str = "all", progress: Progress | None = None, text: bool = False
) -> Gallery:
    """Read ILIAS: image or text queries, positives whole, distractors if they are present.

    Args:
        folder: The folder with `ilias_core`, or `ilias_core` itself.
        subset: `core` for the core alone, `mini` for the core and the distractors that
            `image_ids/mini_ilias_yfcc100m_ids.txt` lists, `all` for the core and every picture below `yfcc100m`.
            Pictures in tar archives are read in place.
        progress: Called after each picture header that is read.
        text: Use the objects' descriptions, `T*.txt`, as queries instead of the query pictures.

    Returns:
        The gallery: one instance per object folder, every line of a positive's box file as a box, and a query's box
        around all the lines of its own, as ILIAS' extraction crops it. Notes count the lines that cannot be used.

    Raises:
        GalleryError: Files are missing, packed or damaged.
    """
    if subset not in SUBSETS:
        raise GalleryError(f"ILIAS has the subsets {', '.join(SUBSETS)}, not {subset!r}: choose one of them.")
    root = Path(folder)
    core = CORE if os.path.isdir(root / CORE) else ""
    objects = _objects(root, core)
    query_names, positives, text_files = _list_files(root, core, objects, text)
    needed = [_box_file(name) for name in (*query_names, *positives)]
    box_files = dict(zip(needed, require_files(root, needed, "ilias_core"), strict=True))
    distractors = {} if subset == "core" else _distractors(root, mini=subset == "mini")
    names = [*positives, *distractors]
    pictures, rotated = read_images(root, names if text else [*names, *query_names], progress, distractors)
    images = tuple(pictures[: len(names)])
    instance_of = {each: number for number, each in enumerate(objects, 1)}
    reader = BoxReader(root)

    def boxes_of(picture: GalleryImage) -> NDArray[np.float64]:
        return reader.read(box_files[_box_file(picture.file_name)], (picture.width, picture.height))

    def instance(name: str) -> int:
        return instance_of[PurePosixPath(name).parent.parent.as_posix()]

    queries = [
        Query.from_image(picture, enclosing_box(boxes_of(picture)), instance(picture.file_name))
        for picture in pictures[len(names) :]
    ]
    positive_images = images[: len(positives)]
    annotations = annotate([(image.id, instance(image.file_name), boxes_of(image)) for image in positive_images])
    names_of = {(instance(image.file_name), image.id): image.file_name for image in positive_images}
    benchmark, missing = _benchmark(root, core, names_of, instance_of)
    notes = [*reader.notes(), *query_notes(queries), *unlocated_notes(annotations, images), *missing]
    notes += rotation_notes(rotated, "as ILIAS' own code does")
    for number, name in enumerate(text_files if text else (), len(images) + 1):
        queries.append(Query(number, name, root / name, 0, 0, None, instance(name), text=_read_text(root / name)))
    return Gallery(
        root,
        images,
        tuple(queries),
        {number: PurePosixPath(each).name for each, number in instance_of.items()},
        annotations,
        notes=tuple(notes),
        benchmark=benchmark,
    )


def is_ilias(folder: Path) -> bool:
    """Return whether a folder looks like ILIAS: it has `ilias_core`, or object folders with `query` and `pos`."""
    return os.path.isdir(folder / CORE) or any(_is_object(folder / name) for name in _subfolders(folder))


# Files -----------------------------------------------------------------------------------------------------


def _is_object(folder: Path) -> bool:
    return os.path.isdir(folder / "query") and os.path.isdir(folder / "pos")


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except (OSError, ValueError):
        return []


def _objects(root: Path, core: str) -> list[str]:
    """List the POSIX names of the object folders."""
    if not os.path.isdir(root):
        raise GalleryError(f"There is no folder {str(root)!r}: check its name.")
    names = [f"{core}/{name}" if core else name for name in _subfolders(root / core)]
    names = [name for name in names if os.path.isdir(root / name / "query") or os.path.isdir(root / name / "pos")]
    if not names:
        raise GalleryError(
            f"{str(root / core)!r} contains no object folder with 'query' and 'pos' in it: unpack ilias_core.tar there."
        )
    return names


def _list_files(root: Path, core: str, objects: Sequence[str], text: bool) -> tuple[list[str], list[str], list[str]]:
    """Return the query pictures, positives and descriptions of the objects, and compare them with ILIAS' lists."""
    query_names = [name for each in objects for name in _files(root, f"{each}/query", "Q", SUFFIXES)]
    positives = [name for each in objects for name in _files(root, f"{each}/pos", "P", SUFFIXES)]
    text_files = [name for each in objects for name in _files(root, f"{each}/query", "T", (".txt",))]
    lists = {"image_query_ids.txt": query_names, "positive_ids.txt": positives}
    if text:
        lists["text_query_ids.txt"] = text_files
    _check_lists(root, core, lists)
    filled = {PurePosixPath(name).parent.as_posix() for name in (*(text_files if text else query_names), *positives)}
    empty = [part for each in objects for part in (f"{each}/query", f"{each}/pos") if part not in filled]
    if empty:
        raise GalleryError(
            f"{len(empty)} folders in {str(root)!r} contain no {'description or ' if text else ''}picture, first: "
            f"{empty[0]!r}: unpack ilias_core.tar again."
        )
    return query_names, positives, text_files


def _files(root: Path, folder: str, letter: str, suffixes: tuple[str, ...]) -> list[str]:
    """List the files of a folder that start with a letter, without box files; empty where there is no such folder."""
    try:
        names = sorted(os.listdir(root / folder))
    except OSError:
        return []
    return [
        f"{folder}/{name}"
        for name in names
        if name.startswith(letter) and name.lower().endswith(suffixes) and "_bbox" not in name
    ]


def _box_file(name: str) -> str:
    return f"{os.path.splitext(name)[0]}_bbox.txt"


def _check_lists(root: Path, core: str, pictures: dict[str, list[str]]) -> None:
    """Compare the files with ILIAS' own lists, where those are present."""
    for file, names in pictures.items():
        path = root / LISTS / file
        if not os.path.lexists(path):
            continue
        listed = [f"{core}/{row[0]}" if core else row[0] for row in _read_rows(path)]
        listed = require_files(root, listed, f"{LISTS}/{file}")
        extra = sorted(set(names) - set(listed))
        if extra:
            raise GalleryError(
                f"{len(extra)} pictures in {str(root)!r} are not in {LISTS}/{file}, first: {extra[0]!r}: "
                "remove them, or get the lists again."
            )


def _read_rows(path: Path) -> list[list[str]]:
    """Read the columns of one of ILIAS' lists; at least one row, the id in its first column."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise GalleryError(f"{str(path)!r} cannot be read as a list of ids: download it again.") from error
    rows = [[part.strip() for part in line.split(",")] for line in lines if line.strip()]
    if not rows:
        raise GalleryError(f"{str(path)!r} lists nothing: download it again.")
    return rows


def _benchmark(
    root: Path, core: str, positives: Mapping[tuple[int, int], str], instance_of: Mapping[str, int]
) -> tuple[Benchmark, list[str]]:
    """Read the groups of ILIAS' own evaluation, with notes on missing ones.

    Args:
        root: The folder that contains the lists.
        core: The folder of the objects, relative to the root.
        positives: (instance, image id) -> file name.
        instance_of: Object folder -> instance.
    """
    notes: list[str] = []
    values: dict[str, dict[tuple[int, int], float]] = {}
    path = root / LISTS / "positive_ids.txt"
    if os.path.isfile(path):
        by_name = {f"{core}/{row[0]}" if core else row[0]: row[1:] for row in _read_rows(path)}
        try:
            columns = {key: [float(part) for part in by_name[name]] for key, name in positives.items()}
            values = {
                kind: {key: row[at] for key, row in columns.items()} for at, kind in enumerate(("scale", "clutter"))
            }
        except (KeyError, ValueError, IndexError):
            notes.append(f"{path} has no columns of scale and clutter, so there are no scores by either.")
    else:
        notes.append(f"There is no {path}, so there are no scores by scale and clutter.")
    taxonomy = next((root / name for name in TAXONOMY if os.path.isfile(root / name)), None)
    if taxonomy is None:
        notes.append(f"There is no {root / TAXONOMY[0]} (misc/ of ILIAS' code), so there are no scores by category.")
        return Benchmark("ilias", values), notes
    ids = {PurePosixPath(name).name: number for name, number in instance_of.items()}
    try:
        categories = {
            ids[name]: (category, subcategory)
            for category, parts in json.loads(taxonomy.read_bytes()).items()
            for subcategory, finer in parts.items()
            for names in finer.values()
            for name in names
            if name in ids
        }
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise GalleryError(f"{str(taxonomy)!r} is not ILIAS' taxonomy: download it again.") from error
    return Benchmark("ilias", values, categories), notes


def _read_text(path: Path) -> str:
    """Read an object's description."""
    try:
        data = path.read_bytes()
        text = data.decode(json.detect_encoding(data)).strip("\ufeff \t\r\n")
    except (OSError, ValueError) as error:
        raise GalleryError(f"{str(path)!r} cannot be read as text: unpack ilias_core.tar again.") from error
    if not text:
        raise GalleryError(f"{str(path)!r} describes nothing: unpack ilias_core.tar again.")
    return text


# Distractors -----------------------------------------------------------------------------------------------


def ilias_id(file_name: str) -> str:
    """Return a picture's id in ILIAS' own files: its name below `ilias_core`, or archive and name without suffix.

    Example:
        >>> ilias_id("ilias_core/bold_bimp_000/pos/P000_00.jpg"), ilias_id("yfcc100m/00000.tar/aa11.jpg")
        ('bold_bimp_000/pos/P000_00.jpg', '00000.tar/aa11')
    """
    folder, _, name = file_name.partition("/")
    if folder == DISTRACTORS:
        return os.path.splitext(name)[0]
    return name if folder == CORE else file_name


def _distractors(root: Path, mini: bool) -> dict[str, Path]:
    """Map the name of each distractor to its path, as a file or in an archive that has not been unpacked."""
    paths: dict[str, Path] = {}
    for folder, folders, files in os.walk(root / DISTRACTORS):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if name.lower().endswith(SUFFIXES):
                paths[path.relative_to(root).as_posix()] = path
            elif name.lower().endswith(".tar") and os.path.splitext(name)[0] not in folders:
                try:
                    members = list_members(path)
                except ArchiveError as error:
                    raise GalleryError(str(error)) from None
                pictures = [member for member in members if member.name.lower().endswith(SUFFIXES)]
                paths |= {member.relative_to(root).as_posix(): member for member in pictures}
    if os.path.isfile(root / ALL_LIST) and paths:
        _check_distractors(root, paths)
    if not mini:
        return paths
    if not os.path.isfile(root / MINI_LIST):
        raise GalleryError(
            f"There is no file {str(root / MINI_LIST)!r}: download it, it lists mini-ILIAS's distractors."
        )
    wanted = [row[0] for row in _read_rows(root / MINI_LIST)]
    by_id = {name_key(PurePosixPath(name).stem): name for name in paths}
    missing = [key for key in wanted if name_key(key) not in by_id]
    if missing:
        raise GalleryError(
            f"{len(missing)} of the {len(wanted)} distractors that {MINI_LIST} lists are missing in "
            f"{str(root / DISTRACTORS)!r}, first: {missing[0]!r}: download them."
        )
    return {name: paths[name] for name in sorted({by_id[name_key(key)] for key in wanted})}


def _check_distractors(root: Path, paths: Mapping[str, Path]) -> None:
    """Compare the distractors with ILIAS' list of all of them, `archive/name` or `name` per line."""
    unlisted = {PurePosixPath(name).stem for name in paths}
    present = frozenset(unlisted)
    archives = {PurePosixPath(name).parts[1] for name in paths}
    missing: list[str] = []
    try:
        with gzip.open(root / ALL_LIST, "rt", encoding="utf-8") as lines:
            for line in lines:
                archive, _, name = line.strip().rpartition("/")
                unlisted.discard(name)
                if archive in archives and name not in present:
                    missing.append(line.strip())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise GalleryError(f"{str(root / ALL_LIST)!r} is cut short or not a list of ids: download it again.") from error
    if missing:
        raise GalleryError(
            f"{len(missing)} distractors that {ALL_LIST} lists are missing in the archives of "
            f"{str(root / DISTRACTORS)!r}, first: {missing[0]!r}: download the archive again."
        )
    if unlisted:
        raise GalleryError(
            f"{len(unlisted)} pictures in {str(root / DISTRACTORS)!r} are not in {ALL_LIST}, first: {min(unlisted)!r}: "
            "remove them, or get the list again."
        )
