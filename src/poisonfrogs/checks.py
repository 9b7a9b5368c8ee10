"""Reasons not to trust a run's number. Of those that fire, a certificate that broke alone changes the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from poisonfrogs.data import DataSet
from poisonfrogs.models import Net
from poisonfrogs.plan import Audit, Trial
from poisonfrogs.train import LogisticHead, Surrogate, recipe

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Check:
    """A check that fired."""

    name: str
    message: str


def of_rows(audit: Audit, rows: Rows, test_labels: np.ndarray) -> list[Check]:
    """Checks on what came out; `test_labels`: int64 (n,), of the test pictures."""
    n = len(rows)
    ineligible = [row for row in rows if not row["eligible"]]
    failed = [row for row in rows if row["failed"]]
    limit = float("inf") if audit.eps is None else audit.eps
    room = limit * 255 + 1e-6 >= 1  # below one level of 8 bits no stored picture can move
    poisons = [linf for row in rows for linf in row["linf"]]
    crafted = [
        linf
        for row in rows
        if not row["failed"] and row["passes"]
        for linf in row.get("crafted_linf") or row["linf"]  # rows of older versions know the stored picture alone
    ]
    still = room and crafted.count(0)
    beyond = sum(linf > limit + 1e-6 for linf in poisons)
    accuracy = sum(row["control_accuracy"] for row in rows) / max(n, 1)
    worst = max((row["control_accuracy"] - row["accuracy"] for row in rows if not row["failed"]), default=0.0)
    guessing = np.bincount(test_labels).max() / len(test_labels)  # by whoever always says the commonest class
    lost = worst * len(test_labels)  # pictures
    own_guess = audit.head.startswith("logistic:") and recipe(audit.head) == LogisticHead(c=Surrogate.c)
    broken = [row for row in rows if row["certified"] and row["certified"]["broken"]]
    found = {
        "broken_certificate": broken
        and f"{len(broken)} of {n} certificates did not hold: the program is wrong; please report it",
        "too_few_trials": n - len(ineligible) < 10
        and f"only {n - len(ineligible)} eligible targets: the interval is wide; ask for more --targets",
        "ineligible_targets": len(ineligible) > 0.1 * n
        and f"{len(ineligible)} of {n} targets are wrong even under the control: the classifier itself is weak on them",
        "failed_trials": failed and f"{len(failed)} of {n} trials failed ({failed[0]['failure'] if failed else ''})",
        "no_room": 0 < limit * 255 < 1 - 1e-6
        and f"--eps {limit:.4g} is less than one of 255 levels: no stored picture can move within it",
        "surrogate_is_the_judge": own_guess
        and "the attacker's guess at the head is this very recipe: other heads tell more of one that it has not seen",
        "zero_gradients": still
        and f"{still} of {len(crafted)} poisons did not move: no gradient reaches them through this model or view",
        "beyond_budget": beyond
        and f"{beyond} of {len(poisons)} poisons are beyond the l-inf budget once stored as {audit.store}",
        "collapsed_accuracy": n
        and (1 - accuracy > 0.9 * (1 - guessing) or (worst > 0.05 and lost > 2.5))
        and f"clean accuracy {accuracy:.3f} ({guessing:.3f} by guessing), worst drop {worst:.3f}: "
        "the victim is broken, not poisoned",
    }
    return [Check(name, message) for name, message in found.items() if isinstance(message, str)]


def of_data(data: DataSet, trials: Sequence[Trial]) -> list[Check]:
    """Checks on the pictures the run stands on."""
    test = set(data.test.hashes)
    leaked = sum(content in test for content in data.train.hashes)
    bases = {row for trial in trials for row in trial.bases if data.train.hashes[row] in test}
    found = {
        "duplicates_across_splits": leaked
        and f"{leaked} training pictures are also test pictures: accuracy is flattered, and they are no targets; "
        "remove them from one side",
        "base_is_a_test_picture": bases and f"{len(bases)} base pictures are also test pictures",
        "skipped_pictures": data.skipped
        and f"{len(data.skipped)} pictures could not be read and were left out (plan.json names them)",
    }
    return [Check(name, message) for name, message in found.items() if isinstance(message, str)]


def of_auditor(net: Net, auditor: Net | None) -> list[Check]:
    """Checks on the independent network."""
    same = auditor is not None and auditor.weights == net.weights
    said = f"--auditor {net.name} is the attacked network itself: give one that has no part in the attack"
    return [Check("auditor_is_the_network", said)] if same else []


def of_workers(lost: Sequence[str]) -> list[Check]:
    """Checks on where the groups ran."""
    said = f"{len(lost)} workers were lost ({lost[-1] if lost else ''}); their groups were run again by fresh ones"
    return [Check("lost_workers", said)] if lost else []


def of_versions(begun: Mapping[str, str], since: Sequence[Mapping[str, str]]) -> list[Check]:
    """Checks on what the groups ran with: the versions a run was begun with, and those of groups that had others."""
    pairs = {(name, begun.get(name), version) for one in since for name, version in one.items()}
    changed = [f"{name} {old} and {new}" for name, old, new in sorted(pairs, key=str) if old != new]
    said = f"{len(since)} groups were run with other versions than the run was begun with ({', '.join(changed)})"
    return [Check("mixed_versions", said)] if since else []


def of_victims(sources: Sequence[str]) -> list[Check]:
    """Checks on the user's own training code, by the digest of its source for each group."""
    said = f"the code of --victim was changed between groups ({len(set(sources))} versions): start a run anew"
    return [Check("mixed_victims", said)] if len(set(sources)) > 1 else []


def as_json(checks: Sequence[Check]) -> list[dict[str, str]]:
    """For summary.json."""
    return [asdict(check) for check in checks]
