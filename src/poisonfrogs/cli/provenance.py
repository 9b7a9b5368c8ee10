"""`keygen`, `sign`, `verify`: the keys, what was signed, and what has changed since."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from poisonfrogs.cli import say
from poisonfrogs.cli.show import progress
from poisonfrogs.text import printable

if TYPE_CHECKING:
    from poisonfrogs.provenance import Verified, Written

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class KeygenCommand:
    """Make a key pair (Ed25519): KEY, which signs and stays with you, and KEY.pub, which verifies."""

    key: Positional[Path]
    """Where the private key is to be; its public half is KEY.pub. Neither is ever overwritten."""

    def run(self) -> int:
        """Do it and return the exit code."""
        from poisonfrogs import signing

        public = signing.generate(self.key)
        say(printable(f"{self.key} signs: keep it to yourself; {public} verifies: give it to everyone"))
        return 0


@dataclass(frozen=True, kw_only=True)
class SignCommand:
    """List every file of a folder with its SHA-256, and sign the list.

    Writes DATA.manifest.jsonl and DATA.manifest.sig beside DATA, or to --out.
    """

    data: Positional[Path]
    """Any folder of files."""
    key: Path
    """Private key: Ed25519 or ECDSA, from poisonfrogs keygen, openssl or ssh-keygen."""
    sources: Path | None = None
    """CSV that says where files came from: path, source, collected_at, licence, collector."""
    out: Path | None = None
    """Where the manifest is to be, a name that ends in .jsonl; its signature is beside it."""
    format: Literal["table", "json"] = "table"
    """What to print on stdout."""

    def run(self) -> int:
        """Do it and return the exit code."""
        from poisonfrogs import provenance

        with progress() as tell:
            written = provenance.sign(self.data, self.key, known=self.sources, out=self.out, progress=tell)
        if self.format == "json":
            _say_json(asdict(written))
        else:
            _say_lines(_written(written))
        return 0


@dataclass(frozen=True, kw_only=True)
class VerifyCommand:
    """Name every difference between a folder and what was signed: exit 1 if there is one."""

    data: Positional[Path]
    """The folder that was signed."""
    key: Path
    """Public key (KEY.pub) of whoever signed it."""
    manifest: Path | None = None
    """The manifest, its signature beside it; by default DATA.manifest.jsonl."""
    against: Path | None = None
    """An older manifest, signed with the same key: also name what came in since, by source."""
    sources: Path | None = None
    """CSV as for sign: also name files about which it says something else."""
    fast: bool = False
    """Compare sizes and times alone. This is no security check."""
    format: Literal["table", "json"] = "table"
    """What to print on stdout."""

    def run(self) -> int:
        """Do it and return the exit code."""
        from poisonfrogs import provenance

        with progress() as tell:
            found = provenance.verify(
                self.data, self.key, at=self.manifest, known=self.sources, fast=self.fast, progress=tell
            )
        newer = self.manifest or provenance.beside(self.data)
        since = provenance.since(self.against, newer, self.key) if self.against else None
        if self.format == "json":
            _say_json(_as_json(found) | ({"since": _as_json(since)} if since else {}))
        else:
            _say_lines(_compared(found, "now"))
            _say_lines(_compared(since, "in the newer manifest") if since else [])
        return int(bool(found.differences or (since and since.differences)))


def _say_json(found: dict[str, Any]) -> None:
    say(json.dumps({"schema_version": SCHEMA_VERSION} | found, indent=1))


def _say_lines(lines: list[str]) -> None:
    for line in lines:
        say(printable(line))


def _as_json(found: Verified) -> dict[str, Any]:
    more = {"security_check": not found.fast, "counts": found.counts(), "added_by_source": found.by_source()}
    return asdict(found) | more


def _written(written: Written) -> list[str]:
    some = [f"{path}: leads out of the folder; what it points to is NOT signed" for path in written.outside]
    some += [f"{path}: another name here differs in case or Unicode form alone" for path in written.alike]
    return [
        *some,
        f"signed {written.files:,} files and {written.links:,} links, {written.bytes:,} bytes",
        f"manifest   {written.manifest}",
        f"signature  {written.signature}",
        f"key        {written.keyid}",
    ]


def _compared(found: Verified, where: str) -> list[str]:
    lines = [_difference(one.kind, one.path, one.was) for one in found.differences]
    lines += [f"{path}: leads out of the folder; what it points to is not signed" for path in found.outside]
    counts = ", ".join(f"{count:,} {kind}" for kind, count in found.counts().items() if count)
    lines += [f"came in from {source}: {count:,}" for source, count in found.by_source().items()]
    lines += [
        f"signed {found.signed_at} with {found.keyid}: {found.manifest}",
        f"{found.checked:,} files and links {where}: {counts or 'all as they were signed'}",
    ]
    if found.fast:
        lines.append("sizes and times alone were compared, which anyone can forge: this was no security check")
    return lines


def _difference(kind: str, path: str, was: str | None) -> str:
    return f"{kind:<17}{path}" + (
        f"  (was {was})" if kind in ("renamed", "label moved") else f"  ({was})" if was else ""
    )
