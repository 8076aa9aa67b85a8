"""The index of a stream that fits the memory: every patch compared where that is quick enough, else inverted lists.

What compares every patch is an ordinary index, the very one that `build.build_index` makes of the same pictures with
the same factory; it can be updated from the pictures themselves later.
"""

from __future__ import annotations

import time
from pathlib import Path

from patchify_core.errors import PatchifyError
from patchify_core.index.big.build import (
    NO_PICTURES,
    Progress,
    ScaleReport,
    ScaleSettings,
    build_big,
    check_replaceable,
)
from patchify_core.index.big.choice import CodecChoice, choose
from patchify_core.index.build import coded
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.codec.factory import parse_factory
from patchify_core.index.integrity import private_of
from patchify_core.index.private import PrivateFolder
from patchify_core.index.shards.stream import PictureStream
from patchify_core.index.swap import heal, root_from, swap_in

_RUN = 1000
"""Pictures that are read together."""

MOST_RECORDS = 100_000
"""Pictures that an ordinary index holds at most here: it keeps a record of each in memory."""


def build_fitting(
    stream: PictureStream,
    out: str | Path,
    settings: ScaleSettings,
    progress: Progress | None = None,
    root: str | Path | None = None,
) -> ScaleReport:
    """Builds what `choose` chooses for `settings.memory_gb`; without a budget it is `build_big`.

    Args, report and errors are those of `build_big`.
    """
    choice = _exhaustive(stream, settings)
    if choice is None:
        return build_big(stream, out, settings, progress, root)
    progress = progress or (lambda done, total: None)
    out, start = Path(out).resolve(), time.perf_counter()
    codes, why = _code_settings(stream, choice, settings), choice.why
    if settings.rescore is not None and codes.rescore is None:
        why += f" They are exact, so finer codes ({settings.rescore}) would add nothing and are left out."
    private = private_of(out)
    check_replaceable(out, stream)
    with PrivateFolder(private) as work:
        heal(out, private)
        work.take_over({"fitting": 1})
        codes.check_enough(stream.dim, stream.regions, len(stream))
        images = [
            image for at in range(0, len(stream), _RUN) for image in stream.batch(at, min(at + _RUN, len(stream)))[0]
        ]
        done = 0

        def passed(row: int) -> None:
            nonlocal done
            if row + 1 > done:  # the rows of a sample come first, and again afterwards
                done = row + 1
                progress(done, len(stream))

        index = coded(stream, images, codes, passed=passed)
        code_s, start = time.perf_counter() - start, time.perf_counter()
        where = NO_PICTURES if root is None else root_from(out, Path(root))
        swap_in(out, private, lambda new: index.write(new, where, stream.maps))
        work.remove()
    size = sum(path.stat().st_size for path in out.iterdir())
    pictures, patches = len(stream), len(stream) * stream.regions.patches_per_image
    merge_s = time.perf_counter() - start
    return ScaleReport(pictures, patches, index.factory, why, pictures, 0.0, code_s, merge_s, size)


def _exhaustive(stream: PictureStream, settings: ScaleSettings) -> CodecChoice | None:
    """What is chosen, where that compares every patch; None where lists are better, or were asked for."""
    stream.check_boxes()
    asked = (settings.projection, settings.lists, settings.code_bytes, settings.probes)
    if settings.memory_gb is None or any(value is not None for value in asked) or not 0 < len(stream) <= MOST_RECORDS:
        return None
    chosen = choose(len(stream), stream.regions.patches_per_image, settings.memory_gb, stream.dim)
    if chosen.lists:
        return None
    try:
        _code_settings(stream, chosen, settings).check(stream.dim, stream.regions, len(stream))
    except PatchifyError:
        return None  # a codec whose bytes do not divide what the stream is projected to
    return chosen


def _code_settings(stream: PictureStream, choice: CodecChoice, settings: ScaleSettings) -> CodeSettings:
    kept = parse_factory(choice.factory)
    factory = kept.factory if stream.projection is None else kept.codec  # what is projected is not projected again
    return CodeSettings(factory, rescore=None if kept.codec == "Flat" else settings.rescore, seed=settings.seed)
