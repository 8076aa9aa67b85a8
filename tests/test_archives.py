"""Zip archives from strangers: what is safe comes out whole, what is not is named, and nothing eats the machine."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchify_core.archives import ArchiveSettings, Member, is_archive, members, names
from patchify_core.errors import ArchiveError


def packed(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def read(path: Path, limits: ArchiveSettings | None = None) -> dict[str, Member]:
    return {member.name: member for member in members(path, limits)}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_files_come_out_as_they_went_in(tmp_path, compression) -> None:
    files = {"a.jpg": b"one", "folder/b.png": b"two" * 1000, "folder/deep/ü.webp": b""}
    found = read(packed(tmp_path / "a.zip", files | {"folder/": b""}, compression))
    assert {name: member.data for name, member in found.items()} == files
    assert is_archive((tmp_path / "a.zip").read_bytes())


@pytest.mark.parametrize(
    "name",
    ["../up.jpg", "a/../../up.jpg", "/etc/passwd.jpg", "C:\\windows\\a.jpg", "\\\\host\\a.jpg", "..\\a.jpg", "C:a.jpg"],
)
def test_names_that_lead_out_are_left_out(tmp_path, name) -> None:
    found = read(packed(tmp_path / "a.zip", {name: b"x", "good.jpg": b"y"}))
    assert found.pop("good.jpg").data == b"y"
    (member,) = found.values()
    assert member.data is None and member.refused == "its name leads out of the archive"


def test_links_are_left_out(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert read(tmp_path / "a.zip")["link.jpg"].refused == "it is a link, not a file"


def test_encrypted_members_are_left_out(tmp_path) -> None:
    path = packed(tmp_path / "a.zip", {"a.jpg": b"secret"})
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    assert "encrypted" in str(read(path)["a.jpg"].refused)


def test_a_bomb_is_read_no_further_than_it_may_be(tmp_path) -> None:
    limits = ArchiveSettings(member_bytes=1_000_000, total_bytes=3_000_000)
    path = packed(tmp_path / "bomb.zip", {"bomb.jpg": bytes(50_000_000), "small.jpg": b"x"})
    assert path.stat().st_size < 100_000
    found = read(path, limits)
    assert "larger than 1 MB" in str(found["bomb.jpg"].refused) and found["small.jpg"].data == b"x"


def test_a_bomb_that_lies_about_its_size_too(tmp_path) -> None:
    path = packed(tmp_path / "bomb.zip", {"bomb.jpg": bytes(5_000_000)})
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + at, 10)  # it claims to be 10 bytes
    path.write_bytes(data)
    (member,) = members(path, ArchiveSettings(member_bytes=1_000_000))
    assert member.data is None and member.refused in ("it is damaged", "it is larger than 1 MB")


def test_many_members_together_are_bounded_too(tmp_path) -> None:
    limits = ArchiveSettings(member_bytes=1_000_000, total_bytes=2_500_000)
    path = packed(tmp_path / "many.zip", {f"{number}.jpg": bytes(900_000) for number in range(10)})
    seen = []
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        for member in members(path, limits):
            seen.append(member)
    assert sum(len(member.data or b"") for member in seen) <= 2_500_000


def test_overlapping_members_do_not_multiply(tmp_path) -> None:
    """All entries of the list point at the same bytes, which is how small bombs get large (Fifield, 2019)."""
    path = packed(tmp_path / "a.zip", {"a.jpg": bytes(900_000)})
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    entry = data[start:end]
    count = 200
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entry) * count, start, 0)
    path.write_bytes(data[:start] + entry * count + tail)
    limits = ArchiveSettings(member_bytes=1_000_000, total_bytes=5_000_000)
    total = 0
    try:
        for member in members(path, limits):
            total += len(member.data or b"")
    except ArchiveError as error:
        assert "more than" in str(error)
    assert total <= 5_000_000


def test_too_many_members_are_refused_before_they_are_listed(tmp_path, refused) -> None:
    path = packed(tmp_path / "a.zip", {f"{number}": b"" for number in range(50)})
    assert "more than 20 files" in refused(lambda: read(path, ArchiveSettings(members=20)))
    assert "lists more than" in refused(lambda: read(path, ArchiveSettings(directory_bytes=100)))


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04 and no more", b"\x00" * 100, b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_archive_is_refused(tmp_path, refused, data) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    refused(lambda: read(tmp_path / "a.zip"))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_archives_end_in_one_sentence(tmp_path, data) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", b"abc" * 50)
        archive.writestr("b/c.jpg", b"defg" * 50)
    whole = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    path = tmp_path / "damaged.zip"
    path.write_bytes(whole[:cut] if data.draw(st.booleans()) else whole)
    try:
        for member in members(path):
            assert (member.data is None) != (member.refused is None)
    except ArchiveError as error:
        assert str(error).endswith(".")


def test_zip64_records_do_not_smuggle_a_longer_list_in(tmp_path, refused) -> None:
    """`zipfile` believes a zip64 record, whatever the plain one says."""
    path = packed(tmp_path / "a.zip", {f"{number}": b"" for number in range(300)})
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 300, 300, end - start, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    plain = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 50, start, 0)
    path.write_bytes(data[:end] + record + locator + plain)
    assert len(zipfile.ZipFile(path).filelist) == 300
    said = refused(lambda: read(path, ArchiveSettings(members=20)))
    assert "more than 20 files" in said
    assert "more than 20 files" in refused(names, path, ArchiveSettings(members=20))


def test_names_are_listed_and_members_may_be_bounded_one_by_one(tmp_path) -> None:
    path = packed(tmp_path / "a.zip", {"meta.json": b"x" * 100, "b.jpg": b"y" * 100, "c/": b""})
    assert names(path) == ["meta.json", "b.jpg", "c/"]
    found = {m.name: m.data for m in members(path, most=lambda name: 50 if name == "meta.json" else 1000)}
    assert found == {"meta.json": None, "b.jpg": b"y" * 100}
