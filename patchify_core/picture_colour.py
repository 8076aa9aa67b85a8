"""Every mode that a decoder gives becomes RGB of 8 bits a channel: transparency over white, deep pictures scaled."""

from __future__ import annotations

import numpy as np
from PIL import Image, PngImagePlugin


def transparent_colour(image: Image.Image) -> object:
    """Return the colour that a picture without alpha calls transparent, on the scale of its decoded pixels.

    Pillow scales a PNG's 2-, 4- and 16-bit samples to 8 bits but leaves the transparent colour as stored. How
    many bits there were is known only until the pixels are loaded.
    """
    colour = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    if isinstance(image, PngImagePlugin.PngImageFile) and tile:
        rawmode = tile[0][3]
        if isinstance(colour, int) and rawmode in ("L;2", "L;4"):
            return colour * (85 if rawmode == "L;2" else 17)
        if isinstance(colour, tuple) and rawmode == "RGB;16B":
            return tuple(value >> 8 for value in colour)
    return colour


def to_rgb(image: Image.Image, transparency: object) -> Image.Image:
    """Return the loaded picture in mode RGB over white: itself where it is that already, else a new one."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _deep_gray_to_rgb(image, transparency)
    if image.mode in ("RGB", "L", "1", "P") and transparency is not None:
        image = image.copy()  # convert() writes the transparency into the palette of the picture it is given
        image.info["transparency"] = transparency
        image = image.convert("RGBA")
    elif image.mode in ("LA", "PA", "RGBa", "RGBA") or (image.mode == "P" and image.has_transparency_data):
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA").convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_gray_to_rgb(image: Image.Image, transparency: object) -> Image.Image:
    """Scale gray of more than 8 bits to 8 (Pillow's own conversion clips all above 255 to white)."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        gray = (values >> 8).astype(np.uint8)  # the high byte, as Pillow takes it of 16-bit colour
    else:
        # 32-bit and float samples carry no scale: take the smallest usual one that holds the brightest pixel.
        values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        brightest = float(values.max())
        usual = [1.0, 255.0, 65535.0] if image.mode == "F" else [255.0, 65535.0]
        if image.mode == "I" and isinstance(image, PngImagePlugin.PngImageFile):
            usual = [65535.0]  # Pillow before 11 opened every 16-bit PNG as mode I
        scale = next((full for full in usual if brightest <= full), brightest)
        gray = np.clip(np.rint(values * (255.0 / scale)), 0, 255).astype(np.uint8)
    if isinstance(transparency, int):
        gray[np.asarray(image) == transparency] = 255
    return Image.fromarray(gray).convert("RGB")
