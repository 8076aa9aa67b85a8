# SPDX-License-Identifier: MIT
"""Puts the laid-out objects into the Blender scene, with table, wall, photo, light and camera around them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from .catalogue import CatalogueModel
from .config import GallerySet
from .geometry import Array
from .layout import Layout
from .light import add_area_light, add_camera, hdri_path, set_world
from .materials import plain, printed, slab, tiled
from .nodes import world_matrix
from .record import Used

LIGHT_COLOURS = [(1.0, 0.86, 0.7), (1.0, 1.0, 1.0), (0.82, 0.9, 1.0)]
WALL_COLOURS = [
    (0.72, 0.68, 0.6),
    (0.5, 0.58, 0.6),
    (0.82, 0.8, 0.76),
    (0.62, 0.5, 0.42),
    (0.45, 0.55, 0.46),
    (0.68, 0.42, 0.34),
    (0.6, 0.62, 0.7),
]
FRAME_COLOURS = [(0.03, 0.03, 0.03), (0.8, 0.78, 0.74), (0.24, 0.13, 0.06)]


@dataclass(frozen=True)
class Inputs:
    """Folders with what the pictures are made of.

    Attributes:
        models: the furniture libraries, with their textures.
        hdris: environment pictures.
        photos: photographs for the walls.
    """

    models: Path
    hdris: Path
    photos: Path


def missing_inputs(gallery_set: GallerySet, inputs: Inputs, catalogue: Mapping[str, CatalogueModel]) -> list[str]:
    """Return what a set names but the folders do not contain: better checked first than found out after an hour.

    Args:
        gallery_set: the set.
        inputs: the folders.
        catalogue: models in them.

    Returns:
        Codes of models and paths of files.
    """
    codes = [*gallery_set.instances, *gallery_set.clutter]
    surfaces = (*gallery_set.surfaces, *gallery_set.query_surfaces)
    paths = [inputs.models / surface.texture for surface in surfaces if surface.texture]
    paths += [hdri_path(name, inputs.hdris) for name in gallery_set.hdris]
    paths += [inputs.photos / name for name in (*gallery_set.photos, *gallery_set.distractor_photos)]
    missing = [f"model {code}" for code in codes if code not in catalogue]
    return missing + [str(path) for path in paths if not path.is_file()]


def build(
    rng: random.Random,
    scene: bpy.types.Scene,
    layout: Layout,
    bodies: Sequence[bpy.types.Object],
    split: str,
    gallery_set: GallerySet,
    inputs: Inputs,
) -> Used:
    """Build the scene of one picture.

    Args:
        rng: generator of the picture.
        scene: an empty scene.
        layout: where everything stands.
        bodies: the Blender objects of `layout.placed`.
        split: "query" or "gallery".
        gallery_set: surfaces, lights and photos to draw from.
        inputs: where they are.

    Returns:
        What was drawn.
    """
    for body, item in zip(bodies, layout.placed, strict=True):
        scene.collection.objects.link(body)
        body.matrix_world = world_matrix(item.location, item.rotation)
    surface = _add_table(rng, scene, layout, split, gallery_set, inputs)
    photo = None
    if layout.wall is not None:
        photo = _add_wall(rng, scene, layout, layout.wall, gallery_set, inputs)
    hdri = rng.choice(gallery_set.hdris)
    path = hdri_path(hdri, inputs.hdris)
    set_world(scene, path, rng.uniform(0.7, 1.0), rng.uniform(0, 2 * math.pi))
    if rng.random() < 0.75:
        _add_lamp(rng, scene, layout)
    # Close to the lens a wide aperture would blur the object itself.
    close = 1.5 if layout.focus < 0.7 else 1
    add_camera(scene, layout.camera, layout.focus, rng.choice([8, 11, 16]) * close)
    return Used(surface=surface, hdri=hdri, photo=photo)


def _add_table(
    rng: random.Random,
    scene: bpy.types.Scene,
    layout: Layout,
    split: str,
    gallery_set: GallerySet,
    inputs: Inputs,
) -> str:
    surfaces = gallery_set.query_surfaces if split == "query" else gallery_set.surfaces
    surface = rng.choice(surfaces)
    if surface.texture:
        texture = inputs.models / surface.texture
        top = tiled("table", texture, surface.tile_m, rng.uniform(0, 3), surface.roughness)
    else:
        top = plain("table", surface.colour, surface.roughness)
    reach = max(float(np.linalg.norm(item.location[:2])) for item in layout.placed) + 0.25
    half_x, half_y = (max(reach, rng.uniform(0.9, 1.5)) for _ in range(2))
    turn = layout.azimuth + rng.uniform(-0.6, 0.6)
    slab(scene, "table", (2 * half_x, 2 * half_y, 0.04), (0, 0, -0.02), turn, top)
    return surface.texture or "plain"


def _add_wall(
    rng: random.Random,
    scene: bpy.types.Scene,
    layout: Layout,
    distance: float,
    gallery_set: GallerySet,
    inputs: Inputs,
) -> str | None:
    """Add the wall and, on most walls, a framed photo; returns the name of the photo."""
    turn = layout.azimuth + math.pi / 2
    normal = np.array([math.cos(layout.azimuth), math.sin(layout.azimuth), 0])
    base = layout.centre * (1, 1, 0) - normal * distance
    paint = plain("wall", rng.choice(WALL_COLOURS), 0.9, bump=0.3)
    slab(scene, "wall", (7, 5, 0.05), base - normal * 0.025, turn, paint, upright=True)
    if rng.random() >= 0.6:
        return None
    photo, width = rng.choice(gallery_set.photos), rng.uniform(0.3, 0.55)
    height = width * 0.7
    along: Array = np.array([-normal[1], normal[0], 0])
    middle = base + along * rng.uniform(-0.4, 0.4) + (0, 0, rng.uniform(0.3, 0.5))
    wood = plain("frame", rng.choice(FRAME_COLOURS))
    frame_size = (width + 0.03, height + 0.03, 0.02)
    slab(scene, "frame", frame_size, middle + normal * 0.01, turn, wood, upright=True)
    paper = printed("photo", inputs.photos / photo, 0.3)
    slab(scene, "photo", (width, height, 0.004), middle + normal * 0.021, turn, paper, upright=True)
    return photo


def _add_lamp(rng: random.Random, scene: bpy.types.Scene, layout: Layout) -> None:
    angle, distance = layout.azimuth + rng.uniform(-1.5, 1.5), rng.uniform(1.1, 1.6)
    offset = (distance * math.cos(angle), distance * math.sin(angle), rng.uniform(0.8, 1.5))
    watts, size, colour = rng.uniform(12, 34), rng.uniform(0.25, 1.0), rng.choice(LIGHT_COLOURS)
    add_area_light(scene, layout.centre + offset, layout.centre, watts, size, colour)
