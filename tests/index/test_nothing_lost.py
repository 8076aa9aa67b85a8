"""Kills, damage, full disks, readers and rival builders: no index is ever lost, and no half of one ever read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest

from patchify_core import files
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.gallery import read_folder
from patchify_core.index import build, swap
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.swap import OLD_NAME, BuildFolder
from patchify_core.regions import Pyramid
from tests.index.test_build import indexed, nothing_beside, snapshot
from tests.tiny import INFO, TinyEncoder, picture, write_pictures

ROOT = Path(__file__).parents[2]
KILLS, DAMAGES, SHARD = 20, 200, 4
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")


def same_search(one, other):
    """Whether two indexes answer alike, to the last bit."""
    if [image.sha256 for image in one.images] != [image.sha256 for image in other.images]:
        return False
    for row in range(0, len(one.images), 3):
        query = one.descriptors_of(row)[0]
        for a, b in zip(vars(one.search(query)).values(), vars(other.search(query)).values(), strict=True):
            if not np.array_equal(a, b):
                return False
    return True


# kill -9 --------------------------------------------------------------------------------------------------

# Modules are loaded once; each build is a process of its own, forked from there, and slow where it writes, because
# that is where a kill hurts.
BUILDER = """
import os, signal, sys, time
import faiss
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.gallery import read_folder
from patchify_core.regions import Pyramid
from tests.tiny import TinyEncoder

def slowly(event, arguments):
    changes = event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
    if changes or (event == "open" and arguments[1] not in ("r", "rb")):
        between_two_renames = event == "os.rename" and str(arguments[0]).endswith("new")
        time.sleep(0.05 if between_two_renames else 0.003)

class Slow(TinyEncoder):
    def encode(self, crops):
        time.sleep(0.01)
        return super().encode(crops)

gallery = read_folder(sys.argv[1])
for line in sys.stdin:
    out, told, kill_after_s = line.split()
    child = os.fork()
    if not child:
        sys.addaudithook(slowly)
        handle = os.open(told, os.O_WRONLY | os.O_CREAT)
        settings = BuildSettings("PCAH8,SQ8", shard_images=int(sys.argv[2]))
        build_index(gallery, out, Slow(), Pyramid(2), settings, lambda done, total: os.pwrite(handle, b"%4d" % done, 0))
        os._exit(0)
    if float(kill_after_s) >= 0:
        time.sleep(float(kill_after_s))
        os.kill(child, signal.SIGKILL)  # it may have ended, but its number is its own until it is waited for
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Builds:
    """Builds in processes of their own, which may be killed."""

    def __init__(self, photos, told):
        self.told = told
        command = [sys.executable, "-c", BUILDER, str(photos), str(SHARD)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, out, kill_after_s=-1):
        """Returns (exit code, or minus the signal; how many pictures it said were done)."""
        self.told.unlink(missing_ok=True)
        self.process.stdin.write(f"{out} {self.told} {kill_after_s}\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return code, int(self.told.read_text() or 0) if self.told.exists() else 0

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@POSIX
def test_twenty_kills_at_random_moments(tmp_path):
    photos = write_pictures(tmp_path / "photos", range(6))
    old, new = 6, 46

    def finished(out):
        return build_index(read_folder(photos), out, TinyEncoder(), Pyramid(2), BuildSettings("PCAH8,SQ8"))

    finished(tmp_path / "before")
    write_pictures(photos, range(old, new))
    shutil.copytree(tmp_path / "before", tmp_path / "whole")
    finished(tmp_path / "whole")
    before, whole = (PatchIndex.load(tmp_path / name) for name in ("before", "whole"))
    builds, random = Builds(photos, tmp_path / "told"), np.random.default_rng(20)
    shutil.copytree(tmp_path / "before", tmp_path / "first")
    try:
        assert builds.run(tmp_path / "first") == (0, new)
        shutil.copytree(tmp_path / "before", tmp_path / "second")
        start = time.perf_counter()
        builds.run(tmp_path / "second")
        undisturbed = time.perf_counter() - start
        assert snapshot(tmp_path / "second") == snapshot(tmp_path / "whole")
        survived, out, kept, states, numbers = 0, None, 0, [], count()
        while survived < KILLS:
            if out is None:
                out, kept = tmp_path / f"killed-{next(numbers)}", 0
                shutil.copytree(tmp_path / "before", out)
            code, told = builds.run(out, random.uniform(0, undisturbed))
            if code == 0:  # it was quicker than the kill
                out = None
                continue
            assert code == -signal.SIGKILL
            found = PatchIndex.load(out)
            assert same_search(found, before) or same_search(found, whole)
            states.append(len(found.images))
            # Of those that it said were done, all were on the disk but for less than a shard.
            kept = max(kept, told - old - (SHARD - 1))
            survived += 1
            if random.random() < 0.5 and len(found.images) == old:
                continue  # the same build again, to be killed again
            report = finished(out)
            assert report.embedded <= new - old - max(kept, 0)
            if len(found.images) == new:
                assert report.embedded == 0
            assert snapshot(out) == snapshot(tmp_path / "whole") and nothing_beside(out)
            assert same_search(PatchIndex.load(out), whole)
            out = None
    finally:
        builds.close()
    assert len(states) == KILLS and old in states


# Damage ---------------------------------------------------------------------------------------------------

DAMAGER = """
import faulthandler, json, sys
from pathlib import Path
import numpy as np
from patchify_core.errors import PatchifyError
from patchify_core.index.patch_index import PatchIndex

faulthandler.enable()
folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

def answers(index):
    rows = range(0, len(index.images), 4)
    found = [[part.tolist() for part in vars(index.search(index.descriptors_of(row)[0])).values()] for row in rows]
    boxes = [index.boxes_of(row).tolist() for row in rows]
    return found, boxes, [index.maps[row].cells.tobytes() for row in rows], index.meta()

right, told = answers(PatchIndex.load(folder)), []
for number in range(first, first + count):
    random = np.random.default_rng(number)
    name = sorted(files)[number % len(files)]
    data = bytearray(files[name])
    if random.random() < 0.3:
        how = "cut"
        del data[random.integers(len(data)) :]
    elif random.random() < 0.3:
        how = "flipped in its head"  # where lengths and kinds stand
        data[random.integers(min(200, len(data)))] ^= 1 << random.integers(8)
    else:
        how = "flipped"
        for at in random.integers(0, len(data), random.integers(1, 4)):
            data[at] ^= 1 << random.integers(8)
    (folder / name).write_bytes(data)
    print(number, name, how, file=sys.stderr, flush=True)  # the last line before a crash says of what
    try:
        outcome = "harmless" if answers(PatchIndex.load(folder)) == right else "wrong"
    except PatchifyError as error:
        outcome = "refused" if str(error).endswith(".") and chr(10) not in str(error) else "said badly"
    (folder / name).write_bytes(files[name])
    told.append([name, how, outcome])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """An index with every file that there is, and codes of the kind that FAISS follows most blindly."""
    from patchify_core.regions import parse_regions

    home = tmp_path_factory.mktemp("everything")
    photos = write_pictures(home / "photos", range(24), (64, 48))
    settings = BuildSettings("PCAH8,IVF4,PQ4x4", "uniform", "SQfp16", features="pooled:64", keep_maps=True)
    build_index(read_folder(photos), home / "idx", TinyEncoder(), parse_regions("salient:4"), settings)
    return home / "idx"


def test_two_hundred_damages_are_refused_or_harmless_and_never_a_crash(everything, tmp_path):
    names = ["boxes.npy", "fine.faiss", "index.faiss", "maps.bin", "meta.json", "projection.npy"]
    assert sorted(path.name for path in everything.iterdir()) == names
    batches = 4
    told = []
    for batch in range(batches):
        folder = tmp_path / str(batch)
        shutil.copytree(everything, folder)
        each = DAMAGES // batches
        command = [sys.executable, "-c", DAMAGER, str(folder), str(batch * each), str(each)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        told += json.loads(done.stdout)
    assert len(told) == DAMAGES and {name for name, _, _ in told} == set(names)
    assert {how for _, how, _ in told} == {"cut", "flipped", "flipped in its head"}
    assert [one for one in told if one[2] not in ("refused", "harmless")] == []
    # White space of meta.json is all that may change; of the others every bit is known.
    assert {name for name, _, outcome in told if outcome == "harmless"} <= {"meta.json"}
    assert PatchIndex.load(tmp_path / "0").meta() == PatchIndex.load(everything).meta()


# Readers while builds run ---------------------------------------------------------------------------------

SWAPPER = """
import sys, time
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.gallery import read_folder
from patchify_core.regions import Pyramid
from tests.tiny import TinyEncoder

sys.addaudithook(lambda event, arguments: time.sleep(0.01) if event in {"os.rename", "os.remove"} else None)
for turn in range(int(sys.argv[4])):
    build_index(
        read_folder(sys.argv[1 + turn % 2]), sys.argv[3], TinyEncoder(), Pyramid(2),
        BuildSettings(features="pooled:64", keep_maps=True),
    )
"""


@POSIX
def test_readers_find_one_index_or_the_other_while_builds_swap_them(tmp_path):
    galleries = [write_pictures(tmp_path / "few", range(5)), write_pictures(tmp_path / "many", range(2, 12))]
    settings = {"features": "pooled:64", "keep_maps": True}
    whole = {}
    for photos in galleries:
        indexed(read_folder(photos), tmp_path / "whole" / photos.name, **settings)
        found = PatchIndex.load(tmp_path / "whole" / photos.name)
        whole[len(found.images)] = found, [found.maps.packed(row) for row in range(len(found.images))]
    out = tmp_path / "idx"
    indexed(read_folder(galleries[1]), out, **settings)
    failures, seen, held, over = [], [], {}, threading.Event()

    def read():
        try:
            while not over.is_set():
                found = PatchIndex.load(out)
                held.setdefault(len(found.images), found)
                seen.append(len(found.images))
                assert same_search(found, whole[len(found.images)][0])
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    command = [sys.executable, "-c", SWAPPER, *map(str, galleries), str(out), "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    over.set()
    for reader in readers:
        reader.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert failures == []
    assert len(seen) >= 20 and sum(a != b for a, b in pairwise(seen)) >= 4
    # Who opened an index long ago reads its maps still, though all of its files are deleted.
    for pictures, found in held.items():
        assert [found.maps.packed(row) for row in range(pictures)] == whole[pictures][1]


@pytest.fixture
def photos(tmp_path):
    return write_pictures(tmp_path / "photos", range(12))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "idx"


def test_a_reader_between_the_two_renames_gets_the_old_index(photos, out, monkeypatch):
    indexed(read_folder(photos), out)
    write_pictures(photos, [30])
    real, found = swap._rename, []

    def rename(source, target):
        real(source, target)
        found.append((out.exists(), len(PatchIndex.load(out).images)))

    monkeypatch.setattr(swap, "_rename", rename)
    indexed(read_folder(photos), out)
    assert found == [(False, 12), (True, 13)]


def test_on_windows_a_swap_waits_for_readers(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) < 4:
            raise PermissionError(errno.EACCES, "Permission denied")
        real(source, target)

    monkeypatch.setattr(swap.os, "replace", replace)
    with pytest.raises(PermissionError):
        swap._rename(tmp_path / "a", tmp_path / "b")  # here nothing would change by waiting
    monkeypatch.setattr(swap.sys, "platform", "win32")
    swap._rename(tmp_path / "a", tmp_path / "b")
    assert len(calls) == 4 and (tmp_path / "b").is_dir()


# Two builders ---------------------------------------------------------------------------------------------


def test_the_second_builder_is_told_who_is_at_work(photos, out, refused):
    said = []

    def meanwhile(done, total):
        if done == 5:
            said.append(refused(indexed, read_folder(photos), out))

    indexed(read_folder(photos), out, progress=meanwhile)
    start = f"Another index command (process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-')}"
    assert said[0].startswith(start)
    assert f"is using {out}.partial: wait until it has ended, or choose another folder" in said[0]


@pytest.mark.parametrize("content", [None, "", "[]", '{"pid": 3}'])
def test_who_holds_the_lock_may_not_be_known(tmp_path, refused, content):
    with BuildFolder(tmp_path / "x"):
        holder = tmp_path / "x.partial" / files.HOLDER_NAME
        holder.unlink() if content is None else holder.write_text(content)
        assert refused(BuildFolder, tmp_path / "x").startswith("Another index command is using")


def test_a_build_that_ended_between_two_looks_is_taken_up(photos, out, monkeypatch, tiny):
    """The other one ends after this one looked what is there, and before it holds the lock."""
    real, calls = build.BuildFolder, []

    def meanwhile(folder):
        calls.append(folder)
        if len(calls) == 1:
            indexed(read_folder(photos), out)
        return real(folder)

    monkeypatch.setattr(build, "BuildFolder", meanwhile)
    report = indexed(read_folder(photos), out, tiny)
    assert (report.embedded, report.reused, tiny.encoded) == (0, 12, 0)


def test_a_lock_on_a_folder_that_has_just_gone_is_none(tmp_path, monkeypatch):
    """The build before deletes its journal between this one's opening of the file and its lock."""
    real, calls = files._lock_once, []

    def lock_once(path):
        calls.append(path)
        file = real(path)
        if len(calls) == 1:
            shutil.rmtree(path.parent)
        return file

    monkeypatch.setattr(files, "_lock_once", lock_once)
    with BuildFolder(tmp_path / "x"):
        assert len(calls) == 2 and (tmp_path / "x.partial" / "maker.json").exists()
        with pytest.raises(IndexFolderError, match="Another index command"):
            BuildFolder(tmp_path / "x")


def test_a_build_that_has_ended_leaves_the_next_one_alone(tmp_path):
    with BuildFolder(tmp_path / "x") as first:
        first.remove()
        with BuildFolder(tmp_path / "x") as second:
            first.__exit__()
            assert (second.folder / "maker.json").exists()
    assert not second.folder.exists()  # there was no work in it


def test_another_makers_build_deletes_no_index_that_was_moved_aside(photos, out, refused):
    """A kill between two renames leaves the only index in the journal's folder, where other shards are thrown away."""
    indexed(read_folder(photos), out)
    before = snapshot(out)
    private = out.with_name("idx.partial")
    with BuildFolder(out) as work:
        work.resume({"one": "maker"})
        (private / "shard-00000.json").touch()
        work.journal.add({"piece": "part-00000"})
    out.rename(private / OLD_NAME)
    with BuildFolder(out) as work:
        work.resume({"another": "maker"})
        assert not list(private.glob("shard-*")) and work.finished("part-00000") is None
        (private / "part-00000.codes").touch()
    assert snapshot(out) == before
    out.rename(private / OLD_NAME)
    other = TinyEncoder(INFO.__class__(**{**INFO.as_dict(), "spec": "other"}))
    assert "was made with encoder" in refused(indexed, read_folder(photos), out, other)
    assert len(PatchIndex.load(out).images) == 12
    assert indexed(read_folder(photos), out).reused == 12 and nothing_beside(out)


# The disk -------------------------------------------------------------------------------------------------


class _FullDisk:
    """Has the disk refuse the n-th thing that is made on it and all after it."""

    def __init__(self):
        self.left, self.number = None, errno.ENOSPC
        sys.addaudithook(self.hear)  # for good; it hears nothing while `left` is None

    def hear(self, event, arguments):
        if self.left is None or (
            event not in {"os.mkdir", "os.rename"}
            and not (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax"))
        ):
            return
        if self.left <= 0:
            raise OSError(self.number, os.strerror(self.number))
        self.left -= 1


@pytest.fixture(scope="module")
def disk():
    return _FullDisk()


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "There is no room left to write"), (errno.EROFS, "cannot be written (read-only or no permission)")],
)
@pytest.mark.parametrize("had_one", [True, False])
def test_a_disk_that_is_full_or_read_only_from_any_write_on(tmp_path, disk, number, said, had_one):
    photos = write_pictures(tmp_path / "photos", range(4))
    if had_one:
        indexed(read_folder(photos), tmp_path / "before")
    write_pictures(photos, range(4, 10))
    gallery = read_folder(photos)
    indexed(gallery, tmp_path / "w" / "idx")
    writes, failed = 0, True
    disk.number = number
    while failed:
        out = tmp_path / str(writes) / "idx"
        out.parent.mkdir()
        if had_one:
            shutil.copytree(tmp_path / "before", out)
        before = snapshot(out)
        disk.left, failed = writes, False
        try:
            indexed(gallery, out, shard_images=3)
        except IndexFolderError as error:
            failed = True
            assert said in str(error) and str(out) in str(error) and str(error).endswith(".")
        finally:
            disk.left = None
        if failed and had_one:
            assert len(PatchIndex.load(out).images) == 4
            swapping = not out.exists()
            assert swapping or snapshot(out) == before
        indexed(gallery, out)
        assert snapshot(out.parent) == snapshot(tmp_path / "w")
        writes += 1
    assert writes > 12


# Pictures -------------------------------------------------------------------------------------------------


def test_pictures_that_vanish_or_change_between_listing_and_reading(photos, out, refused):
    gallery = read_folder(photos)
    (photos / "0003.png").unlink()
    picture(77).save(photos / "0005.png")
    report = indexed(gallery, out)
    assert report.skipped == (("0003.png", "it cannot be read (No such file or directory)"),)
    now = PatchIndex.load(out)
    now.check_pictures(photos, content=True)  # what is indexed is the picture that is there
    (photos / "0007.png").unlink()
    assert "names 0007.png, which is not in" in refused(now.check_pictures, photos)
    data = (photos / "0001.png").read_bytes()
    (photos / "0001.png").write_bytes(data[:-1] + b"x")
    said = refused(now.check_pictures, photos, content=True)
    assert said.startswith("0001.png in ") and "run the index command again" in said
    with pytest.raises(PatchifyError):
        now.check_pictures(photos)
