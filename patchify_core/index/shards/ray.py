"""Run embedding tasks on Ray Data actors, on this machine or on a cluster.

Ray only transports file names and reports. Pictures and shards are in folders that all machines share: 30 descriptors
of a picture are as large as the picture itself, and would all have to pass through one machine. A lost worker therefore
loses one unfinished shard; Ray starts another one with the same task, which is skipped if its shard is finished.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from itertools import islice
from typing import IO, Any, cast

from patchify_core.encoders import EncoderSettings
from patchify_core.errors import PatchifyError
from patchify_core.files import ROOT
from patchify_core.index.shards.worker import Done, EmbedPlan, Load, RaySettings, ShardWorker, Task
from patchify_core.version import __version__

WAVE = 4096
"""Shards submitted at a time, so that the driver's memory does not grow with the gallery."""

ANSWER_S = 10.0
"""Time limit in seconds for a cluster's port to accept a connection."""

CONNECT_S = 40.0
"""Time limit in seconds to join a cluster, which takes about 4 s. Ray itself tries for minutes."""

STORE_BYTES = 200_000_000
"""Object store of a temporary Ray, for names and reports only."""


class Actor:
    """A worker for Ray Data: a batch is one task, the answer one report. Errors are reported, not raised."""

    def __init__(self, plan: EmbedPlan, load: Load) -> None:
        self._error = ""
        if plan.version != __version__:
            self._error = (
                f"The worker on {socket.gethostname()} has version {__version__} of this program, not "
                f"{plan.version}: install the same one on every machine."
            )
            return
        self._worker = ShardWorker(plan, load)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run the task in the batch's only row."""
        number = int(batch["number"][0])
        task = Task(number, tuple(tuple(image) for image in json.loads(str(batch["images"][0]))))
        try:
            done = Done(number, error=self._error) if self._error else self._worker(task)
        except PatchifyError as error:
            done = Done(number, error=str(error))
        return {"done": [json.dumps(asdict(done))]}


def on_ray(plan: EmbedPlan, tasks: Iterator[Task], settings: RaySettings) -> Generator[Done]:
    """Run tasks on Ray and yield their results in any order.

    Args:
        plan: See `EmbedPlan`.
        tasks: Read some thousands at a time.
        settings: Where, and on how many workers.

    Raises:
        PatchifyError: Ray is not installed, the address does not answer, there are too few cores or GPUs, or Ray fails.
    """
    with _connected(settings) as ray, _ray_silenced():
        workers = _worker_count(ray, settings)
        plan = replace(plan, encoding=_worker_encoding(plan.encoding, settings))
        while wave := list(islice(tasks, WAVE)):
            yield from _wave(ray, plan, wave, workers, settings)


def _wave(ray: Any, plan: EmbedPlan, wave: list[Task], workers: int, settings: RaySettings) -> Iterator[Done]:
    rows = [{"number": task.number, "images": json.dumps(task.images)} for task in wave]
    # One block per task, so that Ray repeats only one shard after a loss.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Actor,
        fn_constructor_args=(plan, settings.load),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(wave)), max_tasks_in_flight_per_actor=2),
        num_cpus=settings.cpus,
        num_gpus=settings.gpus or None,
    )
    dataset.context.enable_progress_bars = False
    try:
        for row in dataset.iter_rows():
            done = json.loads(row["done"])
            yield Done(**done | {"skipped": tuple((name, reason) for name, reason in done["skipped"])})
    except ray.exceptions.RayError as error:
        raise PatchifyError(f"{_ray_says(error)}; the finished shards are kept: run the same command again.") from error


def _ray_says(error: BaseException) -> str:
    """Explain an error of Ray, as the beginning of a sentence."""
    text = str(error)
    if "ModuleNotFoundError" in text or "ImportError" in text:
        return "Ray's workers cannot import this program: install it and its requirements on every machine"
    if "OutOfMemory" in type(error).__name__ or "OutOfMemory" in text:
        return "A worker needed more memory than its machine has: use fewer workers (--workers)"
    kind = type(error).__name__.removesuffix("Error")
    return f"Ray gave up ({kind}): look at its own logs"


def _worker_encoding(encoding: EncoderSettings, settings: RaySettings) -> EncoderSettings:
    """Limit a worker to its share of the machine, whatever device this process would choose."""
    device = encoding.device if encoding.device != "auto" else "cuda" if settings.gpus else "cpu"
    return replace(encoding, threads=encoding.threads or settings.cpus, device=device)


def _worker_count(ray: Any, settings: RaySettings) -> int:
    """Return the number of workers.

    Raises:
        PatchifyError: There are too few cores or GPUs, for which Ray would wait forever.
    """
    resources = ray.cluster_resources()
    cores, gpus = int(resources.get("CPU", 0)), float(resources.get("GPU", 0))
    where = "this machine" if settings.address is None else f"the cluster at {settings.address}"
    if settings.gpus and gpus < settings.gpus:
        raise PatchifyError(
            f"A worker needs {settings.gpus:g} of a GPU (--gpus), but Ray finds {gpus:g} on {where}: leave out --gpus, "
            "or use machines with GPUs."
        )
    most = cores // settings.cpus
    if settings.gpus:
        most = min(most, math.floor(gpus / settings.gpus + 1e-9))
    wanted = settings.workers or max(most, 1)
    if wanted > most:
        share = f"{settings.cpus} core{'s' * (settings.cpus > 1)}" + (
            f" and {settings.gpus:g} GPU" if settings.gpus else ""
        )
        raise PatchifyError(
            f"{wanted} workers of {share} each do not fit {where}, where Ray has {cores} cores"
            f"{f' and {gpus:g} GPUs' if settings.gpus else ''}: ask for at most {max(most, 0)} (--workers)."
        )
    return wanted


@contextmanager
def _connected(settings: RaySettings) -> Iterator[Any]:
    """Connect to Ray or start it; a connection of this process is used as it is, and kept."""
    known = sys.modules.get("ray")
    started = known is not None and bool(known.is_initialized())
    ray = _imported()
    if started:
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if settings.address is None:
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": STORE_BYTES}
        options["num_cpus"] = os.cpu_count() or 1
    else:
        _check_answers(settings.address)
        # Send this package to the other machines; its requirements must be installed there.
        options |= {"address": settings.address, "runtime_env": {"py_modules": [str(ROOT / "patchify_core")]}}
    try:
        # Processes that Ray starts import this package from the same place.
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with _stderr_dropped(), _environment("PYTHONPATH", path), _on_loopback(settings.address is None):
            ray.init(**options)
    except (RuntimeError, ConnectionError, OSError, ValueError) as error:
        where = "on this machine" if settings.address is None else f"at {settings.address}"
        raise PatchifyError(
            f"Ray {where} cannot be used ({_first_line(error)}): see patchify_core/index/big/SCALE.md."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _imported() -> Any:
    """Import Ray without telemetry and log output, which it configures on its first import."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise PatchifyError("Ray is not installed: pip install -r requirements-ray.txt, or leave --ray out.") from error
    return ray


def _check_answers(address: str) -> None:
    """Check within a time limit that a cluster answers: Ray would try for minutes, then end this process.

    Raises:
        PatchifyError: It does not answer, or rejects this machine.
    """
    host, colon, port = address.rpartition(":")
    if address.startswith("ray://") or (address != "auto" and not (colon and host and port.isdigit())):
        raise PatchifyError(
            f"'{address}' is not the address of a Ray cluster: give HOST:PORT of its head node, or auto, on a machine "
            "that belongs to the cluster."
        )
    if address != "auto":
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
        except (OSError, OverflowError) as error:
            raise PatchifyError(
                f"No Ray cluster answers at {address} ({_first_line(error)}): check the address, and that it runs."
            ) from error
    trial = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        trial_run = subprocess.run(
            [sys.executable, "-c", trial, address], capture_output=True, text=True, timeout=CONNECT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PatchifyError(
            f"The server at {address} accepts no connection within {CONNECT_S:.0f} seconds: check that it is a Ray "
            "cluster and that this machine belongs to it."
        ) from error
    if trial_run.returncode:
        lines = [line for line in trial_run.stderr.splitlines() if line.strip()]
        raise PatchifyError(
            f"The Ray cluster at {address} rejects this machine ({_first_line(lines[-1] if lines else '')}): "
            "run the command on a machine of the cluster, with its version of Ray and Python."
        )


@contextmanager
def _on_loopback(wanted: bool) -> Iterator[None]:
    """Make a Ray that is started meanwhile listen on 127.0.0.1 only, as it does on Windows and macOS.

    Otherwise its ports are open on all addresses of the machine. The variable is for its other processes; this process
    may have read it before, hence the constant.
    """
    if not wanted:
        yield
        return
    from ray._private import ray_constants

    constant, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        with _environment(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0"):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _stderr_dropped() -> Iterator[None]:
    """Drop what compiled code writes to stderr; errors are raised as exceptions anyway."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _ray_silenced() -> Iterator[None]:
    """Keep Ray's messages off the terminal."""
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("ray", "ray.data")}
    try:
        with redirect_stdout(cast("IO[str]", _WithoutRay(sys.stdout))):
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


class _WithoutRay:
    """A stream that drops what Ray's threads print; lost workers are in the report anyway."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if threading.current_thread().name.startswith("ray_") else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _first_line(error: object) -> str:
    """Return the first line of an error message, for use in brackets."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else "it does not say why"
