"""plan.json of a run: what it is to do, and whether that is what the run in its folder was begun to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from poisonfrogs import data, journal, pipeline, plan
from poisonfrogs.data import DataSet
from poisonfrogs.judge import HeadJudge
from poisonfrogs.models import Net
from poisonfrogs.plan import Trial
from poisonfrogs.trial import Setting
from poisonfrogs.types import InputError

SCHEMA_VERSION = 1


def plan_of(
    setting: Setting, dataset: DataSet, trials: Sequence[Trial], threads: int, conversions: dict[str, int]
) -> dict[str, Any]:
    """What a run is to do, as plan.json holds it. `conversions`: what was done to how many pictures to read them."""
    audit, net, auditor = setting.audit, setting.scene.net, setting.auditor
    outside = setting.scene.targets.hashes[len(dataset.test) :]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "audit",
        "audit": plan.identity(audit),
        # these three with what no option sets, and a newer version may
        "attack": vars(setting.attack),
        "surrogate": setting.surrogate.constants if setting.surrogate else None,
        "head": vars(setting.judge.recipe) if isinstance(setting.judge, HeadJudge) else None,
        "data": {
            "name": data.BUNDLED if dataset.root == data.bundled() else None,  # the user's paths are not ours to record
            "fingerprint": dataset.fingerprint(),
            "classes": list(dataset.classes),
            "n_train": len(dataset.train),
            "n_test": len(dataset.test),
            "skipped": dataset.skipped,
            "conversions": conversions,
            **({"targets": list(outside)} if outside else {}),  # the contents of those from elsewhere
        },
        "model": _extractor(net) | {"dim": net.dim, "view": _jsonable(asdict(net.view))},
        "auditor": _extractor(auditor.net) if auditor else None,
        "trials": [_jsonable(asdict(one)) for one in trials],
        # what follows does not tell one plan from another
        "weights_source": net.source,
        "threads": threads,
        "versions": pipeline.versions(),
    }


def _extractor(net: Net) -> dict[str, Any]:
    found = pipeline.identity(net)
    # what the user's own code calls may be changed as well as the code
    return found | {"said": list(net.said)} if "code" in found else found


_SAME = "schema_version", "kind", "audit", "attack", "surrogate", "head", "data", "model", "auditor", "trials"


def of_folder(out: Path) -> dict[str, Any] | None:
    """The plan of the run in a folder, None where there is none yet. Raises InputError for any other folder."""
    path = out / "plan.json"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; expected a folder, or a name not yet taken")
    if not path.exists():
        if out.exists() and any(child.name not in (".lock", "plan.json.partial") for child in out.iterdir()):
            raise InputError(f"--out {out} is not empty and holds no run; choose another folder")
        return None
    try:
        recorded = json.loads(journal.read(path))
    except (ValueError, RecursionError):
        recorded = None
    if not isinstance(recorded, dict) or recorded.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path} was not written by this version of poisonfrogs; choose another --out")
    kind = journal.kind_of(out)
    if kind != "audit":
        raise InputError(f"{out} holds a run of {kind}; choose another --out")
    return recorded


def agree(out: Path, recorded: dict[str, Any] | None, wanted: dict[str, Any]) -> None:
    """Raises InputError, naming the first difference, where a folder's run was begun by another plan."""
    if recorded is None or all(recorded.get(key) == wanted[key] for key in _SAME):
        return
    for key in _SAME:
        old, new = recorded.get(key), wanted[key]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            what = next(name for name in {**old, **new} if old.get(name, ...) != new.get(name, ...))
            key, old, new = f"{key}.{what}", old.get(what), new.get(what)
        raise InputError(
            f"{out} holds a run of another plan ({key} was {_short(old)}, is now {_short(new)}); "
            "choose another --out, or delete it"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value))
