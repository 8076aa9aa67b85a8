"""One stage of `bench scale` in a process of its own, so that its peak memory is its own.

    python -m patchify_core.bench.scale_worker STAGE.json

The file says what to do (`Stage`); the answer is written beside it, whole or not at all, and makes the stage done.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

from patchify_core.bench.scale_source import ScaleSource
from patchify_core.bench.scale_stage import REFUSED, STOPPED, Stage, run_stage
from patchify_core.bench.scale_stages import STAGES
from patchify_core.bench.scale_stream import SyntheticPictures
from patchify_core.errors import PatchifyError
from patchify_core.files import write_json

__all__ = ["Stage", "main", "run_stage"]


def main(path: str) -> int:
    """Does what a file says; returns the exit code."""
    stage = Stage(**json.loads(Path(path).read_text(encoding="utf-8")))
    try:
        stream = SyntheticPictures(ScaleSource.load(Path(stage.source)), stage.pictures, stage.seed)
        answer = STAGES[stage.name](stage, stream)
    except PatchifyError as error:
        stage.answer.with_suffix(".refused").write_text(str(error), encoding="utf-8")
        return REFUSED
    except KeyboardInterrupt:
        return STOPPED
    answer["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    write_json(stage.answer, answer, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
