"""What can be asked for, a frozen dataclass a command; its fields are its flags."""

from __future__ import annotations

import io
import operator
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, fields, replace
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro
from tyro.conf import Positional, UseAppendAction
from tyro.constructors import ConstructorRegistry

from poisonfrogs.cli import say, values
from poisonfrogs.cli.certify import CertifyCommand
from poisonfrogs.cli.match import MatchCommand
from poisonfrogs.cli.provenance import KeygenCommand, SignCommand, VerifyCommand
from poisonfrogs.plan import Audit
from poisonfrogs.types import InputError


@dataclass(frozen=True, kw_only=True)
class AuditCommand(Audit):
    """Measure how many targets fall to correctly labelled poisons: one each, or dozens where every layer is trained.

    Writes a run folder: plan.json, journal.jsonl (a line a trial), summary.json, poisons/. Stopped at
    any point, the same command goes on where it was. With --plan, writes a folder of such runs.
    """

    data: Positional[Path | None] = None  # type: ignore[assignment]  # a plan may name it
    plan: Path | None = None
    """TOML file of these options, in which a list is an axis: an audit for each combination of values."""
    target: UseAppendAction[tuple[str, ...]] = ()
    fail_on: float | None = None
    """Exit 1 when the lower end of the success rate's 95 % interval reaches this."""
    format: Literal["table", "json"] = "table"
    """What to print on stdout."""
    written: tyro.conf.Suppress[tuple[str, ...]] = ()  # the options of an audit that stand on the command line

    def run(self) -> int:
        """Do it and return the exit code."""
        from poisonfrogs.cli import show

        if self.fail_on is not None and not 0 <= self.fail_on <= 1:
            raise InputError(f"--fail-on {self.fail_on} is out of range; expected a rate from 0 to 1, such as 0.05")
        if self.plan:
            where = {name: getattr(self, name) for name in self.written}
            return show.grid(self.plan, where, self.fail_on, self.format)
        if self.data is None:
            raise InputError("DATA is missing: poisonfrogs audit DATA, the pictures; see poisonfrogs audit --help")
        return show.audit(_options(self), self.fail_on, self.format)


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Audit the bundled pictures with the bundled extractor: ten planes, one poisoned frog each."""

    out: Path = Path("runs/demo")
    """Run folder."""
    seed: int = 0
    """Everything random follows from it."""
    cache: Path | None = None
    """Folder for cached features; the user's cache folder by default."""
    format: Literal["table", "json"] = "table"
    """What to print on stdout."""

    def run(self) -> int:
        """Do it and return the exit code."""
        from poisonfrogs.cli import show

        return show.audit(self.options(), None, self.format)

    def options(self) -> Audit:
        """The audit that the demo is."""
        return Audit(
            data=Path("frogs-and-planes"),
            out=self.out,
            view="squash",
            size=128,
            targets=10,
            target_class="airplane",
            base_class="frog",
            head="certified",
            seed=self.seed,
            cache=self.cache,
        )


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Write the page of a run: one self-contained HTML file, from the run folder alone.

    audit and demo do so at their end; no network and no picture outside the folder is needed.
    """

    run_folder: Annotated[Positional[Path], tyro.conf.arg(name="run")]
    """Run folder, as audit's --out."""
    out: Path | None = None
    """Where to write the page; report.html in the run folder by default."""
    format: Literal["table", "json"] = "table"
    """What to print on stdout."""

    def run(self) -> int:
        """Do it and return the exit code."""
        from poisonfrogs.cli import pages

        return pages.report(self.run_folder, self.out, self.format)


Command = (
    AuditCommand
    | CertifyCommand
    | DemoCommand
    | KeygenCommand
    | MatchCommand
    | ReportCommand
    | SignCommand
    | VerifyCommand
)
COMMANDS: dict[str, type[Command]] = {
    "audit": AuditCommand,
    "certify": CertifyCommand,
    "demo": DemoCommand,
    "report": ReportCommand,
    "keygen": KeygenCommand,
    "sign": SignCommand,
    "verify": VerifyCommand,
    "match": MatchCommand,
}


def parse(argv: Sequence[str]) -> Command:
    """The command that the arguments name. Raises InputError where they name none; exits with 0 for --help."""
    if list(argv) == ["--version"]:
        from importlib.metadata import version

        say(f"poisonfrogs {version('poisonfrogs')}")
        sys.exit(0)
    registry = ConstructorRegistry()
    registry.primitive_rule(values.rule)
    named = (Annotated[command, tyro.conf.subcommand(name)] for name, command in COMMANDS.items())
    commands: Any = reduce(operator.or_, cast(Any, named))
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of defaults that are no values: they follow from --context
            command = tyro.cli(
                commands,
                prog="poisonfrogs",
                description="How easily can a classifier's training data be poisoned with correctly labelled pictures?",
                args=list(argv),
                registry=registry,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as end:
        if end.code == 2:
            raise InputError(values.condensed(complaint.getvalue(), argv, _names(argv))) from None
        raise
    if isinstance(command, AuditCommand):
        return replace(command, written=_written(command, argv))
    return cast(Command, command)


def _written(command: AuditCommand, argv: Sequence[str]) -> tuple[str, ...]:
    """What the command line says, be it what is the default anyway: it goes before a plan file."""
    flags = {argument.partition("=")[0].replace("_", "-") for argument in argv}
    named = (field.name for field in fields(Audit) if f"--{field.name.replace('_', '-')}" in flags)
    return (*named, "data") if command.data else tuple(named)


def _names(argv: Sequence[str]) -> list[str]:
    """What might have been meant: the command's flags, or the commands."""
    if not argv or argv[0] not in COMMANDS:
        return list(COMMANDS)
    names = [field.name for field in fields(COMMANDS[argv[0]]) if field.name != "written"]
    return [f"--{name.replace('_', '-')}" for name in names]


def _options(command: AuditCommand) -> Audit:
    return Audit(**{field.name: getattr(command, field.name) for field in fields(Audit)})
