"""An audit: data and network -> plan -> groups -> journal -> summary. Stops and goes on at any point."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from poisonfrogs import checks, data, journal, models, plan, trial
from poisonfrogs.attacks.collision import Collision
from poisonfrogs.features import Features, default_cache, features
from poisonfrogs.plan import Audit, Trial
from poisonfrogs.stats import wilson
from poisonfrogs.train import Surrogate, recipe
from poisonfrogs.types import InputError

SCHEMA_VERSION = 1
Progress = Callable[[str, int, int], None]  # (stage, done, of)


@dataclass(frozen=True, eq=False)
class _Prepared:
    setting: trial.Setting
    dataset: data.DataSet
    trials: list[Trial]
    plan: dict[str, Any]


def run_audit(audit: Audit, *, progress: Progress = lambda stage, done, of: None) -> dict[str, Any]:
    """Run an audit, or go on with one, and return its summary (also in `audit.out`/summary.json).

    Raises InputError, with nothing written, for anything it cannot use.
    """
    plan.validate(audit)
    recorded = _recorded_plan(audit.out)
    threads = audit.threads or (recorded or {}).get("threads") or os.cpu_count() or 1
    with _threads(threads):
        prepared = _prepare(audit, threads, progress)
        _agree(audit.out, recorded, prepared.plan)
        (audit.out / "poisons").mkdir(parents=True, exist_ok=True)
        with journal.one_writer(audit.out):
            if recorded is None:
                journal.write_json(audit.out / "plan.json", prepared.plan)
            _run_groups(prepared, audit.out, progress)
            summary = summarise(audit, prepared)
            journal.write_json(audit.out / "summary.json", summary)
    return summary


def _prepare(audit: Audit, threads: int, progress: Progress) -> _Prepared:
    dataset = data.load(audit.data)
    turns = plan.pairs(
        len(dataset.classes),
        plan.class_number(audit.target_class, dataset.classes, "--target-class"),
        plan.class_number(audit.base_class, dataset.classes, "--base-class"),
    )
    outside = _outside(audit, dataset)
    judge = _judge(audit)
    net = models.load(
        audit.model,
        weights=str(audit.weights) if audit.weights else None,
        view=audit.view,
        size=audit.size,
        device=("cuda" if torch.cuda.is_available() else "cpu") if audit.device == "auto" else audit.device,
    )
    dataset, outside, found = _featurise(audit, net, dataset, outside, progress)
    targets = _joined(dataset.test, outside)
    target_features = torch.cat([found["test"].matrix, found["outside"].matrix])
    drawn = _draw(audit, dataset, targets, turns)
    trials = _with_bases(audit, dataset, drawn, targets, found["train"].matrix.numpy(), target_features.numpy())
    setting = trial.Setting(
        audit=audit,
        net=net,
        classes=dataset.classes,
        train=dataset.train,
        test=dataset.test,
        targets=targets,
        train_features=found["train"].matrix,
        target_features=target_features,
        attack=Collision(eps=audit.eps, beta=audit.beta, passes=audit.passes, overshoot=audit.overshoot),
        surrogate=Surrogate.fit(
            found["train"].matrix,
            torch.from_numpy(dataset.train.labels),
            len(dataset.classes),
            seed=plan.seed_of(audit.seed, "surrogate"),
        ),
        judge=judge,
        folder=audit.out,
    )
    conversions = sum((part.conversions for part in found.values()), start=type(found["train"].conversions)())
    written = _plan(audit, net, dataset, trials, threads, dict(sorted(conversions.items())))
    return _Prepared(setting, dataset, trials, written)


def _judge(audit: Audit) -> trial.Judge:
    if audit.victim:
        return trial.VictimJudge(models.imported(audit.victim), audit.victim)
    return trial.HeadJudge(recipe(audit.head))


def _featurise(
    audit: Audit, net: models.Net, dataset: data.DataSet, outside: data.Images, progress: Progress
) -> tuple[data.DataSet, data.Images, dict[str, Features]]:
    parts = {"train": dataset.train, "test": dataset.test, "outside": outside}
    total, done = sum(map(len, parts.values())), 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress("features", done, total)

    cache = audit.cache or default_cache()
    found = {name: features(net, images, cache=cache, progress=advance) for name, images in parts.items()}
    if found["outside"].unreadable:
        row, why = next(iter(found["outside"].unreadable.items()))
        raise InputError(f"--target {outside.ids[row]} cannot be read ({why}); give a whole picture")
    return dataset.without(found["train"].unreadable, found["test"].unreadable), outside, found


def _outside(audit: Audit, dataset: data.DataSet) -> data.Images:
    """Targets that are files outside DATA, as pictures of --target-class."""
    known = {*dataset.test.ids, *dataset.train.ids}
    paths = [Path(name) for name in audit.target if _identity(dataset.root, name) not in known]
    for path in paths:
        if not path.is_file():
            raise InputError(
                f"--target {path} is neither an id of {dataset.root} nor a file; expected such as {dataset.test.ids[0]}"
            )
        if audit.target_class is None:
            raise InputError(f"--target {path} lies outside {dataset.root}; say what it shows with --target-class")
    label = plan.class_number(audit.target_class, dataset.classes, "--target-class") or 0
    return data.files([str(path) for path in paths], [label] * len(paths))


def _identity(root: Path, name: str) -> str:
    path = Path(name)
    inside = path.is_absolute() and path.is_relative_to(root.absolute())
    if inside:
        return path.relative_to(root.absolute()).as_posix()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _joined(test: data.Images, outside: data.Images) -> data.Images:
    return data.joined(test, outside) if len(outside) else test


def _draw(
    audit: Audit, dataset: data.DataSet, targets: data.Images, turns: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    if not audit.target:
        return plan.draw(audit.targets, dataset.test.labels, turns, audit.seed)
    drawn = []
    for name in audit.target:
        identity = _identity(dataset.root, name)
        if identity in dataset.train.ids:
            raise InputError(f"--target {name} is a training picture; expected a picture the classifier has not seen")
        if identity not in targets.ids and str(Path(name)) not in targets.ids:
            raise InputError(
                f"--target {name} could not be read ({dataset.skipped.get(identity, 'skipped')}); give a whole picture"
            )
        row = targets.ids.index(identity if identity in targets.ids else str(Path(name)))
        mine = [(row, base) for target, base in turns if target == targets.labels[row]]
        if not mine:
            raise InputError(
                f"--target {name} is a {dataset.classes[targets.labels[row]]}, which --target-class or --base-class rules out"
            )
        drawn += mine
    return drawn


def _with_bases(
    audit: Audit,
    dataset: data.DataSet,
    drawn: Sequence[tuple[int, int]],
    targets: data.Images,
    train_features: np.ndarray,
    target_features: np.ndarray,
) -> list[Trial]:
    labels, trials = dataset.train.labels, []
    for number, (target, base_class) in enumerate(drawn):
        rows = np.flatnonzero(labels == base_class)
        if len(rows) < audit.poisons:
            raise InputError(
                f"--poisons {audit.poisons} is more than the {len(rows)} training pictures of class "
                f"{dataset.classes[base_class]!r}, and each poison needs a base of its own"
            )
        if audit.base_choice == "nearest":
            bases = plan.nearest(target_features[target], train_features, rows, audit.poisons)
        else:
            generator = np.random.default_rng(plan.seed_of(audit.seed, "bases", targets.ids[target], base_class))
            bases = [int(row) for row in generator.choice(rows, audit.poisons, replace=False)]
        trials.append(
            Trial(
                trial_id=number,
                group=number // plan.GROUP,
                target=target,
                target_id=targets.ids[target],
                target_class=int(targets.labels[target]),
                base_class=base_class,
                bases=tuple(bases),
                base_ids=tuple(dataset.train.ids[row] for row in bases),
            )
        )
    return trials


def _plan(
    audit: Audit,
    net: models.Net,
    dataset: data.DataSet,
    trials: Sequence[Trial],
    threads: int,
    conversions: dict[str, int],
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "audit",
        "audit": plan.identity(audit),
        "data": {
            "fingerprint": dataset.fingerprint(),
            "classes": list(dataset.classes),
            "n_train": len(dataset.train),
            "n_test": len(dataset.test),
            "skipped": dataset.skipped,
            "conversions": conversions,
        },
        "model": {"name": net.name, "weights": net.weights, "dim": net.dim, "view": _jsonable(asdict(net.view))},
        "trials": [_jsonable(asdict(one)) for one in trials],
        # what follows does not tell one plan from another
        "weights_source": net.source,
        "threads": threads,
        "versions": versions(),
    }


_IDENTITY = ("schema_version", "kind", "audit", "data", "model", "trials")


def _recorded_plan(out: Path) -> dict[str, Any] | None:
    path = out / "plan.json"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; expected a folder, or a name not yet taken")
    if not path.exists():
        if out.exists() and any(name for name in os.listdir(out) if name not in (".lock", "poisons")):
            raise InputError(f"--out {out} is not empty and holds no run; choose another folder")
        return None
    try:
        recorded = json.loads(path.read_bytes())
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict) or recorded.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path} was not written by this version of poisonfrogs; choose another --out")
    return recorded


def _agree(out: Path, recorded: dict[str, Any] | None, wanted: dict[str, Any]) -> None:
    if recorded is None or all(recorded.get(key) == wanted[key] for key in _IDENTITY):
        return
    for key in _IDENTITY:
        old, new = recorded.get(key), wanted[key]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            what = next(name for name in {**old, **new} if old.get(name) != new.get(name))
            key, old, new = f"{key}.{what}", old.get(what), new.get(what)
        raise InputError(
            f"{out} holds a run of another plan ({key} was {_short(old)}, is now {_short(new)}); choose another --out, or delete it"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."


def _run_groups(prepared: _Prepared, out: Path, progress: Progress) -> None:
    members = plan.groups(prepared.trials)
    whole = journal.recover(out / "journal.jsonl", {group: len(trials) for group, trials in members.items()})
    done = sum(len(members[group]) for group in whole)
    progress("trials", done, len(prepared.trials))
    for group, trials in members.items():
        if group in whole:
            continue
        rows, timing = trial.run(prepared.setting, trials)
        stamp = {"versions": prepared.plan["versions"]["poisonfrogs"]}
        journal.append(out / "timings.jsonl", [timing])
        journal.append(out / "journal.jsonl", [row | stamp for row in rows])
        done += len(trials)
        progress("trials", done, len(prepared.trials))


def summarise(audit: Audit, prepared: _Prepared) -> dict[str, Any]:
    """What the journal of a finished run says."""
    rows = journal.rows(audit.out / "journal.jsonl")
    seconds = {row["group"]: row["seconds"]["total"] for row in journal.rows(audit.out / "timings.jsonl")}
    eligible = [row for row in rows if row["eligible"]]
    successes = sum(row["success"] for row in rows)
    wrong = sum(row["control_wrong"] for row in rows)
    drops = [row["control_accuracy"] - row["accuracy"] for row in rows]
    base = {row["trial_id"]: prepared.dataset.classes.index(row["base_class"]) for row in rows}
    fired = checks.of_rows(audit, rows, len(prepared.dataset.classes))
    fired += checks.of_data(prepared.dataset, prepared.trials)
    return {
        "schema_version": SCHEMA_VERSION,
        "n_trials": len(rows),
        "n_eligible": len(eligible),
        "n_success": successes,
        "success_rate": round(successes / len(eligible), 6) if eligible else None,
        "ci95": [round(end, 6) for end in wilson(successes, len(eligible))],
        "n_failed_trials": sum(row["failed"] for row in rows),
        "control_rate": round(wrong / len(rows), 6),
        "control_ci95": [round(end, 6) for end in wilson(wrong, len(rows))],
        "median_confidence": _median([row["probabilities"][base[row["trial_id"]]] for row in eligible]),
        "control_median_confidence": _median([row["control_probabilities"][base[row["trial_id"]]] for row in rows]),
        "clean_accuracy": round(fmean(row["control_accuracy"] for row in rows), 6),
        "mean_accuracy_drop": round(fmean(drops), 6),
        "worst_accuracy_drop": round(max(drops), 6),
        "median_passes": _median([row["passes"] for row in rows]),
        "median_linf": _median([linf for row in rows for linf in row["linf"]]),
        "seconds_per_trial": round(sum(seconds.values()) / len(rows), 3),
        "checks": checks.as_json(fired),
        "model": {
            "name": prepared.setting.net.name,
            "weights": prepared.setting.net.weights,
            "source": prepared.setting.net.source,
        },
        "seed": audit.seed,
        "versions": prepared.plan["versions"],
        "hardware": hardware(prepared.setting.net.device),
    }


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("poisonfrogs", "torch", "torchvision", "timm", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def hardware(device: torch.device) -> str:
    """The machine, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {torch.get_num_threads()} threads"


@contextmanager
def _threads(count: int):  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _median(values: Sequence[float]) -> float | None:
    return round(float(median(values)), 6) if values else None


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value))
