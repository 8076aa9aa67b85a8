"""demo.links: round trips for every query that has a link, and whatever a stranger may put into one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.demo import links
from patchify_core.demo.links import Link, LinkError, link_to, parse_link
from patchify_core.demo.queries import MAX_WORDS, UserQuery, checked_words
from patchify_core.demo.storage import StoredPicture
from patchify_core.errors import PatchifyError

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,30}", fullmatch=True)
numbers = st.integers(0, 999_999_999)
sides = st.integers(0, 9_999_000).map(lambda value: value / 1000)


def is_asked(words: str) -> bool:
    try:
        return checked_words(words) == words
    except PatchifyError:
        return False


@st.composite
def boxes(draw) -> links.Box:
    x1, x2 = sorted(draw(st.lists(sides, min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(sides, min_size=2, max_size=2, unique=True)))
    return x1, y1, x2, y2


@st.composite
def any_link(draw) -> Link:
    kind = draw(st.sampled_from(["example", "picture", "words", "nothing"]))
    asked: dict[str, object] = {}
    if kind == "words":
        asked["words"] = draw(st.text(max_size=60).filter(is_asked))
    elif kind != "nothing":
        asked[kind] = draw(numbers)
        asked["box"] = draw(st.none() | boxes() | st.just(links.WHOLE))
    if kind != "nothing":
        asked["object"] = draw(st.none() | st.text(min_size=1, max_size=100).filter(str.isprintable))
    return Link(
        **asked,
        index=draw(st.none() | names),
        level=draw(st.none() | numbers),
        boxes=draw(st.none() | names),
        rerank=draw(st.none() | names),
        top=draw(st.none() | numbers),
        look=draw(st.none() | numbers),
        tab=draw(st.none() | names),
    )


@given(any_link())
def test_what_is_written_is_read_again(link: Link) -> None:
    text = link.query()
    assert all(letter.isascii() and letter not in " \"'<>" for letter in text)
    assert parse_link(text) == (link, ())
    assert parse_link(f"?{text}&embed=1&theme=dark&utm_source=mail") == (link, ())


@given(st.text(max_size=300) | st.text(alphabet="q=&examplebox-0123456789,.%<>\"'", max_size=300))
def test_anything_is_read_without_a_fault(text: str) -> None:
    link, wrong = parse_link(text)
    assert isinstance(link, Link)
    # What is said holds nothing of what was sent: it goes into a notice, which is HTML.
    assert not any("<" in one or "&" in one for one in wrong)
    assert parse_link(link.query()) == (link, ())


@pytest.mark.parametrize(
    ("text", "left", "says"),
    [
        ("q=example-12&level=four", Link(example=12), ["level"]),
        ("q=example-12&level=-1", Link(example=12), ["level"]),
        ("q=example-12&level=1e3", Link(example=12), ["level"]),
        ("q=example-12&level=٣", Link(example=12), ["level"]),  # a digit, but not one of ours
        ("q=upload-12&top=10", Link(top=10), ["picture"]),
        ("q=example-&top=10", Link(top=10), ["picture"]),
        ("q=example-12&box=1,2,3", Link(example=12), ["box"]),
        ("q=example-12&box=1,2,3,nan", Link(example=12), ["box"]),
        ("q=example-12&box=1e9,2,3,4", Link(example=12), ["box"]),
        ("q=example-12&box=5,5,5,9", Link(example=12), ["box"]),
        ("q=example-12&box=9,5,5,9", Link(example=12), ["box"]),
        ("box=1,2,3,4&top=10", Link(top=10), ["box, but no picture"]),
        ("q=x&box=1,2,3,4", Link(), ["picture"]),
        ("object=moka+pot", Link(), ["nothing to search with"]),
        ("q=x&object=moka+pot", Link(), ["picture"]),
        ("q=example-1&q=example-2", Link(example=1), ["two values"]),
        ("q=example-1&words=a+red+kettle", Link(example=1), ["both"]),
        ("words=", Link(), ["words"]),
        (f"words={'x' * (MAX_WORDS + 1)}&top=5", Link(top=5), ["words"]),
        ("index=../../etc/passwd", Link(), ["method"]),
        ("index=<script>alert(1)</script>&top=5", Link(top=5), ["method"]),
        ("object=%00&look=a&tab=%3Cb%3E", Link(), ["object", "result", "tab"]),
        ("q=%ff%fe", Link(), ["not written as links"]),
        ("q=" + "x" * 10_000, Link(), ["too long"]),
        ("&".join(f"a{n}=1" for n in range(200)), Link(), ["not written as links"]),
        ("", Link(), []),
        ("__theme=dark&embed=1", Link(), []),
    ],
)
def test_what_is_wrong_is_left_out_and_said(text: str, left: Link, says: list[str]) -> None:
    link, wrong = parse_link(text)
    assert link == left
    assert len(wrong) == len(says)
    assert all(word in one for word, one in zip(says, wrong, strict=True))


@pytest.mark.parametrize("text", [None, 5, ["q=example-1"], {"q": "example-1"}, b"q=example-1"])
def test_only_text_is_read(text: object) -> None:
    assert parse_link(text)[0] == Link()


def query(**more: object) -> UserQuery:
    given: dict[str, object] = {"box": None, "instance": None, "descriptor": np.zeros(2, np.float32)} | more
    return UserQuery("a name", 640, 480, **given)  # type: ignore[arg-type]


QUERY = Path("queries/cake.jpg")
BOX = np.array([1.25, 2, 300.123456, 400.0])


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        (query(path=QUERY, example=7, box=BOX, instance=3), "q=example-7"),
        (query(path=QUERY, box=BOX, instance=3), "q=example-7&box=1.25,2,300.123,400&object=birthday+cake"),
        (query(path=QUERY), "q=example-7&box=whole&object=none"),
        (query(path=Path("gallery/9.jpg"), itself=9, box=BOX), "q=picture-9&box=1.25,2,300.123,400"),
        (query(words="a red & blue kettle"), "words=a+red+%26+blue+kettle"),
        (query(words="kettle", instance=3), "words=kettle&object=birthday+cake"),
    ],
)
def test_every_kind_of_question_has_a_short_link(asked: UserQuery, written: str) -> None:
    link = link_to(asked, {QUERY: 7}, {3: "birthday cake"}, index="pooled", level=4, look=34)
    assert link.query() == f"{written}&index=pooled&level=4&look=34"
    assert link.has_query


def test_a_picture_of_a_visitor_has_none() -> None:
    with pytest.raises(LinkError, match="own"):
        link_to(query(data=StoredPicture(b"x")), {QUERY: 7}, {})
