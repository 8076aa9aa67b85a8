"""Is this file a checkpoint, and which one: checked before a library loads it, and never by running what it says."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from patchify_core.errors import EncoderError
from patchify_core.files import sha256_of_file

if TYPE_CHECKING:
    import torch

WAY_OUT = "or use effnet-lite0, which comes with the program"
"""How every refusal ends, because this one encoder needs neither a network nor a file."""

UNSTATED_LICENCE = "unknown: see the model card"


def nearest(word: str, known: Sequence[str]) -> str:
    """` (the nearest is X)`, to be put into a sentence that refuses `word`; empty if nothing comes near."""
    found = difflib.get_close_matches(word, known, 1, 0.4)
    return f" (the nearest is {found[0]})" if found else ""


def local_checkpoint(text: str, way_out: str = WAY_OUT) -> Path:
    """The checkpoint file that a spec names, as an absolute path: an index must find it from any folder.

    Args:
        text: The path.
        way_out: How a refusal ends.

    Raises:
        EncoderError: If there is no such file.
    """
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise EncoderError(f"There is no checkpoint {path}: check its name, {way_out}.")
    return path


def checked_digest(path: Path, way_out: str = WAY_OUT) -> str:
    """SHA-256 of a checkpoint file, once it has shown that it holds tensors and nothing that would have to be run.

    PyTorch files are read by the restricted unpickler (weights_only) and mapped, not copied, so that this costs
    little beside the digest; of a safetensors file only the header is read, which says how long the file must be.

    Args:
        path: The file.
        way_out: How a refusal ends.

    Raises:
        EncoderError: If the file cannot be read, is cut short, is something else, or contains code.
    """
    try:
        held = _tensors_of(path, way_out)
        digest = sha256_of_file(path)
    except OSError as error:
        raise EncoderError(f"{path} cannot be read ({error.strerror or 'damaged'}): {way_out}.") from error
    if not held:
        raise EncoderError(f"{path} holds no weights: give another checkpoint, {way_out}.")
    return digest


def _tensors_of(path: Path, way_out: str) -> int:
    """Number of named tensors in the file."""
    refused = EncoderError(
        f"{path} is not a whole checkpoint of tensors alone (PyTorch state dict or safetensors), so it was not "
        f"loaded: give another file, {way_out}."
    )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                return len(file.keys())
        except SafetensorError as error:
            raise refused from error
    import torch

    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format of before 2020 cannot be mapped
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes of any kind fail in any way: pickle, zip, EOF, key, type, runtime ...
        raise refused from error
    return _count(found)


def _count(found: Any) -> int:
    """Tensors in a state dict, or in the one that a training checkpoint holds beside its optimiser."""
    import torch

    if not isinstance(found, Mapping):
        return 0
    named = sum(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.items())
    return named or max((_count(value) for value in found.values() if isinstance(value, Mapping)), default=0)


def tensors_in(path: Path) -> Mapping[str, Any]:
    """What a file contains that `checked_digest` has accepted: tensors by name, on the processor."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    found: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def holds_numbers(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether it is a plain tensor of real numbers, each of which lies in the file."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    if value.dtype.is_complex or value.dtype == torch.bool:
        return False
    # One number can be shown as any number of them, which no file has room for.
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


# Weights from the Hugging Face hub -----------------------------------------------------------------------------


PROBE_S = 5.0
"""Seconds that the hub gets to answer at all before a download is tried."""


def hub_file(repository: str, names: Sequence[str], spec: str) -> Path:
    """One file of a repository on the hub, from the cache if it is there.

    Args:
        repository: e.g. `timm/vit_small_patch14_dinov2.lvd142m`, or with `@revision`.
        names: File names that will do, the preferred one first.
        spec: The encoder, for the message.

    Raises:
        EncoderError: If it is neither in the cache nor to be had.
        KeyboardInterrupt: If the person gives up; what has arrived is kept by the hub's cache.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    if (found := cached_file(repository, names)) is not None:
        return found
    repo, _, revision = repository.partition("@")
    wanted = f"The weights of {spec}"
    require_hub(wanted)
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, revision=revision or None))
        except GatedRepoError as error:
            raise EncoderError(
                f"The weights of {spec} are given only to people who accept their terms: do that on the page of "
                f"{repo} on the hub and set HF_TOKEN, {WAY_OUT}."
            ) from error
        except LocalEntryNotFoundError as error:  # the network went away since the probe
            raise _unreachable(wanted) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # whatever HTTP, TLS or the hub say: the person can only try again
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise EncoderError(f"The disk is too full for the weights of {spec}: free some space.") from error
            raise _unreachable(wanted) from error
    raise EncoderError(f"The hub's repository {repo} holds no weights that fit {spec}: choose another one, {WAY_OUT}.")


def cached_file(repository: str, names: Sequence[str]) -> Path | None:
    """The file that `hub_file` finds in the cache, without any network; None if it is not there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, _, revision = repository.partition("@")
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, revision=revision or None, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    return None


def require_hub(wanted: str) -> None:
    """Ask the hub once, without retries, whether it is there; any answer will do.

    Args:
        wanted: What is to be downloaded, for the message, e.g. `The weights of ...`.

    Raises:
        EncoderError: If it does not answer within `PROBE_S` seconds, or the environment says HF_HUB_OFFLINE.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise _unreachable(wanted)
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_S)
    except Exception as error:  # the HTTP library below the hub's differs between its versions
        raise _unreachable(wanted) from error


def _unreachable(wanted: str) -> EncoderError:
    return EncoderError(
        f"{wanted} cannot be downloaded now, and there is no copy on this machine: connect it to the network, "
        f"name a local checkpoint, {WAY_OUT}."
    )
