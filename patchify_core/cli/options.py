"""Options that several commands have, and what they mean where they are left out.

An option that was left out is None. Its value is that of an index that exists already, which is used as it was made
(`fill_from_index`), or a default of the room that uses it (`usual`). So the parser knows no defaults, and nothing heavy
is imported to print a help text.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from patchify_core.errors import IndexFolderError, PatchifyError

MADE_WITH = ("encoder", "regions", "features", "factory", "codebook", "rescore", "keep_maps")
"""Options that say how an index is made."""

GOING_ON = ": finished work is kept; run the same command again to go on"
"""What an interrupted command says whose same call continues."""


def usual() -> dict[str, Any]:
    """What the options of `MADE_WITH`, and `store`, mean where neither the command line nor an index answers them."""
    from patchify_core.encoders import DEFAULT_ENCODER
    from patchify_core.index.build import BuildSettings
    from patchify_core.regions import Pyramid

    values = vars(BuildSettings()) | {"encoder": DEFAULT_ENCODER, "regions": Pyramid().spec}
    return {name: values[name] for name in MADE_WITH} | {"store": "faiss"}


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the named options that are on the command line, with their values."""
    values = {name: getattr(arguments, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def fill(arguments: argparse.Namespace, values: Mapping[str, Any]) -> None:
    """Give every option that was left out its value; the encoder gets the layer of --projection behind it."""
    for name, value in values.items():
        if getattr(arguments, name, None) is None:
            setattr(arguments, name, value)
    layer = getattr(arguments, "projection", None)
    if layer and "encoder" in values:
        arguments.encoder = f"{arguments.encoder.partition('+projection@')[0]}+projection@{Path(layer).absolute()}"


def changed(arguments: argparse.Namespace, *names: str) -> str | None:
    """The first of the named options that differs from what it usually is, as a flag; None if none does."""
    values = usual()
    return next((flag(name) for name, value in given(arguments, *names).items() if value != values.get(name)), None)


def flag(name: str) -> str:
    """An option as it is written on the command line.

    Example:
        >>> flag("keep_maps")
        '--keep-maps'
    """
    return f"--{name.replace('_', '-')}"


def fill_from_index(arguments: argparse.Namespace, folder: Path | None) -> bool:
    """Give every option that was left out the value of the index that exists, or the usual one.

    Args:
        arguments: parsed; options of `MADE_WITH`, and `store`, are None where they were left out.
        folder: of the index, which may not be there; None for a temporary one.

    Returns:
        Whether the index is a big one, made of shards: it is not brought up to date but used as it is.

    Raises:
        IndexFolderError: if the index is damaged, or it is a big one that was made otherwise than the options say.
    """
    from patchify_core.index.folder import read_meta
    from patchify_core.index.integrity import META_NAME
    from patchify_core.index.recipe import Recipe
    from patchify_core.index.swap import current_place

    if folder is None or not (current_place(folder) / META_NAME).is_file():
        fill(arguments, usual())
        return False
    meta = read_meta(folder)
    try:
        recipe = Recipe.from_meta(meta)
        made = recipe.as_dict() | {"encoder": recipe.encoder.spec, "keep_maps": recipe.maps}
        values = {name: made[name] for name in MADE_WITH}
        big = meta["images"] is None and "store" not in meta
    except (KeyError, TypeError, AttributeError):
        raise IndexFolderError(f"{folder} is not a whole index: delete it and build it again.") from None
    if "store" in meta and arguments.store is None:
        values |= _milvus_options(folder)
    if big:
        for name, wanted in given(arguments, *MADE_WITH).items():
            if wanted != values[name]:
                raise IndexFolderError(
                    f"{folder} was made with {name} {values[name] or 'none'}, not {wanted}: leave {flag(name)} out, or "
                    "choose another index."
                )
    fill(arguments, {"store": usual()["store"]} | values)
    return big


def _milvus_options(folder: Path) -> dict[str, Any]:
    """Where in Milvus the descriptors of an index folder are, as options."""
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
    """What commands have that embed a gallery: the gallery, where its descriptors go, how they are made, and by whom.

    Args:
        command: to declare them for.
        help: of the gallery.
        out: name and help of what is made.
        like: help of `--like`.
        nargs: of the gallery, where it may be left out.
    """
    command.add_argument("gallery", nargs=nargs, metavar="GALLERY", help=help)
    command.add_argument("--out", required=True, metavar=out[0], help=out[1])
    command.add_argument("--like", metavar="INDEX", help=like)
    command.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        help="leave these files or folders of a plain folder out, as in a .gitignore, e.g. 'drafts/' or '*.gif'; "
        "repeatable",
    )
    command.add_argument(
        "--format",
        choices=["instre", "ilias", "revisited"],
        help="read a published benchmark as evaluate does, ILIAS' distractors in their archives (default: a folder, or "
        "a dataset with annotations.json)",
    )
    command.add_argument("--subset", metavar="NAME", help="of ILIAS: all (default), mini, core")
    command.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_descriptor_options(command)
    add_ray_options(command)
    add_device_options(command)


def add_descriptor_options(command: argparse.ArgumentParser) -> None:
    """How descriptors are made."""
    command.add_argument(
        "--encoder",
        metavar="SPEC",
        help="effnet-lite0 (default), effnet-lite1, effnet-lite2, effnet-lite0-block; open_clip:ARCH/TAG, "
        "open_clip:ARCH/FILE, timm:NAME (downloaded when first used), timm:NAME@FILE",
    )
    command.add_argument(
        "--projection",
        metavar="FILE",
        help="a linear layer behind the encoder, such as ILIAS' published adaptation layers (.pth or .safetensors); "
        "the same as --encoder SPEC+projection@FILE",
    )
    command.add_argument(
        "--regions",
        metavar="SPEC",
        help="pyramid:N, N from 1 to 6 (default pyramid:4); sliding:SCALE,OVERLAP; random:N,SEED; salient:N; "
        "several with + between",
    )
    command.add_argument(
        "--features",
        metavar="HOW",
        help="crop: one forward pass per patch (default); pooled: one per picture, seen at 640 pixels; pooled:N: at N",
    )
    command.add_argument(
        "--keep-maps",
        action="store_true",
        default=None,
        help="keep feature maps too (some 45 kB per picture), so that --refine map needs no second pass; with pooled",
    )


def add_codec_options(command: argparse.ArgumentParser) -> None:
    """How descriptors are coded."""
    codec = command.add_mutually_exclusive_group()
    codec.add_argument(
        "--preset",
        dest="factory",
        choices=["exact", "small", "tiny", "huge", "fast"],
        help="how descriptors are kept, without knowing FAISS: exact (float32), small (256 bytes per patch), "
        "tiny (64), huge (32, for millions of pictures), fast (float32 in a graph); without any of these options "
        "index chooses by the number of pictures, and says why",
    )
    codec.add_argument(
        "--factory",
        dest="factory",
        metavar="FAISS",
        help="the same as a FAISS factory string: Flat (default), SQ8, PQ64, HNSW16,SQ8, ...; PCAH128,... projects to "
        "128 dimensions first",
    )
    command.add_argument(
        "--codebook",
        choices=["uniform", "global", "informative", "distinctive"],
        help="what the codec is trained on: random patches (uniform, default), whole pictures (global), patches "
        "without near repeats (informative), patches unlike all others (distinctive)",
    )
    command.add_argument(
        "--rescore", metavar="FAISS", help="keep finer codes too, e.g. SQ8, and order the first pictures by them"
    )


def add_device_options(command: argparse.ArgumentParser) -> None:
    """What computes."""
    command.add_argument(
        "--device", metavar="NAME", help="auto (default: the fastest there is), cpu, cuda, cuda:1 or mps"
    )
    command.add_argument(
        "--engine",
        metavar="NAME",
        help="what computes on the processor: torch (default), or openvino, which is faster "
        "(pip install --no-deps -r requirements-fast.txt)",
    )
    command.add_argument(
        "--precision",
        metavar="KIND",
        help="auto (default: half precision on CUDA if descriptors stay as they are, else float32), float32, bfloat16 "
        "or float16",
    )
    command.add_argument(
        "--compile",
        action="store_const",
        const="1",
        help="have torch.compile compile the network, which takes a minute at the start (needs a C++ compiler)",
    )
    command.add_argument(
        "--readers",
        metavar="N",
        help="threads that read and cut pictures while the network works (default: up to 8 with CUDA, else none)",
    )


def add_ray_options(command: argparse.ArgumentParser) -> None:
    """Embedding on many workers."""
    command.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="embed with Ray (pip install -r requirements-ray.txt): on this machine's cores, or on the cluster whose "
        "head node is HOST:PORT (auto: the one this machine belongs to); every machine must see the pictures and the "
        "shards under the same path",
    )
    command.add_argument("--workers", type=int, metavar="N", help="workers of Ray (default: as many as fit)")
    command.add_argument("--cpus", type=int, metavar="N", help="cores of each worker (default 1)")
    command.add_argument("--gpus", type=float, metavar="N", help="GPUs of each worker; 0.5: two share one (default 0)")
    command.add_argument("--shard-images", type=int, metavar="N", help="pictures in a shard (default 256)")


def add_store_options(command: argparse.ArgumentParser) -> None:
    """Where descriptors are stored."""
    command.add_argument(
        "--store",
        choices=["faiss", "milvus"],
        help="where descriptors are kept: faiss, in the index folder (default), or milvus, past one machine "
        "(pip install -r requirements-milvus.txt)",
    )
    command.add_argument(
        "--uri",
        metavar="WHERE",
        help="of Milvus: a file ending in .db (Milvus Lite), or http://HOST:19530, https://...",
    )
    command.add_argument("--collection", metavar="NAME", help="in Milvus (default: made of the gallery's name)")
    command.add_argument(
        "--milvus-index",
        metavar="KIND",
        help="Milvus' own index: FLAT (exact; default in a file), HNSW (default on a server), IVF_FLAT, IVF_SQ8, "
        "IVF_PQ (servers only), ...",
    )
    command.add_argument(
        "--ca", metavar="PEM", help="the authority that signed the Milvus server's certificate, for TLS"
    )
    command.add_argument("--server-name", metavar="NAME", help="the name in that certificate, if it is another")
    add_token_option(command)


def add_token_option(command: argparse.ArgumentParser) -> None:
    """Access to a Milvus server."""
    command.add_argument(
        "--token",
        help="for a Milvus server: user:password or an API key (or set MILVUS_TOKEN, which no list of processes shows)",
    )


def add_rerank_options(command: argparse.ArgumentParser) -> None:
    """What learned re-ranking needs."""
    command.add_argument(
        "--rerank-weights", metavar="FILE", help="of ames or elvis: the authors' file, e.g. dinov2_elvis_gld.pt"
    )
    command.add_argument(
        "--rerank-detector", metavar="FILE", help="of ames or elvis: the authors' detector, dinov2_detector.pt"
    )
    command.add_argument(
        "--rerank-encoder",
        metavar="SPEC",
        help="of ames or elvis: the encoder of their local descriptors (default: the index's own); the published files "
        "are for timm:vit_base_patch14_reg4_dinov2.lvd142m",
    )
    command.add_argument(
        "--allow-torch-hub",
        action="store_true",
        help="download the files that are not named, through torch.hub from the authors' server, which has no TLS; "
        "they are read as tensors, no code of theirs is run",
    )


def learned_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings of learned re-ranking that were given, by their names in `LearnedSettings`.

    Raises:
        PatchifyError: if some were, and --rerank names no learned re-ranker.
    """
    from patchify_core.retrieval.rerank.names import LEARNED

    names = {
        "weights": "rerank_weights",
        "detector": "rerank_detector",
        "encoder": "rerank_encoder",
        "allow_hub": "allow_torch_hub",
    }
    found = {name: value for name, option in names.items() if (value := getattr(arguments, option))}
    if found and not set(LEARNED) & {part.strip() for part in (arguments.rerank or "").split("+")}:
        option = names[next(iter(found))].replace("_", "-")
        raise PatchifyError(f"--{option} is for learned re-ranking: add --rerank {' or --rerank '.join(LEARNED)}.")
    return found


def add_refine_options(command: argparse.ArgumentParser) -> None:
    """Better boxes."""
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--refine",
        choices=["soft", "map"],
        help="better boxes than the winning patches: soft, where all patches together point, on any index; map, a "
        "search on the pictures' feature maps, ended at the object's outline, on an index with pooled features",
    )
    how.add_argument(
        "--calibrate",
        dest="refine",
        action="store_const",
        const="soft",
        help=argparse.SUPPRESS,  # what --refine soft was once called
    )
