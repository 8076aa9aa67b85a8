"""What the nested sets of patches of an index (`regions.stages`) are called on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patchify_core.regions import Regions, Stage


def grid_of(stage: Stage) -> int | None:
    """N of the N x N grid that a stage ends with; None if it ends with something else.

    Example:
        >>> from patchify_core.regions import Pyramid
        >>> [grid_of(stage) for stage in Pyramid(3).stages]
        [1, 2, 3]
    """
    name, _, rest = stage.spec.partition(":")
    return int(rest) if name == "pyramid" and rest.isdigit() else None


def added_by(stages: Sequence[Stage], number: int) -> str:
    """What the stage of this number (from 1) adds to the one before it, as the command line writes it."""
    spec = stages[number - 1].spec
    before = stages[number - 2].spec if number > 1 else ""
    return spec.removeprefix(f"{before}+") if before else spec


def option(stages: Sequence[Stage], number: int) -> str:
    """The stage on the button that chooses it, e.g. `L3 · 4×4` or `+ salient:10`."""
    grid = grid_of(stages[number - 1])
    if grid is None:
        added = added_by(stages, number)
        words = _plain(added)
        return f"+ {words}" if added != stages[number - 1].spec else words
    return "Global" if grid == 1 else f"L{grid - 1} · {grid}×{grid}"


def patches_label(regions: Regions) -> str:
    """All patches of an index, e.g. `4×4 grid` or `29 salient patches`."""
    last = len(regions.stages)
    grid = grid_of(regions.stages[-1])
    words = title(regions.stages, last)
    return words if grid or " " not in words else f"{words} patches"


def _plain(spec: str) -> str:
    """`salient:29` -> `29 salient`; others as the command line writes them."""
    name, _, count = spec.partition(":")
    return f"{count} salient" if name == "salient" else spec


def title(stages: Sequence[Stage], number: int) -> str:
    """The patches that the stage adds, in words, e.g. `4×4 grid`."""
    grid = grid_of(stages[number - 1])
    if grid is None:
        return _plain(added_by(stages, number))
    return "whole picture" if grid == 1 else f"{grid}×{grid} grid"


def summary(stages: Sequence[Stage], number: int) -> str:
    """The stage in the table of scores, e.g. `L3, 30 patches each`."""
    stage = stages[number - 1]
    grid = grid_of(stage)
    name = _plain(added_by(stages, number)) if grid is None else f"L{grid - 1}"
    return f"{name}, {stage.patches} patch{'es' if stage.patches > 1 else ''} each"


def stage_of(stages: Sequence[Stage], patch: int) -> int:
    """Number (from 1) of the first stage that has this patch."""
    return next(number for number, stage in enumerate(stages, 1) if patch < stage.patches)


def patches_before(stages: Sequence[Stage], number: int) -> int:
    """Patches of the stages before this one; its own come after them."""
    return stages[number - 2].patches if number > 1 else 0
