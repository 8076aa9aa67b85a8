"""Build time, size, memory, speed and accuracy of large indexes at several sizes, beside other search libraries.

Each stage of each size runs in a process of its own (`stages`) and writes its results to the work folder, so that the
same command resumes an interrupted benchmark:

    OUT/settings.json, OUT/source.npz      real descriptors that the collections are made from
    OUT/N/                                 index and results of N pictures
    OUT/scale.json, scale.csv, scale.svg   the record, rewritten after every size
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchify_core.bench.scale.collection import ScaleSource, learn_source
from patchify_core.bench.scale.exact import likeness, machine
from patchify_core.bench.scale.peers import PEERS
from patchify_core.bench.scale.report import OURS, THEIRS, csv_text, draw, ours, say_peer, say_row, theirs
from patchify_core.bench.scale.stages import ScaleStage, run_stage
from patchify_core.errors import PatchifyError
from patchify_core.files import atomic, write_json
from patchify_core.index.big.plan import GRAPH_PICTURES, check_finer

IMAGES = (10_000, 100_000)
OUT = Path("bench-scale")
MEMORY_GB = 16.0
LEAST_S = 2.0
RESCORE = "SQ8"
NO_RESCORE = "none"

FLAT_LIMIT = 10_000
"""Most pictures at which our search of exact descriptors is compared with IndexFlatIP: 300 thousand patches."""

AS_GOOD = 0.01
"""A peer counts as equally good if its overlap with the exact results is at most this much lower than ours."""


def measure(
    images: Sequence[int] = IMAGES,
    others: Sequence[str | Path] = (),
    out: str | Path = OUT,
    memory: float = MEMORY_GB,
    peers: bool = True,
    seed: int = 0,
    least_s: float = LEAST_S,
    rescore: str = RESCORE,
) -> dict[str, Any]:
    """Run the stages that are not finished, print the tables as they fill, and write the record.

    Args:
        images: Sizes of the collections.
        others: Index folders or folders of pictures that the collections are made from, beside the bundled gallery.
        out: Work folder.
        memory: Memory budget of our search in GB of 10^9 bytes.
        peers: Whether to measure other libraries too, each at the sizes that it can handle.
        seed: Seed of the collections.
        least_s: Least seconds for which latencies are measured.
        rescore: Factory of the finer codes that are added to our index once it has been measured without; `none` for
            none.

    Returns:
        `command`, `machine`, `source`, `likeness`, and `rows`, one per size: `images`, the results of the stages
        `exact`, `build`, `search`, with finer codes `finer` and `refined`, and (small sizes) `graph` and `flat`;
        `growth`, the factor by which a query slows down per tenfold pictures since the previous size; and `peers`, each
        with its results or the reason why it was `skipped`.

    Raises:
        PatchifyError: If a number makes no sense, the work folder contains other work, or a stage was refused.
    """
    sizes, work, finer = _checked(images, memory, seed), Path(out), None if rescore == NO_RESCORE else rescore
    settings = {"others": [str(Path(path).resolve()) for path in others], "memory_gb": memory, "seed": seed}
    source = _source(work, settings)
    if finer is not None:
        check_finer(finer, int(source.pictures.shape[2]), sizes[0] * source.regions.patches_per_image)
    numbers: dict[str, Any] = {
        "command": _command(sizes, others, work, memory, peers, seed, rescore),
        "machine": machine(),
        "source": {
            "pictures": len(source.pictures),
            "queries": len(source.queries),
            "answers": len(source.answers),
            "encoder": source.encoder.spec,
            "regions": source.regions.spec,
            "dim": int(source.pictures.shape[2]),
            "digest": source.digest,
        },
        "likeness": _likeness(work, source),
        "rows": [],
    }
    print(f"{_machine_line(numbers['machine'])}\nWork folder: {work} (the same command goes on where it was stopped)\n")
    say_row(OURS)

    def stage_of(size: int) -> ScaleStage:
        folder = work / str(size)
        folder.mkdir(exist_ok=True)
        return ScaleStage("", str(folder), str(work / "source.npz"), size, seed, memory, finer, least_s)

    for size in sizes:
        row = _row(stage_of(size), numbers["rows"])
        numbers["rows"].append(row)
        say_row(ours(row))
        if "refined" in row:
            say_row(ours(row, "refined"))
        _write(work, numbers)
    if peers:
        for row in numbers["rows"]:
            print(f"\nThe same by others, {row['images']:,} pictures:")
            say_peer(THEIRS)
            say_peer(theirs("Patchify (lists and codes)", row["build"] | row["search"], row))
            if "refined" in row:
                say_peer(theirs("Patchify (the same with finer codes)", row["build"] | row["refined"], row))
            if "graph" in row:
                say_peer(theirs("Patchify (--preset fast)", row["graph"], row))
            if "flat" in row:
                say_peer(theirs("Patchify (exact, grouped)", row["flat"], row))
            _peers(row, stage_of(row["images"]))
            _write(work, numbers)
    print(f"\nWritten: {', '.join(str(work / f'scale.{kind}') for kind in ('json', 'csv', 'svg'))}")
    return numbers


def _checked(images: Sequence[int], memory: float, seed: int) -> list[int]:
    """Return the sizes, each once, ascending."""
    if not images or min(images) < 1:
        raise PatchifyError("--images: give numbers of pictures above 0, for example 10000 100000.")
    if not (math.isfinite(memory) and memory > 0):
        raise PatchifyError(f"--memory: a memory budget is a number of GB above 0, not {memory:g}.")
    if seed < 0:
        raise PatchifyError(f"--seed: a whole number from 0 up, not {seed}.")
    return sorted(set(images))


def _source(work: Path, settings: dict[str, Any]) -> ScaleSource:
    """Learn what the collections are made from, or read it from the work folder."""
    file, path = work / "settings.json", work / "source.npz"
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PatchifyError(f"{file} is not what bench scale left there: give another --out.") from error
        if before != settings:
            raise PatchifyError(
                f"{work} holds a bench scale with another --from, --memory or --seed: give another --out, or delete it."
            )
    elif work.is_dir() and not path.is_file() and any(work.iterdir()):
        raise PatchifyError(f"--out {work}: the folder holds something else; give an empty or a new one.")
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        write_json(file, settings, 1)
        print("Reading the pictures that the collections are made from ...")
        learn_source([Path(other) for other in settings["others"]], work).save(path)
    elif not file.is_file():
        write_json(file, settings, 1)
    return ScaleSource.load(path)


def _likeness(work: Path, source: ScaleSource) -> dict[str, Any]:
    """Measure how similar synthetic pictures are to real ones, once per work folder."""
    path = work / "likeness.json"
    if not path.is_file():
        write_json(path, likeness(source), 1)
    numbers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return numbers


def _row(stage: ScaleStage, before: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Run all of our own stages at one size; `before` are the rows of smaller sizes."""
    names = ["exact", "build", "search"] + (["finer", "refined"] if stage.rescore else [])
    names += ["graph"] if stage.pictures <= GRAPH_PICTURES else []
    names += ["flat"] if stage.pictures <= FLAT_LIMIT else []
    row: dict[str, Any] = {"images": stage.pictures, "growth": None}
    for name in names:
        row[name] = run_stage(replace(stage, name=name))
        if name == "finer" and row[name]["rescore"] != stage.rescore:
            work = Path(stage.folder).parent
            raise PatchifyError(f"{work} was measured with --rescore {row[name]['rescore']}: give another --out.")
    if before:
        tenfold = math.log10(stage.pictures / before[-1]["images"])
        best = "refined" if stage.rescore else "search"
        row["growth"] = (row[best]["p50_ms"] / before[-1][best]["p50_ms"]) ** (1 / tenfold)
    return row


def _peers(row: dict[str, Any], stage: ScaleStage) -> None:
    """Run every peer at one size, print its results, and add them to the row as `peers`."""
    row["peers"] = {}
    stage = replace(stage, overlap=row["search"]["overlap"] - AS_GOOD)
    for key, kind in PEERS.items():
        skipped = kind.missing()
        if skipped is None and stage.pictures > kind.limit:
            skipped = f"up to {kind.limit:,} pictures only: {kind.why}"
        if skipped is None:
            answer = run_stage(replace(stage, name=f"peer-{key}"))
            row["peers"][key] = answer | {"name": kind.name, "what": kind.what}
            say_peer(theirs(f"{kind.name} ({kind.what})", answer, row))
        else:
            row["peers"][key] = {"name": kind.name, "what": kind.what, "skipped": skipped}
            print(f"  {kind.name}: {skipped}")


def _write(work: Path, numbers: dict[str, Any]) -> None:
    """Write the record so far."""
    write_json(work / "scale.json", numbers, 1)
    for name, text in (("scale.csv", csv_text(numbers["rows"])), ("scale.svg", draw(numbers["rows"]))):
        with atomic(work / name) as file:
            file.write(text.encode())


def _command(
    sizes: Sequence[int],
    others: Sequence[str | Path],
    work: Path,
    memory: float,
    peers: bool,
    seed: int,
    rescore: str,
) -> str:
    words = ["python", "-m", "patchify_core", "bench", "scale", "--images", *map(str, sizes)]
    words += ["--from", *map(str, others)] if others else []
    words += ["--memory", f"{memory:g}", "--seed", str(seed), "--peers" if peers else "--no-peers"]
    words += ["--rescore", rescore, "--out", str(work)]
    return shlex.join(words)


def _machine_line(what: dict[str, Any]) -> str:
    memory = "" if what["memory_gb"] is None else f", {what['memory_gb']:.0f} GB"
    return f"{what['system']}, {what['processor']}, {what['cores']} cores{memory}, {what['date']}"
