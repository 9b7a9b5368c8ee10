"""How to get the same run again."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from poisonfrogs.plan import DEFAULTS, WHERE, Audit, Pipeline
from poisonfrogs.report.folder import RunFolder
from poisonfrogs.report.html import Section, render
from poisonfrogs.text import levels


def section(run: RunFolder) -> Section:
    """The last section."""
    figures, model, data = run.figures, run.plan["model"], run.plan["data"]
    hashes = {
        "data (ids, labels, contents)": data["fingerprint"],
        f"weights of {model['name']}": model["weights"],
        **(
            {f"weights of the auditor {run.plan['auditor']['name']}": run.plan["auditor"]["weights"]}
            if run.plan.get("auditor")
            else {}
        ),
        **{name: run.digest(name) for name in ("plan.json", "journal.jsonl")},
    }
    body = render(
        "reproduce.html",
        run=run,
        command=command(run.plan["audit"] | {"target": _targets(run)}, data.get("name")),
        bundled=data.get("name") is not None,
        seed=run.plan["audit"]["seed"],
        versions=run.plan["versions"],
        hardware=figures.get("hardware"),
        seconds=figures.get("seconds_per_trial"),
        source=run.plan.get("weights_source"),
        hashes=hashes,
    )
    return Section("reproduce", "How to reproduce", body)


def _targets(run: RunFolder) -> list[str]:
    """The targets that were named, by their ids in DATA; of those from elsewhere the file's name alone."""
    trials, n_test = run.plan["trials"] if run.plan["audit"]["target"] else [], run.plan["data"]["n_test"]
    named = (one["target_id"] if one["target"] < n_test else Path(one["target_id"]).name for one in trials)
    return list(dict.fromkeys(named))


def command(held: dict[str, Any], name: str | None, options: type[Pipeline] = Audit) -> list[str]:
    """The command that the options come from, part by part, without what is at its default.

    >>> command({"targets": 16, "eps": 8 / 255, "watermark": 0.0, "target": ["a b.png"], "replace": True}, None)
    ['poisonfrogs audit DATA', '--targets 16', "--target 'a b.png'", '--replace']
    """
    written = []
    by_context = DEFAULTS[held.get("context", "transfer")]
    for field in fields(options):
        default = by_context.get(field.name, field.default) if options is Audit else field.default
        value = held.get(field.name, default)
        if field.name in WHERE or value in (default, list(default) if default == () else ...):
            continue
        flag = f"--{field.name.replace('_', '-')}"
        values = value if isinstance(value, list) else [value]
        written += [flag if value is True else f"{flag} {_written(field.name, one)}" for one in values]
    return [f"poisonfrogs {options.__name__.lower()} {name or 'DATA'}", *written]


def _written(option: str, value: Any) -> str:
    if value is None:
        return "none"
    if option == "weights" or (option in ("model", "auditor") and "=" in value):  # where it lies is nobody's business
        name, sign, file = value.rpartition("=")
        value = f"{name}{sign}{Path(file).name}"
    if option == "trusted" and value != "val":
        return "TRUSTED"
    if option == "eps" and abs(255 * value - round(255 * value)) < 1e-9:
        return levels(value)
    return shlex.quote(str(value))
