# SPDX-License-Identifier: MIT
"""Light (environment pictures, one lamp) and Blender's camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import bpy
import numpy as np

from .config import Colour
from .geometry import SENSOR_MM, Array, Camera
from .nodes import camera_matrix, link_nodes


@dataclass(frozen=True, eq=False)
class Balance:
    """What an environment picture is like.

    Attributes:
        mean: mean radiance after the gain.
        median: median radiance after the gain.
        gain: (3,) factors for R, G, B that take out most of its colour cast.
    """

    mean: float
    median: float
    gain: Array


def hdri_path(name: str, folder: Path) -> Path:
    """File of an environment picture.

    Args:
        name: "blender:city.exr" for one that comes with bpy, else a file name.
        folder: folder of the others.

    Returns:
        The path.
    """
    if name.startswith("blender:"):
        bundled = Path(bpy.utils.system_resource("DATAFILES")) / "studiolights" / "world"
        return bundled / name.removeprefix("blender:")
    return folder / name


@cache
def balance(path: Path) -> Balance:
    """Measures an environment picture; radiance above 20 (the sun) is cut off first."""
    image = bpy.data.images.load(str(path), check_existing=True)
    pixels = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(pixels)
    rgb = np.clip(pixels.reshape(-1, image.channels)[:, :3], 0, 20)
    gain = np.clip((rgb.mean() / rgb.mean(0)) ** 0.7, 0.5, 2)
    return Balance(float((rgb * gain).mean()), float(np.median((rgb * gain).mean(1))), gain)


def set_world(scene: bpy.types.Scene, path: Path, level: float, turn: float) -> None:
    """Lights the scene with an environment picture, mostly white-balanced.

    What the camera sees of the picture is lifted if it is dark, so that no background is black.

    Args:
        scene: the scene; the world it had is removed.
        path: the environment picture.
        level: mean radiance that it is brought to.
        turn: rotation about the vertical, in radians.
    """
    image = bpy.data.images.load(str(path), check_existing=True)
    measured = balance(path)
    strength = level / measured.mean
    lift = float(np.clip(0.4 * measured.mean / max(measured.median, 1e-4), 1, 5))
    world, old = bpy.data.worlds.new("w"), scene.world
    scene.world, world.use_nodes = world, True
    # The automatic importance map costs seconds.
    world.cycles.sampling_method, world.cycles.sample_map_resolution = "MANUAL", 256
    world.node_tree.nodes.clear()
    nodes = link_nodes(
        world.node_tree,
        "TexCoord:Generated>Mapping:Vector",
        "Mapping:Vector>TexEnvironment:Vector",
        "TexEnvironment:Color>VectorMath:0",
        "VectorMath:Vector>Background:Color",
        "LightPath:Is Camera Ray>MapRange:Value",
        "MapRange:Result>Background:Strength",
        "Background:Background>OutputWorld:Surface",
    )
    nodes["Mapping"].inputs["Rotation"].default_value[2] = turn
    nodes["TexEnvironment"].image = image
    nodes["TexEnvironment"].interpolation = "Cubic"
    nodes["VectorMath"].operation = "MULTIPLY"
    nodes["VectorMath"].inputs[1].default_value = measured.gain
    nodes["MapRange"].inputs["To Min"].default_value = strength
    nodes["MapRange"].inputs["To Max"].default_value = strength * lift
    if old:
        bpy.data.worlds.remove(old)


def add_area_light(
    scene: bpy.types.Scene,
    location: Sequence[float] | Array,
    target: Array,
    watts: float,
    size: float,
    colour: Colour,
) -> None:
    """Add a square lamp.

    Args:
        scene: the scene.
        location: (3,) position, in metres.
        target: (3,) point that it shines at, in metres.
        watts: radiant power.
        size: side, in metres.
        colour: linear RGB, 0..1.
    """
    light = bpy.data.lights.new("key", "AREA")
    light.energy, light.size, light.color = watts, size, colour
    lamp = bpy.data.objects.new("key", light)
    lamp.matrix_world = camera_matrix(Camera(np.asarray(location), np.asarray(target, float)))
    scene.collection.objects.link(lamp)


def add_camera(scene: bpy.types.Scene, camera: Camera, focus: float, f_number: float) -> None:
    """Add the camera, with its depth of field.

    Args:
        scene: the scene.
        camera: where it stands and looks, and its lens.
        focus: distance in focus, in metres.
        f_number: aperture.
    """
    data = bpy.data.cameras.new("cam")
    data.lens, data.sensor_width, data.clip_start, data.clip_end = camera.lens, SENSOR_MM, 0.01, 200
    data.dof.use_dof, data.dof.focus_distance, data.dof.aperture_fstop = True, focus, f_number
    scene.camera = bpy.data.objects.new("cam", data)
    scene.camera.matrix_world = camera_matrix(camera)
    scene.collection.objects.link(scene.camera)
