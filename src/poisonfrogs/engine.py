"""Where groups of trials run. Which worker ran a group, when, and how many there were, does not show in its rows."""

from __future__ import annotations

import contextlib
import errno
import functools
import multiprocessing
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection, resource_tracker
from typing import Any, Protocol, TypeVar

from poisonfrogs.plan import Trial
from poisonfrogs.types import InputError

Row = dict[str, Any]
TRIES = 2  # workers that may be lost over a group before its poisons count as failed
_SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, locked


@dataclass(frozen=True, kw_only=True)
class Job:
    """A group, and what became of the workers that had it before."""

    trials: Sequence[Trial]
    lost: tuple[str, ...] = ()

    @property
    def failure(self) -> str | None:
        """Why the group is not crafted any more but judged as it is, so that it counts as failed."""
        return f"{TRIES} workers were lost over its group ({self.lost[-1]})" if len(self.lost) >= TRIES else None


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a group came to."""

    rows: list[Row]
    timing: Row
    files: dict[str, bytes] = field(default_factory=dict)  # of the run folder, for its one writer
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lost:
    """The worker is of no more use."""

    why: str


Work = Callable[[Job], Done]
Build = Callable[[], Work]  # can be pickled; called once in each worker
Outcome = Done | Lost | Exception


class Worker(Protocol):
    """Does one job at a time, somewhere else."""

    def submit(self, job: Job) -> None: ...
    def result(self) -> Outcome: ...
    def stop(self) -> None: ...


W = TypeVar("W", bound=Worker)


class Pool(Protocol[W]):
    """Where workers come from."""

    def hire(self) -> W: ...
    def ready(self, busy: Sequence[W]) -> W:
        """Wait until one of them is done, or lost."""
        ...

    def close(self) -> None: ...


def run(pool: Pool[W], jobs: Sequence[Job], workers: int) -> Iterator[Done]:
    """Do the jobs, each by one of so many workers, and yield them as they are done, in any order.

    A job whose worker is lost goes to a fresh one; after TRIES losses it is judged without being crafted.
    Raises what the work raises, and InputError when even that loses its worker.
    """
    waiting, idle, busy = deque(jobs), list[W](), dict[W, Job]()
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else pool.hire()
                busy[worker] = waiting.popleft()
                worker.submit(busy[worker])
            worker = pool.ready(list(busy))
            outcome = worker.result()
            if isinstance(outcome, Exception):
                raise outcome
            job = busy.pop(worker)
            if isinstance(outcome, Lost):
                worker.stop()
                waiting.appendleft(_again(job, outcome.why))
            else:
                idle.append(worker)
                yield replace(outcome, lost=job.lost)
    finally:
        for worker in [*idle, *busy]:
            worker.stop()
        pool.close()


def _again(job: Job, why: str) -> Job:
    if job.failure:
        raise InputError(
            f"group {job.trials[0].group} lost {len(job.lost) + 1} workers ({why}), the last while its victims were "
            "trained; give fewer --workers or more memory, then the same command goes on where it was"
        )
    return replace(job, lost=(*job.lost, why))


def attempt(work: Callable[[], Work], job: Job) -> Outcome:
    """Do a job, in a worker. What it raises is returned, so that it reaches the parent whole; no memory is a loss."""
    try:
        done = work()(job)
    except Exception as error:
        if _is_out_of_memory(error):
            return Lost(f"out of memory: {type(error).__name__}")
        return error if isinstance(error, InputError | OSError) else RuntimeError(traceback.format_exc())
    starved = [row["failure"] for row in done.rows if _says_out_of_memory(row["failure"] or "")]
    return Lost(f"out of memory: {starved[0]}") if starved and not job.failure else done


def _is_out_of_memory(error: Exception) -> bool:
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return no_memory or isinstance(error, MemoryError) or _says_out_of_memory(str(error))


def _says_out_of_memory(text: str) -> bool:
    """In torch's words, which are those of a RuntimeError, and in ours."""
    return any(said in text for said in ("MemoryError", "out of memory", "can't allocate memory"))


class Process:
    """A worker that is a process on this machine."""

    def __init__(self, build: Build) -> None:
        self.connection, other = _SPAWN.Pipe()
        self._begun = False
        self._process = _SPAWN.Process(target=_serve, args=(other, build))
        resource_tracker.ensure_running()  # the first start() does, and it unblocks SIGINT for that worker
        with _without_interrupts():  # Ctrl-C is the parent's to answer: a process begins with what is blocked here
            self._process.start()
        other.close()

    def submit(self, job: Job) -> None:
        with contextlib.suppress(ConnectionError):  # lost already: result() says so
            self.connection.send(job)

    def begins(self) -> bool:
        """Whether what it has said is only that it is there, which is the first that it says."""
        if not self._begun:
            with contextlib.suppress(EOFError, ConnectionError):  # lost already: result() says so
                self.connection.recv()
                self._begun = True
                return True
        return False

    def result(self) -> Outcome:
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode or 0
            if code > 0 and not self._begun:
                return InputError(
                    f"a worker ended with {code} before it had begun (why stands above); it imports the script that "
                    'it is started from: expected a file that calls run_audit under `if __name__ == "__main__":`'
                )
            return Lost(f"killed by signal {-code}" if code < 0 else f"ended with {code}")
        return outcome

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self.connection.close()


@dataclass(frozen=True)
class Processes:
    """Workers on this machine."""

    build: Build

    def hire(self) -> Process:
        return Process(self.build)

    def ready(self, busy: Sequence[Process]) -> Process:
        while True:
            done = connection.wait([worker.connection for worker in busy])
            heard = [worker for worker in busy if worker.connection in done and not worker.begins()]
            if heard:
                return heard[0]

    def close(self) -> None:
        pass


def _serve(parent: Any, build: Build) -> None:
    work = functools.cache(build)
    # stdout is the result's, whatever the user's own code prints; a parent that was killed wants nothing more
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(EOFError, ConnectionError):
        parent.send(None)  # it has begun: what is raised from here on is told
        while True:
            parent.send(attempt(work, parent.recv()))


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
