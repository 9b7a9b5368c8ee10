"""What an audit is to do: its options, and what a trial is. Torch stays out, for a fast --help."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from poisonfrogs import tree
from poisonfrogs.types import InputError

GROUP = 16  # targets crafted together at most; part of the plan, since a batch's composition moves last bits
EVADED = 3  # the first targets, of which evasion examples are made for the report
SAMPLE = 1024  # clean training pictures whose features are left for the report, at most
VOTERS = 10  # neighbours for each operation to withstand, where nothing trusted tells better


class ByContext:
    """The default of an option whose value follows from --context."""

    def __str__(self) -> str:
        return "by --context"


BY_CONTEXT: Any = ByContext()
_END_TO_END: dict[str, Any] = {
    "model": "alexnet32",
    "targets": 30,
    "base_choice": "random",
    "poisons": 50,
    "watermark": 0.3,
    "eps": None,
    "beta": 0.1,
    "passes": 300,
    "overshoot": 0.0,
    "epochs": 10,
    "learning_rate": 1.85e-5,
    "clean_epochs": 22,
    "trials_per_seed": 10,
}
# what an option is by default in each context: the paper's protocol for it
DEFAULTS: dict[str, dict[str, Any]] = {
    "transfer": {
        "model": "tf_efficientnet_lite0",
        "targets": 20,
        "base_choice": "nearest",
        "poisons": 1,
        "watermark": 0.0,
        "eps": 8 / 255,
        "beta": 0.25,
        "passes": 90,
        "overshoot": 5.0,
        **dict.fromkeys(("epochs", "learning_rate", "clean_epochs", "trials_per_seed")),
    },
    "end-to-end": _END_TO_END,
    "scratch": {**_END_TO_END, "epochs": 22, "learning_rate": 3e-3},
}
FOLDERS = ("poisons", "pictures", "features")  # of a run, which writes into them
# options that say where and how, not what
WHERE = ("data", "out", "cache", "threads", "workers", "engine", "save", "manifest", "require_signed")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What is measured: pictures, the frozen extractor they go through, and where to compute."""

    data: Path
    """Image folder (train/, val/; or class folders, which are split), parquet files, or .npz."""
    model: str = "tf_efficientnet_lite0"
    """timm or torchvision name, NAME=FILE (.safetensors or .pth), or module:factory."""
    weights: Path | None = None
    """Weights file for the model, instead of NAME=FILE."""
    view: Literal["model", "squash"] = "model"
    """What the pipeline does to a picture: the library's own evaluation transform, or the whole picture resized."""
    size: int | None = None
    """Side of the network's input in pixels; the model's own by default."""
    seed: int = 0
    """Everything random follows from it."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int | None = None
    """CPU threads; all cores by default."""
    cache: Path | None = None
    """Folder for cached features; the user's cache folder by default."""
    require_signed: Path | None = None
    """Public key: refuse DATA unless it is exactly what was signed with it (see poisonfrogs sign)."""
    manifest: Path | None = None
    """The signed manifest, for --require-signed; by default DATA.manifest.jsonl."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and not value:  # an unset variable: the current folder, or another audit
                raise InputError(f"{field.name} is empty; give a value, or leave it out")
            object.__setattr__(self, field.name, _plain(str(field.type), value))


@dataclass(frozen=True, kw_only=True)
class Audit(Pipeline):
    """Measure how many targets fall to correctly labelled poisons (Poison Frogs!, Shafahi et al. 2018)."""

    context: Literal["transfer", "end-to-end", "scratch"] = "transfer"
    """What is trained: the last layer of a frozen extractor; every layer, from a clean network; or from nothing."""
    model: str = BY_CONTEXT
    """timm or torchvision name, NAME=FILE (.safetensors or .pth), or module:factory."""
    out: Path = Path("runs/audit")
    """Run folder. The same command goes on with an unfinished run."""
    targets: int | Literal["all"] = BY_CONTEXT
    """How many test pictures to attack, over every ordered pair of classes in turn."""
    target: tuple[str, ...] = ()
    """Particular pictures to attack: ids (paths relative to DATA), or files outside it with --target-class."""
    target_class: str | None = None
    """Attack pictures of this class only."""
    base_class: str | None = None
    """Poisons of this class only: what the targets are to be taken for."""
    target_choice: Literal["random", "least-confident"] = "random"
    """Test pictures to attack: any, or those the clean classifier gets right with the least confidence."""
    base_choice: Literal["nearest", "random", "farthest", "one"] = BY_CONTEXT
    """Bases: nearest to or farthest from the target in feature space, any of the class, or one for all poisons."""
    poisons: int = BY_CONTEXT
    """Poisons for each target."""
    watermark: float = BY_CONTEXT
    """Opacity at which the target is blended into each base before crafting."""
    replace: bool = False
    """Poisons take the places of their bases in the training set, instead of being added."""
    eps: float | None = BY_CONTEXT
    """l-inf budget, such as 8/255 or 0.03; none for the paper's beta form."""
    beta: float = BY_CONTEXT
    """The paper's beta_0, used with --eps none."""
    passes: int = BY_CONTEXT
    """Forward and backward passes for each poison, at most."""
    overshoot: float = BY_CONTEXT
    """How far beyond the target to aim, in feature units; 0 is the paper's plain form."""
    head: str = "paper"
    """The victim's head: paper (Adam 0.01, 100 epochs), logistic:C, or certified[:FAMILY[:PARAMETER]] beside it."""
    epochs: int | None = BY_CONTEXT
    """Epochs of the victim, where every layer is trained."""
    learning_rate: float | None = BY_CONTEXT
    """Of the victim's Adam, where every layer is trained."""
    clean_epochs: int | None = BY_CONTEXT
    """Epochs of the clean network that poisons are made with, and that end-to-end victims start from."""
    trials_per_seed: int | None = BY_CONTEXT
    """Trials whose victims share a seed, and so a clean control, where every layer is trained."""
    victim: str | None = None
    """Your own training code as the victim: module:function, (images, labels, *, seed) -> predict."""
    auditor: str | None = None
    """Independent network that is asked what each stored poison shows, for the report; as --model takes it."""
    store: str = "png"
    """How poisons are stored, and judged: png, or jpeg:Q."""
    robust: str | None = None
    """What the attacker expects of the pipeline, and crafts through: jpeg:75-95, crop, or jpeg:75-95,crop."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic while crafting; of whole networks, in their training instead. Every check and verdict is fp32."""
    workers: int = 1
    """Processes, or workers of a cluster; with more than one, each has cores // workers threads unless told."""
    engine: str = "processes"
    """Where the workers are: processes, ray (a cluster of this machine), or ray:HOST:PORT."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in DEFAULTS.get(self.context, {}).items():
            if getattr(self, name) is BY_CONTEXT:
                object.__setattr__(self, name, value)

    @property
    def retrained(self) -> bool:
        """Whether the victim trains every layer."""
        return self.context != "transfer"

    @property
    def crafted_in(self) -> str:
        """Precision of crafting: in full where every layer is trained. Networks that are cost little then, and the beta
        form's search stops early in rounded values.
        """
        return "fp32" if self.retrained else self.precision


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One target, its poisons' bases, and where it stands in the run."""

    trial_id: int
    group: int
    block: int  # trials of a block share their victims' seed
    target: int  # row of the test pictures, those from outside DATA after them
    target_id: str
    target_class: int
    base_class: int
    bases: tuple[int, ...] = ()  # rows of the training pictures
    base_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Certify(Pipeline):
    """Fit heads whose predictions carry a proof, and measure what they cost and what they guarantee."""

    out: Path = Path("runs/certify")
    """Run folder."""
    against: str = "1%"
    """Insertions and removals to withstand: a number, or a share of the training pictures."""
    trusted: str | None = None
    """Labelled pictures that the attacker cannot have touched, to choose the head on: DATA's own val, or a folder."""
    save: Path | None = None
    """Where to write the recommended head (.safetensors)."""


def validate(audit: Audit) -> None:
    """Raises InputError for options of an audit that no data could satisfy."""
    from poisonfrogs.pictures import jpeg_quality
    from poisonfrogs.robust import robust

    validate_pipeline(audit)
    limits: list[tuple[str, Any, bool, str]] = [
        ("--eps", audit.eps, audit.eps is None or 0 <= audit.eps <= 1, "a number from 0 to 1, such as 8/255, or none"),
        ("--beta", audit.beta, 0 <= audit.beta < float("inf"), "a number from 0"),
        ("--targets", audit.targets, audit.targets == "all" or audit.targets > 0, "a number from 1, or all"),
        ("--poisons", audit.poisons, audit.poisons > 0, "a number from 1"),
        ("--passes", audit.passes, audit.passes > 0, "a number from 1"),
        ("--overshoot", audit.overshoot, 0 <= audit.overshoot < float("inf"), "a number from 0"),
        ("--watermark", audit.watermark, 0 <= audit.watermark < 1, "an opacity from 0, below 1"),
        ("--workers", audit.workers, audit.workers > 0, "a number from 1"),
    ]
    _refuse_outside(limits)
    written = [audit.out / name for name in FOLDERS]
    refuse_inside(audit.data, {"--out": audit.out, "--cache": audit.cache}, written)
    if audit.cache and tree.within(audit.cache, audit.out):
        raise InputError(f"--cache {audit.cache} would lie inside --out {audit.out}, which is for the run alone")
    _validate_context(audit)
    if audit.store != "png":
        jpeg_quality(audit.store)
    robust(audit.robust)
    if audit.robust and audit.eps is None:  # its search compares passes, and every pass sees another change
        raise InputError("--robust and --eps none do not go together; give an l-inf budget, such as --eps 8/255")
    if audit.engine != "processes" and audit.engine.partition(":")[0] != "ray":
        raise InputError(f"--engine {audit.engine!r} is unknown; expected processes, ray or ray:HOST:PORT")
    if audit.target and audit.target_choice != "random":
        raise InputError("--target names the pictures that --target-choice would choose; give one")
    if audit.replace and audit.base_choice == "one":
        raise InputError("--replace takes out a base for each poison, and --base-choice one has one for all; give one")
    if audit.victim and audit.head != "paper":
        raise InputError(f"--victim {audit.victim} and --head {audit.head} both name a victim; give one")


def _validate_context(audit: Audit) -> None:
    for name in ("epochs", "learning_rate", "clean_epochs", "trials_per_seed"):
        flag, value = f"--{name.replace('_', '-')}", getattr(audit, name)
        if not audit.retrained and value is not None:
            raise InputError(f"{flag} is about training every layer; give it with --context end-to-end or scratch")
        if audit.retrained:
            least = "a number above 0" if name == "learning_rate" else "a number from 1"
            _refuse_outside([(flag, value, value is not None and 0 < value < float("inf"), least)])
    if not audit.retrained:
        return
    other = "--victim" if audit.victim else "--head" if audit.head != "paper" else None
    if other:
        raise InputError(f"--context {audit.context} trains every layer by a recipe of its own; leave {other} away")
    if audit.context == "scratch" and (audit.weights or "=" in audit.model):
        raise InputError("--context scratch starts from random weights; give --model without a file of weights")


def validate_certify(certify: Certify) -> None:
    """Raises InputError for options of certify that no data could satisfy."""
    validate_pipeline(certify)
    operations(certify.against, 1)
    refuse_inside(certify.data, {"--out": certify.out, "--cache": certify.cache, "--save": certify.save})


def operations(text: str, n_train: int) -> int:
    """What --against says: a number of operations, or a share of the training pictures, at least one.

    >>> operations("19", 1918), operations("1%", 1918), operations("0.1%", 100)
    (19, 19, 1)
    """
    number = text.strip().removesuffix("%")
    try:
        value = float(number) if number != text.strip() else int(number)
    except ValueError:
        value = 0
    if number != text.strip() and 0 < value <= 100:
        return max(round(value * n_train / 100), 1)
    if isinstance(value, int) and value >= 1:
        return value
    raise InputError(f"--against {text!r} is out of range; expected a number such as 20, or a share such as 1%")


def validate_pipeline(pipeline: Pipeline) -> None:
    """Raises InputError for options that no network could be used with."""
    _refuse_unfit(pipeline)
    size, threads, manifest = pipeline.size, pipeline.threads, pipeline.manifest
    _refuse_outside(
        [
            ("--size", size, size is None or 1 <= size <= 8192, "pixels, from 1 to 8192"),
            ("--threads", threads, threads is None or threads > 0, "a number from 1"),
        ]
    )
    if manifest and not pipeline.require_signed:
        raise InputError(f"--manifest needs --require-signed, the public key of whoever signed {manifest}")


def _refuse_unfit(options: Pipeline) -> None:
    """Raises InputError for values of another type than their fields have: from Python anything may come."""
    wrong, hints = [], get_type_hints(type(options))
    for field in fields(options):
        hint, value, flag = hints[field.name], getattr(options, field.name), f"--{field.name.replace('_', '-')}"
        kinds = [hint] if get_origin(hint) in (Literal, tuple, None) else get_args(hint)
        if value is BY_CONTEXT or any(_fits(kind, value) for kind in kinds):  # the context, then, is the unknown one
            continue
        choices = ", ".join(get_args(hint)) if get_origin(hint) is Literal else None
        expected = f"unknown; expected one of {choices}" if choices else f"of another type; expected {field.type}"
        wrong.append(f"{flag} {value!r} is {expected}")
    if wrong:
        raise InputError(*wrong)


def _fits(kind: Any, value: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind in (int, float):  # True is no number here
        return type(value) in (int, kind)
    return isinstance(value, get_origin(kind) or kind)


def _refuse_outside(limits: Sequence[tuple[str, Any, bool, str]]) -> None:
    said = "{} {} is out of range; expected {}"
    wrong = [said.format(flag, value, expected) for flag, value, fine, expected in limits if not fine]
    if wrong:
        raise InputError(*wrong)


def refuse_inside(data: Path, places: Mapping[str, Path | None], written: Sequence[Path] = ()) -> None:
    """Raises InputError for a place, by its flag, that lies among the data, and for data in a `written` folder."""
    read = [data, *_linked(data)]
    for flag, place in places.items():
        if place and any(tree.within(place, folder) for folder in read):
            raise InputError(f"{flag} {place} would lie inside {data}, which is only read; choose another place")
    for folder in written:
        if any(tree.within(one, folder) for one in read):
            raise InputError(f"the run would write into {folder}, where DATA ({data}) lies; choose another --out")


def _linked(data: Path) -> list[Path]:
    """The folders that links below the data lead to: they are read as part of it."""
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, _ in os.walk(data, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a circle
            folders.clear()
            continue
        seen.add(real)
        found += [folder for folder in (Path(parent, name) for name in folders) if folder.is_symlink()]
    return found


def identity(audit: Pipeline) -> dict[str, Any]:
    """The options that make a run what it is, as JSON holds them."""
    options = asdict(audit)
    return {
        field.name: str(options[field.name]) if isinstance(options[field.name], Path) else _listed(options[field.name])
        for field in fields(audit)
        if field.name not in WHERE
    }


def seed_of(*parts: object) -> int:
    """A seed from names and numbers, the same everywhere.

    >>> seed_of(0, "victim", 3) == seed_of(0, "victim", 3) != seed_of(0, "victim", 4)
    True
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")  # NumPy takes 32 bits


def _plain(kind: str, value: Any) -> Any:
    """As JSON holds it: who calls from Python may give text for paths, one name for several, and NumPy's numbers."""
    if kind.startswith("Path") and value is not None:
        return Path(value)
    if kind.startswith("tuple"):
        names = [value] if isinstance(value, str | os.PathLike) or not isinstance(value, Iterable) else value
        return tuple(map(str, names))
    if isinstance(value, bool):
        return value
    if kind.startswith("str") and isinstance(value, Integral | os.PathLike):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
