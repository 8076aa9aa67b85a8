"""`index`: builds or updates an index folder."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from patchify_core.cli.embed import embed, ray_settings, told
from patchify_core.cli.shared import (
    build,
    build_like,
    milvus_target,
    progress_bar,
    read_pictures,
    say_skipped,
)
from patchify_core.encoders import load_encoder
from patchify_core.errors import PatchifyError
from patchify_core.index.patch_index import PatchIndex
from patchify_core.regions import parse_regions

if TYPE_CHECKING:
    from patchify_core.index.milvus.build import Target
    from patchify_core.index.shards.stream import PictureStream


def run(arguments: argparse.Namespace) -> int:
    """Builds or updates an index folder."""
    if (arguments.gallery is None) == (arguments.from_shards is None):
        raise PatchifyError("Index either a GALLERY or what embed has written (--from-shards SHARDS): one of the two.")
    if arguments.from_shards is not None:
        return _from_shards(arguments)
    if arguments.keep_codes:
        raise PatchifyError("--keep-codes is for big indexes: say with --from-shards what this one was built of.")
    if ray_settings(arguments) is not None:
        return _with_ray(arguments)
    if arguments.like is None:
        regions = parse_regions(arguments.regions)
        gallery = read_pictures(arguments)
        if arguments.memory is not None:
            _choose(arguments, len(gallery.images), regions.patches_per_image)
        report = build(gallery, Path(arguments.out), load_encoder(arguments.encoder), arguments)
    else:
        _check_alone(arguments)
        like = PatchIndex.load(arguments.like)
        regions, gallery = like.regions, read_pictures(arguments)
        report = build_like(gallery, Path(arguments.out), like, load_encoder(like.encoder.spec))
    size = sum(path.stat().st_size for path in Path(arguments.out).iterdir())
    if arguments.json:
        numbers = asdict(report) | {"images_per_s": report.images_per_s, "bytes": size, "index": arguments.out}
        numbers["skipped"] = [{"file": name, "reason": reason} for name, reason in report.skipped]
        numbers["notes"] = gallery.notes
        print(json.dumps(numbers, indent=1))
        return say_skipped(report)
    speed = f"{report.images_per_s:.2f} pictures/s, {report.seconds:.1f} s" if report.embedded else "nothing to embed"
    print(
        f"{arguments.out}: {report.images} pictures x {regions.patches_per_image} patches, {size / 1e6:.1f} MB; "
        f"{report.embedded} embedded, {report.reused} already known; {speed}"
    )
    return say_skipped(report)


def _choose(arguments: argparse.Namespace, pictures: int, patches: int) -> None:
    """Takes the codec that fits the memory, and says what and why."""
    from patchify_core.__main__ import DEFAULT_FACTORY
    from patchify_core.index.big import choose

    if arguments.factory != DEFAULT_FACTORY:
        raise PatchifyError("--memory chooses how descriptors are kept: leave --preset and --factory out, or --memory.")
    chosen = choose(max(pictures, 1), patches, arguments.memory, load_encoder(arguments.encoder).info.dim)
    if chosen.lists:
        raise PatchifyError(
            f"{pictures:,} pictures are embedded first and indexed then: run embed GALLERY --out SHARDS, then index "
            f"--from-shards SHARDS --out {arguments.out} --memory {arguments.memory:g}."
        )
    arguments.factory = chosen.factory
    print(f"{chosen.factory}: {chosen.why}", file=sys.stderr)


def _with_ray(arguments: argparse.Namespace) -> int:
    """Embeds with Ray into shards beside the index, which stay there for the next time, and builds it from them."""
    from patchify_core.__main__ import parser

    out = Path(arguments.out)
    shards = out.with_name(out.name + ".shards")
    rest = parser().parse_args(["index", "--from-shards", str(shards), "--out", arguments.out])
    for name in ("json", "memory", "rescore"):
        setattr(rest, name, getattr(arguments, name))
    for name in ("factory", "codebook", "store", "like"):
        if getattr(arguments, name) != getattr(rest, name):
            raise PatchifyError(
                f"--{name.replace('_', '-')} does not go with --ray: run embed --ray, and then index --from-shards."
            )
    report, _ = embed(arguments, shards)
    print(f"{shards}: {told(report)}; kept for the next time", file=sys.stderr)
    return max(_from_shards(rest), say_skipped(report))


def _from_shards(arguments: argparse.Namespace) -> int:
    """Builds a big index of embedded shards, or brings them into Milvus."""
    from patchify_core.index.big import ScaleSettings, build_fitting
    from patchify_core.index.shards import pictures_of
    from patchify_core.index.shards.folder import ShardFolder

    _check_alone(arguments, "--from-shards")
    target = milvus_target(arguments)
    if target is not None:
        return _shards_into_milvus(arguments, target)
    stream = ShardFolder(arguments.from_shards)
    if arguments.keep_codes:
        return _finer(arguments, stream)
    settings = ScaleSettings(memory_gb=arguments.memory, rescore=arguments.rescore)
    with progress_bar("indexing", " pictures") as progress:
        report = build_fitting(stream, arguments.out, settings, progress, pictures_of(arguments.from_shards))
    if arguments.json:
        print(json.dumps(asdict(report) | {"index": arguments.out}, indent=1))
        return 0
    print(report.why if report.why.startswith(report.factory) else f"{report.factory}: {report.why}")
    speed = f"{report.patches_per_s:,.0f} patches/s" if report.patches_per_s else "all had been coded before"
    print(
        f"{arguments.out}: {report.images:,} pictures, {report.patches:,} patches, {report.bytes / 1e6:.1f} MB; "
        f"{speed}, {report.learn_s + report.code_s + report.merge_s:.1f} s"
    )
    return 0


def _finer(arguments: argparse.Namespace, stream: PictureStream) -> int:
    """Adds finer codes to a big index that stands."""
    from patchify_core.index.big import add_finer

    if arguments.rescore is None or arguments.memory is not None:
        raise PatchifyError(
            "--keep-codes adds finer codes to an index that stands: give them with --rescore, for example SQ8, and "
            "leave --memory out."
        )
    with progress_bar("coding", " pictures") as progress:
        report = add_finer(stream, arguments.out, arguments.rescore, progress)
    if arguments.json:
        print(json.dumps(asdict(report) | {"index": arguments.out}, indent=1))
        return 0
    print(
        f"{arguments.out}: finer codes ({arguments.rescore}) for {report.images:,} pictures, {report.coded:,} of them "
        f"coded now; {report.bytes / 1e6:.1f} MB in all; {report.seconds:.1f} s"
    )
    return 0


def _shards_into_milvus(arguments: argparse.Namespace, target: Target) -> int:
    """Brings the descriptors of embedded shards into a collection."""
    from patchify_core.index.codec.codes import CodeSettings
    from patchify_core.index.milvus.build import stream_to_milvus
    from patchify_core.index.shards import pictures_of
    from patchify_core.index.shards.folder import ShardFolder

    for name in ("memory", "keep_codes"):
        if getattr(arguments, name):
            option = name.replace("_", "-")
            raise PatchifyError(f"--{option} is for indexes of FAISS: leave it out with --store milvus.")
    stream = ShardFolder(arguments.from_shards)
    root = pictures_of(arguments.from_shards)
    if root is None:
        raise PatchifyError(f"{arguments.from_shards} does not say whose pictures it holds: embed them again.")
    settings = CodeSettings(arguments.factory, rescore=arguments.rescore)
    with progress_bar("writing", " pictures") as progress:
        report = stream_to_milvus(stream, root, arguments.out, target, settings, progress)
    if arguments.json:
        print(json.dumps(asdict(report) | {"index": arguments.out}, indent=1))
        return 0
    print(
        f"{arguments.out}: {report.images:,} pictures x {stream.regions.patches_per_image} patches; "
        f"{report.images - report.reused:,} written, {report.reused:,} already there"
    )
    return 0


def _check_alone(arguments: argparse.Namespace, given: str = "--like") -> None:
    """With --like or --from-shards, what an index is made of is all said by the other index or the shards."""
    from patchify_core.__main__ import parser

    usual = parser().parse_args(["index", "GALLERY", "--out", "INDEX"])
    taken = {"rescore", "memory", "store"} | ({"factory"} if arguments.store == "milvus" else set())
    for name in (
        "encoder",
        "regions",
        "features",
        "keep_maps",
        "factory",
        "codebook",
        "rescore",
        "store",
        "memory",
        "like",
        "exclude",
    ):
        if name in (taken if given == "--from-shards" else {"like", "exclude"}):
            continue
        if getattr(arguments, name, None) != getattr(usual, name, None):
            option = name.replace("_", "-")
            source = arguments.like if given == "--like" else arguments.from_shards
            raise PatchifyError(f"{given} takes all of it from {source}: leave --{option} out, or {given}.")
