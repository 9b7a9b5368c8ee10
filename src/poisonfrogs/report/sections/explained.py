"""The explanation for a reader who has never heard of it, drawn with this run's own pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from poisonfrogs.report import drawings, embed
from poisonfrogs.report.folder import Outcome, RunFolder, first_to_last, retrained
from poisonfrogs.report.html import Section, clipped, render
from poisonfrogs.text import levels

NORMS = {"linf": "l-inf", "l2": "l2"}


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a poison may get into a training set."""

    name: str
    steps: tuple[str, str]
    text: str
    meets: str  # what meets it
    commands: tuple[str, ...] = ()  # those of poisonfrogs that help

    @property
    def drawn(self) -> Markup:
        """The way, from the attacker to the training set."""
        return drawings.way_in([*self.steps, "training|set"], self.name)


WAYS = (
    Way(
        name="Scraping",
        steps=("picture put on|a web page", "the crawler|takes it"),
        text="Pictures are collected from the web. The attacker publishes the poison where the crawler will come.",
        meets="a record of where each picture came from; a look for slightly changed copies of known pictures",
        commands=("sign", "match"),
    ),
    Way(
        name="Harvesting",
        steps=("picture sent|or uploaded", "your service|keeps it"),
        text="Pictures arrive from users: uploads, mail, cameras. The attacker is a user like any other.",
        meets="a limit on what one sender can add; a look for changed copies; a head that few pictures cannot sway",
        commands=("match", "certify"),
    ),
    Way(
        name="An insider",
        steps=("someone with|access adds it", "review sees a|right label"),
        text="Somebody who may write to the training set adds one picture, or changes one that is there.",
        meets="a signed list of the training pictures, checked before each training",
        commands=("sign", "verify"),
    ),
)


def section(run: RunFolder) -> Section:
    """The fifth section."""
    example = exemplar(run)
    opinion, auditor = run.figures.get("auditor"), run.plan.get("auditor")
    body = render(
        "explained.html",
        example=example,
        evasion=evasion(run, example) if example else None,
        evaded=evaded(run),
        poison=poison(run, example) if example else None,
        stages=[drawings.collision(i, *_names(run, example)) for i in range(3)],
        contexts=[drawings.context(False), drawings.context(True)],
        own_code=run.plan["audit"].get("victim"),
        retrained=retrained(run),
        ways=WAYS,
        f=run.figures,
        run_tests=run.plan["data"]["n_test"],
        opinion=opinion,
        auditor=auditor,
        itself=auditor is not None and auditor["weights"] == run.plan["model"]["weights"],
        accuracy=_accuracy(run.figures),
        agreement=_agreement(opinion) if opinion else None,
    )
    return Section("explained", "How this works", body)


def exemplar(run: RunFolder) -> Outcome | None:
    """A target whose evasion examples are there, or else the surest kill."""
    ordered = first_to_last(run.outcomes)
    return next((one for one in ordered if one.evasions), ordered[0] if ordered else None)


def _names(run: RunFolder, example: Outcome | None) -> tuple[str, str]:
    return (example.target_class, example.base_class) if example else (run.classes[0], run.classes[1])


def _answer(run: RunFolder, probabilities: list[float]) -> str:
    name, sure = run.said(probabilities)
    return f"{clipped(name, 12)} {sure:.3f}"


def evaded(run: RunFolder) -> list[tuple[str, int, int]]:
    """Of each norm: how many targets were taken for the base class, and how many were tried."""
    tried = [
        (made["norm"], run.said(made["probabilities"])[0] == one.base_class)
        for one in run.outcomes
        for made in one.evasions
    ]
    return [
        (words, sum(fell for kind, fell in tried if kind == norm), sum(kind == norm for kind, _ in tried))
        for norm, words in NORMS.items()
        if any(kind == norm for kind, _ in tried)
    ]


def _magnified(change: float) -> int:
    return max(1, min(16, int(127 / max(255 * change, 1))))


def evasion(run: RunFolder, example: Outcome) -> Markup | None:
    """The target perturbed at test time; None where the run holds no such picture."""
    rows = []
    target = embed.picture(run, example.target_file, 240)
    for made in example.evasions:
        k = _magnified(made["linf"])
        size = levels(made["linf"]) if made["norm"] == "linf" else f"{made['l2']:.2f}"
        pictures = [
            (target, "the target", _answer(run, example.control_probabilities)),
            (embed.difference(run, example.target_file, made["file"], k, 240), f"change × {k}", ""),
            (embed.picture(run, made["file"], 240), "shown instead", _answer(run, made["probabilities"])),
        ]
        rows.append(drawings.Row(f"{NORMS[made['norm']]} norm of the change: {size}", pictures, "+="))
    if not rows:
        return None
    text = "The target, a small change, and their sum, with what the classifier calls each."
    return drawings.rows_of_pictures(rows, "Evasion, at test time", text)


def poison(run: RunFolder, example: Outcome) -> Markup:
    """A clean-label poison in training, and what comes of it at test time."""
    k = embed.magnification(run)
    label = f"label: {clipped(example.base_class, 10)}"
    base, stored = example.base_files[0], example.poison_files[0]
    made = [
        (embed.picture(run, base, 240), "a training picture", label),
        (embed.difference(run, base, stored, k, 240), f"change × {k}", ""),
        (embed.picture(run, stored, 240), "the poison", label),
    ]
    target = embed.picture(run, example.target_file, 240)
    asked = [
        (target, "without the poison", _answer(run, example.control_probabilities)),
        (target, "trained on it", _answer(run, example.probabilities)),
    ]
    text = (
        f"A training picture of {example.base_class}, a small change, and the poison, still labelled "
        f"{example.base_class}. Below, the unchanged target, and what the classifier trained without and with it says."
    )
    rows = [
        drawings.Row("in training: the label is right", made, "+="),
        drawings.Row("at test time: the target is not touched", asked, "→"),
    ]
    return drawings.rows_of_pictures(rows, "A clean-label poison, at training time", text)


def _accuracy(figures: dict[str, Any]) -> Markup | None:
    without, drop = figures["clean_accuracy"], figures["mean_accuracy_drop"]
    if drop is None:
        return None
    shares = {"without the poison": without, "with it, on average": without - drop}
    return drawings.bars(shares, "Accuracy on the test pictures other than the target")


def _agreement(opinion: dict[str, Any]) -> Markup:
    yes, of = opinion["n_agreed"], opinion["n_poisons"]
    return drawings.share(yes, of, "Poisons that it calls what their label says", f"{yes} of {of}.")
