"""`index`: build or update an index folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.cli import options
from patchify_core.cli.embed import describe, embed, ray_settings
from patchify_core.cli.shared import (
    build,
    folder_bytes,
    format_speed,
    milvus_target,
    print_report,
    print_skipped,
    progress_bar,
    read_pictures,
)
from patchify_core.errors import PatchifyError

if TYPE_CHECKING:
    from patchify_core.index.milvus.build import Target
    from patchify_core.index.shards.folder import ShardFolder

HELP = "build or update an index of a dataset or a folder of pictures"

CODEC = ("factory", "codebook", "rescore")
"""Options of the codec."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_gallery_options(
        parser,
        nargs="?",
        help="folder of pictures, or a dataset with annotations.json (or give --from-shards)",
        out=("INDEX", "index folder to create or update"),
        like="use the encoder, regions, features and trained codec of this index: for folders with too few pictures to "
        "train a codec, and for comparable indexes",
    )
    parser.add_argument(
        "--from-shards", metavar="SHARDS", help="index a collection of any size from the shards that embed wrote"
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="memory budget of a search: chooses codec, lists and bytes per patch, and says why",
    )
    parser.add_argument(
        "--keep-codes",
        action="store_true",
        help="with --from-shards and --rescore: add finer codes to the existing big index at --out, whose codes stay",
    )
    options.add_codec_options(parser)
    options.add_store_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build or update an index folder."""
    if (arguments.gallery is None) == (arguments.from_shards is None):
        raise PatchifyError(
            "Index either a GALLERY or the shards that embed wrote (--from-shards SHARDS): one of the two."
        )
    codec = options.specified(arguments, "factory", "codebook")
    free = not options.specified(arguments, *CODEC, "memory", "like") and arguments.store in (None, "faiss")
    options.fill(arguments, options.defaults())
    if arguments.from_shards is not None:
        rest = [name for name in options.RECIPE_OPTIONS if name not in CODEC]
        _check_unchanged(
            arguments, "--from-shards", arguments.from_shards, *rest, "like", "exclude", "format", "subset"
        )
        return _from_shards(arguments, Path(arguments.from_shards), codec)
    if arguments.keep_codes:
        raise PatchifyError("--keep-codes is for big indexes: name the shards of this one with --from-shards.")
    if ray_settings(arguments) is not None:
        return _with_ray(arguments, codec)
    return _from_pictures(arguments, free)


interruption_note = options.resume_note


def _from_pictures(arguments: argparse.Namespace, free: bool) -> int:
    """Build or update an index of a gallery in this process.

    Args:
        arguments: Parsed and filled.
        free: Whether the codec may be chosen, because no option determines it.
    """
    from patchify_core.encoders import load_encoder
    from patchify_core.index.build import build_index
    from patchify_core.index.patch_index import PatchIndex
    from patchify_core.regions import parse_regions

    if arguments.like is None:
        regions = parse_regions(arguments.regions)
        gallery = read_pictures(arguments)
        if arguments.memory is not None:
            _choose(arguments, len(gallery.images), regions.patches_per_image)
        elif free:
            _choose_fast(arguments, len(gallery.images), regions.patches_per_image)
        report = build(gallery, Path(arguments.out), load_encoder(arguments.encoder), arguments)
    else:
        _check_unchanged(arguments, "--like", arguments.like, *options.RECIPE_OPTIONS, "store", "memory")
        like = PatchIndex.load(arguments.like)
        regions, gallery = like.regions, read_pictures(arguments)
        encoder = load_encoder(like.encoder.spec)
        with progress_bar("indexing", " pictures") as progress:
            report = build_index(gallery, arguments.out, encoder, progress=progress, like=like)
    size = folder_bytes(arguments.out)
    text = (
        f"{arguments.out}: {report.images} pictures x {regions.patches_per_image} patches, {size / 1e6:.1f} MB; "
        f"{report.embedded} embedded, {report.reused} already known; {format_speed(report)}"
    )
    rate = report.images_per_s
    print_report(arguments, report, text, images_per_s=rate, bytes=size, index=arguments.out, notes=gallery.notes)
    return print_skipped(report)


def _choose(arguments: argparse.Namespace, pictures: int, patches: int) -> None:
    """Choose the codec that fits the memory, and print the reason."""
    from patchify_core.encoders import load_encoder
    from patchify_core.index.big import choose

    if options.first_changed(arguments, "factory"):
        raise _codec_or_memory()
    chosen = choose(max(pictures, 1), patches, arguments.memory, load_encoder(arguments.encoder).info.dim)
    if chosen.lists:
        raise PatchifyError(
            f"{pictures:,} pictures are embedded first and indexed then: run embed GALLERY --out SHARDS, then index "
            f"--from-shards SHARDS --out {arguments.out} --memory {arguments.memory:g}."
        )
    arguments.factory = chosen.factory
    print(f"{chosen.factory}: {chosen.why}", file=sys.stderr)


def _choose_fast(arguments: argparse.Namespace, pictures: int, patches: int) -> None:
    """Choose the codec of the existing index, or one that suits the number of pictures, and print the reason."""
    from patchify_core.encoders import load_encoder
    from patchify_core.index.big.plan import choose_fast
    from patchify_core.index.build import codec_of
    from patchify_core.index.codec.factory import parse_factory

    existing = codec_of(Path(arguments.out))
    if existing is not None:
        codec, why = existing, f"as {arguments.out} was made."
    else:
        chosen = choose_fast(pictures, patches, load_encoder(arguments.encoder).info.dim)
        codec, why = {"factory": chosen.factory, "rescore": chosen.rescore}, chosen.why
    vars(arguments).update(codec)
    print(f"{parse_factory(arguments.factory, pictures * patches).factory}: {why}", file=sys.stderr)


def _codec_or_memory() -> PatchifyError:
    return PatchifyError("--memory chooses the codec: leave --preset and --factory out, or --memory.")


def _with_ray(arguments: argparse.Namespace, codec: dict[str, Any]) -> int:
    """Embed with Ray into shards beside the index, which are kept for updates, and build the index from them."""
    out = Path(arguments.out)
    shards = out.with_name(out.name + ".shards")
    if arguments.like is not None:
        raise PatchifyError("--like does not work with --ray: run embed --ray, and then index --from-shards.")
    if milvus_target(arguments) is not None:  # refuse unsupported settings before the work
        from patchify_core.index.build import BuildSettings
        from patchify_core.index.milvus.build import projection_kept

        how = ("factory", "codebook", "rescore", "keep_maps")
        projection_kept(BuildSettings(**{name: getattr(arguments, name) for name in how}))
    report, _ = embed(arguments, shards)
    print(f"{shards}: {describe(report)}; kept for the next time", file=sys.stderr)
    return max(_from_shards(arguments, shards, codec), print_skipped(report))


def _from_shards(arguments: argparse.Namespace, shards: Path, codec: dict[str, Any]) -> int:
    """Index embedded shards in a store, or add finer codes to a big index of them.

    Args:
        arguments: Parsed and filled.
        shards: Their folder.
        codec: `factory` and `codebook`, as far as they are on the command line.
    """
    from patchify_core.index.big import ScaleSettings, build_fitting
    from patchify_core.index.shards import pictures_of
    from patchify_core.index.shards.folder import ShardFolder

    target = milvus_target(arguments)
    stream, root = ShardFolder(shards), pictures_of(shards)
    if target is not None:
        return _into_milvus(arguments, stream, root, target)
    if arguments.keep_codes:
        return _add_finer(arguments, stream)
    if codec and arguments.memory is not None:
        raise _codec_or_memory()
    settings = ScaleSettings(memory_gb=arguments.memory, rescore=arguments.rescore, **codec)
    with progress_bar("indexing", " pictures") as progress:
        report = build_fitting(stream, arguments.out, settings, progress, root)
    why = report.why if report.why.startswith(report.factory) else f"{report.factory}: {report.why}"
    speed = f"{report.patches_per_s:,.0f} patches/s" if report.patches_per_s else "all had been coded before"
    text = (
        f"{why}\n{arguments.out}: {report.images:,} pictures, {report.patches:,} patches, {report.bytes / 1e6:.1f} MB; "
        f"{speed}, {report.learn_s + report.code_s + report.merge_s:.1f} s"
    )
    return print_report(arguments, report, text, index=arguments.out)


def _add_finer(arguments: argparse.Namespace, stream: ShardFolder) -> int:
    """Add finer codes to an existing big index."""
    from patchify_core.index.big import add_finer

    if arguments.rescore is None or arguments.memory is not None:
        raise PatchifyError(
            "--keep-codes adds finer codes to an existing index: name them with --rescore, for example SQ8, and leave "
            "--memory out."
        )
    with progress_bar("coding", " pictures") as progress:
        report = add_finer(stream, arguments.out, arguments.rescore, progress)
    text = (
        f"{arguments.out}: finer codes ({arguments.rescore}) for {report.images:,} pictures, {report.coded:,} of them "
        f"coded now; {report.bytes / 1e6:.1f} MB in all; {report.seconds:.1f} s"
    )
    return print_report(arguments, report, text, index=arguments.out)


def _into_milvus(arguments: argparse.Namespace, stream: ShardFolder, root: Path | None, target: Target) -> int:
    """Write the descriptors of embedded shards to a Milvus collection."""
    from patchify_core.index.codec.codes import CodeSettings
    from patchify_core.index.milvus.build import stream_to_milvus

    for name in ("memory", "keep_codes"):
        if getattr(arguments, name):
            raise PatchifyError(f"{options.flag(name)} is for FAISS indexes: leave it out with --store milvus.")
    if root is None:
        raise PatchifyError(f"{stream.folder} does not say whose pictures it holds: embed them again.")
    settings = CodeSettings(arguments.factory, arguments.codebook, arguments.rescore)
    with progress_bar("writing", " pictures") as progress:
        report = stream_to_milvus(stream, root, arguments.out, target, settings, progress)
    text = (
        f"{arguments.out}: {report.images:,} pictures x {stream.regions.patches_per_image} patches; "
        f"{report.images - report.reused:,} written, {report.reused:,} already there"
    )
    return print_report(arguments, report, text, index=arguments.out)


def _check_unchanged(arguments: argparse.Namespace, option: str, source: str, *names: str) -> None:
    """Refuse options that contradict --like or --from-shards, which determine the recipe."""
    odd = options.first_changed(arguments, *names)
    if odd:
        raise PatchifyError(f"{option} takes all of it from {source}: leave {odd} out, or {option}.")
