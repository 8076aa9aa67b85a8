"""Indexing speed: our crops against the plain loop (PIL, timm, torch) over the same pictures in the same run."""

from __future__ import annotations

from typing import Any

import numpy as np

from patchify_core.bench.timing import in_turn, print_table
from patchify_core.encoders import load_encoder
from patchify_core.encoders.effnet import LITE_MODELS, plain_network
from patchify_core.features import describe_many
from patchify_core.gallery import read_coco
from patchify_core.paths import SAMPLE_DB
from patchify_core.pictures import read_picture
from patchify_core.regions import Pyramid

PICTURES, RUNS = 4, 3


def measure() -> dict[str, Any]:
    """Prints pictures per second, and returns them with the ratios and the agreement of the descriptors."""
    import torch
    from PIL.Image import Resampling

    encoder = load_encoder()
    model = LITE_MODELS[encoder.info.spec]
    network = plain_network(model)
    pyramid = Pyramid(4)
    images = read_coco(SAMPLE_DB).images[:PICTURES]
    found: dict[str, list[np.ndarray]] = {}

    def ours() -> None:
        stream = ((i.id, read_picture(i.path), pyramid.boxes(i.width, i.height)) for i in images)
        found["ours"] = [described.descriptors for described in describe_many(stream, encoder)]

    def plain(batched: bool) -> None:
        found["plain"] = []
        for image in images:
            picture = read_picture(image.path)
            boxes = pyramid.boxes(image.width, image.height)
            side = (model.input_size, model.input_size)
            crops = [np.asarray(picture.resize(side, Resampling.BICUBIC, box=tuple(box))) for box in boxes]
            inputs = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
            with torch.inference_mode():
                parts = [inputs] if batched else inputs.split(1)
                maps = torch.cat([network.forward_features(part) for part in parts])
                pooled = maps.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
            found["plain"].append(torch.nn.functional.normalize(pooled).numpy())

    seconds = in_turn(
        {"ours": ours, "one crop at a time": lambda: plain(False), "30 crops a batch": lambda: plain(True)}, RUNS
    )
    agreement = min(float((a * b).sum(1).min()) for a, b in zip(found["ours"], found["plain"], strict=True))
    rate = {name: PICTURES / value for name, value in seconds.items()}
    rows = [("way", "pictures/s", "ours is")]
    rows += [(name, f"{value:.2f}", f"{rate['ours'] / value:.2f} x") for name, value in rate.items()]
    print_table(f"Indexing, {encoder.info.spec}, {pyramid.spec}, 640x480 pictures", rows)
    print(f"  smallest cosine between ours and the plain loop: {agreement:.6f}")
    return {
        "images_per_s": rate,
        "ratio_to_plain": rate["ours"] / rate["one crop at a time"],
        "ratio_to_batch": rate["ours"] / rate["30 crops a batch"],
        "smallest_cosine": agreement,
    }
