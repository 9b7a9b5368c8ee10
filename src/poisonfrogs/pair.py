"""A manifest and its signature on disk: replaced as one, read as one.

The signature names the manifest by its digest. A new manifest is written to a name of its own (`FILE.new`); the
rename of its signature is the one step after which the new pair counts; only then does the manifest take its place.
Killed between the two, the manifest that counts is still at `FILE.new`, and is found there by its digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from filelock import FileLock, Timeout

from poisonfrogs import signing
from poisonfrogs.journal import about, created, to_the_disk
from poisonfrogs.signing import Signed
from poisonfrogs.types import InputError

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

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


def start_of(file: Path) -> bytes:
    """All of a signature, the start of anything longer; nothing where there is no file: a pipe would be waited for."""
    if not file.is_file():
        return b""
    with file.open("rb") as content:
        return content.read(_LONGEST)


def left(file: Path, start: bytes) -> bool:
    """Whether a file on its way may be what a kill left: as much as was written of one that begins with `start`.

    A link may stand there, too: it is replaced, and what it points to is not touched.
    """
    return file.is_symlink() or (file.is_file() and start.startswith(start_of(file)[: len(start)]))


class Hashing:
    """A file whose digest is known once all of it has been read or written through this."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self.path = path  # by which errors call it
        self.digest = hashlib.sha256()
        self.committed = False

    def write(self, content: bytes) -> None:
        self.digest.update(content)
        with about(self.path):
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
            written = Hashing(created(_pending(path)), path)
            try:
                yield written
            finally:
                with suppress(OSError):  # what the disk did not take once it does not take now: that was told
                    written.file.close()
                if not written.committed:
                    _pending(path).unlink(missing_ok=True)
    except Timeout:
        raise InputError(f"{path} is being written by another command; wait for it, or choose another --out") from None


def commit(path: Path, written: Hashing, envelope: bytes) -> None:
    """Let the new manifest and its signature take the old ones' places."""
    signature = signature_of(path)
    partial = _pending(signature)
    with about(path):
        try:
            to_the_disk(written.file, b"")
            with created(partial) as file:
                to_the_disk(file, envelope)
            written.committed = True
            partial.replace(signature)
        finally:
            if os.path.lexists(partial):  # the step that counts was not taken
                written.committed = False
                partial.unlink()
        _sync_folder(path)
        _pending(path).replace(path)
        _sync_folder(path)


@contextmanager
def reading(path: Path, key: Path) -> Iterator[tuple[Signed, Hashing]]:
    """What the signature says, and the manifest it is about, open; all of it has to be read.

    Raises InputError where the pair is not whole, not by this key, or altered before or while it is read.
    """
    signed, opened = _opened(path, signing.public_key(key))
    with opened as file:
        hashing = Hashing(file, path)
        yield signed, hashing
        if hashing.sha256() != signed.sha256:
            raise InputError(f"{path} changed while it was read; nothing of what was found is trusted")


def _opened(path: Path, public: SSlibKey) -> tuple[Signed, BinaryIO]:
    """What the signature says, and the manifest that it names; both anew where a `sign` came in between."""
    signature = signature_of(path)
    content = _read(signature)
    while True:
        signed = signing.opened(content, public, str(signature))
        try:
            return signed, _named(path, signed.sha256)
        except InputError:
            before, content = content, _read(signature)
            if content == before:
                raise


def _read(signature: Path) -> bytes:
    try:
        if not signature.is_file():
            raise InputError(f"{signature} is not there; sign the data first, or name another manifest")
        return start_of(signature)
    except OSError as error:
        raise InputError(f"{signature} cannot be read ({error.strerror}); mend that, or sign the data again") from None


def _named(path: Path, sha256: str) -> BinaryIO:
    """The manifest that has this digest, open: still on its way to its place, or there."""
    for one in filter(Path.is_file, (_pending(path), path)):  # in this order: what is no longer on its way is there
        with suppress(FileNotFoundError), ExitStack() as stack:  # it may move just now
            file = stack.enter_context(one.open("rb"))
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                file.seek(0)
                stack.pop_all()
                return file
    if not path.is_file():
        raise InputError(f"{path} is not there; its signature alone says nothing: sign the data again")
    raise InputError(
        f"{path} is not the manifest that was signed: it is truncated or altered; nothing in it is trusted"
    )


def _settle(path: Path) -> None:
    """Finish what a kill left undone, lest the manifest that counts be written over."""
    signature, pending = signature_of(path), _pending(path)
    if pending.is_symlink() or not (signature.is_file() and pending.is_file()):  # `writing` makes no links
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
