# SPDX-License-Identifier: MIT
"""Cycles on the CPU: the exact object-id picture, and the photograph, exposed after it is rendered."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import bpy
import numpy as np
from PIL import Image

from .config import PICTURE_SIZE
from .geometry import Array
from .nodes import link_nodes

VIEW_TRANSFORM, LOOK = "AgX", "AgX - Medium High Contrast"
FILTER_WIDTH = 1.5  # of the pixel filter, in pixels; 0.01 is no filter


def new_scene(threads: int) -> bpy.types.Scene:
    """Create an empty scene with the settings that all pictures share.

    Args:
        threads: threads that Cycles may use.

    Returns:
        The scene.
    """
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    render, cycles = scene.render, scene.cycles
    render.engine, cycles.device = "CYCLES", "CPU"
    render.threads_mode, render.threads, render.use_persistent_data = "FIXED", threads, True
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 4, 1, 2
    cycles.transmission_bounces, cycles.transparent_max_bounces = 4, 16
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.use_adaptive_sampling = cycles.use_light_tree = False
    cycles.sample_clamp_indirect, scene.display_settings.display_device = 6, "sRGB"
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGB"
    render.resolution_percentage, render.image_settings.compression = 100, 0
    render.resolution_x, render.resolution_y = PICTURE_SIZE
    return scene


def clear(scene: bpy.types.Scene, keep: Collection[bpy.types.Object]) -> None:
    """Empty the scene.

    Args:
        scene: the scene.
        keep: objects that are only unlinked, the models; everything else is removed with its data.
    """
    for thing in list(scene.collection.objects):
        scene.collection.objects.unlink(thing)
        if thing not in keep:
            data = thing.data
            bpy.data.objects.remove(thing)
            bpy.data.batch_remove([data])
    bpy.data.batch_remove([material for material in bpy.data.materials if material.users == 0])


def render_ids(scene: bpy.types.Scene, bodies: Sequence[bpy.types.Object], scratch: Path) -> Array:
    """Exact visible masks: one unfiltered sample per pixel, no lens blur, each object in its own grey level.

    Args:
        scene: the scene.
        bodies: the objects to be told apart, at most 254.
        scratch: .png file that may be overwritten.

    Returns:
        (height, width) uint8: 0, or 1 + the index in `bodies` of what is seen there.
    """
    for thing in scene.objects:
        level = bodies.index(thing) + 1 if thing in bodies else 0
        thing.color = (level / 255, 0, 0, 1)
    layer, world, blur = bpy.context.view_layer, scene.world, scene.camera.data.dof
    layer.material_override, scene.world, blur.use_dof = _id_material(), None, False
    scene.cycles.filter_width, scene.render.dither_intensity = 0.01, 0
    _render(scene, 1, denoise=False)
    ids = np.asarray(_developed(scene, scratch, "Raw", "None", 0))[..., 0]
    layer.material_override, scene.world, blur.use_dof = None, world, True
    scene.cycles.filter_width, scene.render.dither_intensity = FILTER_WIDTH, 1
    return ids


def silhouette_pixels(
    scene: bpy.types.Scene, body: bpy.types.Object, bodies: Sequence[bpy.types.Object], scratch: Path
) -> int:
    """Pixels that an object would cover with nothing before it, also those out of the frame.

    It is drawn at half the focal length, so in a frame twice as wide and as high; what is out of that
    one too does not count.

    Args:
        scene: the scene.
        body: the object.
        bodies: all objects that may hide it, itself among them.
        scratch: .png file that may be overwritten.

    Returns:
        Number of pixels, at the scale of the picture.
    """
    lens = scene.camera.data
    for other in bodies:
        other.hide_render = other is not body
    lens.lens /= 2
    pixels = 4 * int((render_ids(scene, [body], scratch) > 0).sum())
    lens.lens *= 2
    for other in bodies:
        other.hide_render = False
    return pixels


def render_photo(scene: bpy.types.Scene, scratch: Path, samples: int, luma: float) -> tuple[Image.Image, float]:
    """Render once in linear light, then searches the exposure that gives the picture its mean luma.

    Args:
        scene: the scene.
        scratch: .png file that may be overwritten.
        samples: samples per pixel.
        luma: mean luma wanted, 0..1.

    Returns:
        The picture and its exposure in stops.
    """
    _render(scene, samples, denoise=True)
    low, high, stops = -6.0, 8.0, 0.0
    for _ in range(7):
        picture, taken_at = _developed(scene, scratch, VIEW_TRANSFORM, LOOK, stops), stops
        mean = np.asarray(picture.convert("L")).mean() / 255
        if abs(mean - luma) < 0.012:
            break
        low, high = (stops, high) if mean < luma else (low, stops)
        guess = stops + math.log2(luma / max(mean, 0.02)) * 2
        stops = guess if low < guess < high else (low + high) / 2
    return picture, taken_at


def _id_material() -> bpy.types.Material:
    material = bpy.data.materials.get("id")
    if not material:
        material = bpy.data.materials.new("id")
        material.use_nodes, material.use_fake_user = True, True  # the fake user saves it from `clear`
        material.node_tree.nodes.clear()
        link_nodes(
            material.node_tree,
            "ObjectInfo:Color>Emission:Color",
            "Emission:Emission>OutputMaterial:Surface",
        )
    return material


def _render(scene: bpy.types.Scene, samples: int, *, denoise: bool) -> None:
    scene.cycles.samples, scene.cycles.use_denoising = samples, denoise
    if denoise:
        scene.cycles.denoiser, scene.cycles.denoising_prefilter = "OPENIMAGEDENOISE", "FAST"
    bpy.ops.render.render()


def _developed(scene: bpy.types.Scene, scratch: Path, transform: str, look: str, stops: float) -> Image.Image:
    """Return the last render as an 8-bit picture under the given view transform."""
    view = scene.view_settings
    view.view_transform, view.look, view.exposure = transform, look, stops
    bpy.data.images["Render Result"].save_render(str(scratch), scene=scene)
    return Image.open(scratch).convert("RGB")
