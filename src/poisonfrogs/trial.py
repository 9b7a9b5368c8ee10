"""One group of trials: craft, store, read back, judge beside the control. Specification in, rows out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from poisonfrogs.data import Edited, Images
from poisonfrogs.journal import write_bytes
from poisonfrogs.logistic import Heads, Rows
from poisonfrogs.models import Net
from poisonfrogs.pictures import decode, encode, suffix
from poisonfrogs.plan import Audit, Trial, seed_of
from poisonfrogs.train import Recipe, Surrogate
from poisonfrogs.types import Attack, Crafted, Edit, Goal, InputError, Victim


@dataclass(frozen=True, eq=False)
class Setting:
    """What all groups of a run share."""

    audit: Audit
    net: Net
    classes: tuple[str, ...]
    train: Images
    test: Images  # what measures accuracy
    targets: Images  # the test pictures, then targets from outside
    train_features: Tensor  # (n, d)
    target_features: Tensor  # (m, d), a row for each of `targets`
    attack: Attack
    surrogate: Surrogate
    judge: Judge
    folder: Path


@dataclass(frozen=True, eq=False)
class Verdict:
    """What one victim says."""

    probabilities: np.ndarray  # (classes,) of the target
    accuracy: float  # on the test pictures other than the target
    normals: Tensor | None  # (classes, d) weights of a linear head


class Judge(Protocol):
    """Trains one victim for each edit of the training set, all from one seed, and asks each about its target."""

    def __call__(
        self, setting: Setting, edits: Sequence[Edit], targets: Sequence[int], *, seed: int
    ) -> list[Verdict]: ...


@dataclass(frozen=True)
class HeadJudge:
    """Heads on the cached features of the frozen extractor, all edits in one batch."""

    recipe: Recipe

    def __call__(self, setting: Setting, edits: Sequence[Edit], targets: Sequence[int], *, seed: int) -> list[Verdict]:
        added = setting.net.features([image for edit in edits for image in edit.added])
        rows = Rows(
            features=setting.train_features,
            labels=torch.from_numpy(setting.train.labels),
            own=added.view(len(edits), -1, added.shape[1]),
            own_labels=torch.tensor([[edit.label] * len(edit.added) for edit in edits]),
            removed=torch.tensor([edit.removed for edit in edits], dtype=torch.int64).view(len(edits), -1),
        )
        heads = self.recipe(rows, len(setting.classes), seed=seed)
        right = self._right(setting, heads)
        verdicts = []
        for i, target in enumerate(targets):
            one = Heads(heads.weight[i : i + 1], heads.bias[i : i + 1])
            probabilities = one.predict(setting.target_features[target : target + 1])[0, 0].numpy()
            verdicts.append(Verdict(probabilities, _accuracy(right[i], target), heads.weight[i].T))
        return verdicts

    @staticmethod
    def _right(setting: Setting, heads: Heads) -> np.ndarray:
        labels = torch.from_numpy(setting.test.labels)
        features = setting.target_features[: len(labels)]
        parts = features.split(4096), labels.split(4096)
        right = [heads.logits(x).argmax(-1) == y for x, y in zip(*parts, strict=True)]
        return torch.cat(right, 1).numpy()


@dataclass(frozen=True)
class VictimJudge:
    """The user's own training code, once for each edit."""

    victim: Victim
    name: str

    def __call__(self, setting: Setting, edits: Sequence[Edit], targets: Sequence[int], *, seed: int) -> list[Verdict]:
        verdicts = []
        for edit, target in zip(edits, targets, strict=True):
            images = Edited(setting.train, edit)
            predict = self.victim(images, images.labels(setting.train.labels), seed=seed)
            said = self._probabilities(predict(setting.targets), setting)
            right = said[: len(setting.test)].argmax(1) == setting.test.labels
            verdicts.append(Verdict(said[target], _accuracy(right, target), None))
        return verdicts

    def _probabilities(self, said: Any, setting: Setting) -> np.ndarray:
        said = np.asarray(said, dtype=np.float64)
        count, classes = len(setting.targets), len(setting.classes)
        if said.shape == (count,) and np.isin(said, range(classes)).all():
            return np.eye(classes)[said.astype(int)]
        if said.shape != (count, classes) or not np.isfinite(said).all():
            raise InputError(
                f"the predict that {self.name} returned gave {said.shape}; "
                f"expected finite probabilities ({count}, {classes}) or class numbers ({count},)"
            )
        return said


def run(setting: Setting, trials: Sequence[Trial]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run a group. Returns its journal rows and its timings; the poisons are left in `folder`/poisons."""
    started = time.perf_counter()
    starts = [_start(setting, trial, base) for trial in trials for base in trial.bases]
    crafted = _craft(setting, trials, starts)
    crafting = time.perf_counter() - started
    files = [_names(setting, trial) for trial in trials]
    for name, picture in zip((name for names in files for name in names), crafted.pictures, strict=True):
        write_bytes(setting.folder / name, encode(_pixels(picture), setting.audit.store))
    poisons = [[decode((setting.folder / name).read_bytes()).image for name in names] for names in files]
    bases = [[setting.train[base] for base in trial.bases] for trial in trials]
    removed = [trial.bases if setting.audit.replace else () for trial in trials]
    edits = [
        Edit(added=tuple(added), label=trial.base_class, removed=gone)
        for kind in (poisons, bases)
        for added, trial, gone in zip(kind, trials, removed, strict=True)
    ]
    seed = seed_of(setting.audit.seed, "victim", trials[0].group)
    verdicts = setting.judge(setting, edits, [trial.target for trial in trials] * 2, seed=seed)
    after = setting.net.features([image for images in poisons for image in images])
    rows = []
    for i, trial in enumerate(trials):
        mine = slice(i * setting.audit.poisons, (i + 1) * setting.audit.poisons)
        poisoned, control = verdicts[i], verdicts[len(trials) + i]
        row = _row(setting, trial, files[i], poisons[i], starts[mine], bases[i], after[mine], poisoned, control)
        row["passes"] = max(crafted.passes[mine])
        rows.append(row | _outcome(trial, poisoned, control, crafted.failures[mine]))
    seconds = {"crafting": crafting, "total": time.perf_counter() - started}
    return rows, {"group": trials[0].group, "trials": len(trials), "seconds": seconds}


def _start(setting: Setting, trial: Trial, base: int) -> Tensor:
    """The base picture, with the target blended in where a watermark is asked for: uint8 (3, h, w)."""
    image = setting.train[base]
    if setting.audit.watermark:
        target = setting.targets[trial.target].resize(image.size, Image.Resampling.BICUBIC)
        image = Image.blend(image, target, setting.audit.watermark)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _craft(setting: Setting, trials: Sequence[Trial], starts: Sequence[Tensor]) -> Crafted:
    net, device = setting.net, setting.net.device
    labels = torch.from_numpy(setting.train.labels)
    means = {
        c: setting.train_features[labels == c].mean(0)
        for c in {c for t in trials for c in (t.target_class, t.base_class)}
    }
    goals = [
        Goal(
            feature=setting.target_features[trial.target].to(device),
            axis=F.normalize(means[trial.target_class] - means[trial.base_class], dim=0).to(device),
        )
        for trial in trials
        for _ in trial.bases
    ]
    stop = setting.surrogate.watch(
        targets=setting.target_features[[trial.target for trial in trials]],
        labels=torch.tensor([trial.base_class for trial in trials]),
        poisons=setting.audit.poisons,
    )
    try:
        return setting.attack(
            net.extractor(setting.audit.precision),
            [start.to(device) for start in starts],
            goals,
            stop=stop,
            check=net.extractor("fp32"),
        )
    except (RuntimeError, MemoryError) as error:  # out of memory, an operator without a gradient, ...
        why = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        return Crafted(pictures=list(starts), passes=[0] * len(starts), failures=[why] * len(starts))


def _row(
    setting: Setting,
    trial: Trial,
    files: Sequence[str],
    poisons: Sequence[Image.Image],
    starts: Sequence[Tensor],
    bases: Sequence[Image.Image],
    after: Tensor,
    poisoned: Verdict,
    control: Verdict,
) -> dict[str, Any]:
    feature = setting.target_features[trial.target]
    before = (setting.train_features[list(trial.bases)] - feature).norm(dim=1)
    changes = [_change(_array(poison), _pixels(start)) for poison, start in zip(poisons, starts, strict=True)]
    from_base = [_change(_array(poison), _array(base)) for poison, base in zip(poisons, bases, strict=True)]
    return {
        "trial_id": trial.trial_id,
        "group": trial.group,
        "target_id": trial.target_id,
        "target_class": setting.classes[trial.target_class],
        "base_ids": list(trial.base_ids),
        "base_class": setting.classes[trial.base_class],
        "poison_files": list(files),
        "distance_before": _rounded(before),
        "distance_after": _rounded((after - feature).norm(dim=1)),
        # of the stored picture against the picture the attack started from; ssim against the true base
        "linf": [linf for linf, _ in changes],
        "l2": [l2 for _, l2 in changes],
        "linf_from_base": [linf for linf, _ in from_base],
        "ssim": [ssim(_array(poison), _array(base)) for poison, base in zip(poisons, bases, strict=True)],
        "probabilities": _rounded(poisoned.probabilities),
        "control_probabilities": _rounded(control.probabilities),
        "accuracy": round(poisoned.accuracy, 6),
        "control_accuracy": round(control.accuracy, 6),
        "rotation_degrees": _rotation(poisoned, control, trial),
    }


def _outcome(trial: Trial, poisoned: Verdict, control: Verdict, failures: Sequence[str | None]) -> dict[str, Any]:
    why = next((failure for failure in failures if failure), None)
    eligible = bool(control.probabilities.argmax() == trial.target_class)
    return {
        "eligible": eligible,
        "success": eligible and why is None and bool(poisoned.probabilities.argmax() == trial.base_class),
        "failed": why is not None,
        "failure": why,
        "control_wrong": not eligible,
    }


def ssim(a: np.ndarray, b: np.ndarray) -> float | None:
    """Structural similarity of two uint8 (h, w, 3) pictures (Wang et al. 2004); None below 3 pixels a side."""
    from skimage.metrics import structural_similarity

    side = min(7, *a.shape[:2])
    if side < 3:
        return None
    window = side if side % 2 else side - 1
    return round(float(structural_similarity(a, b, channel_axis=2, data_range=255, win_size=window)), 6)


def _change(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(ℓ∞, ℓ2) of the difference, pixels in [0, 1]."""
    difference = (a.astype(np.float64) - b) / 255
    return round(float(np.abs(difference).max()), 6), round(float(np.sqrt(np.square(difference).sum())), 6)


def _rotation(poisoned: Verdict, control: Verdict, trial: Trial) -> float | None:
    """Degrees between the two heads' boundaries of base class against target class."""
    if poisoned.normals is None or control.normals is None:
        return None
    a, b = (
        v.normals[trial.base_class] - v.normals[trial.target_class]
        for v in (poisoned, control)
        if v.normals is not None
    )
    return round(float(torch.rad2deg(torch.arccos(F.cosine_similarity(a.double(), b.double(), dim=0).clamp(-1, 1)))), 4)


def _accuracy(right: np.ndarray, target: int) -> float:
    return float(np.delete(right, target).mean() if target < len(right) else right.mean())


def _names(setting: Setting, trial: Trial) -> list[str]:
    ending = suffix(setting.audit.store)
    return [f"poisons/{trial.trial_id:06d}-{number}{ending}" for number in range(len(trial.bases))]


def _pixels(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).cpu().numpy()


def _array(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 6) for value in values]
