"""What certified heads guarantee, at what cost in accuracy: the sections of a run of certify."""

from __future__ import annotations

import math
from typing import Any

from poisonfrogs.plan import Certify
from poisonfrogs.report.figures import Figure, Line, Table, curves
from poisonfrogs.report.folder import CertifyFolder
from poisonfrogs.report.html import Section, render
from poisonfrogs.report.sections.reproduce import command
from poisonfrogs.text import head_name

TONES = {"neighbours": "target", "radius": "poison", "partitions": "base", "stable": "good"}


def result(run: CertifyFolder) -> Section:
    """The sentence for a manager, what it assumes, and what it does not mean."""
    best = run.summary["recommended"]
    against = str(run.summary["against"])
    body = render(
        "guarantee.html",
        s=run.summary,
        best=best,
        name=head_name(best),
        held=best["certified"][against],
        interval=best["certified_ci95"][against],
    )
    return Section("result", "The result", body)


def frontier(run: CertifyFolder) -> Section:
    """Certified accuracy against the number of operations, the best head of each family, and all heads as a table."""
    against = run.summary["against"]
    families: dict[str, list[dict[str, Any]]] = {}
    for row in run.summary["frontier"]:
        families.setdefault(row["family"], []).append(row)
    strongest = {family: max(rows, key=lambda row: _merit(row, against)) for family, rows in families.items()}
    lines = [
        Line(head_name(row), TONES[family], [(math.log10(x + 1), 100 * y) for x, y in _points(run, row)])
        for family, row in strongest.items()
    ]
    table = _table(run)
    most = max(x for line in lines for x, _ in line.points)
    svg = curves(
        lines,
        marker=(math.log10(against + 1), f"{against:,}"),
        x_ticks=[(math.log10(n + 1), f"{n:,}") for n in (0, 1, 10, 100, 1000, 10_000) if math.log10(n + 1) <= most],
        labels=("training pictures inserted or removed", "certified accuracy, %"),
        title="What is proved",
    )
    caption = (
        "Share of the test pictures that are answered rightly and provably so, whatever so many insertions and "
        "removals do: the best head of each family. The usual head has a proof of nothing; one picture fells it."
    )
    figure = Figure(svg, "What is proved", caption, table)
    return Section("frontier", "The frontier", render("frontier.html", figure=figure))


def _table(run: CertifyFolder) -> Table:
    at = list(run.summary["recommended"]["certified"])
    rows = [["the usual head", f"{run.summary['undefended_accuracy']:.4f}", *["0"] * len(at), "0"]]
    for row in run.summary["frontier"]:
        held = [f"{row['certified'][r]:.4f}" for r in at]
        rows.append([head_name(row), f"{row['accuracy']:.4f}", *held, f"{row['median_radius']:g}"])
    return Table(["head", "accuracy", *(f"at {r}" for r in at), "median radius"], rows)


def _merit(row: dict[str, Any], against: int) -> tuple[float, float]:
    return row["certified"][str(against)], row["median_radius"]


def _points(run: CertifyFolder, row: dict[str, Any]) -> list[tuple[int, float]]:
    for curve in run.curves:
        if (curve["family"], curve["parameters"]) == (row["family"], row["parameters"]):
            return list(zip(curve["operations"], curve["certified"], strict=True))
    return [(0, row["accuracy"])]


def reproduce(run: CertifyFolder) -> Section:
    """Command, seed, versions, hardware, hashes."""
    summary = run.summary
    hashes = {"data (ids, labels, contents)": run.plan["data"]["fingerprint"]}
    hashes |= {f"weights of {summary['model']['name']}": summary["model"]["weights"]}
    body = render(
        "reproduce.html",
        command=command(run.plan["certify"], None, Certify),
        bundled=False,
        seed=summary["seed"],
        versions=summary["versions"],
        hardware=summary["hardware"],
        seconds=None,
        source=summary["model"]["source"],
        hashes=hashes | {name: run.digest(name) for name in ("plan.json", "summary.json", "answers.jsonl")},
    )
    return Section("reproduce", "How to reproduce", body)
