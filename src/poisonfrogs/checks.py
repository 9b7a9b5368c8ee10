"""Reasons not to trust a run's number. A fired check never changes the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from poisonfrogs.data import DataSet
from poisonfrogs.plan import Audit, Trial

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Check:
    """A check that fired."""

    name: str
    message: str


def of_rows(audit: Audit, rows: Rows, classes: int) -> list[Check]:
    """Checks on what came out."""
    n = len(rows)
    ineligible = [row for row in rows if not row["eligible"]]
    failed = [row for row in rows if row["failed"]]
    limit = float("inf") if audit.eps is None else audit.eps
    room = limit * 255 + 1e-6 >= 1  # below one level of 8 bits no stored picture can move
    still = [row for row in rows if room and not row["failed"] and row["passes"] and max(row["linf"]) == 0]
    beyond = [row for row in rows if max(row["linf"]) > limit + 1e-6]
    accuracy = sum(row["control_accuracy"] for row in rows) / max(n, 1)
    worst = max((row["control_accuracy"] - row["accuracy"] for row in rows), default=0.0)
    broken = [row for row in rows if row["certified"] and row["certified"]["broken"]]
    found = {
        "broken_certificate": broken
        and f"{len(broken)} of {n} certificates did not hold: the program is wrong; please report it",
        "too_few_trials": n - len(ineligible) < 10
        and f"only {n - len(ineligible)} eligible targets: the interval is wide; ask for more --targets",
        "ineligible_targets": len(ineligible) > 0.1 * n
        and f"{len(ineligible)} of {n} targets are wrong even under the control: the classifier itself is weak on them",
        "failed_trials": failed and f"{len(failed)} of {n} trials failed ({failed[0]['failure'] if failed else ''})",
        "zero_gradients": still
        and f"{len(still)} of {n} poisons did not move: no gradient reaches the picture through this model or view",
        "beyond_budget": beyond
        and f"{len(beyond)} of {n} poisons are beyond the l-inf budget once stored as {audit.store}",
        "collapsed_accuracy": n
        and (accuracy < 1.5 / classes or worst > 0.05)
        and f"clean accuracy {accuracy:.3f}, worst drop {worst:.3f}: the victim is broken, not poisoned",
    }
    return [Check(name, message) for name, message in found.items() if isinstance(message, str)]


def of_data(data: DataSet, trials: Sequence[Trial]) -> list[Check]:
    """Checks on the pictures the run stands on."""
    test = set(data.test.hashes)
    leaked = sum(content in test for content in data.train.hashes)
    bases = {row for trial in trials for row in trial.bases if data.train.hashes[row] in test}
    found = {
        "duplicates_across_splits": leaked
        and f"{leaked} training pictures are also test pictures: accuracy is flattered; remove them from one side",
        "base_is_a_test_picture": bases and f"{len(bases)} base pictures are also test pictures",
        "skipped_pictures": data.skipped
        and f"{len(data.skipped)} pictures could not be read and were left out (plan.json names them)",
    }
    return [Check(name, message) for name, message in found.items() if isinstance(message, str)]


def of_workers(lost: Sequence[str]) -> list[Check]:
    """Checks on where the groups ran."""
    said = f"{len(lost)} workers were lost ({lost[-1] if lost else ''}); their groups were run again by fresh ones"
    return [Check("lost_workers", said)] if lost else []


def as_json(checks: Sequence[Check]) -> list[dict[str, str]]:
    """For summary.json."""
    return [asdict(check) for check in checks]
