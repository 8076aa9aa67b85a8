"""Untrusted zip archives: valid members are read, others are refused with a reason, and resources stay bounded."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchify_core.errors import ArchiveError
from patchify_core.imaging.archives import DEFAULTS, ArchiveSettings, Member, is_archive, members, names


def packed(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def raw_names(path: Path, files: dict[bytes, bytes], extra: Callable[[bytes], bytes] = lambda name: b"") -> Path:
    """A zip whose names are these distinct bytes, without a declared encoding."""
    stand_in = {name: (f"{number:03d}" + "_" * len(name))[: len(name)] for number, name in enumerate(files)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(stand_in[name])
            info.extra = extra(name)
            archive.writestr(info, data)
    packed = path.read_bytes()
    for name, instead in stand_in.items():
        assert packed.count(instead.encode()) == 2
        packed = packed.replace(instead.encode(), name)
    path.write_bytes(packed)
    return path


def read(path: Path, limits: ArchiveSettings = DEFAULTS) -> dict[str, Member]:
    return {member.name: member for member in members(path, limits)}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_are_read_unchanged(tmp_path, compression) -> None:
    files = {"a.jpg": b"one", "folder/b.png": b"two" * 1000, "folder/deep/ü.webp": b""}
    found = read(packed(tmp_path / "a.zip", files | {"folder/": b""}, compression))
    assert {name: member.data for name, member in found.items()} == files
    assert is_archive((tmp_path / "a.zip").read_bytes())


@pytest.mark.parametrize(
    "name",
    ["../up.jpg", "a/../../up.jpg", "/etc/passwd.jpg", "C:\\windows\\a.jpg", "\\\\host\\a.jpg", "..\\a.jpg", "C:a.jpg"],
)
def test_names_that_lead_out_are_refused(tmp_path, name) -> None:
    found = read(packed(tmp_path / "a.zip", {name: b"x", "good.jpg": b"y"}))
    assert found.pop("good.jpg").data == b"y"
    (member,) = found.values()
    assert member.data is None and member.refused == "its name leads out of the archive"


def test_links_are_refused(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert read(tmp_path / "a.zip")["link.jpg"].refused == "it is a link, not a file"


def test_encrypted_members_are_refused(tmp_path) -> None:
    path = packed(tmp_path / "a.zip", {"a.jpg": b"secret"})
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    assert "encrypted" in str(read(path)["a.jpg"].refused)


def test_a_bomb_is_read_up_to_the_limit(tmp_path) -> None:
    limits = ArchiveSettings(member_bytes=1_000_000, total_bytes=3_000_000)
    path = packed(tmp_path / "bomb.zip", {"bomb.jpg": bytes(50_000_000), "small.jpg": b"x"})
    assert path.stat().st_size < 100_000
    found = read(path, limits)
    assert "larger than 1 MB" in str(found["bomb.jpg"].refused) and found["small.jpg"].data == b"x"


def test_a_bomb_with_a_false_size_too(tmp_path) -> None:
    path = packed(tmp_path / "bomb.zip", {"bomb.jpg": bytes(5_000_000)})
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + at, 10)  # it declares 10 bytes
    path.write_bytes(data)
    (member,) = members(path, ArchiveSettings(member_bytes=1_000_000))
    assert member.data is None and member.refused in ("it is damaged", "it is larger than 1 MB")


def test_the_total_of_all_members_is_limited(tmp_path) -> None:
    limits = ArchiveSettings(member_bytes=1_000_000, total_bytes=2_500_000)
    path = packed(tmp_path / "many.zip", {f"{number}.jpg": bytes(900_000) for number in range(10)})
    seen = []
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        for member in members(path, limits):
            seen.append(member)
    assert sum(len(member.data or b"") for member in seen) <= 2_500_000


def test_overlapping_members_do_not_multiply(tmp_path) -> None:
    """All entries point at the same bytes, as in the zip bombs of Fifield (2019)."""
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


def test_too_many_members_are_refused_before_the_directory_is_read(tmp_path, refused) -> None:
    path = packed(tmp_path / "a.zip", {f"{number}": b"" for number in range(50)})
    assert "more than 20 files" in refused(lambda: read(path, ArchiveSettings(members=20)))
    assert "lists more than" in refused(lambda: read(path, ArchiveSettings(directory_bytes=100)))


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04 and no more", b"\x00" * 100, b"PK\x05\x06" + b"\xff" * 18])
def test_other_files_are_refused(tmp_path, refused, data) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    refused(lambda: read(tmp_path / "a.zip"))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_archives_raise_only_archive_errors(tmp_path, data) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", b"abc" * 50)
        archive.writestr("b/ü猫.jpg", b"defg" * 50)
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


def zip64(path: Path, plain: tuple[int, int, int] | None = None) -> Path:
    """The same archive with a zip64 record, and (count, length, offset) in the plain one behind it."""
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    count, length, offset = struct.unpack("<10xH2L2x", data[end:])
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    said, long, at = plain or (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    path.write_bytes(
        data[:end] + record + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, said, said, long, at, 0)
    )
    return path


def test_zip64_records_cannot_hide_a_longer_directory(tmp_path, refused) -> None:
    """`zipfile` trusts a zip64 record, whatever the ordinary one says."""
    path = packed(tmp_path / "a.zip", {f"{number}": b"" for number in range(300)})
    zip64(path, (1, 50, path.read_bytes().index(b"PK\x01\x02")))
    assert len(zipfile.ZipFile(path).filelist) == 300
    said = refused(lambda: read(path, ArchiveSettings(members=20)))
    assert "more than 20 files" in said
    assert "more than 20 files" in refused(names, path, ArchiveSettings(members=20))


@pytest.mark.parametrize("plain", [None, (2, 113, 86)])
@pytest.mark.parametrize("before", [b"", b"#!/bin/sh\n" * 9])
def test_small_archives_with_a_zip64_record_are_read(tmp_path, before, plain) -> None:
    """Cloud storage services pack while they send, and always write one."""
    files = {"a.jpg": b"one" * 9, "ü.jpg": b"two"}
    path = zip64(packed(tmp_path / "a.zip", files), plain)
    path.write_bytes(before + path.read_bytes())
    assert {name: member.data for name, member in read(path).items()} == files and names(path) == list(files)


@pytest.mark.parametrize("at, value", [(0, b"X"), (16, b"\2"), (40, b"\xff"), (48, b"\xff" * 8)])
def test_invalid_zip64_records(tmp_path, refused, at, value) -> None:
    path = zip64(packed(tmp_path / "a.zip", {"a.jpg": b"one"}))
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x06\x06") + at
    data[start : start + len(value)] = value
    path.write_bytes(data)
    assert refused(lambda: read(path)).startswith(("The zip archive is damaged", "The archive is one of several"))


def test_names_and_limits_per_member(tmp_path) -> None:
    path = packed(tmp_path / "a.zip", {"meta.json": b"x" * 100, "b.jpg": b"y" * 100, "c/": b""})
    assert names(path) == ["meta.json", "b.jpg", "c/"]
    found = {m.name: m.data for m in members(path, most=lambda name: 50 if name == "meta.json" else 1000)}
    assert found == {"meta.json": None, "b.jpg": b"y" * 100}


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"Rar!\x1a\x07\x01\0", "a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (gzip.compress(b"x", mtime=0), "a gzip archive"),
        (bz2.compress(b"x"), "a bzip2 archive"),
        (lzma.compress(b"x"), "an XZ archive"),
        (b"a.jpg".ljust(257, b"\0") + b"ustar", "a tar archive"),
        (b"\n<!DOCTYPE html><p>Log in", "a web page"),
        (b"\xef\xbb\xbf<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
        (b"%PDF-1.7", "a PDF document"),
        (bytes(100), "not finished"),
        (b"", "is empty"),
        (b"PK\x07\x08PK\x03\x04", "one of several parts"),
        (b"words", "not a zip archive"),
    ],
)
def test_another_file_type_is_named(tmp_path, refused, head, said) -> None:
    for rest in (b"", bytes(100_000) if head else b""):
        (tmp_path / "a.zip").write_bytes(head + rest)
        assert said in refused(names, tmp_path / "a.zip")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_an_incomplete_download_is_named(tmp_path, data) -> None:
    """Even if the part that arrived contains a complete archive."""
    inner = packed(tmp_path / "inner.zip", {"b.png": b"x"}).read_bytes()
    whole = packed(tmp_path / "whole.zip", {"a.zip": inner, "c.png": b"y" * 50}, zipfile.ZIP_STORED).read_bytes()
    with_inner = whole.index(b"PK\x05\x06") + 22
    cut = data.draw(st.integers(4, len(whole) - 1).filter(lambda at: at != with_inner))
    (tmp_path / "cut.zip").write_bytes(whole[:cut])
    with pytest.raises(ArchiveError, match="is cut short"):
        read(tmp_path / "cut.zip")


@pytest.mark.parametrize(
    "comment",
    [
        b"PK\x05\x06",
        b"made by PK\x05\x06 and others" * 3,
        b"PK\x05\x06" + bytes(18),
        b"PK\x05\x06" * 16_000,
        struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 50, 7, 0),
        struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 7, 0),
    ],
)
def test_a_comment_may_contain_anything(tmp_path, comment) -> None:
    path = packed(tmp_path / "a.zip", {"a/ü.png": b"x", "b.png": b"y"})
    data = path.read_bytes()
    path.write_bytes(data[:-2] + struct.pack("<H", len(comment)) + comment)
    assert {name: member.data for name, member in read(path).items()} == {"a/ü.png": b"x", "b.png": b"y"}


@pytest.mark.parametrize("appended", [b"\r\n", b"PK\x05\x06", b"\0" * 1000])
def test_data_appended_to_an_archive_is_ignored(tmp_path, appended) -> None:
    path = packed(tmp_path / "a.zip", {"a.png": b"x"})
    path.write_bytes(path.read_bytes() + appended)
    assert read(path)["a.png"].data == b"x"


# Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("utf-8", ["Фото/кот.png", "写真/猫.png"]),  # macOS, which sets no flag
        ("cp932", ["新しいフォルダ/ソファ表.png", "新しいフォルダ/犬.png"]),  # 表 ends in the byte of a backslash
        ("gbk", ["新建文件夹/图片誠.png", "新建文件夹/沙发.png"]),  # 誠 too
        ("cp949", ["새 폴더/사진.png", "새 폴더/소파.png"]),
        ("cp1251", ["фото/кот.png", "фото/диван.png"]),
        ("cp866", ["фото/кот.png", "фото/диван.png"]),
        ("cp437", ["Kühlschrank/é.png", "Straße/Möbel.png"]),
    ],
)
def test_names_are_decoded(tmp_path, page, names) -> None:
    path = raw_names(tmp_path / "a.zip", {name.encode(page): name.encode() for name in names})
    assert {name: member.data for name, member in read(path).items()} == {name: name.encode() for name in names}


@pytest.mark.parametrize("page", ["cp932", "gbk", "cp949", "cp1251", "utf-8"])
def test_backslashes_separate_folders_in_any_code_page(tmp_path, page) -> None:
    folder, name = {"cp932": ("写真", "ソファ"), "gbk": ("图片", "沙发"), "cp949": ("사진", "소파")}.get(
        page, ("фото", "кот")
    )
    path = raw_names(tmp_path / "a.zip", {f"{folder}\\{name}.png".encode(page): b"x", f"{folder}\\".encode(page): b""})
    assert list(read(path)) == [f"{folder}/{name}.png"]


def unicode_path(name: bytes, meant: str, about: bytes | None = None) -> bytes:
    """Info-ZIP's field for a name in UTF-8 (APPNOTE 4.6.9)."""
    field = struct.pack("<BL", 1, zlib.crc32(name if about is None else about)) + meant.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


def test_the_unicode_path_field_is_used(tmp_path) -> None:
    other = struct.pack("<HH", 0x5455, 5) + b"\1abcd"  # a time stamp, in front
    path = raw_names(tmp_path / "a.zip", {b"??.png": b"x"}, lambda name: other + unicode_path(name, "猫/犬.png"))
    assert list(read(path)) == ["猫/犬.png"]


@pytest.mark.parametrize(
    "field",
    [
        lambda name: unicode_path(name, "../犬.png", about=b"another name"),
        lambda name: unicode_path(name, "犬.png")[:-2],
        lambda name: unicode_path(name, "犬.png").replace("犬".encode(), b"\xff\xfe\xfd"),
        lambda name: struct.pack("<HH", 0x7075, 2) + b"\1\0",
    ],
)
def test_an_invalid_unicode_path_field_is_not_used(tmp_path, field) -> None:
    path = raw_names(tmp_path / "a.zip", {b"dog.png": b"x"}, field)
    try:
        found = read(path)
    except ArchiveError:  # some versions of Python check the field and reject the archive
        return
    assert list(found) == ["dog.png"]


@pytest.mark.parametrize("meant", ["../up.png", "/etc/a.png", "C:\\a.png", "a/..\\..\\a.png"])
def test_names_cannot_lead_out_in_any_encoding(tmp_path, meant) -> None:
    path = raw_names(tmp_path / "a.zip", {b"good.png": b"x"}, lambda name: unicode_path(name, meant))
    (member,) = read(path).values()
    assert member.refused == "its name leads out of the archive"


@pytest.mark.parametrize("name", ["10:30.png", "5: a.png", "..a/b..png", "a/.../b.png"])
def test_unusual_names_do_not_lead_out(tmp_path, name) -> None:
    assert read(packed(tmp_path / "a.zip", {name: b"x"}))[name].data == b"x"


def test_folders_are_skipped_however_they_are_marked(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, attributes in (("a/", 0), ("b\\", 0), ("c", 0x10), ("d", (stat.S_IFDIR | 0o755) << 16)):
            info = zipfile.ZipInfo(name)
            info.external_attr = attributes
            archive.writestr(info, b"")
        info = zipfile.ZipInfo("e.png")
        info.external_attr = 0x10  # a folder has no content
        archive.writestr(info, b"x")
        archive.writestr("f.png", b"")
    assert list(read(tmp_path / "a.zip")) == ["e.png", "f.png"]


def test_members_of_equal_names_are_all_read(tmp_path) -> None:
    path = raw_names(tmp_path / "a.zip", {b"a/1.png": b"x", b"a\\1.png": b"y"})
    assert [(member.name, member.data) for member in members(path)] == [("a/1.png", b"x"), ("a/1.png", b"y")]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(min_size=4, max_size=30), unique=True, min_size=1, max_size=5))
def test_every_member_is_read_or_refused_whatever_its_name(tmp_path, found) -> None:
    names = [name.replace(b"\0", b"_").replace(b"PK", b"__") + b"%03d" % at for at, name in enumerate(found)]
    path = raw_names(tmp_path / "a.zip", {name: b"%d" % at for at, name in enumerate(names)})
    assert [member.data or member.refused for member in members(path)] == [
        "its name leads out of the archive" if member.refused else b"%d" % at for at, member in enumerate(members(path))
    ]


@pytest.mark.parametrize("other", [b"a\\b.png", b"a_b.png", b"\xff/b.png"])
def test_the_local_name_of_a_member_does_not_matter(tmp_path, other) -> None:
    """`zipfile` rejects a member whose two names differ; other programs do not compare them."""
    path = packed(tmp_path / "a.zip", {"a/b.png": b"x", "ü/c.png": b"y"})
    path.write_bytes(path.read_bytes().replace(b"a/b.png", other, 1).replace("ü/c.png".encode(), "û/c.png".encode(), 1))
    assert {name: member.data for name, member in read(path).items()} == {"a/b.png": b"x", "ü/c.png": b"y"}


@pytest.mark.parametrize("in_front", [b"", b"a program that unpacks itself"])
def test_names_falsely_marked_as_utf8(tmp_path, in_front) -> None:
    """`zipfile` rejects the whole archive for one such name."""
    names = {"写真/猫.png": "写真/猫.png".encode("cp932"), "ü/犬.png": "ü/犬.png".encode()}
    path = raw_names(tmp_path / "a.zip", {name: b"x" for name in names.values()} | {b"plain.png": b"y"})
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + flags + 1] |= 0x08
            at = data.find(signature, at + 4)
    path.write_bytes(in_front + data)
    with pytest.raises(UnicodeDecodeError):
        zipfile.ZipFile(path)
    assert {name: member.data for name, member in read(path).items()} == dict.fromkeys(names, b"x") | {
        "plain.png": b"y"
    }
    assert path.read_bytes() == in_front + data  # the file is unchanged


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_extreme_expansion_is_refused_without_unpacking(tmp_path, compression, monkeypatch) -> None:
    files = {"small.bmp": bytes(90_000), "large.bmp": bytes(200_000), "photo.jpg": bytes(range(256)) * 3}
    path = packed(tmp_path / "a.zip", files, compression)
    limits = ArchiveSettings(expansion=20, small_bytes=100_000, total_bytes=150_000)
    opened, real = [], zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile, "open", lambda self, one, *rest: opened.append(one.filename) or real(self, one, *rest)
    )
    found = read(path, limits)
    assert "more than 20 times its size" in str(found.pop("large.bmp").refused) and "large.bmp" not in opened
    assert {name: member.data for name, member in found.items()} == {name: files[name] for name in found}
    assert len(found) == 2 and len(opened) == 2
