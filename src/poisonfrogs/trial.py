"""One group of trials: craft, store, read back, judge beside the control. Specification in, rows out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from poisonfrogs import exhibits
from poisonfrogs.journal import write_bytes
from poisonfrogs.judge import Auditor, Judge, Scene, Verdict
from poisonfrogs.pictures import MARK, decode, encode, encoded_like, suffix
from poisonfrogs.plan import Audit, Trial, seed_of
from poisonfrogs.robust import robust
from poisonfrogs.stats import rounded
from poisonfrogs.train import Surrogate
from poisonfrogs.types import Attack, Crafted, Edit, Goal, InputError, Stop

if TYPE_CHECKING:
    from poisonfrogs.defence import Defence

# values of poisons, and four for each that the network sees of them, in one pass: about 48 bytes each are kept for its
# gradient, 3 GB in all
AT_ONCE = 1 << 26
Row = dict[str, Any]
Arms = dict[str, Verdict]  # poisoned and control; watermark_only and as_jpeg where they are asked for


@dataclass(frozen=True, eq=False)
class Setting:
    """What all groups of a run share."""

    audit: Audit
    scene: Scene
    attack: Attack
    surrogate: Surrogate | None  # the attacker's guess at a linear head; None where every layer is trained
    judge: Judge
    folder: Path
    auditor: Auditor | None = None
    defence: Defence | None = None


@dataclass(frozen=True, eq=False)
class _Poison:
    """One poison as it lies on the disk, and what it was made from."""

    file: str  # relative to the run folder
    stored: Image.Image  # decoded from the file
    as_jpeg: Image.Image | None  # the same as the JPEG that its base is, where it is one
    crafted: np.ndarray  # uint8 (h, w, 3): as it was before it was stored
    start: np.ndarray  # uint8 (h, w, 3): the base, with the watermark if there is one
    base: Image.Image
    passes: int
    failure: str | None


@torch.enable_grad()  # another's victim may have turned gradients off for good, in the group before
def run(setting: Setting, trials: Sequence[Trial], failure: str | None = None) -> tuple[list[Row], Row]:
    """Run a group. Returns its journal rows and its timings; pictures and features are left in `folder`.

    `failure`: why nothing is to be crafted; the trials are judged, and have failed.
    """
    started = time.perf_counter()
    starts = [_start(setting, trial, base) for trial in trials for base in trial.bases]
    crafted = _uncrafted(starts, failure) if failure else _craft(setting, trials, starts)
    crafting = time.perf_counter() - started
    poisons = _store(setting, trials, starts, crafted)
    verdicts = _judged(setting, trials, poisons)
    after = setting.scene.net.features([poison.stored for mine in poisons for poison in mine])
    if not after.isfinite().all():
        raise InputError(f"{setting.scene.net.name} returned features that are not finite numbers for a poison")
    after = after.view(len(trials), setting.audit.poisons, -1)
    rows = [
        _identity(setting, trial, mine)
        | _changes(mine)
        | _distances(setting, trial, features)
        | _outcome(trial, mine, said)
        | _defended(setting, trial, features)
        for trial, mine, features, said in zip(trials, poisons, after, verdicts, strict=True)
    ]
    total = time.perf_counter() - started
    exhibits.pictures(setting.folder, setting.scene, trials)
    pairs = [(said["poisoned"], said["control"]) for said in verdicts]
    exhibits.features(setting.folder, setting.scene, trials, after, pairs)
    asked = [([poison.stored for poison in mine], [poison.base for poison in mine]) for mine in poisons]
    shown = [
        {
            "auditor": opinion,
            "evasions": exhibits.evasions(setting.folder, setting.scene, trial, said["control"]),
        }
        for trial, said, opinion in zip(trials, verdicts, exhibits.opinions(setting.auditor, asked), strict=True)
    ]
    exhibiting = time.perf_counter() - started - total
    seconds = {"crafting": round(crafting, 3), "total": round(total, 3), "exhibits": round(exhibiting, 3)}
    timing = {"group": trials[0].group, "trials": len(trials), "seconds": seconds}
    return [row | more for row, more in zip(rows, shown, strict=True)], timing


def _defended(setting: Setting, trial: Trial, poisons: Tensor) -> Row:
    if setting.defence is None:
        return {"certified": None}
    removed = trial.bases if setting.audit.replace else ()
    return {"certified": setting.defence.trial(trial, setting.scene, poisons, removed)}


def _judged(setting: Setting, trials: Sequence[Trial], poisons: Sequence[Sequence[_Poison]]) -> list[Arms]:
    """What the victims of each trial say of its target, all trained from one seed."""
    arms = [_arms(setting, trial, mine) for trial, mine in zip(trials, poisons, strict=True)]
    edits = [edit for mine in arms for edit in mine.values()]
    asked = [trial.target for trial, mine in zip(trials, arms, strict=True) for _ in mine]
    seed = seed_of(setting.audit.seed, "victim", trials[0].block)
    verdicts = iter(setting.judge(setting.scene, edits, asked, seed=seed))
    return [{arm: next(verdicts) for arm in mine} for mine in arms]


def _arms(setting: Setting, trial: Trial, poisons: Sequence[_Poison]) -> dict[str, Edit]:
    """What the victims of a trial are trained on: with the poisons, and with what they are to be compared to."""
    pictures = {"poisoned": [poison.stored for poison in poisons], "control": [poison.base for poison in poisons]}
    if setting.audit.watermark:
        store = setting.audit.store  # these, too, are trained on as a file of theirs would be read
        pictures["watermark_only"] = [decode(encode(poison.start, store)).image for poison in poisons]
    if any(poison.as_jpeg for poison in poisons):
        pictures["as_jpeg"] = [poison.as_jpeg or poison.stored for poison in poisons]
    removed = trial.bases if setting.audit.replace else ()
    arms = {arm: Edit(added=tuple(added), label=trial.base_class, removed=removed) for arm, added in pictures.items()}
    if setting.audit.retrained:  # the training set as it is: one control serves all trials of a seed
        arms["control"] = Edit(added=(), label=trial.base_class)
    return arms


def _start(setting: Setting, trial: Trial, base: int) -> Tensor:
    """The base picture, with the target blended in where a watermark is asked for: uint8 (3, h, w)."""
    image = setting.scene.train[base]
    if setting.audit.watermark:
        target = setting.scene.targets[trial.target].resize(image.size, Image.Resampling.BICUBIC)
        image = Image.blend(image, target, setting.audit.watermark)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _craft(setting: Setting, trials: Sequence[Trial], starts: Sequence[Tensor]) -> Crafted:
    scene, device = setting.scene, setting.scene.net.device
    labels = torch.from_numpy(scene.train.labels)
    involved = {number for trial in trials for number in (trial.target_class, trial.base_class)}
    means = {number: scene.train_features[labels == number].mean(0) for number in involved}
    goals = [
        Goal(
            feature=scene.target_features[trial.target].to(device),
            axis=normalize(means[trial.target_class] - means[trial.base_class], dim=0).to(device),
        )
        for trial in trials
        for _ in trial.bases
    ]
    expected = robust(setting.audit.robust)
    generator = torch.Generator().manual_seed(seed_of(setting.audit.seed, "robust", trials[0].group))
    net = scene.net.extractor(setting.audit.crafted_in, expected.looks(generator))
    checks = [scene.net.extractor("fp32", look) for look in expected.extremes()]
    made = []
    for some in _portions(setting, trials, [start.numel() for start in starts]):
        mine = slice(some.start * setting.audit.poisons, some.stop * setting.audit.poisons)
        # copies: an attack may work in place, and changes are measured from the starts
        bases, stop = [start.to(device, copy=True) for start in starts[mine]], _stop(setting, trials[some])
        try:
            found = setting.attack(net, bases, goals[mine], stop=stop, checks=checks)
        except (RuntimeError, MemoryError) as error:  # out of memory, an operator without a gradient, ...
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
            found = _uncrafted(starts[mine], why)
        _refuse_misfits(found, starts[mine])
        made.append(found)
    return Crafted(
        pictures=[picture for one in made for picture in one.pictures],
        passes=[passes for one in made for passes in one.passes],
        failures=[failure for one in made for failure in one.failures],
    )


def _refuse_misfits(made: Crafted, starts: Sequence[Tensor]) -> None:
    """Raises InputError for anything but a stored picture, its passes and its failure for each base."""
    counts = [len(made.pictures), len(made.passes), len(made.failures)]
    if counts != [len(starts)] * 3:
        raise InputError(
            f"the attack left {counts[0]} pictures, {counts[1]} passes and {counts[2]} failures for {len(starts)} "
            "bases; expected one of each for every base, in their order"
        )
    for picture, start in zip(made.pictures, starts, strict=True):
        if (picture.dtype, picture.shape) != (start.dtype, start.shape):
            raise InputError(
                f"the attack left a picture of {picture.dtype} {tuple(picture.shape)} for a base of {start.dtype} "
                f"{tuple(start.shape)}; expected 8 bits a channel and the size of the base"
            )


def _portions(setting: Setting, trials: Sequence[Trial], sizes: Sequence[int]) -> Iterator[slice]:
    """The trials whose poisons go through the network together: as many as fit in AT_ONCE, at least one."""
    poisons, seen = setting.audit.poisons, setting.scene.net.transform(Image.new("RGB", (64, 48))).numel()
    begin, total = 0, 0
    for i in range(len(trials)):
        cost = sum(size + 4 * seen for size in sizes[i * poisons : (i + 1) * poisons])
        if i > begin and total + cost > AT_ONCE:
            yield slice(begin, i)
            begin, total = i, 0
        total += cost
    yield slice(begin, len(trials))


def _uncrafted(starts: Sequence[Tensor], why: str) -> Crafted:
    return Crafted(pictures=list(starts), passes=[0] * len(starts), failures=[why] * len(starts))


def _stop(setting: Setting, trials: Sequence[Trial]) -> Stop:
    if setting.surrogate is None:  # no head to guess at: all passes are spent
        return Stop(likely=_never, sure=_never)
    return setting.surrogate.watch(
        targets=setting.scene.target_features[[trial.target for trial in trials]],
        labels=torch.tensor([trial.base_class for trial in trials]),
        poisons=setting.audit.poisons,
    )


def _never(_: Tensor, indices: list[int]) -> Tensor:
    return torch.zeros(len(indices), dtype=torch.bool)


def _store(
    setting: Setting, trials: Sequence[Trial], starts: Sequence[Tensor], crafted: Crafted
) -> list[list[_Poison]]:
    """Write the poisons and read them back; a list a trial."""
    made = zip(crafted.pictures, crafted.passes, crafted.failures, starts, strict=True)
    return [[_stored(setting, trial, number, *next(made)) for number in range(len(trial.bases))] for trial in trials]


def _stored(
    setting: Setting, trial: Trial, number: int, picture: Tensor, passes: int, failure: str | None, start: Tensor
) -> _Poison:
    store, pixels = setting.audit.store, _pixels(picture)
    file = f"poisons/{trial.trial_id:06d}-{number}{suffix(store)}"
    write_bytes(setting.folder / file, encode(pixels, store))
    again = _as_its_base(setting, trial.bases[number], pixels)
    if again:
        write_bytes((setting.folder / file).with_suffix(".jpg"), again)
    return _Poison(
        file=file,
        stored=decode((setting.folder / file).read_bytes()).image,
        as_jpeg=decode((setting.folder / file).with_suffix(".jpg").read_bytes()).image if again else None,
        crafted=pixels,
        start=_pixels(start),
        base=setting.scene.train[trial.bases[number]],
        passes=passes,
        failure=failure,
    )


def _as_its_base(setting: Setting, base: int, pixels: np.ndarray) -> bytes | None:
    """Among JPEGs a poison is one, too: the file that it would be. None where that is not asked of the victims."""
    if setting.audit.store != "png" or setting.audit.victim or setting.audit.retrained:
        return None  # stored as asked; or each victim more costs a training
    images = setting.scene.train
    content = images.source.read(int(images.rows[base]))
    return encoded_like(content, Image.fromarray(pixels), MARK) if isinstance(content, bytes) else None


def _identity(setting: Setting, trial: Trial, poisons: Sequence[_Poison]) -> Row:
    classes = setting.scene.classes
    return {
        "trial_id": trial.trial_id,
        "group": trial.group,
        "target_id": trial.target_id,
        "target_class": classes[trial.target_class],
        "base_ids": list(trial.base_ids),
        "base_class": classes[trial.base_class],
        "poison_files": [poison.file for poison in poisons],
        "target_file": exhibits.target_file(trial.target),
        "base_files": [exhibits.base_file(base) for base in trial.bases],
    }


def _changes(poisons: Sequence[_Poison]) -> Row:
    """How far the stored pictures are from where the attack started, and from their true bases; pixels in [0, 1]."""
    stored = [np.asarray(poison.stored) for poison in poisons]
    bases = [np.asarray(poison.base) for poison in poisons]
    moved = [(a.astype(np.float64) - poison.start) / 255 for a, poison in zip(stored, poisons, strict=True)]
    crafted = [(poison.crafted.astype(np.float64) - poison.start) / 255 for poison in poisons]
    from_base = [(a.astype(np.float64) - b) / 255 for a, b in zip(stored, bases, strict=True)]
    return {
        "linf": rounded(np.abs(change).max() for change in moved),
        "crafted_linf": rounded(np.abs(change).max() for change in crafted),
        "l2": rounded(np.sqrt(np.square(change).sum()) for change in moved),
        "linf_from_base": rounded(np.abs(change).max() for change in from_base),
        "as_jpeg_linf": _as_jpeg_linf(poisons),
        "ssim": [ssim(a, b) for a, b in zip(stored, bases, strict=True)],
    }


def _as_jpeg_linf(poisons: Sequence[_Poison]) -> list[float | None] | None:
    """How far each poison is from its base as the JPEG that its base is; None where no base is one."""
    if not any(poison.as_jpeg for poison in poisons):
        return None
    return [
        round(float(np.abs(np.asarray(poison.as_jpeg, np.float64) - np.asarray(poison.base)).max()) / 255, 6)
        if poison.as_jpeg
        else None
        for poison in poisons
    ]


def _distances(setting: Setting, trial: Trial, after: Tensor) -> Row:
    feature = setting.scene.target_features[trial.target]
    before = setting.scene.train_features[list(trial.bases)]
    return {
        "distance_before": rounded((before - feature).norm(dim=1)),
        "distance_after": rounded((after - feature).norm(dim=1)),
    }


def _outcome(trial: Trial, poisons: Sequence[_Poison], said: Arms) -> Row:
    poisoned, control = said["poisoned"], said["control"]
    watermarked, as_jpeg = said.get("watermark_only"), said.get("as_jpeg")
    victims = [poisoned, *([watermarked] if watermarked else [])]
    failures = [poison.failure for poison in poisons] + [victim.failure for victim in victims]
    failure = next((why for why in failures if why), None)
    eligible = bool(control.probabilities.argmax() == trial.target_class)
    return {
        "probabilities": rounded(poisoned.probabilities),
        "control_probabilities": rounded(control.probabilities),
        "accuracy": round(poisoned.accuracy, 6),
        "control_accuracy": round(control.accuracy, 6),
        "rotation_degrees": _rotation(trial, poisoned.normals, control.normals),
        "boundary_rotation": _rotations(trial, poisoned.boundaries, control.boundaries),
        "layer_rotation": _turned(said),
        "passes": max(poison.passes for poison in poisons),
        "eligible": eligible,
        "success": eligible and failure is None and _fell(trial, poisoned),
        "failed": failure is not None,
        "failure": failure,
        "control_wrong": not eligible,
        "watermark_only_probabilities": rounded(watermarked.probabilities) if watermarked else None,
        "as_jpeg_probabilities": rounded(as_jpeg.probabilities) if as_jpeg else None,
        "as_jpeg_success": eligible and failure is None and _fell(trial, as_jpeg) if as_jpeg else None,
        "watermark_only_success": eligible and _fell(trial, watermarked)
        if watermarked and not watermarked.failure
        else None,
    }


def _fell(trial: Trial, verdict: Verdict) -> bool:
    return verdict.failure is None and bool(verdict.probabilities.argmax() == trial.base_class)


def ssim(a: np.ndarray, b: np.ndarray) -> float | None:
    """Structural similarity of two uint8 (h, w, 3) pictures (Wang et al. 2004); None below 3 pixels a side."""
    from skimage.metrics import structural_similarity

    side = min(7, *a.shape[:2])
    if side < 3:
        return None
    window = side if side % 2 else side - 1
    return round(float(structural_similarity(a, b, channel_axis=2, data_range=255, win_size=window)), 6)


def _rotation(trial: Trial, poisoned: Tensor | None, control: Tensor | None) -> float | None:
    """Degrees between the two heads' boundaries of base class against target class."""
    if poisoned is None or control is None:
        return None
    a, b = (normals[trial.base_class] - normals[trial.target_class] for normals in (poisoned, control))
    cosine = cosine_similarity(a.double(), b.double(), dim=0).clamp(-1, 1)
    return round(float(torch.rad2deg(torch.arccos(cosine))), 4)


def _rotations(trial: Trial, poisoned: Tensor | None, control: Tensor | None) -> list[float | None] | None:
    """The same after each epoch, where every layer is trained."""
    if poisoned is None or control is None:
        return None
    return [_rotation(trial, a, b) for a, b in zip(poisoned, control, strict=True)]


def _turned(said: Arms) -> dict[str, dict[str, list[float]]] | None:
    """Degrees of each layer of each victim from where it started, after each epoch."""
    turned = {arm: verdict.turned for arm, verdict in said.items() if verdict.turned}
    return {arm: {name: rounded(way) for name, way in held.items()} for arm, held in turned.items()} or None


def _pixels(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).cpu().numpy()
