from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from patchify_core.index.pictures import IndexedImage, PictureTable, RowOf, joined, read_table, table_pieces

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
IMAGES = st.lists(
    st.builds(
        IndexedImage,
        st.integers(-(2**63), 2**63 - 1),
        NAMES,
        st.integers(1, 2**31 - 1),
        st.integers(1, 2**31 - 1),
        st.integers(0, 2**62),
        st.binary(min_size=32, max_size=32).map(bytes.hex),
    ),
    max_size=12,
    unique_by=lambda image: image.id,
)


def images(ids: list[int]) -> list[IndexedImage]:
    return [IndexedImage(i, f"folder/{i}.jpg", 10 + i % 7, 20, 1000 + i, f"{i:064x}") for i in ids]


def on_disk(path: Path, *tables: PictureTable) -> PictureTable:
    with open(path, "wb") as file:
        file.writelines(table_pieces(tables))
    with open(path, "rb") as file:
        return read_table(file)


@example([IndexedImage(2**63 - 1, "", 1, 1, 0, "0" * 64), IndexedImage(-2, "", 1, 1, 0, "0" * 64)], 0)
@given(IMAGES, st.integers(0, 12))
def test_a_table_is_the_list_that_it_was_made_of(listed: list[IndexedImage], cut: int) -> None:
    table = PictureTable.of(listed)
    assert list(table) == listed and len(table) == len(listed) and table == listed
    stream = io.BytesIO()
    stream.writelines(table_pieces([table[:cut], table[cut:]]))
    again = joined([table[:cut], table[cut:]])
    assert list(again) == listed
    whole = io.BytesIO()
    whole.writelines(table_pieces([again]))
    assert whole.getvalue() == stream.getvalue()  # how it was cut leaves no trace
    rows = table.rows_of(np.array([image.id for image in listed] + [12345], np.int64))
    known = {image.id: row for row, image in enumerate(listed)}
    assert rows.tolist() == [*range(len(listed)), known.get(12345, -1)]


def test_a_mapped_table_answers_like_the_list(tmp_path: Path) -> None:
    listed = images([7, 3, 900, 1, 50])
    table = on_disk(tmp_path / "t", PictureTable.of(listed[:2]), PictureTable.of(listed[2:]))
    assert [table[row] for row in range(5)] == listed and table[-1] == listed[-1]
    assert list(table[1:4]) == listed[1:4] and list(table[1:4][1:]) == listed[2:4] and list(table[9:]) == []
    row_of = RowOf(table)
    assert {key: row_of[key] for key in row_of} == {image.id: row for row, image in enumerate(listed)}
    assert 900 in row_of and 901 not in row_of and 2**70 not in row_of and "x" not in row_of and len(row_of) == 5
    with pytest.raises(KeyError):
        row_of[4]
    for row in (5, -6):
        with pytest.raises(IndexError):
            table[row]
    with pytest.raises(ValueError):
        table[::2]


def test_an_index_of_a_table_knows_its_pictures() -> None:
    import faiss

    from patchify_core.index.codec.codes import Codes
    from patchify_core.index.patch_index import PatchIndex
    from patchify_core.index.pictures import Pictures
    from patchify_core.index.recipe import Recipe
    from patchify_core.regions import Pyramid
    from tests.tiny import INFO

    listed = images([5, 2, 9])
    codes = faiss.IndexFlatIP(INFO.dim)
    codes.add(np.eye(3, INFO.dim, dtype=np.float32))
    recipe, coded = Recipe(INFO, Pyramid(1)), Codes("Flat", codes)
    lists, table = (PatchIndex(recipe, Pictures(kept), coded) for kept in (listed, PictureTable.of(listed)))
    assert table.image_ids.tolist() == lists.image_ids.tolist() and dict(table.row_of) == dict(lists.row_of)
    assert list(table.images) == list(lists.images)
    assert table.box_of(1, 0).tolist() == lists.box_of(1, 0).tolist()


@pytest.mark.parametrize("damage", ["cut", "longer", "magic", "count", "ends"])
def test_what_is_no_table_is_refused(damage: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    stream.writelines(table_pieces([PictureTable.of(images([1, 2, 3]))]))
    data = bytearray(stream.getvalue())
    if damage == "cut":
        data = data[:-1]
    elif damage == "longer":
        data += b"x"
    elif damage == "magic":
        data[0] ^= 1
    elif damage == "count":
        data[8] += 1
    else:
        data[24 + 2 * 3 * 8 + 7] = 0x7F  # the first name ends behind the text
    (tmp_path / "t").write_bytes(data)
    with open(tmp_path / "t", "rb") as file, pytest.raises(ValueError):
        read_table(file)


def test_names_that_are_no_text_survive() -> None:
    odd = IndexedImage(1, "caf\udce9.jpg", 1, 1, 1, "0" * 64)
    assert PictureTable.of([odd])[0] == odd


def test_a_large_table_takes_few_bytes_per_picture() -> None:
    count = 1_000_000
    table = PictureTable(
        np.arange(count),
        np.full(count, 640, np.int32),
        np.full(count, 480, np.int32),
        np.zeros(count, np.int64),
        np.zeros((count, 32), np.uint8),
        np.arange(1, count + 1) * 5,
        np.frombuffer(b"a.jpg" * count, np.uint8),
    )
    assert sum(len(piece) for piece in table_pieces([table])) < 80 * count
    assert table.rows_of(np.array([0, count - 1, count])).tolist() == [0, count - 1, -1]
    assert table[123_456] == IndexedImage(123_456, "a.jpg", 640, 480, 0, "0" * 64)
