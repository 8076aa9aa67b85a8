"""Every mode that a decoder gives becomes RGB of 8 bits a channel: transparency over white, deep pictures scaled."""

from __future__ import annotations

from PIL import Image, PngImagePlugin

from patchify_core.imaging.depth import gray_to_bytes, is_deep_gray


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
    if is_deep_gray(image):
        return gray_to_bytes(image, transparency).convert("RGB")
    if image.mode in ("RGB", "L", "1", "P") and transparency is not None:
        image = image.copy()  # convert() writes the transparency into the palette of the picture it is given
        image.info["transparency"] = transparency
        image = image.convert("RGBA")
    elif image.mode in ("LA", "PA", "RGBa") or (image.mode == "P" and image.has_transparency_data):
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA").convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
