"""One stage of `bench scale`: what it is told, and how it is run in a process of its own, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patchify_core.errors import PatchifyError

STDERR = 2
"""The descriptor, which is there also where `sys.stderr` is no file."""

REFUSED, STOPPED = 2, 130
"""How a stage's process ends if a person asked for what cannot be done, or stopped it."""


@dataclass(frozen=True)
class Stage:
    """A stage of a row.

    Attributes:
        name: `exact`, `build`, `search`, `finer`, `refined`, `flat`, or `peer-` and a key of `PEERS`.
        folder: of the row.
        source: file of the `ScaleSource`.
        pictures: N.
        seed: of the collection.
        memory_gb: budget of our index.
        rescore: factory of the finer codes that our index gets once it was measured without, or None.
        overlap: what a peer's setting shall reach.
        least_s: seconds that latencies are taken for, at least.
    """

    name: str
    folder: str
    source: str
    pictures: int
    seed: int
    memory_gb: float
    rescore: str | None
    overlap: float
    least_s: float

    @property
    def answer(self) -> Path:
        """The file of the answer."""
        return Path(self.folder) / f"{self.name}.json"


def run_stage(stage: Stage) -> dict[str, Any]:
    """The answer of a stage, from its file if it is done already, else from a process of its own.

    Raises:
        PatchifyError: if it was refused there, or killed.
        KeyboardInterrupt: if it was stopped from the keyboard.
        RuntimeError: if it failed otherwise; what it said is on stderr.
    """
    if stage.answer.is_file():
        answer: dict[str, Any] = json.loads(stage.answer.read_text(encoding="utf-8"))
        return answer
    task = stage.answer.with_suffix(".task")
    task.write_text(json.dumps(asdict(stage)), encoding="utf-8")
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "patchify_core.bench.scale_worker", str(task)]
    # Whatever a library prints must not come between the lines of the table.
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, stdout=STDERR)
    if done.returncode:
        refusal = stage.answer.with_suffix(".refused")
        if done.returncode == REFUSED and refusal.is_file():
            raise PatchifyError(refusal.read_text(encoding="utf-8"))
        if done.returncode == STOPPED:
            raise KeyboardInterrupt
        if done.returncode < 0:
            raise PatchifyError(
                f"The stage {stage.name} of {stage.pictures:,} pictures was killed (signal {-done.returncode}), "
                "perhaps for want of memory: the same command goes on there."
            )
        raise RuntimeError(f"the stage {stage.name} of {stage.pictures} pictures ended with code {done.returncode}")
    task.unlink()
    return run_stage(stage)
