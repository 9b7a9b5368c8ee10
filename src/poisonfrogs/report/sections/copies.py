"""Which pictures are changed copies of known ones: the sections of a run of match."""

from __future__ import annotations

from poisonfrogs.report.embed import picture
from poisonfrogs.report.folder import MatchFolder
from poisonfrogs.report.html import Section, render

SHOWN = {"known": "known", "picture": "this one", "difference": "difference", "other": "blended in"}


def result(run: MatchFolder) -> Section:
    """How many of each kind, what to do about it, and what is not found."""
    return Section("result", "The result", render("copies.html", f=run.found, suspicious=len(run.suspicious)))


def copies(run: MatchFolder) -> Section | None:
    """Each changed copy beside the known picture and the difference; None where there is none."""
    rows = run.suspicious
    cards = [
        {
            "row": row,
            "pictures": [
                (words, picture(run, row["pictures"][name])) for name, words in SHOWN.items() if name in row["pictures"]
            ],
        }
        for row in rows
        if row["pictures"]
    ]
    if not rows:
        return None
    return Section("copies", "Changed copies", render("copied.html", cards=cards, rows=rows))


def reproduce(run: MatchFolder) -> Section:
    """Versions, limits, hashes."""
    body = render(
        "reproduce.html",
        command=["poisonfrogs match DATA", "--against KNOWN"],
        bundled=True,
        seed=None,
        versions=run.plan["versions"],
        hardware=None,
        seconds=None,
        source=None,
        hashes={name: run.digest(name) for name in ("plan.json", "findings.json")},
    )
    return Section("reproduce", "How to reproduce", body)
