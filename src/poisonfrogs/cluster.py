"""Workers on a Ray cluster, or on one that is started here for as long as the run takes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import platform
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from poisonfrogs.engine import Build, Job, Lost, Outcome, attempt
from poisonfrogs.types import InputError

PATIENCE = 5  # seconds that a cluster has to answer


class _Actor:
    """What runs in a Ray worker, in the driver's working directory and with its modules, where these exist."""

    def __init__(self, build: Build, folder: str, path: Sequence[str]) -> None:
        sys.path.extend(place for place in path if place not in sys.path)
        self._folder = folder
        self._work = functools.cache(build)

    def attempt(self, job: Job) -> Outcome:
        if not Path(self._folder).is_dir():
            return InputError(
                f"{self._folder} does not exist on {platform.node()}; a Ray worker needs the working directory, DATA "
                "and the files of --model at the paths that they have here, as in a shared folder"
            )
        os.chdir(self._folder)
        return attempt(self._work, job)


class RayWorker:
    """A worker that is an actor of a Ray cluster."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.reference: Any = None

    def submit(self, job: Job) -> None:
        self.reference = self._actor.attempt.remote(job)

    def result(self) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(self.reference)
        except self._ray.exceptions.RayError as error:  # killed, out of memory, a node that has left
            said = str(error).strip().splitlines()
            return Lost(f"{type(error).__name__}: {said[-1] if said else ''}"[:300])
        return outcome

    def stop(self) -> None:
        self._ray.kill(self._actor)


def probe(engine: str) -> None:
    """Raises InputError, before anything else is done, where the workers that `--engine` names cannot be had."""
    kind, _, address = engine.partition(":")
    if kind == "ray":
        if find_spec("ray") is None:
            raise InputError("--engine ray needs Ray: pip install 'poisonfrogs[ray]'")
        if address:
            _answers(address)


class RayPool:
    """Workers on the cluster at an address, or on one of this machine alone.

    Raises InputError where no cluster answers, or it has too few processors.
    """

    def __init__(self, build: Build, workers: int, threads: int, address: str | None) -> None:
        ray: Any = importlib.import_module("ray")
        _connect(ray, address, workers * threads)
        self._ray, self._threads = ray, threads
        # what Ray has to say of a lost worker it prints on stdout, which is for results: the run's checks say it
        self._muted = contextlib.ExitStack()
        self._muted.enter_context(contextlib.redirect_stdout(io.StringIO()))
        found = int(ray.cluster_resources().get("CPU", 0))
        if found < workers * threads:
            self.close()
            raise InputError(
                f"--workers {workers} of {threads} threads need {workers * threads} processors, and the cluster at "
                f"{address} has {found}; give fewer --workers, or fewer --threads to a new --out"
            )
        self._arguments = build, str(Path.cwd()), list(sys.path)

    def hire(self) -> RayWorker:
        actor = self._ray.remote(num_cpus=self._threads, max_restarts=0)(_Actor)
        return RayWorker(self._ray, actor.remote(*self._arguments))

    def ready(self, busy: Sequence[RayWorker]) -> RayWorker:
        done, _ = self._ray.wait([worker.reference for worker in busy], num_returns=1)
        return next(worker for worker in busy if worker.reference in done)

    def close(self) -> None:
        self._ray.shutdown()
        self._muted.close()


def _connect(ray: Any, address: str | None, processors: int) -> None:
    """Ray itself waits two minutes for a cluster that is not there, and then ends the program."""
    quiet = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if address is None:
        ray.init(address="local", num_cpus=processors, include_dashboard=False, **quiet)
        return
    _answers(address)
    try:
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise _silent(address, error) from None


def _answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _silent(address, error) from None


def _silent(address: str, error: Exception) -> InputError:
    return InputError(
        f"no Ray cluster answers at {address!r} ({str(error).partition(chr(10))[0]}); "
        "expected HOST:PORT, as `ray start --head --port=PORT` prints it"
    )
