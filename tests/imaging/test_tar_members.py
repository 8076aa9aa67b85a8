"""imaging.tar_members: pictures in tar archives, read in place."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import pytest

from patchify_core.errors import ArchiveError, PictureError
from patchify_core.files import sha256_of_bytes, sha256_of_file
from patchify_core.imaging.filenames import picture_path
from patchify_core.imaging.pictures import picture_size, read_picture
from patchify_core.imaging.tar_members import TarMember, list_members, tar_member
from tests.tiny import picture

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def png(seed):
    stream = io.BytesIO()
    picture(seed).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path, files, form=tarfile.GNU_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def files():
    return {"a.png": png(1), "inner/b.png": png(2), "f" * 90 + "/" + "n" * 90 + ".png": png(3), "empty.txt": b""}


@pytest.mark.parametrize("form", FORMATS)
def test_members_are_read_in_place(tmp_path, files, form):
    shard = write_tar(tmp_path / "00000.tar", files, form)
    members = list_members(shard)
    assert [member.relative_to(shard).as_posix() for member in members] == list(files)
    for member, data in zip(members, files.values(), strict=True):
        assert isinstance(member, Path) and member.archive == shard
        assert member.read_bytes() == data and member.stat().st_size == len(data)
        assert member.stat().st_mtime_ns == shard.stat().st_mtime_ns
        assert sha256_of_file(member) == sha256_of_bytes(data)
    assert picture_size(members[0]) == (24, 18) and read_picture(members[1]).size == (24, 18)
    with pytest.raises(PictureError, match=r"empty\.txt"):
        read_picture(members[3])


def test_a_path_is_enough_to_find_a_member_even_in_another_process(tmp_path, files):
    shard = write_tar(tmp_path / "shards" / "00000.tar", files)
    member = picture_path(tmp_path, "shards/00000.tar/inner/b.png")
    assert isinstance(member, TarMember) and member.read_bytes() == files["inner/b.png"]
    assert pickle.loads(pickle.dumps(list_members(shard)[1])).read_bytes() == files["inner/b.png"]
    with pytest.raises(FileNotFoundError):
        picture_path(tmp_path, "shards/00000.tar/inner/c.png").read_bytes()
    assert tar_member(tmp_path / "shards" / "x.png") is None
    assert not isinstance(picture_path(tmp_path, "other.tar/a.png"), TarMember)


def test_an_archive_truncated_anywhere_is_refused(tmp_path, files):
    whole = write_tar(tmp_path / "x.tar", files).read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512
    for kept in (0, 1, 511, 512, 700, 1024, end // 2, end - 512, end, end + 512):
        (tmp_path / "x.tar").write_bytes(whole[:kept])
        with pytest.raises(ArchiveError, match=r"x\.tar' (is cut short or damaged|cannot be read)"):
            list_members(tmp_path / "x.tar")


@pytest.mark.parametrize("content", [b"not an archive" * 100, b"\x1f\x8b\x08" + bytes(600)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ArchiveError, match="cannot be read as a tar archive"):
        list_members(tmp_path / "x.tar")
    with pytest.raises(ArchiveError, match="cannot be read"):
        list_members(tmp_path / "nowhere.tar")


def test_an_archive_that_shrinks_later_raises_os_error(tmp_path, files):
    shard = write_tar(tmp_path / "x.tar", files)
    member = list_members(shard)[1]
    shard.write_bytes(shard.read_bytes()[:1024])
    with pytest.raises(OSError, match="cut short"):
        member.read_bytes()


def test_only_files_are_members(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert list_members(tmp_path / "x.tar") == []


def test_a_folder_named_like_an_archive(tmp_path):
    shard = write_tar(tmp_path / "all.tar" / "00000.tar", {"x.tar/y.png": png(1), "x.tar": png(2)})
    for member in (*list_members(shard)[:1], picture_path(tmp_path, "all.tar/00000.tar/x.tar/y.png")):
        assert isinstance(member, TarMember) and member.archive == shard and member.read_bytes() == png(1)
        assert member.stat().st_size == len(png(1)) and pickle.loads(pickle.dumps(member)).read_bytes() == png(1)
    assert list_members(shard)[1].read_bytes() == png(2)


@pytest.mark.parametrize("again", ["a.png", "./a.png", "/a.png"])
def test_two_files_of_one_name_are_refused(tmp_path, again):
    shard = write_tar(tmp_path / "x.tar", {"b.png": png(1), "a.png": png(2)})
    with tarfile.open(shard, "a") as tar:
        info = tarfile.TarInfo(again)
        info.size = len(png(3))
        tar.addfile(info, io.BytesIO(png(3)))
    with pytest.raises(ArchiveError, match=r"x\.tar' contains 2 files named 'a\.png': pack it again"):
        list_members(shard)
    assert tar_member(shard / "a.png").read_bytes() == png(3)  # like tar itself
