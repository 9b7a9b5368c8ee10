"""What an audit is to do: its options, and what a trial is. Torch stays out, for a fast --help."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from poisonfrogs.types import InputError

GROUP = 16  # targets crafted together at most; part of the plan, since a batch's composition moves last bits
WHERE = ("data", "out", "cache", "threads", "manifest", "require_signed")  # options that say where and how, not what


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Measure how many targets fall to one correctly labelled poison each (Poison Frogs!, frozen extractor)."""

    data: Path
    """Image folder (train/, val/; or class folders, which are split), parquet files, or .npz."""
    model: str = "tf_efficientnet_lite0"
    """timm or torchvision name, NAME=FILE (.safetensors or .pth), or module:factory."""
    weights: Path | None = None
    """Weights file for the model, instead of NAME=FILE."""
    out: Path = Path("runs/audit")
    """Run folder. The same command goes on with an unfinished run."""
    view: Literal["model", "squash"] = "model"
    """What the pipeline does to a picture: the library's own evaluation transform, or the whole picture resized."""
    size: int | None = None
    """Side of the network's input in pixels; the model's own by default."""
    targets: int | Literal["all"] = 20
    """How many test pictures to attack, over every ordered pair of classes in turn."""
    target: tuple[str, ...] = ()
    """Particular pictures to attack: ids (paths relative to DATA), or files outside it with --target-class."""
    target_class: str | None = None
    """Attack pictures of this class only."""
    base_class: str | None = None
    """Poisons of this class only: what the targets are to be taken for."""
    base_choice: Literal["nearest", "random"] = "nearest"
    """Training pictures to perturb: nearest to the target in feature space, or any of the base class."""
    poisons: int = 1
    """Poisons for each target."""
    watermark: float = 0.0
    """Opacity at which the target is blended into each base before crafting."""
    replace: bool = False
    """Poisons take the places of their bases in the training set, instead of being added."""
    eps: float | None = 8 / 255
    """l-inf budget, such as 8/255 or 0.03; none for the paper's beta form."""
    beta: float = 0.25
    """The paper's beta_0, used with --eps none."""
    passes: int = 60
    """Forward and backward passes for each poison, at most."""
    overshoot: float = 5.0
    """How far beyond the target to aim, in feature units; 0 is the paper's plain form."""
    head: str = "paper"
    """The victim's head: paper (Adam 0.01, 100 epochs, from scratch), or logistic:C."""
    victim: str | None = None
    """Your own training code as the victim: module:function, (images, labels, *, seed) -> predict."""
    store: str = "png"
    """How poisons are stored, and judged: png, or jpeg:Q."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic while crafting; every check and verdict is fp32."""
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


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One target, its poisons' bases, and where it stands in the run."""

    trial_id: int
    group: int
    target: int  # row of the test pictures, those from outside DATA after them
    target_id: str
    target_class: int
    base_class: int
    bases: tuple[int, ...] = ()  # rows of the training pictures
    base_ids: tuple[str, ...] = ()


def validate(audit: Audit) -> None:
    """Raises InputError for options that no data could satisfy."""
    from poisonfrogs.pictures import jpeg_quality

    limits: list[tuple[str, Any, bool, str]] = [
        ("--eps", audit.eps, audit.eps is None or 0 <= audit.eps <= 1, "a number from 0 to 1, such as 8/255, or none"),
        ("--beta", audit.beta, audit.beta >= 0, "a number from 0"),
        ("--targets", audit.targets, audit.targets == "all" or int(audit.targets) > 0, "a number from 1, or all"),
        ("--poisons", audit.poisons, audit.poisons > 0, "a number from 1"),
        ("--passes", audit.passes, audit.passes > 0, "a number from 1"),
        ("--overshoot", audit.overshoot, 0 <= audit.overshoot < float("inf"), "a number from 0"),
        ("--watermark", audit.watermark, 0 <= audit.watermark < 1, "an opacity from 0, below 1"),
        ("--size", audit.size, audit.size is None or 1 <= audit.size <= 8192, "pixels, from 1 to 8192"),
        ("--threads", audit.threads, audit.threads is None or audit.threads > 0, "a number from 1"),
    ]
    for flag, value, fine, expected in limits:
        if not fine:
            raise InputError(f"{flag} {value} is out of range; expected {expected}")
    if audit.store != "png":
        jpeg_quality(audit.store)
    if audit.manifest and not audit.require_signed:
        raise InputError(f"--manifest needs --require-signed, the public key of whoever signed {audit.manifest}")
    if audit.victim and audit.head != "paper":
        raise InputError(f"--victim {audit.victim} and --head {audit.head} both name a victim; give one")


def identity(audit: Audit) -> dict[str, Any]:
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


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
