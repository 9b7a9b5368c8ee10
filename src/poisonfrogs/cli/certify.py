"""certify: what it asks for, and how what it found is printed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from poisonfrogs.cli.show import printed, progress
from poisonfrogs.plan import Certify
from poisonfrogs.text import head_name
from poisonfrogs.types import Certificate, CertifySummary, InputError

SCHEMA_VERSION = 1
HEARD = ("model", "weights", "device", "threads")  # options of Certify that a fitted head is asked with


@dataclass(frozen=True, kw_only=True)
class CertifyCommand(Certify):
    """Fit heads whose every prediction says how many training pictures it takes to change it.

    Writes a run folder: plan.json, summary.json, answers.jsonl (a line a test picture), curves.json. With --head FILE,
    asks a saved head about pictures instead.
    """

    data: Positional[Path]
    pictures: Positional[tuple[Path, ...]] = ()
    """With --head: pictures, DATA being the first."""
    head: Path | None = None
    """A saved head, to be asked about pictures."""
    fail_under: float | None = None
    """Exit 1 when less than this share of the test pictures is certified right against --against."""
    format: Literal["table", "json"] = "table"
    """What to print on stdout."""

    def run(self) -> int:
        """Do it and return the exit code."""
        if self.fail_under is not None and not 0 <= self.fail_under <= 1:
            raise InputError(
                f"--fail-under {self.fail_under} is out of range; expected a share from 0 to 1, such as 0.95"
            )
        options = Certify(**{field.name: getattr(self, field.name) for field in fields(Certify)})
        if self.head:
            self._refuse_unheard()
            return _ask(self.head, [self.data, *self.pictures], options, self.format)
        if self.pictures:
            raise InputError(f"more than one DATA ({self.pictures[0]}); pictures to ask about need --head FILE")
        return _certify(options, self.fail_under, self.format)

    def _refuse_unheard(self) -> None:
        """What is about fitting heads says nothing to a fitted one, least of all that its data was signed."""
        given = [field.name for field in fields(Certify) if getattr(self, field.name) != field.default]
        unheard = [f"--{name.replace('_', '-')}" for name in given if name not in ("data", *HEARD)]
        unheard += ["--fail-under"] * (self.fail_under is not None)
        if unheard:
            heard = ", ".join(f"--{name}" for name in HEARD)
            raise InputError(f"--head asks a fitted head, to which {unheard[0]} says nothing; it takes {heard}")


def _ask(head: Path, pictures: list[Path], options: Certify, form: str) -> int:
    from poisonfrogs.answering import ask

    with progress():  # for what the user's own network prints
        answers = ask(head, pictures, options)
    people = [f"{answer['predicted']}  radius {answer['radius']}  {answer['picture']}" for answer in answers]
    printed(form, {"schema_version": SCHEMA_VERSION, "answers": answers}, people)
    return 0


def _certify(options: Certify, fail_under: float | None, form: str) -> int:
    with progress() as tell:
        tell("starting", 0, 1)
        from poisonfrogs.certify import run_certify

        summary = run_certify(options, progress=tell)
        tell("report", 0, 1)
        from poisonfrogs.report.page import write

        write(options.out)
    printed(form, summary, lines(options, summary))
    held = summary["recommended"]["certified"][str(summary["against"])]
    return int(fail_under is not None and held < fail_under)


def lines(options: Certify, summary: CertifySummary) -> list[str]:
    """What is printed for people."""
    at = list(summary["recommended"]["certified"])
    head = f"{'head':<34}{'accuracy':>9}" + "".join(f"{'at ' + r:>9}" for r in at) + f"{'median':>9}"
    return [
        f"certified accuracy after so many insertions and removals, of {summary['n_train']:,} training pictures; "
        f"{summary['n_test']:,} test pictures",
        head,
        f"{'the usual head':<34}{summary['undefended_accuracy']:>9.4f}" + f"{0:>9}" * (len(at) + 1),
        *(_row(one, at) for one in summary["frontier"]),
        f"recommended: {head_name(summary['recommended'])}, chosen {summary['chosen']}",
        sentence(summary),
        *(f"assumed: {one}" for one in summary["assumptions"]),
        f"The page to read is {options.out}/report.html" + (f"; the head is {options.save}" if options.save else ""),
    ]


def _row(one: Certificate, at: list[str]) -> str:
    rates = "".join(f"{one['certified'][r]:>9.4f}" for r in at)
    return f"{head_name(one):<34}{one['accuracy']:>9.4f}{rates}{one['median_radius']:>9.0f}"


def sentence(summary: CertifySummary) -> str:
    """What was found, for someone who reads one sentence."""
    best, against = summary["recommended"], summary["against"]
    return (
        f"An attacker who inserts or removes up to {against:,} of your {summary['n_train']:,} training pictures cannot "
        f"change {best['certified'][str(against)]:.1%} of the answers of a head with these parameters, all right ones; "
        f"the head's accuracy is {best['accuracy']:.2%}, the usual head's {summary['undefended_accuracy']:.2%}."
    )
