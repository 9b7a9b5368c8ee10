"""`match`: which pictures are slightly changed copies of known ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from poisonfrogs.cli.show import printed, progress


@dataclass(frozen=True, kw_only=True)
class MatchCommand:
    """Find pictures that are slightly changed copies of known ones: exit 1 if there is one.

    Copies that are the same bytes or pixels, or are only re-encoded as JPEG or resized, are told, and are no finding;
    re-encoded as anything else (lossy WebP, GIF), they are told as perturbed.
    """

    data: Positional[str]
    """Any folder of pictures, parquet files, or .npz; no classes are needed."""
    against: str
    """The known pictures: trusted originals, last month's data, another set; DATA itself finds its duplicates."""
    out: Path | None = None
    """Run folder to write, with the pictures found; a new name, an empty folder, or what a stopped match left."""
    format: Literal["table", "json"] = "table"
    """What to print on stdout."""

    def run(self) -> int:
        """Do it and return the exit code."""
        from poisonfrogs import findings

        with progress() as tell:
            found = findings.run(self.data, self.against, self.out, progress=tell)
            if self.out:
                from poisonfrogs.report.page import write

                write(self.out)
        printed(self.format, found, _lines(found, self.out))
        if found["counts"]["perturbed"] + found["counts"]["blend"]:
            return 1
        return 0 if found["n_known_readable"] and not found["unreadable"] else 3  # something was not compared


def _lines(found: dict[str, Any], out: Path | None) -> list[str]:
    lines = [_finding(one) for one in found["findings"] if one["kind"] != "identical"]
    lines += [f"could not be read  {name}: {why}" for name, why in found["unreadable"].items()]
    lines += [f"could not be read  {name}, a known one: {why}" for name, why in found["unreadable_known"].items()]
    counts = ", ".join(f"{count:,} {kind}" for kind, count in found["counts"].items() if count)
    compared = f"{found['n_readable']:,} pictures against {found['n_known_readable']:,} known ones"
    lines.append(f"{compared}: {counts or 'no copies'}")
    if found["n_unreadable"]:
        lines.append(f"{found['n_unreadable']:,} could not be read, and nothing is known of them")
    lines.append("copies that were cropped, rotated or changed by more than 17/255 (rms) are not found")
    return [*lines, f"The page to read is {out}/report.html"] if out else lines


def _finding(one: dict[str, Any]) -> str:
    said = f"{one['kind']:<17}{one['id']}  of {one['known_id']}"
    if one["mirrored"]:
        said += ", mirrored"
    if one["opacity"] is not None:
        turned = ", mirrored," if one["other_mirrored"] else ""
        said += f", with {one['other_id']}{turned} blended in at {one['opacity']:.2f}"
    if one["kind"] in ("perturbed", "blend"):
        said += f", changed by {one['linf'] * 255:.0f}/255 at most, {one['rms'] * 255:.1f}/255 rms"
    return said
