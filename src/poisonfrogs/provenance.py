"""Sign what a folder holds, and name everything that is no longer as it was signed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from poisonfrogs import manifest, pair, signing, sources, tree
from poisonfrogs.manifest import Difference, Row
from poisonfrogs.progress import Progress, foretelling
from poisonfrogs.sources import Sources
from poisonfrogs.tree import Entry
from poisonfrogs.types import InputError


def _silent(stage: str, done: int, of: int) -> None: ...


@dataclass(frozen=True)
class Written:
    """What was signed."""

    manifest: str
    signature: str
    sha256: str  # of the manifest
    keyid: str
    files: int
    links: int
    bytes: int
    outside: tuple[str, ...]  # links that lead out of the tree: what they point to is not signed
    alike: tuple[str, ...]  # names that differ from a neighbour's in case or Unicode form alone


@dataclass(frozen=True)
class Verified:
    """What was compared, and what differs."""

    manifest: str
    keyid: str
    signed_at: str
    checked: int  # files and links that were there
    fast: bool  # by size and time alone: no security check
    differences: tuple[Difference, ...]
    outside: tuple[str, ...] = ()  # links that lead out of the tree

    def counts(self) -> dict[str, int]:
        """How many differences there are of each kind."""
        found = Counter(one.kind for one in self.differences)
        return {kind: found[kind] for kind in manifest.KINDS}

    def by_source(self) -> dict[str, int]:
        """How many files came in, by where they came from."""
        return dict(sorted(Counter(one.source or "unknown" for one in self.differences if one.kind == "added").items()))


def beside(data: Path) -> Path:
    """Where the manifest of a folder is unless another place is named: beside it, never inside."""
    whole = data.absolute()  # abspath would take LINK/.. for the folder that LINK is in
    if whole.name == "..":
        whole = whole.resolve()  # elsewhere it would follow the link that DATA may be
    if not whole.name:
        raise InputError(f"{data} has nothing beside it; choose a place with --out (or --manifest)")
    return whole.with_name(whole.name + ".manifest.jsonl")


def sign(
    data: Path, key: Path, *, known: Path | None = None, out: Path | None = None, progress: Progress = _silent
) -> Written:
    """Write a manifest of `data`, and its signature. `known` is a sources CSV.

    Killed at any point it leaves the old pair or the new one. Raises InputError, with nothing replaced, for
    anything it cannot use: an empty folder, a pipe, a file that changes while it is read, a place where something
    else is than a manifest and its signature.
    """
    root, path = tree.root_of(data), out or beside(data)
    _check_place(data, path, [key, *([known] if known else [])])
    signer = signing.private_key(key)
    origins = sources.read(known, root) if known else Sources({})
    seen = tree.survey(root)
    if not seen.total:
        raise InputError(f"{data} holds no files; there is nothing to sign")
    with pair.writing(path) as file:
        file.write(manifest.HEADER)
        files = links = size = 0
        for entry in tree.entries(root, progress=foretelling(progress, "hashing", seen.total)):
            file.write(manifest.encode(manifest.row_of(entry, origins)))
            files += entry.link is None
            links += entry.link is not None
            size += entry.size
        counts = {"files": files, "links": links, "bytes": size}
        when = datetime.now(UTC).isoformat(timespec="seconds")
        predicate = {"manifest_version": 1, "signed_at": when, **counts}
        pair.commit(path, file, signing.envelope(path.name, file.sha256(), predicate, signer))
    return Written(
        manifest=str(path),
        signature=str(pair.signature_of(path)),
        sha256=file.sha256(),
        keyid=signer.public_key.keyid,
        **counts,
        outside=seen.outside,
        alike=seen.alike,
    )


def verify(
    data: Path,
    key: Path,
    *,
    at: Path | None = None,
    known: Path | None = None,
    fast: bool = False,
    progress: Progress = _silent,
) -> Verified:
    """Compare `data` with its signed manifest (`at`, by default beside it); with a sources CSV, what is known, too.

    `fast` compares sizes and times alone, which anybody can forge. Raises InputError for a pair that is not whole,
    not by this key, or altered, and whatever `sign` refuses in a folder.
    """
    root, path = tree.root_of(data), at or beside(data)
    origins = sources.read(known, root) if known else Sources({})
    outside: list[str] = []
    checked = 0
    latest: Entry | None = None  # of what is there now: most often what the manifest's next line is about

    def now(entries: Iterator[Entry]) -> Iterator[Row]:
        nonlocal checked, latest
        for entry in entries:
            checked += 1
            latest = entry if not fast else None  # without its hash it is no line of a manifest
            if entry.link is not None and tree.leads_outside(root, entry.path):
                outside.append(tree.spell(entry.path))
            yield manifest.row_of(entry, origins)

    with pair.reading(path, key) as (signed, file):
        tell = foretelling(progress, "comparing", _total(signed.predicate))
        entries = tree.stats(root, progress=tell) if fast else tree.entries(root, progress=tell)
        signed_rows = manifest.read(file, str(path), likely=lambda: latest)
        found = tuple(manifest.differences(signed_rows, now(entries), metadata=known is not None))
    return Verified(
        manifest=str(path),
        keyid=signed.keyid,
        signed_at=str(signed.predicate.get("signed_at")),
        checked=checked,
        fast=fast,
        differences=found,
        outside=tuple(outside),
    )


def since(old: Path, new: Path, key: Path) -> Verified:
    """What differs between two manifests, both signed with one key: what came in since, and from where."""
    checked = 0

    def counted(rows: Iterator[Row]) -> Iterator[Row]:
        nonlocal checked
        for row in rows:
            checked += 1
            yield row

    with pair.reading(old, key) as (signed, before), pair.reading(new, key) as (_, after):
        rows = manifest.read(before, str(old)), counted(manifest.read(after, str(new)))
        found = tuple(manifest.differences(*rows, metadata=True))
    return Verified(str(old), signed.keyid, str(signed.predicate.get("signed_at")), checked, False, found)


def require(data: Path, key: Path, at: Path | None = None) -> None:
    """Raises InputError unless `data` is what was signed with `key`, and nothing but that."""
    found = verify(data, key, at=at)
    if found.differences:
        named = ", ".join(f"{one.path} ({one.kind})" for one in found.differences[:3])
        more = f" and {len(found.differences) - 3} more" if len(found.differences) > 3 else ""
        raise InputError(f"{data} is not as it was signed: {named}{more}; see poisonfrogs verify")
    if found.outside:
        raise InputError(f"{data} has links that lead out of it ({found.outside[0]}); what they point to is not signed")


def _total(predicate: dict[str, Any]) -> int:
    """How many files and links were signed, as far as it is said: for the progress bar."""
    counts = (predicate.get("files"), predicate.get("links"))
    return sum(count for count in counts if isinstance(count, int))


def _check_place(data: Path, path: Path, used: Sequence[Path]) -> None:
    """`used`: files that are read, and must not be written over."""
    if not path.name.endswith(".jsonl"):  # else two manifests could share one signature's place
        raise InputError(f"{path} does not end in .jsonl, as a manifest does; choose another --out")
    if tree.within(path.parent, data):
        raise InputError(f"{path} would lie inside {data} and be part of what it signs; choose another --out")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder; make it, or choose another --out")
    for place in pair.places(path):
        if place.is_dir():
            raise InputError(f"{place} is a folder, and a file is to be written there; choose another --out")
        for file in used:
            if place.exists() and file.exists() and place.samefile(file):
                raise InputError(f"{place} would be written over {file}, which is needed; choose another --out")
    _, pending, signature, pending_signature = pair.places(path)
    for place, ours, what in (
        (path, pair.start_of(path).startswith(manifest.HEADER), "manifest"),
        (pending, pair.left(pending, manifest.HEADER), "manifest on its way"),
        (signature, signing.claimed(pair.start_of(signature)) is not None, "manifest's signature"),
        (pending_signature, pair.left(pending_signature, signing.START), "signature on its way"),
    ):
        if place.exists() and not ours:
            raise InputError(f"{place} is there already, and is no {what}; choose another --out, or remove it")
