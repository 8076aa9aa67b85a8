"""Checkpoint files: verify them without executing code before a library loads them, and find them on the hub."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from patchify_core.errors import EncoderError
from patchify_core.files import sha256_of_file

if TYPE_CHECKING:
    import torch

WAY_OUT = "or use effnet-lite0, which comes with the program"
"""Advice that ends error messages: this encoder needs neither network access nor a file."""

UNSTATED_LICENCE = "unknown: see the model card"


def local_checkpoint(text: str, way_out: str = WAY_OUT) -> Path:
    """Return the checkpoint file of a spec as an absolute path, so that an index can be used from any folder.

    Args:
        text: The path, as written in the spec.
        way_out: Advice that ends the error message.

    Raises:
        EncoderError: If there is no such file.
    """
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise EncoderError(f"There is no checkpoint {path}: check its name, {way_out}.")
    return path


def checked_digest(path: Path, way_out: str = WAY_OUT) -> str:
    """Check that a checkpoint file contains tensors and no code, and return its SHA-256.

    PyTorch files are read by the restricted unpickler (weights_only) and memory-mapped, which costs little compared to
    the digest. Of a safetensors file only the header is read, which states the expected length of the file.

    Args:
        path: The file.
        way_out: Advice that ends the error message.

    Raises:
        EncoderError: If the file is unreadable, truncated, not a checkpoint, or contains code.
    """
    try:
        count = _tensors_of(path, way_out)
        digest = sha256_of_file(path)
    except OSError as error:
        raise EncoderError(f"{path} cannot be read ({error.strerror or 'damaged'}): {way_out}.") from error
    if not count:
        raise EncoderError(f"{path} holds no weights: give another checkpoint, {way_out}.")
    return digest


def _tensors_of(path: Path, way_out: str) -> int:
    """Count the named tensors of a file."""
    not_a_checkpoint = EncoderError(
        f"{path} is not a whole checkpoint of tensors alone (PyTorch state dict or safetensors), so it was not "
        f"loaded: give another file, {way_out}."
    )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                return len(file.keys())
        except SafetensorError as error:
            raise not_a_checkpoint from error
    import torch

    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # formats older than 2020 cannot be memory-mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # arbitrary bytes fail in many ways: pickle, zip, EOF, key, type, runtime ...
        raise not_a_checkpoint from error
    return _count(content)


def _count(content: Any) -> int:
    """Count the tensors of a state dict, or of the state dict inside a training checkpoint."""
    import torch

    if not isinstance(content, Mapping):
        return 0
    named = sum(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items())
    return named or max((_count(value) for value in content.values() if isinstance(value, Mapping)), default=0)


def tensors_in(path: Path) -> Mapping[str, Any]:
    """Read a file that `checked_digest` accepted: tensors by name, on the CPU."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    tensors: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def holds_numbers(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether `value` is a dense tensor of real numbers that are all stored in the file."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    if value.dtype.is_complex or value.dtype == torch.bool:
        return False
    # A stride of 0 makes one stored number look like a tensor of any size.
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


# Weights from the Hugging Face hub -----------------------------------------------------------------------------


PROBE_S = 5.0
"""Timeout of the request that checks whether the hub is reachable, in seconds."""


def hub_file(repository: str, names: Sequence[str], spec: str) -> Path:
    """Return one file of a hub repository, from the cache or downloaded.

    Args:
        repository: e.g. `timm/vit_small_patch14_dinov2.lvd142m`, or with `@revision`.
        names: Acceptable file names, the preferred one first.
        spec: The encoder, for error messages.

    Raises:
        EncoderError: If it is neither cached nor available for download.
        KeyboardInterrupt: If the user aborts; the hub's cache keeps the partial download.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    if (cached := cached_file(repository, names)) is not None:
        return cached
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
        except LocalEntryNotFoundError as error:  # the connection was lost after the check
            raise _unreachable(wanted) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # HTTP, TLS or hub errors: all the user can do is retry
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise EncoderError(f"The disk is too full for the weights of {spec}: free some space.") from error
            raise _unreachable(wanted) from error
    raise EncoderError(f"The hub's repository {repo} holds no weights that fit {spec}: choose another one, {WAY_OUT}.")


def cached_file(repository: str, names: Sequence[str]) -> Path | None:
    """Return the file that `hub_file` would find in the cache, without network access; None if there is none."""
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
    """Check once, without retries, that the hub is reachable.

    Args:
        wanted: What will be downloaded, for the error message, e.g. `The weights of ...`.

    Raises:
        EncoderError: If it does not answer within `PROBE_S` seconds, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        raise _unreachable(wanted)
    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_S)
    except Exception as error:  # versions of huggingface_hub use different HTTP libraries
        raise _unreachable(wanted) from error


def _unreachable(wanted: str) -> EncoderError:
    return EncoderError(
        f"{wanted} cannot be downloaded now, and there is no copy on this machine: connect it to the network, "
        f"name a local checkpoint, {WAY_OUT}."
    )
