"""An audit: data and network -> plan -> groups -> journal -> summary. Stops and goes on at any point."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from poisonfrogs import (
    checks,
    cluster,
    costs,
    data,
    end_to_end,
    engine,
    exhibits,
    journal,
    judge,
    models,
    pipeline,
    plan,
    recorded,
    summary,
    targets,
    trial,
    zoo,
)
from poisonfrogs.attacks.collision import Collision
from poisonfrogs.features import Features, sources
from poisonfrogs.plan import Audit, Trial
from poisonfrogs.progress import Progress
from poisonfrogs.train import PaperHead, Surrogate, recipe
from poisonfrogs.types import InputError, Summary

if TYPE_CHECKING:
    from poisonfrogs.defence import Defence


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the groups of a run share, and its plan."""

    setting: trial.Setting
    dataset: data.DataSet
    trials: list[Trial]
    plan: dict[str, Any]
    clean: end_to_end.Clean | None  # where every layer is trained

    @property
    def head(self) -> nn.Linear | None:
        """Of the clean network, where every layer is trained."""
        return self.clean.network.linear if self.clean else None


# whatever the program around has turned off: crafting and training need gradients
@torch.inference_mode(False)
@torch.enable_grad()
def run_audit(audit: Audit, *, progress: Progress = lambda stage, done, of: None) -> Summary:
    """Run an audit, or go on with one, and return its summary (also in `audit.out`/summary.json).

    Raises InputError, with nothing written, for anything it cannot use.
    """
    plan.validate(audit)
    cluster.probe(audit.engine)
    begun = recorded.of_folder(audit.out)
    if begun and audit.threads not in (None, begun["threads"]):
        had = begun["threads"]
        raise InputError(
            f"{audit.out} holds a run of --threads {had}, with others its last bits may differ; "
            f"give --threads {had} or none, or choose another --out"
        )
    threads = audit.threads or (begun or {}).get("threads") or max((os.cpu_count() or 1) // audit.workers, 1)
    with pipeline.threads(threads):
        prepared = prepare(audit, threads, progress)
        recorded.agree(audit.out, begun, prepared.plan)
        audit.out.mkdir(parents=True, exist_ok=True)
        with journal.one_writer(audit.out):
            begun = recorded.of_folder(audit.out)  # another run may have been first
            recorded.agree(audit.out, begun, prepared.plan)
            if begun is None:
                journal.write_json(audit.out / "plan.json", prepared.plan)
            for name in plan.FOLDERS:  # after the plan: where there is none, nothing called so is of a run
                (audit.out / name).mkdir(exist_ok=True)
            exhibits.clean(audit.out, prepared.setting.scene, prepared.trials, audit.seed, prepared.head)
            _run_groups(prepared, audit.out, progress)
            found = summarise(audit, prepared)
            journal.write_json(audit.out / "summary.json", found)
    return found


def prepare(audit: Audit, threads: int, progress: Progress, trials: list[Trial] | None = None) -> Prepared:
    """Everything that the groups of a run share, and its trials; nothing is written but the cache of features.

    `trials`: those that are known from elsewhere, so that no bases are searched. Raises InputError.
    """
    dataset = pipeline.loaded(audit)
    turns = targets.turns(audit, dataset.classes)
    outside = targets.outside(audit, dataset)
    targets.possible(audit, dataset, outside, turns)
    clean, certified = None, None
    if audit.retrained:
        clean, dataset = end_to_end.prepared(audit, dataset, progress)
        net = clean.net
    else:
        victim, certified = victim_of(audit)
        net = pipeline.network(audit)
    asked = auditor_of(audit)
    dataset, outside, found = _featurise(audit, net, dataset, outside, progress)
    attacked = data.joined(dataset.test, outside)
    target_features = torch.cat([found["test"].matrix, found["outside"].matrix])
    victim = end_to_end.judge(audit, clean, dataset, outside) if clean else victim
    surrogate = None if clean else _surrogate(audit, dataset, found["train"].matrix)
    if trials is None:
        confident = _confidence(audit, clean, surrogate, target_features)
        drawn = targets.drawn(audit, dataset, attacked, turns, confident)
        matrices = found["train"].matrix.numpy(), target_features.numpy()
        trials = targets.trials(audit, dataset, drawn, attacked, matrices, _together(audit, net))
    scene = judge.Scene(
        net=net,
        classes=dataset.classes,
        train=dataset.train,
        test=dataset.test,
        targets=attacked,
        train_features=found["train"].matrix,
        target_features=target_features,
    )
    setting = trial.Setting(
        audit=audit,
        scene=scene,
        attack=_attack(audit),
        surrogate=surrogate,
        judge=victim,
        folder=audit.out,
        auditor=_auditor(audit, asked, dataset, progress) if asked else None,
        defence=certified(scene) if certified else None,
    )
    conversions = sum((part.conversions for part in found.values()), start=Counter[str]())
    written = recorded.plan_of(setting, dataset, trials, threads, dict(sorted(conversions.items())))
    written["clean_network"] = clean.said if clean else None
    return Prepared(setting, dataset, trials, written, clean)


def _together(audit: Audit, net: models.Net) -> int:
    """Trials of a group. Where every layer is trained, a GPU trains the victims of a seed side by side."""
    if not audit.retrained:
        return plan.GROUP
    return audit.trials_per_seed or 1 if net.device.type == "cuda" else 1


def _attack(audit: Audit) -> Collision:
    attack = Collision(eps=audit.eps, beta=audit.beta, passes=audit.passes, overshoot=audit.overshoot)
    # one long cycle where each pass draws another change of the picture: small steps, and many, to average over draws
    return replace(attack, cycle=audit.passes) if audit.robust else attack


def _surrogate(audit: Audit, dataset: data.DataSet, features: Tensor) -> Surrogate:
    labels, seed = torch.from_numpy(dataset.train.labels), plan.seed_of(audit.seed, "surrogate")
    return Surrogate.fit(features, labels, len(dataset.classes), seed=seed)


def _confidence(
    audit: Audit, clean: end_to_end.Clean | None, surrogate: Surrogate | None, features: Tensor
) -> np.ndarray | None:
    """What the clean classifier says of the targets, (m, classes); None where the choice of targets does not ask."""
    if audit.target_choice == "random":
        return None
    if clean:
        head = clean.network.linear
        return np.asarray((features @ head.weight.cpu().T + head.bias.cpu()).softmax(1))
    assert surrogate
    return np.asarray(surrogate.clean.predict(features)[0])


def victim_of(audit: Audit) -> tuple[judge.Judge, Callable[[judge.Scene], Defence] | None]:
    """The judge, and how the certified head beside it is fitted: it stands beside the paper's. Raises InputError."""
    if audit.victim:
        return judge.VictimJudge(zoo.imported(audit.victim), audit.victim), None
    if audit.head.partition(":")[0] == "certified":
        from poisonfrogs.defence import fitted  # scikit-learn takes more than a second to import

        return judge.HeadJudge(PaperHead()), fitted(audit.head)
    return judge.HeadJudge(recipe(audit.head)), None


def auditor_of(audit: Audit) -> models.Net | None:
    """The independent network. Raises InputError."""
    return models.load(audit.auditor, view=audit.view, device=pipeline.device(audit)) if audit.auditor else None


def _featurise(
    audit: Audit, net: models.Net, dataset: data.DataSet, outside: data.Images, progress: Progress
) -> tuple[data.DataSet, data.Images, dict[str, Features]]:
    parts = {"train": dataset.train, "test": dataset.test, "outside": outside}
    found = pipeline.featurised(audit, net, parts, progress)
    if found["outside"].unreadable:
        row, why = next(iter(found["outside"].unreadable.items()))
        raise InputError(f"--target {outside.ids[row]} cannot be read ({why}); give a whole picture")
    return dataset.without(found["train"].unreadable, found["test"].unreadable), outside, found


def _auditor(audit: Audit, net: models.Net, dataset: data.DataSet, progress: Progress) -> judge.Auditor:
    found = pipeline.featurised(audit, net, {"train": dataset.train}, progress, "the auditor's features")["train"]
    labels = np.delete(dataset.train.labels, list(found.unreadable))
    seed = plan.seed_of(audit.seed, "auditor")
    return judge.Auditor.trained(
        net, PaperHead(), found.matrix, torch.from_numpy(labels), len(dataset.classes), seed=seed
    )


def _run_groups(prepared: Prepared, out: Path, progress: Progress) -> None:
    members = targets.groups(prepared.trials)
    whole = journal.recover(out / "journal.jsonl", {group: len(trials) for group, trials in members.items()})
    _keep_timings(out / "timings.jsonl", whole)
    jobs = [engine.Job(trials=trials) for group, trials in members.items() if group not in whole]
    done = sum(len(members[group]) for group in whole)
    stage = f"crafting and judging{_time_ahead(prepared, [trial for job in jobs for trial in job.trials])}"
    progress(stage, done, len(prepared.trials))
    now = prepared.plan["versions"]
    stamp = {"versions": now["poisonfrogs"]}
    victim = prepared.setting.audit.victim
    trained_by = {"victim": sources([victim.partition(":")[0]])} if victim else {}
    changed = {} if (recorded.of_folder(out) or prepared.plan)["versions"] == now else {"versions": now}
    with closing(_groups(prepared, jobs)) as groups:
        for group in groups:
            for file, content in group.files.items():
                journal.write_bytes(out / file, content)
            lost = {"lost": list(group.lost)} if group.lost else {}
            journal.append(out / "timings.jsonl", [group.timing | lost | changed | trained_by])
            journal.append(out / "journal.jsonl", [row | stamp for row in group.rows])
            done += len(group.rows)
            progress(f"{stage}; a worker was lost: {group.lost[-1]}" if lost else stage, done, len(prepared.trials))
    journal.put_in_order(out / "journal.jsonl")


def _keep_timings(path: Path, whole: set[int]) -> None:
    """A line for each group that the journal holds whole: a kill between the two files leaves one of another."""
    kept = {row["group"]: row for row in journal.rows(path) if row["group"] in whole}
    journal.write_bytes(path, b"".join(map(journal.encode, kept.values())))


def _groups(prepared: Prepared, jobs: Sequence[engine.Job]) -> Generator[engine.Done, None, None]:
    """Run groups here, or where the plan says; only this process writes to the run folder."""
    audit, threads = prepared.setting.audit, int(prepared.plan["threads"])
    if not jobs or (audit.workers == 1 and audit.engine == "processes"):
        for job in jobs:
            yield _done(prepared.setting, job)
        return
    build = partial(_worker, replace(audit, workers=1), threads, {key: prepared.plan[key] for key in _SEEN})
    kind, _, address = audit.engine.partition(":")
    if kind == "ray":
        yield from engine.run(cluster.RayPool(build, audit.workers, threads, address or None), jobs, audit.workers)
    else:
        yield from engine.run(engine.Processes(build), jobs, audit.workers)


def _done(setting: trial.Setting, job: engine.Job) -> engine.Done:
    """A group, run here: its seconds carry the hardware, since others may go on with the run elsewhere."""
    rows, timing = trial.run(setting, job.trials, job.failure)
    return engine.Done(rows=rows, timing=timing | {"hardware": pipeline.hardware(setting.scene.net.device)})


_SEEN = ("data", "model", "auditor")  # of the plan: what every worker has to find


def _worker(audit: Audit, threads: int, seen: dict[str, Any]) -> engine.Work:
    """What a worker does with its groups: the setting is made again from DATA and from the cache of features.

    Raises InputError where the worker finds other data or another network than its parent.
    """
    with pipeline.threads(threads):
        prepared = prepare(audit, threads, lambda stage, done, of: None, trials=[])
    for key in _SEEN:
        if prepared.plan[key] != seen[key]:
            raise InputError(f"a worker found another {key} than the plan holds; do all machines have the same files?")

    def work(job: engine.Job) -> engine.Done:
        with pipeline.threads(threads), tempfile.TemporaryDirectory(prefix="poisonfrogs-") as name:
            folder = Path(name)
            for part in plan.FOLDERS:
                (folder / part).mkdir()
            done = _done(replace(prepared.setting, folder=folder), job)
            left = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in left}
        return replace(done, files=files)

    return work


def _time_ahead(prepared: Prepared, trials: Sequence[Trial]) -> str:
    """What the trials will cost at most, in words."""
    found = costs.ahead(prepared.setting, trials)
    return "" if found is None else f" (at most about {found:.0f} s)"


def summarise(audit: Audit, prepared: Prepared) -> Summary:
    """What the journal of a finished run says."""
    rows = journal.rows(audit.out / "journal.jsonl")
    net, classes = prepared.setting.scene.net, prepared.dataset.classes
    timings = journal.rows(audit.out / "timings.jsonl")
    seconds = sum(row["seconds"]["total"] for row in timings)
    fired = checks.of_rows(audit, rows, prepared.dataset.test.labels)
    fired += checks.of_data(prepared.dataset, prepared.trials)
    fired += checks.of_auditor(net, prepared.setting.auditor.net if prepared.setting.auditor else None)
    fired += checks.of_workers([why for row in timings for why in row.get("lost", ())])
    begun = (recorded.of_folder(audit.out) or prepared.plan)["versions"]
    fired += checks.of_versions(begun, [row["versions"] for row in timings if "versions" in row])
    fired += checks.of_victims([row["victim"] for row in timings if "victim" in row])
    defended = prepared.setting.defence.counted(rows) if prepared.setting.defence else None
    return {
        "schema_version": recorded.SCHEMA_VERSION,
        **summary.counted(rows, classes),
        "certified_success_rate": defended["success_rate"] if defended else None,
        "certified": defended,
        "clean_network": prepared.clean.said if prepared.clean else None,
        "seconds_per_trial": round(seconds / len(rows), 3),
        "checks": checks.as_json(fired),
        "model": {"name": net.name, "weights": net.weights, "source": net.source},
        "seed": audit.seed,
        "versions": begun,
        # of whoever ran the groups, not of whoever sums them up; older versions did not write it down
        "hardware": summary.each_once(row.get("hardware", "not recorded") for row in timings),
    }
