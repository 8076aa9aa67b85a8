"""Names on the page for the nested sets of patches of an index (`regions.stages`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patchify_core.regions import Regions, Stage


def grid_of(stage: Stage) -> int | None:
    """Return N of the N x N grid that a stage ends with; None if it ends with something else.

    Example:
        >>> from patchify_core.regions import Pyramid
        >>> [grid_of(stage) for stage in Pyramid(3).stages]
        [1, 2, 3]
    """
    name, _, rest = stage.spec.partition(":")
    return int(rest) if name == "pyramid" and rest.isdigit() else None


def added_by(stages: Sequence[Stage], number: int) -> str:
    """Return what the stage of this number (from 1) adds to the one before it, as a region spec."""
    spec = stages[number - 1].spec
    before = stages[number - 2].spec if number > 1 else ""
    return spec.removeprefix(f"{before}+") if before else spec


def option(stages: Sequence[Stage], number: int) -> str:
    """Name the stage on the button that selects it, e.g. `L3 · 4×4` or `+ salient:10`."""
    grid = grid_of(stages[number - 1])
    if grid is None:
        added = added_by(stages, number)
        words = _plain(added)
        return f"+ {words}" if added != stages[number - 1].spec else words
    return "Global" if grid == 1 else f"L{grid - 1} · {grid}×{grid}"


def patches_label(regions: Regions) -> str:
    """Name all patches of an index, e.g. `4×4 grid` or `29 salient patches`."""
    last = len(regions.stages)
    grid = grid_of(regions.stages[-1])
    words = title(regions.stages, last)
    return words if grid or " " not in words else f"{words} patches"


def _plain(spec: str) -> str:
    """Rewrite `salient:29` as `29 salient`; other specs stay as they are."""
    name, _, count = spec.partition(":")
    return f"{count} salient" if name == "salient" else spec


def title(stages: Sequence[Stage], number: int) -> str:
    """Name the patches that the stage adds, e.g. `4×4 grid`."""
    grid = grid_of(stages[number - 1])
    if grid is None:
        return _plain(added_by(stages, number))
    return "whole picture" if grid == 1 else f"{grid}×{grid} grid"


def summary(stages: Sequence[Stage], number: int) -> str:
    """Name the stage and its size, e.g. `L3, 30 patches`."""
    stage = stages[number - 1]
    grid = grid_of(stage)
    name = _plain(added_by(stages, number)) if grid is None else f"L{grid - 1}"
    return f"{name}, {stage.patches} patch{'es' if stage.patches > 1 else ''}"


def stage_of(stages: Sequence[Stage], patch: int) -> int:
    """Return the number (from 1) of the first stage that contains this patch."""
    return next(number for number, stage in enumerate(stages, 1) if patch < stage.patches)


def patches_before(stages: Sequence[Stage], number: int) -> int:
    """Count the patches of the stages before this one; its own follow them."""
    return stages[number - 2].patches if number > 1 else 0
