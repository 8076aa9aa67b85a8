"""Look-alikes: objects easily mistaken for each other, and how well patches tell them apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.queries import UserQuery
from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery
from patchify_core.gallery.model import GalleryImage
from patchify_core.retrieval.ranking import Match

SETS = (
    ("The tea set", ("flowered teapot", "flowered sugar bowl", "flowered creamer", "flowered cup and saucer")),
    ("The two blue pots", ("blue lidded pot", "blue vase")),
)
"""(title, names of the objects) of the sets that the bundled gallery was made with."""


@dataclass(frozen=True)
class LookAlikes:
    """A set of look-alikes of which the gallery has at least two, each with a query.

    Attributes:
        title: On the page.
        members: (instance, name, query id) of each object.
    """

    title: str
    members: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two pictures compared.

    Attributes:
        image: The gallery picture.
        rank: In the ranking, from 1.
        match: Its best patch.
        whole: Similarity of the whole picture; None if the index has no whole pictures.
        shows: Names of the set's objects that it contains.
    """

    image: GalleryImage
    rank: int
    match: Match
    whole: float | None
    shows: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Pair:
    """The best picture of an object, and the best one of a look-alike without that object.

    Attributes:
        among: The set.
        number: Of the set among those offered.
        instance: The object searched for.
        query: Its bundled query.
        right: None if no picture contains the object.
        other: None if every picture of a look-alike contains the object too.
    """

    among: LookAlikes
    number: int
    instance: int
    query: UserQuery
    right: Side | None
    other: Side | None


def look_alikes(gallery: Gallery) -> tuple[LookAlikes, ...]:
    """Return the sets that a gallery has, found by the names of its objects; none for most galleries."""
    queries = {gallery.name(query.instance): query for query in reversed(gallery.queries)}
    sets = []
    for title, names in SETS:
        members = tuple((queries[name].instance, name, queries[name].id) for name in names if name in queries)
        if len(members) > 1:
            sets.append(LookAlikes(title, members))
    return tuple(sets)


def hard_pair(showcase: ExampleGallery, number: object, chosen: object, index_name: str, level: int) -> Pair:
    """Search for one object of a set, and find its best picture and that of its look-alikes.

    Args:
        showcase: The gallery.
        number: Of the set in `look_alikes`.
        chosen: Instance of the object to search for; None for the first of the set.
        index_name: Name of the index.
        level: Number of the stage to search with.

    Raises:
        PatchifyError: If there is no such set or object: a browser may send anything.
    """
    sets = look_alikes(showcase.gallery)
    if type(number) is not int or not 0 <= number < len(sets):
        raise PatchifyError("There are no such look-alikes in this gallery: choose those shown.")
    among = sets[number]
    member = next((one for one in among.members if chosen is None or one[0] == chosen), None)
    if member is None:
        raise PatchifyError("There is no such look-alike: choose one of those shown.")
    instance, _, query_id = member
    query = showcase.example(query_id, index_name)
    gallery, left_out = showcase.gallery, showcase.judge.left_out(query)
    right = set(gallery.positives(instance, left_out))
    neither = right | gallery.ignored(instance) | left_out
    other = {image for one, _, _ in among.members if one != instance for image in gallery.positives(one)} - neither
    return Pair(
        among,
        number,
        instance,
        query,
        _best(showcase, query, level, right, among),
        _best(showcase, query, level, other, among),
    )


def _best(
    showcase: ExampleGallery, query: UserQuery, level: int, wanted: Iterable[int], among: LookAlikes
) -> Side | None:
    ranking = showcase.ranking(query, level)
    places = np.flatnonzero(np.isin(ranking.image_ids, list(wanted)))
    if not len(places):
        return None
    match, engine, gallery = ranking[int(places[0])], showcase.indexes.engine(query.index_name), showcase.gallery
    has_whole = engine.index.regions.stages[0].patches == 1
    whole = float(engine.explain(query.descriptor, match.image_id, 1).scores[0]) if has_whole else None
    shows = tuple(name for one, name, _ in among.members if match.image_id in gallery.positives(one))
    return Side(gallery.image(match.image_id), int(places[0]) + 1, match, whole, shows)
