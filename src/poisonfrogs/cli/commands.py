"""What can be asked for, a frozen dataclass a command; its fields are its flags."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, UseAppendAction
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from poisonfrogs.plan import Audit


@dataclass(frozen=True, kw_only=True)
class AuditCommand(Audit):
    """Measure how many targets fall to one correctly labelled poison each.

    Writes a run folder: plan.json, journal.jsonl (a line a trial), summary.json, poisons/. Stopped at
    any point, the same command goes on where it was.
    """

    data: Positional[Path]
    target: UseAppendAction[tuple[str, ...]] = ()
    fail_on: float | None = None
    """Exit 1 when the lower end of the success rate's 95 % interval reaches this."""
    format: Literal["table", "json"] = "table"
    """What to print on stdout."""

    def run(self) -> int:
        from poisonfrogs.cli import show

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
            seed=self.seed,
            cache=self.cache,
        )


def parse(argv: Sequence[str]) -> AuditCommand | DemoCommand:
    """The command that the arguments name. Exits with 2 where they name none, 0 for --help."""
    if list(argv) == ["--version"]:
        from importlib.metadata import version

        print(f"poisonfrogs {version('poisonfrogs')}")
        sys.exit(0)
    registry = ConstructorRegistry()
    registry.primitive_rule(_fractions)
    commands = (
        Annotated[AuditCommand, tyro.conf.subcommand("audit")] | Annotated[DemoCommand, tyro.conf.subcommand("demo")]
    )
    return cast(
        AuditCommand | DemoCommand,
        tyro.cli(
            OmitArgPrefixes[FlagCreatePairsOff[commands]],  # type: ignore[valid-type]
            prog="poisonfrogs",
            description="How easily can a classifier's training data be poisoned with correctly labelled pictures?",
            args=[("None" if arg.lower() == "none" else arg) for arg in argv],
            registry=registry,
        ),
    )


def _options(command: AuditCommand) -> Audit:
    return Audit(**{field.name: getattr(command, field.name) for field in fields(Audit)})


def _fractions(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[float] | None:
    """Numbers may be written as fractions, such as 8/255."""
    if info.type is not float:
        return None

    def number(texts: list[str]) -> float:
        above, _, below = texts[0].partition("/")
        if below and float(below) == 0:
            raise ValueError(f"{texts[0]} divides by zero")
        return float(above) / float(below or 1)

    def text(value: Any) -> list[str]:
        levels = value * 255
        return [f"{levels:.0f}/255" if value and abs(levels - round(levels)) < 1e-9 and levels < 255 else str(value)]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER",
        instance_from_str=number,
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=text,
    )
