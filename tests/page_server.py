"""The page over a small gallery with several encoders, in a process of its own: `python -m tests.page_server FOLDER`.

Two of its encoders are made up, `tiny` and `slow`; `slow` takes as long to load as the test allows it to.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from tests.tiny import INFO, TinyEncoder

SLOW = replace(INFO, spec="slow")
LEFT_S = 10.0
"""Seconds after which a visitor who left is not waited for any more: a test need not wait for a minute."""

ARCH = "page-clip"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def blobs(seed: int, size: tuple[int, int]) -> Image.Image:
    """A texture that local features hold on to."""
    few = np.random.default_rng(seed).integers(0, 256, (size[1] // 5, size[0] // 5, 3), np.uint8)
    return Image.fromarray(few).resize(size, Image.Resampling.BICUBIC)


def write_gallery(folder: Path) -> Path:
    """A dataset of two textured objects, rug and quilt, each on three of eight pictures, and a query for each."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []

    def add(name: str, split: str, scene: Image.Image, shown: int | None, x: int, y: int) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if shown is not None:
            scene.paste(blobs(1000 + shown, (120, 90)), (x, y))
            annotations.append({"image_id": len(images) + 1, "category_id": shown, "bbox": [x, y, 120, 90]})
        scene.save(path)
        images.append(
            {"id": len(images) + 1, "file_name": name, "width": scene.width, "height": scene.height, "split": split}
        )

    for number in range(8):
        x, y = [(0, 0), (160, 120), (90, 70)][number % 3]
        add(
            f"gallery/{number}.png", "gallery", blobs(number, (320, 240)), 1 + number // 3 if number < 6 else None, x, y
        )
    for shown in (1, 2):
        add(f"queries/{shown}.png", "query", blobs(50 + shown, (200, 160)), shown, 40, 35)
    names = [{"id": 1, "name": "rug"}, {"id": 2, "name": "quilt"}]
    data = {"images": images, "annotations": annotations, "categories": names}
    (folder / "annotations.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def write_indexes(folder: Path) -> None:
    """The default index and others: of words too, slow, of windows, and three that the page cannot use."""
    import open_clip
    import torch

    from patchify_core.encoders import load_encoder

    gallery = read_coco(folder)
    build_index(gallery, folder / "index", TinyEncoder(), parse_regions("pyramid:3"))
    others = folder / "indexes"
    build_index(gallery, others / "slow", TinyEncoder(SLOW), parse_regions("pyramid:2"))
    build_index(gallery, others / "windows", TinyEncoder(), parse_regions("sliding:0.5,0.5"))
    (folder / f"{ARCH}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{ARCH}.json")
    for name in ("clip", "gone"):
        torch.manual_seed(0)
        torch.save(open_clip.create_model(ARCH).state_dict(), folder / f"{name}.pt")
        encoder = load_encoder(f"open_clip:{ARCH}/{folder / name}.pt")
        build_index(gallery, others / name, encoder, parse_regions("pyramid:2+random:4,0"))
    (folder / "gone.pt").unlink()
    build_index(gallery, others / "broken", TinyEncoder(), parse_regions("pyramid:1"))
    (others / "broken" / "index.faiss").write_bytes(b"not an index")


def main() -> None:
    """Serves the page until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--tabs", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that the encoder takes for a batch")
    arguments = parser.parse_args()

    import open_clip

    from patchify_core import encoders
    from patchify_core.demo.own import registry
    from patchify_core.web.launch import launch, leave

    registry.CLOSED_S, registry.SWEEP_S = LEFT_S, 0.3

    open_clip.add_model_config(arguments.folder / f"{ARCH}.json")
    real = encoders.load_encoder

    def load(spec: str, settings: object = None) -> object:
        if spec == "slow":
            while not (arguments.folder / "may-load").exists():
                time.sleep(0.05)
        return TinyEncoder(replace(INFO, spec=spec)) if spec in ("tiny", "slow") else real(spec, settings)  # type: ignore[arg-type]

    encode = TinyEncoder.encode

    def unhurried(self: TinyEncoder, crops: np.ndarray) -> np.ndarray:
        time.sleep(arguments.pause)
        return encode(self, crops)

    TinyEncoder.encode = unhurried  # type: ignore[method-assign]
    encoders.load_encoder = load  # type: ignore[assignment]
    if arguments.tabs:
        import gradio as gr

        from patchify_core.web import page

        def first(showcase: object, state: object, tab: object) -> None:
            gr.Markdown("What the first tab says")

        def second(showcase: object, state: gr.State, tab: object) -> None:
            button, out = gr.Button("Ask"), gr.Textbox(label="Asked")
            button.click(lambda question: "nothing" if question is None else question.name, state, out)

        page.MORE = (("Evaluation", first), ("Compression", second))
    leave(launch(port=arguments.port, folder=arguments.folder))


if __name__ == "__main__":
    main()
