"""One process, several, a Ray cluster, killed workers: the same bytes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from poisonfrogs import checks, engine, journal, pipeline
from poisonfrogs.audit import run_audit
from poisonfrogs.cli import main
from poisonfrogs.plan import Audit, Trial
from poisonfrogs.types import InputError
from runs import arguments, kept, quick, refused, rows_of, whole

pytestmark = pytest.mark.usefixtures("one_thread")

HAVE_RAY = importlib.util.find_spec("ray") is not None
ray = pytest.mark.skipif(not HAVE_RAY and not os.environ.get("CI"), reason="Ray is not installed: poisonfrogs[ray]")
ENGINES = ["processes", pytest.param("ray", marks=[ray, pytest.mark.ray])]


@pytest.fixture
def fate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is to become of the workers of toy:Mortal."""
    folder = tmp_path / "fate"
    folder.mkdir()
    (folder / "parent").write_text(str(os.getpid()))
    monkeypatch.setenv("TOY_FATE", str(folder))
    return folder


@pytest.fixture
def mortal(audit: Audit, fate: Path) -> Audit:
    """Three groups on a network whose processes die as `fate` says."""
    return replace(audit, model="toy:Mortal", targets="all")


@pytest.fixture(scope="module")
def alone(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same audit in one process."""
    fate = tmp_path_factory.mktemp("alone")
    (fate / "parent").write_text(str(os.getpid()))
    os.environ["TOY_FATE"] = str(fate)
    out = fate / "run"
    run_audit(whole(data, cache, out, "toy:Mortal"))
    return kept(out)


@pytest.mark.parametrize("kind", ENGINES)
def test_two_workers_of_which_one_is_killed_leave_the_same_bytes_as_one_process(
    kind: str, mortal: Audit, alone: dict[str, bytes], fate: Path
) -> None:
    (fate / "kill-1").touch()
    summary = run_audit(replace(mortal, workers=2, engine=kind))
    assert kept(mortal.out) == alone
    (said,) = [check["message"] for check in summary["checks"] if check["name"] == "lost_workers"]
    assert said.startswith("1 workers were lost")
    if kind == "processes":
        assert "killed by signal 9" in said
    (timed,) = [row for row in journal.rows(mortal.out / "timings.jsonl") if "lost" in row]
    assert len(timed["lost"]) == 1
    assert summary["hardware"] == pipeline.hardware(torch.device("cpu"))  # the workers', said once


def test_a_group_that_costs_two_workers_has_failed_and_counts(mortal: Audit, fate: Path) -> None:
    """It is judged all the same: whether its targets are eligible is known, not guessed."""
    for number in (1, 2):
        (fate / f"kill-{number}").touch()
    summary = run_audit(replace(mortal, workers=2, targets=6))
    rows = rows_of(mortal)
    assert [row["failure"] for row in rows] == ["2 workers were lost over its group (killed by signal 9)"] * 6
    assert summary["n_failed_trials"] == 6
    assert summary["n_eligible"] == sum(row["eligible"] for row in rows) > 0
    assert summary["success_rate"] == 0
    assert {row["passes"] for row in rows} == {0}
    assert "lost_workers" in {check["name"] for check in summary["checks"]}


def test_a_fault_of_ours_in_a_worker_shows_where_it_is() -> None:
    def work(job: engine.Job) -> engine.Done:
        raise KeyError("of ours")

    outcome = engine.attempt(lambda: work, JOB)
    assert isinstance(outcome, RuntimeError)
    assert "in work" in str(outcome)
    assert "KeyError: 'of ours'" in str(outcome)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(12, "Cannot allocate memory"), RuntimeError("CUDA out of memory. Tried to"),
     RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")],
)  # fmt: skip
def test_no_memory_is_a_lost_worker(error: Exception) -> None:
    def work(job: engine.Job) -> engine.Done:
        raise error

    outcome = engine.attempt(lambda: work, JOB)
    assert isinstance(outcome, engine.Lost)
    assert "out of memory" in outcome.why


def test_no_memory_to_craft_with_is_tried_again_and_then_counts() -> None:
    def work(job: engine.Job) -> engine.Done:
        return engine.Done(rows=[{"failure": None}, {"failure": "MemoryError: no room"}], timing={})

    assert engine.attempt(lambda: work, JOB) == engine.Lost("out of memory: MemoryError: no room")
    assert isinstance(engine.attempt(lambda: work, replace(JOB, lost=("a", "b"))), engine.Done)


def test_what_the_user_has_to_mend_reaches_the_parent_as_it_is() -> None:
    def work(job: engine.Job) -> engine.Done:
        raise InputError("mend it")

    outcome = engine.attempt(lambda: work, JOB)
    assert isinstance(outcome, InputError)
    with pytest.raises(InputError, match=r"^mend it$"):
        list(engine.run(Backwards([outcome]), [JOB], 1))


def test_victims_that_cost_every_worker_its_life_stop_the_run() -> None:
    """Nothing is counted that was not judged."""
    pool = Backwards([engine.Lost("killed by signal 9")] * 3)
    with pytest.raises(InputError, match=r"group 0 lost 3 workers \(killed by signal 9\).*fewer --workers"):
        list(engine.run(pool, [JOB], 2))
    assert [worker.stopped for worker in pool.hired] == [1, 1, 1]
    assert [worker.job.failure is None for worker in pool.hired] == [True, True, False]
    assert pool.closed == 1


def test_a_script_whose_workers_cannot_import_it_is_told_what_it_lacks(tmp_path: Path) -> None:
    """Not that memory was short; and not again and again."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    *_, said = ran.stderr.splitlines()
    assert "a worker ended with 1 before it had begun" in said
    assert said.endswith('expected a file that calls run_audit under `if __name__ == "__main__":`')
    assert ran.stderr.count("bootstrapping phase") == 1


UNGUARDED = """
from poisonfrogs.engine import Job, Processes, run
from poisonfrogs.plan import Trial
trial = Trial(trial_id=0, group=0, block=0, target=0, target_id="a", target_class=0, base_class=1)
list(run(Processes(dict), [Job(trials=[trial])], 1))
"""


TRIAL = Trial(trial_id=0, group=0, block=0, target=0, target_id="a", target_class=0, base_class=1)
JOB = engine.Job(trials=[TRIAL])


def test_killed_with_all_its_workers_the_run_goes_on_to_the_same_bytes(
    mortal: Audit, alone: dict[str, bytes], fate: Path
) -> None:
    """The parent is killed after a group; its workers end by themselves."""
    run = started(mortal)
    while run.poll() is None and not rows_of(mortal):
        time.sleep(0.002)
    workers = children(run.pid)
    run.kill()
    run.communicate()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    (fate / "parent").write_text(str(os.getpid()))
    run_audit(mortal)
    assert kept(mortal.out) == alone


def test_ctrl_c_ends_the_workers_with_130_and_one_line(mortal: Audit, alone: dict[str, bytes], fate: Path) -> None:
    """As a terminal sends it: to the parent and to every worker."""
    run = started(mortal)
    until(lambda: (fate / "seen").exists())  # a worker is crafting
    workers = children(run.pid)
    hearing = [pid for pid in workers if not deaf(pid)]
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert hearing == []
    assert run.returncode == 130
    assert said == "poisonfrogs: stopped; give the same command again: what is kept is not done twice\n"
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    (fate / "parent").write_text(str(os.getpid()))
    run_audit(mortal)
    assert kept(mortal.out) == alone


def started(audit: Audit) -> subprocess.Popen[str]:
    """The audit as a command, with two workers, in a process group of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments(audit), "--workers", "2"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


COMMAND = """
import os, pathlib, signal, sys
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
    pathlib.Path(os.environ["TOY_FATE"], "parent").write_text(str(os.getpid()))
    from poisonfrogs.cli import main
    sys.exit(main(["audit", *sys.argv[1:]]))
"""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(true: object) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("a minute has passed")


def test_groups_go_to_whoever_is_free_and_all_are_done() -> None:
    """The scheduler alone, with workers that are done in the order it likes least."""
    jobs = [engine.Job(trials=[replace(TRIAL, group=group)]) for group in range(7)]
    pool = Backwards()
    done = list(engine.run(pool, jobs, 3))
    assert sorted(one.timing["group"] for one in done) == list(range(7))
    assert [one.timing["group"] for one in done] != list(range(7))
    assert len(pool.hired) == 3
    assert all(worker.stopped == 1 for worker in pool.hired)
    assert pool.closed == 1


def test_workers_are_stopped_when_nobody_wants_the_rest() -> None:
    jobs = [engine.Job(trials=[replace(TRIAL, group=group)]) for group in range(7)]
    pool = Backwards()
    groups = engine.run(pool, jobs, 3)
    next(groups)
    groups.close()
    assert all(worker.stopped == 1 for worker in pool.hired)
    assert pool.closed == 1


class Desk:
    stopped = 0

    def __init__(self, said: list[engine.Outcome]) -> None:
        self.said = said

    def submit(self, job: engine.Job) -> None:
        self.job = job

    def result(self) -> engine.Outcome:
        return self.said.pop(0) if self.said else engine.Done(rows=[], timing={"group": self.job.trials[0].group})

    def stop(self) -> None:
        self.stopped += 1


class Backwards:
    closed = 0

    def __init__(self, said: list[engine.Outcome] | None = None) -> None:
        self.said = said or []
        self.hired: list[Desk] = []

    def hire(self) -> Desk:
        self.hired.append(Desk(self.said))
        return self.hired[-1]

    def ready(self, busy: list[Desk]) -> Desk:
        return max(busy, key=lambda desk: desk.job.trials[0].group)

    def close(self) -> None:
        self.closed += 1


def test_a_worker_that_finds_other_data_is_refused(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    from poisonfrogs import audit as module

    seen = {"data": {"fingerprint": "another"}, "model": None, "auditor": None}
    with pytest.raises(InputError, match="a worker found another data"):
        module._worker(audit, 1, seen)


def test_the_threads_of_a_worker_are_its_share_of_the_cores(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    run_audit(replace(audit, threads=None, workers=2, targets=2))
    assert json.loads((audit.out / "plan.json").read_text())["threads"] == 2
    run_audit(replace(audit, threads=None, targets=2))  # and stays so, whoever goes on
    assert json.loads((audit.out / "plan.json").read_text())["threads"] == 2


def test_the_check_names_the_last_reason() -> None:
    assert checks.of_workers([]) == []
    (one,) = checks.of_workers(["a", "b"])
    assert one.message == "2 workers were lost (b); their groups were run again by fresh ones"


@pytest.mark.parametrize(
    ("more", "fragments"),
    [
        (("--workers", "0"), ("--workers 0 is out of range",)),
        (("--engine", "rays"), ("--engine 'rays' is unknown", "ray:HOST:PORT")),
        pytest.param(("--engine", "ray:nonsense"), ("no Ray cluster answers at 'nonsense'",), marks=ray),
        pytest.param(("--engine", "ray:127.0.0.1:99999"), ("no Ray cluster answers at",), marks=ray),
    ],
)
def test_what_cannot_be_used_is_refused(
    more: tuple[str, ...], fragments: tuple[str, ...], here: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(quick(cache, *more)) == 2
    refused(capsys, *fragments)
    assert not Path("run").exists()


@ray
def test_no_cluster_at_the_address_is_said_at_once(here: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    assert main(quick(cache, "--engine", f"ray:127.0.0.1:{port}")) == 2
    refused(capsys, f"no Ray cluster answers at '127.0.0.1:{port}'", "ray start --head")
    assert not Path("run").exists()


def test_without_ray_it_is_said_how_to_get_it(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(quick(cache, "--engine", "ray")) == 2
    refused(capsys, "pip install 'poisonfrogs[ray]'")


def deaf(pid: int) -> bool:
    """Whether the process blocks or ignores Ctrl-C."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool((int(status["SigBlk"], 16) | int(status["SigIgn"], 16)) & 1 << signal.SIGINT - 1)
