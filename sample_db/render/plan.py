# SPDX-License-Identifier: MIT
"""The plan of a set: which objects stand together in which picture, and with which seed.

Needs the standard library only.  The order of the random draws is part of the result: a draw that is added,
dropped or moved changes every later job, and with it all pictures.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .config import MAX_CLUTTER, GallerySet

SHOT_SIZES = ("small", "medium", "large")  # how large the hero is in the picture; the layout knows the shares
OBJECTS_IN_SCENE = {"small": (6, 9), "medium": (4, 6), "large": (3, 5)}
QUERY_CLUTTER_SHARE = 0.35  # of the query pictures show a piece of clutter too
LOOK_ALIKE_SHARE = 0.6  # of the scenes of an instance that has look-alikes show one or two of them
LOOK_ALIKE_ROUNDS = 2  # in the first rounds one stands there in any case


@dataclass(frozen=True)
class Job:
    """One picture to be made.

    Attributes:
        key: name of the job, unique in its set.
        set: name of the set.
        stage: "q" for a query, "0", "1", ... for the n-th scene of each hero, "c" for clutter only.
        hero: code of the model that the picture is composed around; None where there is only clutter.
        others: codes of the other instances.
        clutter: codes of the clutter.
        size: "query", or one of `SHOT_SIZES`.
        seed: seed of everything that is drawn for this picture.
        split: "query" or "gallery".
    """

    key: str
    set: str
    stage: str
    hero: str | None
    others: list[str]
    clutter: list[str]
    size: str
    seed: int
    split: str


class Deck:
    """Deals cards from a shuffled deck, so that every card turns up equally often."""

    def __init__(self, rng: random.Random, cards: Iterable[str]) -> None:
        """Set the cards and where the shuffles are drawn from; nothing is drawn yet."""
        self._rng = rng
        self._cards = list(cards)
        self._left: list[str] = []

    def deal(self, count: int, avoid: Collection[str] = ()) -> list[str]:
        """Take `count` different cards from the top; those in `avoid` go back on top.

        Args:
            count: cards wanted.
            avoid: cards that must not be dealt this time.

        Returns:
            The cards in the order they were dealt.
        """
        dealt: list[str] = []
        passed: list[str] = []
        while len(dealt) < count:
            if not self._left:
                self._left = self._rng.sample(self._cards, len(self._cards))
            card = self._left.pop()
            (passed if card in avoid or card in dealt else dealt).append(card)
        self._left = self._left + passed
        return dealt


def plan(gallery_set: GallerySet) -> list[Job]:
    """All jobs of a set: the queries, then the rounds of hero scenes, then the clutter-only scenes.

    Args:
        gallery_set: the set.

    Returns:
        The jobs; the same ones, in the same order, for the same set.

    Example:
        >>> jobs = plan(load_set("a"))
        >>> len(jobs), jobs[0].key
        (192, 'q-C010')
    """
    return _Planner(gallery_set).jobs


def jobs_of_stages(jobs: list[Job], stages: Iterable[str]) -> list[Job]:
    """Return the jobs of the given stages, stage by stage in the given order."""
    return [job for stage in stages for job in jobs if job.stage == stage]


class _Planner:
    """Fills `jobs`; one generator feeds all draws, the two decks included."""

    def __init__(self, gallery_set: GallerySet) -> None:
        self.set = gallery_set
        self.rng = random.Random(gallery_set.seed)
        self.instances = Deck(self.rng, gallery_set.instances)
        self.clutter = Deck(self.rng, gallery_set.clutter)
        self.jobs: list[Job] = []
        self._queries()
        for scene_round in range(gallery_set.scenes_per_instance):
            self._hero_scenes(scene_round)
        self._clutter_scenes()

    def _add(self, key: str, stage: str, hero: str | None, others: list[str], clutter: list[str], size: str) -> None:
        seed = self.rng.randrange(1 << 30)
        split = "query" if stage == "q" else "gallery"
        self.jobs.append(Job(key, self.set.name, stage, hero, others, clutter, size, seed, split))

    def _queries(self) -> None:
        for code in self.set.instances:
            clutter = self.clutter.deal(1) if self.rng.random() < QUERY_CLUTTER_SHARE else []
            self._add(f"q-{code}", "q", code, [], clutter, "query")

    def _hero_scenes(self, scene_round: int) -> None:
        for number, code in enumerate(self.set.instances):
            size = SHOT_SIZES[(number + scene_round) % len(SHOT_SIZES)]
            kin = self.set.look_alikes(code)
            others: list[str] = []
            if kin and self.rng.random() < LOOK_ALIKE_SHARE:
                # Drawn even where there is one look-alike only: the draw is part of the sequence.
                others = self.rng.sample(kin, min(len(kin), self.rng.choice([1, 2])))
            wanted = max(len(others), self.rng.choice([1, 2] if size == "small" else [0, 1, 1, 2]))
            others = others + self.instances.deal(wanted - len(others), [code, *kin])
            if scene_round < LOOK_ALIKE_ROUNDS and kin and not set(kin) & set(others):
                others = [kin[number % len(kin)], *others[1:]]
            total = self.rng.randint(*OBJECTS_IN_SCENE[size])
            clutter = self.clutter.deal(min(max(total - 1 - wanted, 2), 6))
            self._add(f"{code}-{scene_round}", str(scene_round), code, others, clutter, size)

    def _clutter_scenes(self) -> None:
        for number in range(self.set.clutter_scenes):
            clutter = self.clutter.deal(self.rng.randint(4, MAX_CLUTTER))
            self._add(f"clutter-{number}", "c", None, [], clutter, SHOT_SIZES[number % 2])
