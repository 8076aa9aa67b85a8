# SPDX-License-Identifier: MIT
"""What a set of pictures is made from: `sets.json`, read into dataclasses and checked."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

SETS_FILE = Path(__file__).with_name("sets.json")
PICTURE_SIZE = (640, 480)  # width and height of every picture, in pixels
MAX_CLUTTER = 7  # the plan never puts more pieces of clutter into one scene
MAX_DEALT_COMPANY = 2  # nor more instances beside the hero that are not its look-alikes

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Surface:
    """A table top: a texture that is tiled, or a plain colour.

    Attributes:
        roughness: of the principled shader, 0 (mirror) to 1 (matte).
        texture: path of a picture below the folder of models; None for a plain colour.
        tile_m: side of one tile of the texture, in metres.
        colour: linear RGB, 0..1, where there is no texture.
    """

    roughness: float
    texture: str | None = None
    tile_m: float = 1.0
    colour: Colour = (0.8, 0.8, 0.8)


@dataclass(frozen=True)
class GallerySet:
    """One set of `sets.json`; README.md says what each key means to someone who writes a set.

    Attributes:
        name: key of the set in the file.
        title: word for the set in the description inside annotations.json.
        seed: seed of the plan and of the numbering of the gallery.
        reseed: job key -> number of the spare seed that it is given instead of its own.
        instances: model code -> name; the objects that are searched for, in the order of their category ids.
        siblings: groups of instance codes that look alike.
        scenes_per_instance: gallery scenes in which each instance is the hero.
        clutter_scenes: gallery scenes without any instance.
        rolling: codes of round models, which may lie any way up.
        clutter: codes of models that fill scenes and are never searched for.
        surfaces: table tops of gallery scenes.
        query_surfaces: table tops of query pictures.
        hdris: names of environment pictures; "blender:NAME" is one that comes with bpy.
        photos: names of photographs that hang on walls.
        distractor_photos: names of photographs that join the gallery as they are, cropped.
    """

    name: str
    title: str
    seed: int
    reseed: Mapping[str, int]
    instances: Mapping[str, str]
    siblings: tuple[tuple[str, ...], ...]
    scenes_per_instance: int
    clutter_scenes: int
    rolling: frozenset[str]
    clutter: tuple[str, ...]
    surfaces: tuple[Surface, ...]
    query_surfaces: tuple[Surface, ...]
    hdris: tuple[str, ...]
    photos: tuple[str, ...]
    distractor_photos: tuple[str, ...]

    def look_alikes(self, code: str) -> list[str]:
        """Other members of the sibling groups that hold `code`, in the order of the file."""
        return [other for group in self.siblings if code in group for other in group if other != code]


def set_names(path: Path = SETS_FILE) -> list[str]:
    """Names of the sets in a sets file."""
    return list(json.loads(path.read_text(encoding="utf-8")))


def load_set(name: str, path: Path = SETS_FILE) -> GallerySet:
    """Read and checks one set.

    Args:
        name: key of the set in the file.
        path: the sets file.

    Returns:
        The set.

    Raises:
        KeyError: if the file has no such set.
        ValueError: if a key is missing or unknown, the set has too few models to fill its scenes, or its
            lists contradict each other.

    Example:
        >>> load_set("a").instances["CB71"]
        'soccer ball'
    """
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))[name]
    wrong = set(raw) ^ ({entry.name for entry in fields(GallerySet)} - {"name"})
    if wrong:
        raise ValueError(f"set {name!r} has missing or unknown keys: {', '.join(sorted(wrong))}")
    raw["siblings"] = tuple(tuple(group) for group in raw["siblings"])
    raw["rolling"] = frozenset(raw["rolling"])
    for key in ("surfaces", "query_surfaces"):
        raw[key] = tuple(_surface(entry) for entry in raw[key])
    for key in ("clutter", "hdris", "photos", "distractor_photos"):
        raw[key] = tuple(raw[key])
    gallery_set = GallerySet(name=name, **raw)
    _check(gallery_set)
    return gallery_set


def _surface(entry: dict[str, Any]) -> Surface:
    if "colour" in entry:
        entry = {**entry, "colour": tuple(entry["colour"])}
    return Surface(**entry)


def _check(gallery_set: GallerySet) -> None:
    """Refuses what would keep the plan dealing for ever, or break only after an hour of rendering."""
    where = f"set {gallery_set.name!r}"
    if len(set(gallery_set.clutter)) < MAX_CLUTTER:
        raise ValueError(f"{where} needs at least {MAX_CLUTTER} different pieces of clutter")
    both = set(gallery_set.clutter) & set(gallery_set.instances)
    if both:
        raise ValueError(f"{where} lists {sorted(both)} as instances and as clutter")
    unknown = {code for group in gallery_set.siblings for code in group} - set(gallery_set.instances)
    if unknown:
        raise ValueError(f"{where} has siblings that are not instances: {sorted(unknown)}")
    for code in gallery_set.instances:
        free = len(gallery_set.instances) - len({code, *gallery_set.look_alikes(code)})
        if free < MAX_DEALT_COMPANY:
            raise ValueError(f"{where} needs {MAX_DEALT_COMPANY} instances that do not look like {code}")


def existing_folder(text: str) -> Path:
    """Type of a command-line argument that names a folder which must be there.

    Args:
        text: the argument.

    Returns:
        The folder.

    Raises:
        argparse.ArgumentTypeError: if there is no such folder.
    """
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return folder
