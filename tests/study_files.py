"""Study files as `study --json` writes them, of made-up numbers that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from patchify_core.evaluation.results import FORMAT, STUDY
from patchify_core.evaluation.study.run import _dataset
from patchify_core.gallery import Gallery


def row(dataset: str, queries: int, draw: int = 0, /, **changed: Any) -> dict[str, Any]:
    """One row; its per-query numbers depend on `draw` alone, which is also its seed, unless they are given."""
    random = np.random.default_rng(draw)
    ap = np.round(random.uniform(0.2, 1, queries), 4).tolist()
    ls = np.round(np.array(ap) * random.uniform(0.1, 0.6, queries), 4).tolist()
    made: dict[str, Any] = {
        "dataset": dataset,
        "encoder": "effnet-lite0",
        "indexed": "pyramid:4",
        "regions": "pyramid:4",
        "level": 4,
        "patches": 30,
        "factory": "Flat",
        "codebook": "uniform",
        "rescore": None,
        "seed": draw,
        "rerank": None,
        "bytes_per_patch": 5120,
        "mean_iou": 0.4,
        "recall@1": 0.9,
        "ms_per_query": 1.5,
        "ms_per_rerank": None,
        "ap": ap,
        "ls": ls,
        "first_hit": [1] * queries,
        "best": [None] * queries,
    } | changed
    means = {"map": _mean(made["ap"]), "locscore": _mean(made["ls"])}
    return {"bytes_per_image": made["bytes_per_patch"] * made["patches"], **means, **made}


def _mean(values: Any) -> float | None:
    there = [value for value in values or [] if isinstance(value, (int, float))]
    return float(np.mean(there)) if there else None


def study(name: str, datasets: dict[str, Any], rows: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    """The content of a file."""
    return {
        "program": STUDY,
        "format": FORMAT,
        "study": name,
        "command": f"python -m patchify_core study {name} {' '.join(datasets)}",
        "machine": "Linux x86_64, Python 3.11.0",
        "datasets": datasets,
        "rows": rows,
        "refused": [],
    } | changed


def write(folder: Path, numbers: dict[str, Any]) -> Path:
    """Writes a file under its study's name."""
    path = folder / f"{numbers['study']}.json"
    path.write_text(json.dumps(numbers), encoding="utf-8")
    return path


def write_studies(folder: Path, gallery: Gallery) -> None:
    """Files about a gallery, and a dataset that the page does not have; `regions` is missing, `rerank` no such file."""
    name, dataset = gallery.root.resolve().name, _dataset(gallery)
    other = {"digest": "0" * 64, "pictures": 3, "queries": [1, 2], "instances": ["swan", "<b>car</b>"]}
    count, images = len(dataset["queries"]), [image.id for image in gallery.images]
    best = [[images[at % len(images)], 10.0, 20.0, 200.0, 220.0] for at in range(count)]
    rows, sizes = [], []
    for title, queries in ((name, count), ("elsewhere", 2)):
        top = best[:queries]
        base = {"regions": "pyramid:1", "level": 1, "patches": 1, "best": top}
        rows += [
            row(title, queries, 0, **base, ap=[0.3] * queries, ls=[0.05] * queries),
            row(title, queries, 0, best=top),
        ]
        rows += [row(title, queries, 1, encoder="effnet-lite1", best=top, seed=0)]
        for factory, size in (("Flat", 5120), ("PCAH128,PQ64", 64), ("PCAH128,PQ64x4", 32), ("PCAH128,PQ16x4", 8)):
            for seed in (0, 1, 2) if "PQ" in factory else (0,):
                sizes.append(row(title, queries, seed, factory=factory, bytes_per_patch=size, best=top))
    datasets = {name: dataset, "elsewhere": other}
    why = [{**rows[0], "factory": "PCAH128,PQ64", "codebook": "global", "why": "Too few patches to train on."}]
    write(folder, study("encoders", datasets, rows))
    write(folder, study("compression", datasets, sizes, refused=why))
    (folder / "rerank.json").write_text('{"program": "another"}')
