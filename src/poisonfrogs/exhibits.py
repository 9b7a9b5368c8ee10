"""What a run leaves for its report, so that the report needs no network: pictures, features, opinions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from poisonfrogs.evasion import Evasion
from poisonfrogs.journal import write_bytes
from poisonfrogs.judge import Auditor, Scene, Verdict
from poisonfrogs.pictures import EVASION_MARK, decode, encode
from poisonfrogs.plan import EVADED, SAMPLE, Trial, seed_of
from poisonfrogs.stats import rounded

EVASIONS = (Evasion(norm="linf", eps=8 / 255), Evasion(norm="l2", eps=2 / 255))


def target_file(row: int) -> str:
    """The target in row `row` of the attacked pictures, relative to the run folder."""
    return f"pictures/target-{row:06d}.png"


def base_file(row: int) -> str:
    """The training picture in row `row`, relative to the run folder."""
    return f"pictures/base-{row:06d}.png"


def clean(folder: Path, scene: Scene, trials: Sequence[Trial], seed: int, head: nn.Linear | None = None) -> None:
    """Write features/clean.safetensors: the class means, and a sample of the training pictures of the classes involved.

    means float32 (K, d), sample float16 (n ≤ SAMPLE, d), labels int64 (n,); weight (K, d) and bias (K,) of the clean
    network's `head`, where every layer is trained.
    """
    labels = torch.from_numpy(scene.train.labels)
    means = torch.stack([scene.train_features[labels == number].mean(0) for number in range(len(scene.classes))])
    involved = {number for trial in trials for number in (trial.target_class, trial.base_class)}
    rows = torch.isin(labels, torch.tensor(sorted(involved))).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed_of(seed, "sample"))
    rows = rows[torch.randperm(len(rows), generator=generator)[:SAMPLE]].sort().values
    held = {"means": means, "sample": scene.train_features[rows].half(), "labels": labels[rows]}
    if head is not None:
        held |= {"weight": head.weight.cpu(), "bias": head.bias.cpu()}
    write_bytes(folder / "features" / "clean.safetensors", save(held))


def pictures(folder: Path, scene: Scene, trials: Sequence[Trial]) -> None:
    """Write the targets and bases of a group, as decoded."""
    shown = {target_file(trial.target): (scene.targets, trial.target) for trial in trials}
    shown |= {base_file(base): (scene.train, base) for trial in trials for base in trial.bases}
    for file, (images, row) in shown.items():
        write_bytes(folder / file, encode(np.asarray(images[row]), mark=None))


def features(
    folder: Path, scene: Scene, trials: Sequence[Trial], poisons: Tensor, verdicts: Sequence[tuple[Verdict, Verdict]]
) -> None:
    """Write a group's part of the feature space, a row a trial: float32, nothing where the victim is no linear head.

    target (n, d), base and poison (n, k, d); normal and offset (n, d) and (n,) of the boundary between base class
    and target class after training on the poisons, control_normal and control_offset of the one without them.
    `poisons` (n, k, d); `verdicts`: (with the poisons, control) of each trial. Where every layer is trained: also what
    the poisoned victims leave of their own feature spaces, a row a trial, their names beginning with `victim_`.
    """
    boundaries = [[_boundary(trial, verdict) for verdict in pair] for trial, pair in zip(trials, verdicts, strict=True)]
    held = {
        "target": scene.target_features[[trial.target for trial in trials]],
        "base": torch.stack([scene.train_features[list(trial.bases)] for trial in trials]),
        "poison": poisons,
    }
    for i, name in enumerate(("", "control_")):
        found = [pair[i] for pair in boundaries if pair[i] is not None]
        if len(found) == len(trials):
            held[f"{name}normal"] = torch.stack([normal for normal, _ in found])
            held[f"{name}offset"] = torch.stack([offset for _, offset in found])
    tensors = {name: tensor.float().contiguous() for name, tensor in held.items()}
    spaces = [poisoned.space for poisoned, _ in verdicts if poisoned.space]
    if len(spaces) == len(trials):
        tensors |= {f"victim_{name}": _stacked([space[name] for space in spaces]) for name in spaces[0]}
    write_bytes(folder / "features" / f"{trials[0].group:06d}.safetensors", save(tensors))


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """A row a part; of unequal lengths, -1 behind the shorter ones: a label that no class has."""
    if len({part.shape for part in parts}) == 1:
        return torch.stack(list(parts))
    return pad_sequence(list(parts), batch_first=True, padding_value=-1)


def _boundary(trial: Trial, verdict: Verdict) -> Any:
    if verdict.normals is None or verdict.biases is None:
        return None
    a, b = trial.base_class, trial.target_class
    return verdict.normals[a] - verdict.normals[b], verdict.biases[a] - verdict.biases[b]


def evasions(folder: Path, scene: Scene, trial: Trial, control: Verdict) -> list[dict[str, Any]]:
    """Perturb the target itself until the control takes it for the base class: a row a norm, the picture stored.

    Only of the first targets of a run, and only where the control is a linear head: another's training code has no
    gradient.
    """
    normals, biases = control.normals, control.biases
    if trial.trial_id >= EVADED or normals is None or biases is None:
        return []
    picture = np.asarray(scene.targets[trial.target])
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1).contiguous().to(scene.net.device)
    weights, offsets = normals.to(scene.net.device), biases.to(scene.net.device)
    found = []
    for attack in EVASIONS:
        try:
            (made,) = attack(
                scene.net.extractor("fp32"), [pixels], [trial.base_class], lambda f, _: f @ weights.T + offsets
            )
        except (RuntimeError, MemoryError):  # no gradient, or no room: the trial itself says so
            continue
        file = f"pictures/evasion-{trial.trial_id:06d}-{attack.norm}.png"
        write_bytes(folder / file, encode(made.permute(1, 2, 0).cpu().numpy(), mark=EVASION_MARK))
        stored = decode((folder / file).read_bytes()).image
        change = (np.asarray(stored, dtype=np.float64) - picture) / 255
        said = (scene.net.features([stored]) @ normals.T + biases).softmax(1)[0]
        found.append(
            {
                "norm": attack.norm,
                "file": file,
                "linf": round(float(np.abs(change).max()), 6),
                "l2": round(float(np.sqrt(np.square(change).sum())), 6),
                "probabilities": rounded(said),
            }
        )
    return found


def opinions(
    auditor: Auditor | None, trials: Sequence[tuple[Sequence[Image.Image], Sequence[Image.Image]]]
) -> list[dict[str, Any] | None]:
    """What an independent network says of each trial's poisons, and of their bases beside them; None without one."""
    if auditor is None:
        return [None] * len(trials)
    said = iter(rounded(row) for row in auditor([image for trial in trials for images in trial for image in images]))
    return [
        {"poisons": [next(said) for _ in poisons], "bases": [next(said) for _ in bases]} for poisons, bases in trials
    ]
