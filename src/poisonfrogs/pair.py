"""A manifest and its signature on disk: replaced as one, read as one.

The signature names the manifest by its digest. A new manifest is written to a name of its own (`FILE.new`); the
rename of its signature is the one step after which the new pair counts; only then does the manifest take its place.
Killed between the two, the manifest that counts is still at `FILE.new`, and is found there by its digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from poisonfrogs import signing
from poisonfrogs.signing import Signed
from poisonfrogs.types import InputError

_BLOCK = 1 << 20
_LONGEST = 1 << 20  # bytes of a signature: a hostile one could be of any size


def signature_of(path: Path) -> Path:
    """Where the signature of a manifest is.

    >>> signature_of(Path("pictures.manifest.jsonl")).name
    'pictures.manifest.sig'
    """
    return path.with_name(path.name.removesuffix(".jsonl") + ".sig")


def places(path: Path) -> tuple[Path, ...]:
    """Every file that is written for a manifest at `path`, and what each is called while it is written."""
    return path, _pending(path), signature_of(path), _pending(signature_of(path))


class Hashing:
    """A file whose digest is known once all of it has been read or written through this."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.committed = False

    def write(self, content: bytes) -> None:
        self.digest.update(content)
        self.file.write(content)

    def readline(self, limit: int) -> bytes:
        line = self.file.readline(limit)
        self.digest.update(line)
        return line

    def sha256(self) -> str:
        return self.digest.hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[Hashing]:
    """Where a new manifest for `path` goes until `commit`, which belongs inside this. One writer at a time."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        with lock:
            _settle(path)
            with _pending(path).open("wb") as file:
                written = Hashing(file)
                try:
                    yield written
                finally:
                    if not written.committed:
                        _pending(path).unlink(missing_ok=True)
    except Timeout:
        raise InputError(f"{path} is being written by another command; wait for it, or choose another --out") from None


def commit(path: Path, written: Hashing, envelope: bytes) -> None:
    """Let the new manifest and its signature take the old ones' places."""
    written.file.flush()
    os.fsync(written.file.fileno())
    signature = signature_of(path)
    partial = _pending(signature)
    with partial.open("wb") as file:
        file.write(envelope)
        file.flush()
        os.fsync(file.fileno())
    written.committed = True
    partial.replace(signature)
    _sync_folder(path)
    _pending(path).replace(path)
    _sync_folder(path)


@contextmanager
def reading(path: Path, key: Path) -> Iterator[tuple[Signed, Hashing]]:
    """What the signature says, and the manifest it is about, open; all of it has to be read.

    Raises InputError where the pair is not whole, not by this key, or altered before or while it is read.
    """
    public = signing.public_key(key)
    signature = signature_of(path)
    signed = signing.opened(_read(signature), public, str(signature))
    with _named(path, signed.sha256) as file:
        hashing = Hashing(file)
        yield signed, hashing
        if hashing.sha256() != signed.sha256:
            raise InputError(f"{path} changed while it was read; nothing of what was found is trusted")


def _read(signature: Path) -> bytes:
    try:
        if not signature.is_file():
            raise InputError(f"{signature} is not there; sign the data first, or name another manifest")
        with signature.open("rb") as file:
            return file.read(_LONGEST)
    except OSError as error:
        raise InputError(f"{signature} cannot be read ({error.strerror}); mend that, or sign the data again") from None


@contextmanager
def _named(path: Path, sha256: str) -> Iterator[BinaryIO]:
    """The manifest that has this digest, at its place or still on its way there."""
    there = [one for one in (path, _pending(path)) if one.is_file()]
    if not there:
        raise InputError(f"{path} is not there; its signature alone says nothing: sign the data again")
    for one in there:
        with one.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                file.seek(0)
                yield file
                return
    raise InputError(
        f"{path} is not the manifest that was signed: it is truncated or altered; nothing in it is trusted"
    )


def _settle(path: Path) -> None:
    """Finish what a kill left undone, lest the manifest that counts be written over."""
    signature, pending = signature_of(path), _pending(path)
    if not (signature.is_file() and pending.is_file()):
        return
    with pending.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == signing.claimed(_read(signature)):
            pending.replace(path)


def _pending(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
