"""Options that several commands share, and their defaults.

An omitted option is None. It then takes the value of the existing index (`fill_from_index`) or the default of the
package that uses it (`defaults`). The parser itself knows no defaults, so that nothing heavy is imported for a help
text.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patchify_core.errors import IndexFolderError, PatchifyError

RECIPE_OPTIONS = ("encoder", "regions", "features", "factory", "codebook", "rescore", "keep_maps")
"""Options that determine the recipe of an index."""


def resume_note(arguments: argparse.Namespace) -> str:
    """Say that the same command resumes after an interruption."""
    return ": finished work is kept; run the same command again to go on"


def defaults() -> dict[str, Any]:
    """Return the defaults of `RECIPE_OPTIONS` and `store`."""
    from patchify_core.encoders import DEFAULT_ENCODER
    from patchify_core.index.build import BuildSettings
    from patchify_core.regions import Pyramid

    values = vars(BuildSettings()) | {"encoder": DEFAULT_ENCODER, "regions": Pyramid().spec}
    return {name: values[name] for name in RECIPE_OPTIONS} | {"store": "faiss"}


def specified(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return those of the named options that are on the command line, with their values."""
    values = {name: getattr(arguments, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def fill(arguments: argparse.Namespace, values: Mapping[str, Any]) -> None:
    """Set every omitted option to its value, and append the layer of --projection to the encoder."""
    for name, value in values.items():
        if getattr(arguments, name, None) is None:
            setattr(arguments, name, value)
    layer = getattr(arguments, "projection", None)
    if layer and "encoder" in values:
        arguments.encoder = f"{arguments.encoder.partition('+projection@')[0]}+projection@{Path(layer).absolute()}"


def first_changed(arguments: argparse.Namespace, *names: str) -> str | None:
    """Return the flag of the first named option whose value differs from its default; None if none does."""
    values = defaults()
    return next((flag(name) for name, value in specified(arguments, *names).items() if value != values.get(name)), None)


def flag(name: str) -> str:
    """Return an option as it is written on the command line.

    Example:
        >>> flag("keep_maps")
        '--keep-maps'
    """
    return f"--{name.replace('_', '-')}"


def fill_from_index(arguments: argparse.Namespace, folder: Path | None) -> bool:
    """Set every omitted option to its value in the existing index, or else to its default.

    Args:
        arguments: Parsed; omitted options are None.
        folder: The index folder, which need not exist; None for a temporary one.

    Returns:
        Whether the index is a big one, built from shards, which is used as it is and not updated.

    Raises:
        IndexFolderError: If the index is damaged, or is a big one whose recipe differs from the options.
    """
    from patchify_core.index.folder import read_meta
    from patchify_core.index.integrity import META_NAME
    from patchify_core.index.recipe import Recipe
    from patchify_core.index.swap import current_place

    if folder is None or not (current_place(folder) / META_NAME).is_file():
        fill(arguments, defaults())
        return False
    meta = read_meta(folder)
    try:
        recipe = Recipe.from_meta(meta)
        built_with = recipe.as_dict() | {"encoder": recipe.encoder.spec, "keep_maps": recipe.maps}
        values = {name: built_with[name] for name in RECIPE_OPTIONS}
        big = meta["images"] is None and "store" not in meta
    except (KeyError, TypeError, AttributeError):
        raise IndexFolderError(f"{folder} is not a complete index: delete it and build it again.") from None
    if "store" in meta and arguments.store is None:
        values |= _milvus_options(folder)
    if big:
        for name, wanted in specified(arguments, *RECIPE_OPTIONS).items():
            if wanted != values[name]:
                raise IndexFolderError(
                    f"{folder} was made with {name} {values[name] or 'none'}, not {wanted}: leave {flag(name)} out, or "
                    "choose another index."
                )
    fill(arguments, {"store": defaults()["store"]} | values)
    return big


def _milvus_options(folder: Path) -> dict[str, Any]:
    """Return the Milvus collection of an index folder, as options."""
    from patchify_core.index.milvus.store import read_listing

    listing = read_listing(folder)
    address = listing.address
    return {
        "store": "milvus",
        "uri": address.uri,
        "ca": address.ca,
        "server_name": address.server_name,
        "collection": listing.collection,
        "milvus_index": listing.kind,
    }


def add_gallery_options(
    command: argparse.ArgumentParser, *, help: str, out: tuple[str, str], like: str, nargs: str | None = None
) -> None:
    """Add the options of commands that embed a gallery: the gallery, the output, descriptors, Ray and devices.

    Args:
        command: The parser to add them to.
        help: Help of the gallery.
        out: Name and help of the output.
        like: Help of `--like`.
        nargs: `?` if the gallery may be omitted.
    """
    command.add_argument("gallery", nargs=nargs, metavar="GALLERY", help=help)
    command.add_argument("--out", required=True, metavar=out[0], help=out[1])
    command.add_argument("--like", metavar="INDEX", help=like)
    command.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        help="exclude these files or folders of a plain folder, as in a .gitignore, e.g. 'drafts/' or '*.gif'; "
        "repeatable",
    )
    command.add_argument(
        "--format",
        choices=["instre", "ilias", "revisited"],
        help="read a published benchmark as evaluate does, ILIAS' distractors in their archives (default: a folder, or "
        "a dataset with annotations.json)",
    )
    command.add_argument("--subset", metavar="NAME", help="of ILIAS: all (default), mini, core")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    add_descriptor_options(command)
    add_ray_options(command)
    add_device_options(command)


def add_descriptor_options(command: argparse.ArgumentParser) -> None:
    """Add the options of encoder, regions and features."""
    command.add_argument(
        "--encoder",
        metavar="SPEC",
        help="effnet-lite0 (default), effnet-lite1, effnet-lite2, effnet-lite0-block; open_clip:ARCH/TAG, "
        "open_clip:ARCH/FILE, timm:NAME (downloaded when first used), timm:NAME@FILE",
    )
    command.add_argument(
        "--projection",
        metavar="FILE",
        help="a linear layer after the encoder, such as ILIAS' published adaptation layers (.pth or .safetensors); "
        "the same as --encoder SPEC+projection@FILE",
    )
    command.add_argument(
        "--regions",
        metavar="SPEC",
        help="pyramid:N, N from 1 to 6 (default pyramid:4); sliding:SCALE,OVERLAP; random:N,SEED; salient:N; "
        "joined with + for several",
    )
    command.add_argument(
        "--features",
        metavar="HOW",
        help="crop: one forward pass per patch (default); pooled: one per picture, at 640 pixels; pooled:N: at N "
        "pixels",
    )
    command.add_argument(
        "--keep-maps",
        action="store_true",
        default=None,
        help="store feature maps too (about 45 kB per picture), so that --refine map needs no second pass; with pooled",
    )


def add_codec_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the codec."""
    codec = command.add_mutually_exclusive_group()
    codec.add_argument(
        "--preset",
        dest="factory",
        choices=["exact", "small", "tiny", "huge", "fast"],
        help="codec of the descriptors: exact (float32), small (256 bytes per patch), tiny (64), huge (32, for "
        "millions of pictures), fast (float32 in a graph); by default index chooses by the number of pictures, and "
        "says why",
    )
    codec.add_argument(
        "--factory",
        dest="factory",
        metavar="FAISS",
        help="codec as a FAISS factory string: Flat (default), SQ8, PQ64, HNSW16,SQ8, ...; PCAH128,... projects to "
        "128 dimensions first",
    )
    command.add_argument(
        "--codebook",
        choices=["uniform", "global", "informative", "distinctive"],
        help="training set of the codec: random patches (uniform, default), whole pictures (global), patches "
        "without near repeats (informative), patches unlike all others (distinctive)",
    )
    command.add_argument(
        "--rescore", metavar="FAISS", help="also store finer codes, e.g. SQ8, and re-score the first pictures with them"
    )


def add_device_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the compute device."""
    command.add_argument(
        "--device", metavar="NAME", help="auto (default: the fastest available), cpu, cuda, cuda:1 or mps"
    )
    command.add_argument(
        "--engine",
        metavar="NAME",
        help="inference engine on the CPU: torch (default), or openvino, which is faster "
        "(pip install --no-deps -r requirements-fast.txt)",
    )
    command.add_argument(
        "--precision",
        metavar="KIND",
        help="auto (default: half precision on CUDA if it does not change descriptors, else float32), float32, "
        "bfloat16 or float16",
    )
    command.add_argument(
        "--compile",
        action="store_const",
        const="1",
        help="compile the network with torch.compile, which takes a minute at the start (needs a C++ compiler)",
    )
    command.add_argument(
        "--readers",
        metavar="N",
        help="threads that read and crop pictures while the network runs (default: up to 8 with CUDA, else none)",
    )


def add_ray_options(command: argparse.ArgumentParser) -> None:
    """Add the options of embedding with Ray."""
    command.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="embed with Ray (pip install -r requirements-ray.txt): on this machine's cores, or on the cluster with "
        "head node HOST:PORT (auto: the cluster of this machine); all machines must see pictures and shards under the "
        "same paths",
    )
    command.add_argument("--workers", type=int, metavar="N", help="Ray workers (default: as many as fit)")
    command.add_argument("--cpus", type=int, metavar="N", help="cores of each worker (default 1)")
    command.add_argument("--gpus", type=float, metavar="N", help="GPUs of each worker; 0.5: two share one (default 0)")
    command.add_argument("--shard-images", type=int, metavar="N", help="pictures in a shard (default 256)")


def add_store_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the store."""
    command.add_argument(
        "--store",
        choices=["faiss", "milvus"],
        help="where descriptors are stored: faiss, in the index folder (default), or milvus, for more than one machine "
        "(pip install -r requirements-milvus.txt)",
    )
    command.add_argument(
        "--uri",
        metavar="WHERE",
        help="Milvus database: a file ending in .db (Milvus Lite), or http://HOST:19530, https://...",
    )
    command.add_argument(
        "--collection", metavar="NAME", help="Milvus collection (default: derived from the gallery's name)"
    )
    command.add_argument(
        "--milvus-index",
        metavar="KIND",
        help="index type in Milvus: FLAT (exact; default in a file), HNSW (default on a server), IVF_FLAT, IVF_SQ8, "
        "IVF_PQ (servers only), ...",
    )
    command.add_argument("--ca", metavar="PEM", help="certificate authority of the Milvus server, for TLS")
    command.add_argument("--server-name", metavar="NAME", help="host name in that certificate, if it differs")
    add_token_option(command)


def add_token_option(command: argparse.ArgumentParser) -> None:
    """Add the access token of a Milvus server."""
    command.add_argument(
        "--token",
        help="for a Milvus server: user:password or an API key (or set MILVUS_TOKEN, which process lists do not show)",
    )


def add_rerank_options(command: argparse.ArgumentParser) -> None:
    """Add the options of learned re-ranking."""
    command.add_argument(
        "--rerank-weights", metavar="FILE", help="ames or elvis: the authors' weights, e.g. dinov2_elvis_gld.pt"
    )
    command.add_argument(
        "--rerank-detector", metavar="FILE", help="ames or elvis: the authors' detector, dinov2_detector.pt"
    )
    command.add_argument(
        "--rerank-encoder",
        metavar="SPEC",
        help="ames or elvis: encoder of the local descriptors (default: that of the index); the published weights "
        "are for timm:vit_base_patch14_reg4_dinov2.lvd142m",
    )
    command.add_argument(
        "--allow-torch-hub",
        action="store_true",
        help="download missing files with torch.hub from the authors' server, which has no TLS; they are read as "
        "tensors, and none of their code is run",
    )


def learned_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of learned re-ranking on the command line, by their names in `LearnedSettings`.

    Raises:
        PatchifyError: If there are any, and --rerank names no learned re-ranker.
    """
    from patchify_core.retrieval.rerank.names import LEARNED

    names = {
        "weights": "rerank_weights",
        "detector": "rerank_detector",
        "encoder": "rerank_encoder",
        "allow_hub": "allow_torch_hub",
    }
    settings = {name: value for name, option in names.items() if (value := getattr(arguments, option))}
    if settings and not set(LEARNED) & {part.strip() for part in (arguments.rerank or "").split("+")}:
        option = names[next(iter(settings))].replace("_", "-")
        raise PatchifyError(f"--{option} is for learned re-ranking: add --rerank {' or --rerank '.join(LEARNED)}.")
    return settings


def add_refine_options(command: argparse.ArgumentParser) -> None:
    """Add the options of box refinement."""
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--refine",
        choices=["soft", "map"],
        help="refine the boxes: soft, from the scores of all patches, on any index; map, by searching the pictures' "
        "feature maps and snapping to the object's outline, on an index with pooled features",
    )
    how.add_argument(
        "--calibrate",
        dest="refine",
        action="store_const",
        const="soft",
        help=argparse.SUPPRESS,  # former name of --refine soft
    )
