"""Certified heads on a user's pictures: what each family costs in accuracy, and what it guarantees."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from poisonfrogs import data, journal, pipeline, plan
from poisonfrogs.certified import Answers, CertifiedClassifier, NeighbourVotes, PartitionVotes, RadiusVotes, StableHead
from poisonfrogs.certified.saved import family, parameters, read, save_head
from poisonfrogs.images import Images
from poisonfrogs.logistic import Rows
from poisonfrogs.models import Net
from poisonfrogs.plan import VOTERS, Certify
from poisonfrogs.progress import Progress
from poisonfrogs.stats import rounded, wilson
from poisonfrogs.train import PaperHead
from poisonfrogs.types import Certificate, CertifySummary, InputError

SCHEMA_VERSION = 1
FILES = {"plan.json", "summary.json", "curves.json", "answers.jsonl", "report.html", ".lock"}  # of a run
PARTIAL = {f"{name}.partial" for name in FILES}  # what a killed run leaves
SHARES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3)  # of the training pictures, at which the frontier is given
CURVE = 60  # points of a curve at most
GIVEN = "the parameters of the head and the list of classes are given, not learnt from the training pictures"
CHOSEN = (
    "the parameters of the head are given: they were chosen by what heads fitted on these training pictures say of "
    "the trusted ones, and whoever changed training pictures before the choice had a part in it; the list of classes "
    "is given"
)


@dataclass(frozen=True, eq=False)
class Part:
    """Some pictures with their features."""

    images: Images
    features: NDArray[np.float32]  # (n, d)


@dataclass(frozen=True, eq=False)
class Measured:
    """One classifier, and what it says of the pictures that measure it and of those it may be chosen on."""

    classifier: CertifiedClassifier
    test: Answers
    trusted: Answers
    seconds: float


@dataclass(frozen=True, eq=False)
class _Run:
    """Everything that was measured."""

    certify: Certify
    net: Net
    dataset: data.DataSet  # with what could be read
    parts: Mapping[str, Part]  # train, test, trusted
    against: int
    measured: Sequence[Measured]
    usual: NDArray[np.bool_]  # which test pictures the usual head gets right

    @property
    def test(self) -> Images:
        return self.parts["test"].images


def run_certify(certify: Certify, *, progress: Progress = lambda stage, done, of: None) -> CertifySummary:
    """Measure the families of certified heads on a data set; the summary is also in `certify.out`/summary.json.

    Raises InputError, with nothing written, for anything it cannot use.
    """
    plan.validate_certify(certify)
    _check_places(certify)
    with pipeline.threads(certify.threads or os.cpu_count() or 1):
        net, dataset, parts = _parts(certify, progress)
        against, proposed = _proposed(certify, len(parts["train"].features), len(dataset.classes))
        measured = []
        for number, classifier in enumerate(proposed):
            progress(f"heads: {family(classifier)}", number, len(proposed))
            measured.append(_measure(classifier, parts))
        usual = _undefended(parts, len(dataset.classes), plan.seed_of(certify.seed, "undefended"))
        run = _Run(certify, net, dataset, parts, against, measured, usual)
        best, said, how = _chosen(run)
        summary = _summary(run, measured[best].classifier, said, how)
        _write(run, summary, measured[best])
    return summary


def candidates(against: int, n_train: int, classes: int) -> list[CertifiedClassifier]:
    """The frontier's classifiers, for so many operations; the first is that of the rule, where there is room for it.

    Of the training pictures only their number matters, for what is left out.
    """
    known = range(classes)
    steps = [against * factor + 1 for factor in (VOTERS, 5, 3, 20, 40)]
    return [
        *(NeighbourVotes(k=k | 1, classes=known) for k in steps if k < n_train),
        *(RadiusVotes(threshold=t / 100, classes=known) for t in range(20, 65, 5)),
        *(PartitionVotes(n_partitions=n | 1, classes=known) for n in steps[:4] if 2 * n < n_train),
        *(StableHead(alpha=float(against * factor), classes=known) for factor in (10, 30, 100, 300)),
    ]


def _proposed(certify: Certify, n_train: int, classes: int) -> tuple[int, list[CertifiedClassifier]]:
    """Operations to withstand, and the candidates. Raises InputError for more operations than the pictures allow."""
    against = plan.operations(certify.against, n_train)
    if against > n_train:
        raise InputError(f"--against {certify.against} is more than the {n_train} training pictures; give fewer")
    proposed = candidates(against, n_train, classes)
    if certify.trusted is None and proposed[0].get_params().get("k") != against * VOTERS + 1:
        raise InputError(
            f"--against {certify.against} is too much for {n_train} training pictures without --trusted; give "
            "fewer operations, or pictures to choose the head on"
        )
    return against, proposed


def _check_places(certify: Certify) -> None:
    """Raises InputError for places where something would be lost that certify did not write."""
    out, save = certify.out, certify.save
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; expected a folder, or a name not yet taken")
    ours = FILES | PARTIAL
    if save:
        within = save.parent.resolve() == out.resolve()
        _check_save(save, within)
        ours |= {save.name, f"{save.name}.partial"} if within else set()
    held = {child.name for child in out.iterdir()} if out.exists() else set()
    if held - ours:
        raise InputError(f"--out {out} holds {min(held - ours)!r}, which is not of a run of certify; choose another")
    if held <= {".lock", *PARTIAL}:
        return
    if journal.kind_of(out) != "certify":
        raise InputError(f"--out {out} is not empty and holds no run of certify; choose another folder")
    page = out / "report.html"
    if page.exists() and not journal.is_page(page):
        raise InputError(f"{page} is there already, and is no page; choose another --out")


def _check_save(save: Path, within: bool) -> None:
    """`within`: whether it lies in the run folder, which need not be there yet."""
    if (save.exists() and not save.is_file()) or not (within or save.parent.is_dir()):
        raise InputError(f"--save {save} is no place for a file; expected a name such as head.safetensors, in a folder")
    if within and save.name in FILES | PARTIAL:
        raise InputError(f"--save {save} is where the run keeps a file of its own; choose another --save")
    if save.exists():
        try:
            read(save)
        except InputError:
            raise InputError(f"--save {save} is there already, and is no head; choose another --save") from None


def _parts(certify: Certify, progress: Progress) -> tuple[Net, data.DataSet, dict[str, Part]]:
    """Training, test and trusted pictures with their features; unreadable ones are left out."""
    dataset = pipeline.loaded(certify)
    if certify.trusted == "val" and not dataset.own_test:
        raise InputError(
            f"{dataset.root} has no test split of its own: whoever adds training pictures adds test pictures too; "
            "give --trusted DIR, or lay the pictures out as train/ and val/"
        )
    sets = {"train": dataset.train, "test": dataset.test}
    if certify.trusted not in (None, "val"):
        sets["trusted"] = _of_classes(data.load(str(certify.trusted)), dataset.classes)
        _refuse_shared(sets)
    net = pipeline.network(certify)
    found = pipeline.featurised(certify, net, sets, progress)
    dataset = dataset.without(found["train"].unreadable, found["test"].unreadable)
    parts = {}
    for name, images in sets.items():
        readable = images.select(i for i in range(len(images)) if i not in found[name].unreadable)
        parts[name] = Part(readable, found[name].matrix.numpy())
    return net, dataset, {"trusted": parts["test"], **parts}


def _of_classes(trusted: data.DataSet, classes: tuple[str, ...]) -> Images:
    unknown = sorted(set(trusted.classes) - set(classes))
    if unknown:
        raise InputError(f"--trusted {trusted.root} has a class {unknown[0]!r} that the data does not have")
    images = data.joined(trusted.train, trusted.test)
    numbers = np.array([classes.index(name) for name in trusted.classes])
    return replace(images, labels=numbers[images.labels])


def _refuse_shared(sets: Mapping[str, Images]) -> None:
    """Raises InputError for trusted pictures that the choice would be reported on, or that anybody may have added."""
    trusted = set(sets["trusted"].hashes)
    for name, said in (("train", "training"), ("test", "test")):
        shared = len(trusted & set(sets[name].hashes))
        if shared:
            raise InputError(
                f"{shared} of the {len(trusted):,} pictures of --trusted are {said} pictures of DATA as well; "
                "expected pictures that have no other part: leave them out, or give --trusted val"
            )


def _measure(classifier: CertifiedClassifier, parts: Mapping[str, Part]) -> Measured:
    started = time.perf_counter()
    train, test, trusted = (parts[name] for name in ("train", "test", "trusted"))
    classifier.fit(train.features, train.images.labels)
    said = classifier.answers(test.features)
    seconds = time.perf_counter() - started
    return Measured(classifier, said, said if trusted is test else classifier.answers(trusted.features), seconds)


def _undefended(parts: Mapping[str, Part], classes: int, seed: int) -> NDArray[np.bool_]:
    """Which test pictures the usual head (the paper's recipe) gets right: (n,)."""
    train, test = parts["train"], parts["test"]
    features, none = torch.from_numpy(train.features), torch.empty(1, 0, dtype=torch.int64)
    rows = Rows(features, torch.from_numpy(train.images.labels), features[None, :0], none, none)
    said = PaperHead()(rows, classes, seed=seed).logits(torch.from_numpy(test.features))[0].argmax(1)
    return np.asarray(said.numpy() == test.images.labels)


def _best(measured: Sequence[Measured], labels: NDArray[np.int64], rows: NDArray[np.bool_], against: int) -> int:
    """The classifier with most trusted pictures (of `rows`) certified right against so many operations.

    Among equal ones that with the largest median radius, then the first.
    """

    def merit(number: int) -> tuple[int, float]:
        said = measured[number].trusted
        right = (said.codes == labels)[rows]
        radius = said.radius[rows]
        return int((right & (radius >= against)).sum()), float(np.median(np.where(right, radius, 0)))

    return max(range(len(measured)), key=merit)


def _chosen(run: _Run) -> tuple[int, Answers, str]:
    """The number of the head to recommend, what is reported of it on the test pictures, and how it was chosen.

    Where the test pictures are the trusted ones, each half is reported as answered by the head that the other half
    would choose: no picture is reported under a choice that it had a part in.
    """
    measured, trusted = run.measured, run.certify.trusted
    if trusted is None:
        return 0, measured[0].test, f"by a rule that looks at no picture: {VOTERS} neighbours an operation"
    labels = run.parts["trusted"].images.labels
    best = _best(measured, labels, np.ones(len(labels), dtype=bool), run.against)
    if trusted != "val":
        return best, measured[best].test, f"as the best on {len(labels)} trusted pictures"
    half = np.array([int(content[:8], 16) % 2 == 0 for content in run.test.hashes])
    if half.all() or not half.any():
        raise InputError("--trusted val needs more test pictures: it chooses on one half and reports on the other")
    swapped = [measured[_best(measured, labels, rows, run.against)].test for rows in (~half, half)]
    mixed = Answers(*(np.where(half if a.ndim == 1 else half[:, None], a, b) for a, b in zip(*swapped, strict=True)))
    return best, mixed, "as the best on the test pictures, each half reported under the choice of the other"


def _certificate(run: _Run, classifier: CertifiedClassifier, said: Answers) -> Certificate:
    count, labels = len(run.test), run.test.labels
    shares = (max(round(share * len(run.parts["train"].features)), 1) for share in SHARES)
    right = said.codes == labels
    held = {str(r): int((right & (said.radius >= r)).sum()) for r in sorted({1, run.against, *shares})}
    return {
        "family": family(classifier),
        "parameters": parameters(classifier),
        "accuracy": round(float(right.mean()), 6),
        "accuracy_ci95": rounded(wilson(int(right.sum()), count)),
        "median_radius": float(np.median(np.where(right, said.radius, 0))),
        "certified": {r: round(number / count, 6) for r, number in held.items()},
        "certified_ci95": {r: rounded(wilson(number, count)) for r, number in held.items()},
    }


def _summary(run: _Run, recommended: CertifiedClassifier, said: Answers, how: str) -> CertifySummary:
    frontier = [_certificate(run, one.classifier, one.test) for one in run.measured]
    return {
        "schema_version": SCHEMA_VERSION,
        "n_train": len(run.parts["train"].features),
        "n_test": len(run.test),
        "classes": list(run.dataset.classes),
        "against": run.against,
        "undefended_accuracy": round(float(run.usual.mean()), 6),
        "undefended_ci95": rounded(wilson(int(run.usual.sum()), len(run.test))),
        "recommended": _certificate(run, recommended, said),
        "chosen": how,
        "frontier": frontier,
        "seconds": [round(one.seconds, 3) for one in run.measured],
        "assumptions": _assumptions(run.certify),
        "model": {"name": run.net.name, "weights": run.net.weights, "source": run.net.source},
        "seed": run.certify.seed,
        "versions": pipeline.versions(),
        "hardware": pipeline.hardware(run.net.device),
    }


def _assumptions(certify: Certify) -> list[str]:
    return [
        "the extractor (weights, preprocessing, normalisation) is out of the attacker's reach",
        GIVEN if certify.trusted is None else CHOSEN,
        "an operation is one training picture inserted or removed; an edited one counts as two",
        "one test picture is asked about at a time, and is itself unchanged (evasion is another matter)",
    ]


def _write(run: _Run, summary: CertifySummary, best: Measured) -> None:
    """The run folder, and the head where it is to be saved; summary.json last, which makes it whole: an earlier run's
    goes before anything is written.
    """
    out, test, classes = run.certify.out, run.test, run.dataset.classes
    out.mkdir(parents=True, exist_ok=True)
    written = {
        "schema_version": SCHEMA_VERSION,
        "kind": "certify",
        "certify": plan.identity(run.certify),
        "data": {
            "fingerprint": run.dataset.fingerprint(),
            "classes": list(classes),
            "n_train": len(run.dataset.train),
            "n_test": len(test),
            "skipped": run.dataset.skipped,
        },
        "model": pipeline.extractor(run.certify, run.net),
        "versions": summary["versions"],
    }
    answers = zip(test.ids, test.labels.tolist(), best.test.codes.tolist(), best.test.radius.tolist(), strict=True)
    rows = [
        {"id": name, "class": classes[label], "predicted": classes[code], "radius": radius}
        for name, label, code, radius in answers
    ]
    with journal.one_writer(out):
        for name in ("summary.json", "report.html"):
            (out / name).unlink(missing_ok=True)
        journal.write_json(out / "plan.json", written)
        journal.write_json(out / "curves.json", [_curve(one, test.labels) for one in run.measured])
        journal.write_bytes(out / "answers.jsonl", b"".join(map(journal.encode, rows)))
        if run.certify.save:
            named = {key: summary[key] for key in ("n_train", "classes", "recommended", "assumptions", "versions")}
            save_head(run.certify.save, best.classifier, {**named, "model": written["model"]})
        journal.write_json(out / "summary.json", summary)


def _curve(one: Measured, labels: NDArray[np.int64]) -> dict[str, Any]:
    """Certified accuracy at so many operations, as a curve to draw."""
    right = one.test.codes == labels
    most = int(one.test.radius.max()) + 1
    operations = np.unique(np.concatenate([[0], np.geomspace(1, most, CURVE).round()]).astype(int))
    return {
        "family": family(one.classifier),
        "parameters": parameters(one.classifier),
        "operations": operations.tolist(),
        "certified": [round(float((right & (one.test.radius >= r)).mean()), 6) for r in operations],
    }
