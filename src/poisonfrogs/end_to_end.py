"""Victims that train every layer: the clean network they start from, and the judge that trains and asks them."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from filelock import FileLock
from PIL.Image import Image
from safetensors.torch import save
from torch import Tensor

from poisonfrogs import checkpoints, pipeline, training
from poisonfrogs.data import DataSet
from poisonfrogs.features import code, default_cache, seen, sources
from poisonfrogs.images import Images
from poisonfrogs.journal import write_bytes
from poisonfrogs.judge import Scene, Verdict, accuracy
from poisonfrogs.models import Net
from poisonfrogs.pictures import Gone, Unreadable
from poisonfrogs.plan import Audit, seed_of
from poisonfrogs.progress import Progress, counting
from poisonfrogs.training import Classifier, Pixels, Trained, Training
from poisonfrogs.types import CleanNetwork, Edit, InputError
from poisonfrogs.views import View

SHOWN = 150  # training pictures of a class whose features are left for the report
STEPS = 64  # batches an epoch, at least, where that leaves SMALLEST pictures in each
SMALLEST = 16
TIMED = 5  # that are timed, to tell how long a training takes
AVERAGED = 1000  # training pictures of a class that its mean is taken over there


@dataclass(frozen=True, eq=False)
class Clean:
    """The network trained on the clean training set, and the pictures as it sees them."""

    network: Classifier
    net: Net  # its body, frozen: what poisons are made with
    train: Pixels
    test: Pixels
    said: CleanNetwork


def recipes(audit: Audit, pictures: int) -> tuple[Training, Training]:
    """How the clean network is trained on so many pictures, and how a victim is.

    The warm start is the paper's (its batch size is not given). The clean recipe is ours: what fits the training data.
    Small sets have smaller batches, for STEPS of them an epoch: so few epochs would not fit them otherwise.
    """
    assert audit.clean_epochs  # plan.validate has seen to these
    assert audit.epochs
    assert audit.learning_rate
    most = max(pictures // STEPS, SMALLEST)
    clean = Training(
        epochs=audit.clean_epochs,
        learning_rate=3e-3,
        batch_size=min(256, most),
        schedule="one-cycle",
        precision=audit.precision,
    )
    victim = replace(clean, epochs=audit.epochs, learning_rate=audit.learning_rate)
    if audit.context == "scratch":
        return clean, victim
    return clean, replace(victim, schedule="constant", batch_size=min(128, most))


def prepared(audit: Audit, dataset: DataSet, progress: Progress) -> tuple[Clean, DataSet]:
    """The clean network, from the cache or trained now, and the data set without what cannot be read.

    Raises InputError for pictures that cannot be read or do not fit in memory and a network that cannot be trained.
    """
    start = pipeline.network(audit, untrained=True)
    tell = counting(progress, "reading pictures", len(dataset.train))
    train, unreadable = pixels(start, dataset.train, tell)
    dataset = dataset.without(unreadable, {})
    recipe, _ = recipes(audit, len(dataset.train))
    seed = seed_of(audit.seed, "clean network")
    first = fresh(audit, len(dataset.classes), seed)
    _refuse_same_starts(audit, first)
    tell = counting(progress, "training the clean network", recipe.epochs)
    path = kept_at(audit, start, train, dataset.fingerprint(), first, recipe, seed)
    trained, said = kept(path, first, lambda: recipe(first, [train], seed=seed, progress=tell)[0], train)
    if trained.failure:
        raise InputError(
            f"{start.name} cannot be trained on the clean pictures ({trained.failure}); "
            "give other weights to start from, or --precision fp32"
        )
    network = trained.network
    test, gone = pixels(start, dataset.test, lambda done: None)
    _, test_accuracy = training.loss_and_accuracy(network, test)
    net = replace(
        start,
        body=network.body,
        weights=checkpoints.digest(network),
        source=f"trained here from {start.source}, {recipe.epochs} epochs",
    )
    figures = {**said, "test_accuracy": round(test_accuracy, 6), "recipe": asdict(recipe)}
    return Clean(network, net, train, test, cast(CleanNetwork, figures)), dataset.without({}, gone)


def fresh(audit: Audit, classes: int, seed: int) -> Classifier:
    """A network that has not seen the training set: the weights of a file where one is given, the rest random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = pipeline.network(audit, untrained=True)
        network = Classifier(net.body, net.dim, classes)
    return network.to(net.device)


def _refuse_same_starts(audit: Audit, first: Classifier) -> None:
    """Raises InputError where victims that are to start from other random weights each would all start from these."""
    if audit.context != "scratch":
        return
    other = fresh(audit, first.linear.out_features, seed_of(audit.seed, "another start"))
    if checkpoints.digest(other.body) == checkpoints.digest(first.body):
        raise InputError(
            f"{audit.model} has the same weights under every seed, and --context scratch starts from others each time; "
            "let its factory draw them from torch's generator, unseeded, or give --context end-to-end"
        )


def pixels(net: Net, images: Images, tell: Callable[[int], None]) -> tuple[Pixels, dict[int, str]]:
    """All readable pictures through the network's own view, and why the others are left out.

    Pillow resizes in whole levels of 8 bits: nothing is lost. Raises InputError where no picture can be read, and where
    they do not fit in memory.
    """
    mean, std = net.view.mean, net.view.std
    unreadable: dict[int, str] = {}

    def look(i: int) -> Tensor | None:
        found = seen(net, images, i)
        tell(1)
        if isinstance(found, Gone):
            raise found
        if isinstance(found, Unreadable):
            unreadable[i] = str(found)
            return None
        return levels(found[0], mean, std)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        try:
            pictures = [picture for picture in pool.map(look, range(len(images))) if picture is not None]
            if not pictures:
                why = f"{images.ids[0]}: {unreadable[0]}"
                raise InputError(f"none of {len(images)} pictures can be read ({why}); give whole pictures")
            whole = torch.stack(pictures).contiguous(memory_format=torch.channels_last).to(net.device)
        except (RuntimeError, MemoryError) as error:
            if not training.is_lack_of_memory(error):
                raise
            raise InputError(
                f"{len(images)} pictures do not fit in memory at once, as training every layer needs them; "
                "give a smaller --size, or fewer pictures"
            ) from None
    labels = torch.from_numpy(np.delete(images.labels, list(unreadable))).to(net.device)
    return Pixels(whole, labels, mean, std), unreadable


def levels(picture: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalised (3, H, W) -> uint8, the normalisation undone."""
    shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (picture * scale + shift).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def kept_at(
    audit: Audit, net: Net, data: Pixels, fingerprint: str, start: Classifier, recipe: Training, seed: int
) -> Path:
    """Where a network lies in the cache: by everything that its weights follow from."""
    with training.faults_told():  # it is asked about many pictures at once
        said = replace(net, body=start.body).said
    follows_from = {
        "data": fingerprint,
        "shape": list(data.pictures.shape),
        "view": asdict(net.view),
        "start": checkpoints.digest(start),
        "code": [code(net), hashlib.sha256(Path(training.__file__).read_bytes()).hexdigest()],
        "said": said,  # what the code calls need not lie in its module
        "reading": sources([Unreadable.__module__, View.__module__]),
        "recipe": asdict(recipe),
        "seed": seed,
        "threads": torch.get_num_threads(),
        "device": data.pictures.device.type,
        "versions": {name: pipeline.versions()[name] for name in ("torch", "torchvision", "timm", "pillow")},
    }
    digest = hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()[:32]
    return (audit.cache or default_cache()) / "networks" / f"{digest}.safetensors"


@torch.enable_grad()  # the user's own module may have turned gradients off when it was imported
def kept(path: Path, start: Classifier, train: Callable[[], Trained], data: Pixels) -> tuple[Trained, dict[str, float]]:
    """The network that lies at a path, or else train it and leave it there; with its loss and accuracy on `data`.

    One process trains, others wait for it. Raises InputError for a file that cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            made = train()
            if made.failure:
                return made, {}
            loss, right = training.loss_and_accuracy(made.network, data)
            if not math.isfinite(loss):  # finite weights may be too large to say anything with
                return replace(made, failure="the loss after the last epoch is not a finite number"), {}
            # copies: layers that share their weights share memory, too
            state = {
                name: value.cpu().clone(memory_format=torch.contiguous_format)
                for name, value in made.network.state_dict().items()
            }
            state |= {"boundaries": made.boundaries.contiguous(), "turned": made.turned.contiguous()}
            state["figures"] = torch.tensor([loss, right], dtype=torch.float64)
            write_bytes(path, save(state))
    network = copy.deepcopy(start)
    try:
        state = checkpoints.read(path)
        figures, boundaries, turned = (state.pop(name) for name in ("figures", "boundaries", "turned"))
        network.load_state_dict(state)
    except (InputError, RuntimeError, KeyError):
        raise InputError(f"{path} does not hold the network that it is named for; delete it") from None
    network = network.to(data.pictures.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    loss, right = figures.tolist()
    said = {"training_loss": round(loss, 6), "training_accuracy": round(right, 6)}
    return Trained(network, None, boundaries, turned), said


@dataclass(frozen=True, eq=False)
class EndToEnd:
    """Trains every layer on each edited training set: from the clean network, or from random weights of the seed."""

    audit: Audit
    clean: Clean
    recipe: Training
    asked: Pixels  # the pictures of scene.targets
    fingerprint: str  # of the data

    def __call__(self, scene: Scene, edits: Sequence[Edit], targets: Sequence[int], *, seed: int) -> list[Verdict]:
        """See judge.Judge. An edit that changes nothing is the clean control, which is trained once for each seed."""
        start = self.clean.network
        if self.audit.context == "scratch":
            start = fresh(self.audit, start.linear.out_features, seed)
        pictures = [self._added(scene.net, edit.added) for edit in edits]
        with training.faults_told():  # each is a copy of all pictures
            sets = [
                self.clean.train.edited(added, edit.label, edit.removed) if edit.added or edit.removed else None
                for edit, added in zip(edits, pictures, strict=True)
            ]
        victims = iter(self.recipe(start, [one for one in sets if one], seed=seed))
        trained = [next(victims) if one else self._control(start, seed) for one in sets]
        return [
            self._verdict(scene, edit, added, target, victim)
            for edit, added, target, victim in zip(edits, pictures, targets, trained, strict=True)
        ]

    def seconds_a_victim(self) -> float:
        """About how long one takes to train, from a few batches."""
        return _seconds(self.recipe, self.clean.network, self.clean.train, len(self.clean.train))

    def _verdict(self, scene: Scene, edit: Edit, added: Tensor, target: int, trained: Trained) -> Verdict:
        classes, network = len(scene.classes), trained.network
        said = training.probabilities(network, self.asked).numpy()
        failure = trained.failure or (None if np.isfinite(said).all() else "what it says is not a finite number")
        if failure:
            return Verdict(np.full(classes, 1 / classes), 1 / classes, None, failure=failure)
        right = said[: len(scene.test)].argmax(1) == scene.test.labels
        space = self._space(network, edit, added, target) if edit.added else None
        names = training.layers(network)
        turned = dict(zip(names, trained.turned.T.tolist(), strict=True))
        return Verdict(
            said[target],
            accuracy(right, target),
            network.linear.weight.cpu(),
            space=space,
            boundaries=trained.boundaries,
            turned=turned,
        )

    def _control(self, start: Classifier, seed: int) -> Trained:
        path = kept_at(self.audit, self.clean.net, self.clean.train, self.fingerprint, start, self.recipe, seed)
        train = self.clean.train
        trained, _ = kept(path, start, lambda: self.recipe(start, [train], seed=seed)[0], train)
        if trained.failure:
            raise InputError(f"the clean control cannot be trained ({trained.failure}); give a smaller --learning-rate")
        return trained

    def _added(self, net: Net, images: Sequence[Image]) -> Tensor:
        """uint8 (k, 3, H, W)."""
        found = [levels(net.transform(image), net.view.mean, net.view.std) for image in images]
        return torch.stack(found) if found else self.clean.train.pictures[:0]

    def _space(self, network: Classifier, edit: Edit, added: Tensor, target: int) -> dict[str, Tensor]:
        """The victim's own feature space: target (d,), poison (k, d); normal (d,) and offset () of its boundary.

        means (2, d) of base class and target's class, sample float16 (n, d) of their training pictures, labels (n,).
        """
        classes = [edit.label, int(self.asked.labels[target])]
        rows = [(self.clean.train.labels == number).nonzero()[:AVERAGED, 0] for number in classes]
        clouds = [_features(network, self.clean.train, self.clean.train.pictures[some]) for some in rows]
        shown = [cloud[:SHOWN] for cloud in clouds]
        weight, bias = network.linear.weight.cpu(), network.linear.bias.cpu()
        return {
            "target": _features(network, self.asked, self.asked.pictures[target : target + 1])[0],
            "poison": _features(network, self.asked, added.to(self.asked.pictures)),
            "normal": weight[classes[0]] - weight[classes[1]],
            "offset": bias[classes[0]] - bias[classes[1]],
            "means": torch.stack([cloud.mean(0) for cloud in clouds]),
            "sample": torch.cat(shown).half(),
            "labels": torch.tensor(classes).repeat_interleave(torch.tensor([len(cloud) for cloud in shown])),
        }


@torch.inference_mode(False)
def seconds_ahead(audit: Audit, dataset: DataSet) -> tuple[float, float]:
    """About how long the clean network takes to train, and a victim, from the first pictures."""
    clean, victim = recipes(audit, len(dataset.train))
    some = dataset.train.select(range(min(clean.batch_size, len(dataset.train))))
    data, _ = pixels(pipeline.network(audit, untrained=True), some, lambda done: None)
    network = fresh(audit, len(dataset.classes), 0)
    pictures = len(dataset.train)
    return _seconds(clean, network, data, pictures), _seconds(victim, network, data, pictures)


@torch.enable_grad()
def _seconds(recipe: Training, network: Classifier, data: Pixels, pictures: int) -> float:
    """Of training on so many pictures, from the fastest of a few batches: another program slows some of them down."""
    few = replace(data, pictures=data.pictures[: recipe.batch_size], labels=data.labels[: recipe.batch_size])
    times = []
    for _ in range(TIMED):
        started = time.perf_counter()
        replace(recipe, epochs=1)(network, [few], seed=0)
        times.append(time.perf_counter() - started)
    return min(times) * recipe.epochs * pictures / len(few)


@torch.inference_mode()
def _features(network: Classifier, data: Pixels, pictures: Tensor) -> Tensor:
    """float32 (n, d) of uint8 pictures, on the CPU."""
    chunks = training.portions(pictures)
    return torch.cat(
        [network.body(data.seen(chunk).contiguous(memory_format=torch.channels_last)) for chunk in chunks]
    ).cpu()


def judge(audit: Audit, clean: Clean, dataset: DataSet, outside: Images) -> EndToEnd:
    """The judge of an audit; `outside`: targets that are no test pictures, all of them readable."""
    asked = clean.test
    if len(outside):
        more, _ = pixels(clean.net, outside, lambda done: None)
        pictures = torch.cat([asked.pictures, more.pictures])
        asked = replace(asked, pictures=pictures, labels=torch.cat([asked.labels, more.labels]))
    return EndToEnd(audit, clean, recipes(audit, len(dataset.train))[1], asked, dataset.fingerprint())
