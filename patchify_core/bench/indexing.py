"""Indexing: how fast pictures are described, beside a plain loop of PIL, timm and torch, and peak memory."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.bench import in_turn, print_table
from patchify_core.encoders import DEFAULT_ENCODER, Encoder, EncoderSettings, load_encoder
from patchify_core.encoders.base import ENGINES
from patchify_core.encoders.effnet import LITE_MODELS, LiteModel, packaged_state
from patchify_core.errors import PatchifyError
from patchify_core.features.crop import describe_many
from patchify_core.features.extract import POOLED, load_extractor
from patchify_core.files import SAMPLE_DB
from patchify_core.gallery import GalleryImage, read_coco
from patchify_core.imaging.pictures import read_picture
from patchify_core.regions import Pyramid

PICTURES, RUNS = 6, 3
PYRAMID = Pyramid(4)
LOOP, BATCH = "one crop at a time", "30 crops a batch"
"""The plain ways; the others are compared with the first one."""

Way = Callable[[], list[NDArray[np.float32]]]
"""Describes all pictures: for each, one row per patch."""

SIZES, PICTURE = (100, 1000), (640, 480)
"""Folders whose peak memory is compared: number of pictures, and their size in pixels."""


def measure_speed() -> dict[str, Any]:
    """Print pictures per second of every way to describe them, and return them with ratios and cosine similarities."""
    images = read_coco(SAMPLE_DB).images[:PICTURES]
    ways: dict[str, Way] = {
        **{f"crops ({engine})": _crops(images, engine) for engine in installed_engines()},
        **{f"pooled ({engine})": _pooled(images, engine) for engine in installed_engines()},
        LOOP: _plain(images, batched=False),
        BATCH: _plain(images, batched=True),
    }
    descriptors: dict[str, list[NDArray[np.float32]]] = {}
    seconds = in_turn({name: _recorded(way, name, descriptors) for name, way in ways.items()}, RUNS)
    rate = {name: PICTURES / value for name, value in seconds.items()}
    # Pooled descriptors differ from those of crops by design.
    same = [name for name in descriptors if not name.startswith(POOLED)]
    cosine = {name: _smallest_cosine(descriptors[name], descriptors[LOOP]) for name in same}
    table = [("way", "pictures/s", "of the loop", "of the batch", "smallest cosine")]
    for name, value in rate.items():
        ratios = f"{value / rate[LOOP]:.2f} x", f"{value / rate[BATCH]:.2f} x"
        table.append((name, f"{value:.2f}", *ratios, f"{cosine[name]:.6f}" if name in cosine else "-"))
    print_table(f"Indexing, {DEFAULT_ENCODER}, {PYRAMID.spec}, 640x480 pictures", table)
    return {
        "images_per_s": rate,
        "ratio_to_plain": {name: value / rate[LOOP] for name, value in rate.items()},
        "ratio_to_batch": {name: value / rate[BATCH] for name, value in rate.items()},
        "smallest_cosine": cosine,
    }


def installed_engines() -> list[str]:
    """Return those of `ENGINES` whose package, of the same name, is installed."""
    return [engine for engine in ENGINES if importlib.util.find_spec(engine)]


def _crops(images: Sequence[GalleryImage], engine: str) -> Way:
    """Describe crops with our pipeline."""
    encoder: Encoder = load_encoder(DEFAULT_ENCODER, EncoderSettings(engine=engine))

    def work() -> list[NDArray[np.float32]]:
        stream = ((i.id, read_picture(i.path), PYRAMID.boxes(i.width, i.height)) for i in images)
        return [described.descriptors for described in describe_many(stream, encoder)]

    return work


def _pooled(images: Sequence[GalleryImage], engine: str) -> Way:
    """Describe pictures in one pass each, and pack their maps as an index stores them."""
    encoder: Encoder = load_encoder(DEFAULT_ENCODER, EncoderSettings(engine=engine))
    extractor = load_extractor(POOLED, encoder, keep_maps=True)

    def work() -> list[NDArray[np.float32]]:
        stream = ((i.id, extractor.read(i.path.read_bytes())[0], PYRAMID.boxes(i.width, i.height)) for i in images)
        return [described.descriptors for described in extractor.describe_many(stream)]

    return work


def _plain(images: Sequence[GalleryImage], batched: bool) -> Way:
    """Describe crops with a few lines of PIL, timm and torch, one at a time or the 30 of a picture in a batch."""
    import torch
    from PIL.Image import Resampling

    model = LITE_MODELS[DEFAULT_ENCODER]
    network = plain_network(model)
    side = (model.input_size, model.input_size)

    def work() -> list[NDArray[np.float32]]:
        rows = []
        for image in images:
            picture = read_picture(image.path)
            boxes = PYRAMID.boxes(image.width, image.height)
            crops = [np.asarray(picture.resize(side, Resampling.BICUBIC, box=tuple(box))) for box in boxes]
            inputs = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
            with torch.inference_mode():
                parts = [inputs] if batched else inputs.split(1)
                maps = torch.cat([network.forward_features(part) for part in parts])
                pooled = maps.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
            rows.append(torch.nn.functional.normalize(pooled).numpy())
        return rows

    return work


def _recorded(way: Way, name: str, descriptors: dict[str, list[NDArray[np.float32]]]) -> Callable[[], None]:
    def work() -> None:
        descriptors[name] = way()

    return work


def _smallest_cosine(ours: list[NDArray[np.float32]], theirs: list[NDArray[np.float32]]) -> float:
    return min(float((a * b).sum(1).min()) for a, b in zip(ours, theirs, strict=True))


# Peak memory ------------------------------------------------------------------------------------------------

_BUILD = """
import resource, sys
from patchify_core import Pyramid, build_index, load_encoder, read_gallery
report = build_index(read_gallery(sys.argv[1]), sys.argv[2], load_encoder(), Pyramid(1))
unit = 1 if sys.platform == "darwin" else 1024   # macOS counts bytes, Linux kilobytes
print(report.images, report.images_per_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def measure_memory() -> dict[str, Any]:
    """Print peak memory and speed for a folder and one ten times as large, each in its own process; return them.

    Raises:
        PatchifyError: On Windows, where Python cannot read the peak memory of a process.
    """
    if sys.platform == "win32":
        raise PatchifyError("Peak memory cannot be measured on Windows: run this benchmark on Linux or macOS.")
    rows = [("pictures", "their pixels", "peak memory", "pictures/s")]
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="patchify-") as temporary:
        for size in SIZES:
            folder = Path(temporary) / f"pictures-{size}"
            _make_pictures(folder, size)
            command = [sys.executable, "-c", _BUILD, str(folder), str(Path(temporary) / f"index-{size}")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            images, rate, peak = done.stdout.split()
            pixels = size * PICTURE[0] * PICTURE[1] * 3
            numbers[images] = {"peak_bytes": int(peak), "pixel_bytes": pixels, "images_per_s": float(rate)}
            rows.append((images, f"{pixels / 1e6:.0f} MB", f"{int(peak) / 1e6:.0f} MB", f"{float(rate):.1f}"))
    peaks = [entry["peak_bytes"] for entry in numbers.values()]
    numbers["ratio"] = peaks[1] / peaks[0]
    print_table("Indexing, pyramid:1, generated 640x480 pictures", rows)
    print(f"  ten times the pictures take {numbers['ratio']:.2f} times the memory")
    return numbers


def _make_pictures(folder: Path, count: int) -> None:
    """Write pictures that all differ, so that none is reused as a copy of another."""
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        small = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize(PICTURE).save(folder / f"{number:05d}.jpg", quality=80)


# timm's network, the peer --------------------------------------------------------------------------------------

_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDING_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def timm_name(name: str, stages: Sequence[int]) -> str:
    """Translate one tensor name of the packaged checkpoint to timm's.

    The checkpoint numbers all blocks consecutively, timm within each stage. Blocks of the first stage do not expand,
    so that timm names their parts differently.

    Args:
        name: e.g. `_blocks.1._expand_conv.weight`.
        stages: Blocks in each stage of the timm model, e.g. (1, 2, 2, 3, 3, 4, 1).

    Returns:
        e.g. `blocks.1.0.conv_pw.weight`.

    Raises:
        KeyError: If the name follows neither pattern.
        IndexError: If the stages have fewer blocks.

    Example:
        >>> timm_name("_blocks.1._expand_conv.weight", (1, 2, 2, 3, 3, 4, 1))
        'blocks.1.0.conv_pw.weight'
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        part, _, leaf = name.partition(".")
        return f"{_STEM_AND_HEAD[part]}.{leaf}"
    number, part, leaf = int(block[1]), block[2], block[3]
    stage = 0
    while number >= stages[stage]:
        number -= stages[stage]
        stage += 1
    parts = _FIRST_BLOCK if stage == 0 else _EXPANDING_BLOCK
    return f"blocks.{stage}.{number}.{parts[part]}.{leaf}"


def plain_network(model: LiteModel) -> Any:
    """Load the timm network, frozen, with the packaged weights."""
    import timm

    network: Any = timm.create_model(model.architecture, pretrained=False)
    stages = [len(stage) for stage in network.blocks]
    state = {timm_name(key, stages): value for key, value in packaged_state(model).items()}
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)
