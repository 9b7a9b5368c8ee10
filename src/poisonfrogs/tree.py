"""What lies in a folder: walked in byte order, links never followed, hashed in processes."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from poisonfrogs.types import InputError

Progress = Callable[[int], None]  # told how many more entries are done
_FILES, _BYTES = 512, 32 << 20  # of a chunk at most, a file at least
_ALONE = 4  # chunks that take less time than processes take to start
_BLOCK = 1 << 20
_HOPS = 40  # links that the system follows on the way to one file; at one more it gives up
_Content = tuple[int, int, str]  # size, mtime_ns, SHA-256


class Found(NamedTuple):
    """A file or a link below a root, as `walk` meets it."""

    path: bytes  # relative to the root, "/" between folders
    link: bytes | None = None  # where a link points to, as it is written


class Entry(NamedTuple):
    """A file with its content's hash, or a link."""

    path: bytes
    size: int = 0  # bytes
    mtime_ns: int = 0
    sha256: str | None = None  # None for links, and where nothing was hashed
    link: bytes | None = None


Listed = Callable[[bytes, list[Found]], None]  # (a folder, relative, with "/" at its end; what is in it)


class Survey(NamedTuple):
    """A tree at a glance."""

    total: int  # files and links
    outside: tuple[str, ...]  # links that, followed hop by hop, leave the tree, even if they come back
    alike: tuple[str, ...]  # names that equal another in their folder but for case or Unicode form


def within(path: Path, root: Path) -> bool:
    """Whether `path` lies, or would lie, in the folder `root`, links followed."""
    inside = os.path.realpath(root)
    return os.path.commonpath([inside, os.path.realpath(path)]) == inside


def spell(path: bytes) -> str:
    r"""A path as text: UTF-8, with % and every byte that is not UTF-8 percent-encoded.

    >>> spell(b"50%/caf\xc3\xa9\xff.png")
    '50%25/café%FF.png'
    """
    text = path.replace(b"%", b"%25").decode("utf-8", "surrogateescape")
    return text if text.isascii() else re.sub("[\udc80-\udcff]", lambda odd: f"%{ord(odd[0]) - 0xDC00:02X}", text)


def unspell(text: str) -> bytes:
    r"""The path that `spell` wrote. Raises ValueError for any other spelling of it.

    >>> unspell("50%25/café%FF.png")
    b'50%/caf\xc3\xa9\xff.png'
    """
    path = text.encode("utf-8")
    if b"%" in path:
        path = re.sub(rb"%([0-9A-F]{2})", lambda code: bytes([int(code[1], 16)]), path)
        if spell(path) != text:
            raise ValueError(f"{text!r} is not how this path is spelled")
    return path


def root_of(data: Path) -> bytes:
    """The folder as the walk needs it. Raises InputError where there is none."""
    if not data.is_dir():
        raise InputError(f"{data} is {'not a folder' if data.exists() else 'not there'}; expected a folder of files")
    return os.fsencode(data) + b"/"


def walk(root: bytes, listed: Listed = lambda folder, children: None) -> Iterator[Found]:
    """Every file and link below `root`, sorted by the bytes of the whole path; `listed` sees folder by folder.

    Raises InputError for what is neither file, folder nor link, and for a folder that cannot be read.
    """
    folders = [(b"", iter(_children(root, b"", listed)))]
    while folders:
        prefix, names = folders[-1]
        name = next(names, None)
        if name is None:
            folders.pop()
        elif name.path.endswith(b"/"):
            path = prefix + name.path
            folders.append((path, iter(_children(root, path, listed))))
        else:
            yield Found(prefix + name.path, name.link)


def _children(root: bytes, folder: bytes, listed: Listed) -> list[Found]:
    """What is in one folder, folders with a "/" at their end: that is what puts whole paths in order.

    "a.png" comes before "a/b.png", since "." comes before "/".
    """
    with _told(root + folder), os.scandir(root + folder) as found:
        children = sorted(map(_child, found))
    listed(folder, children)
    return children


def _child(entry: os.DirEntry[bytes]) -> Found:
    if entry.is_symlink():
        return Found(entry.name, os.readlink(entry.path))  # noqa: PTH115  (bytes)
    if entry.is_dir(follow_symlinks=False):
        return Found(entry.name + b"/")
    if entry.is_file(follow_symlinks=False):
        return Found(entry.name)
    raise InputError(f"{shown(entry.path)} is a pipe, a socket or a device; remove it: only files can be signed")


class _told:  # noqa: N801  (a statement, as contextlib.suppress is)
    """Says in one line which path could not be read."""

    def __init__(self, path: bytes) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise _unreadable(self.path, error) from None


def _unreadable(path: bytes, error: OSError) -> InputError:
    return InputError(f"{shown(path)} cannot be read ({error.strerror}); mend that, or remove it")


def shown(path: bytes) -> str:
    """A path for a message."""
    return os.fsdecode(path)


def survey(root: bytes) -> Survey:
    """Walk a tree once, without hashing."""
    total = 0
    outside: list[str] = []
    alike: list[str] = []

    def listed(folder: bytes, children: list[Found]) -> None:
        seen: set[str] = set()
        for name, _ in children:
            key = _folded(name.rstrip(b"/"))
            if key in seen:
                alike.append(spell(folder + name))
            seen.add(key)

    for found in walk(root, listed):
        total += 1
        if found.link is not None and leads_outside(root, found.path):
            outside.append(spell(found.path))
    return Survey(total, tuple(outside), tuple(alike))


def _folded(name: bytes) -> str:
    text = name.decode("utf-8", "surrogateescape").lower()
    return text if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def leads_outside(root: bytes, link: bytes) -> bool:
    """Whether a link, followed hop by hop, leaves the tree, even if it comes back. Nothing is read but links.

    A hop outside is in nobody's manifest: whoever holds it can point it elsewhere after the signing.
    """
    place: list[bytes] = []  # folders below the root
    ahead, hops = link.split(b"/")[::-1], 0  # what is left of the way, the next part last
    while ahead and hops <= _HOPS:
        part = ahead.pop()
        if part == b"..":
            if not place:
                return True
            place.pop()
        elif part not in (b"", b"."):
            place.append(part)
            if target := _target(root + b"/".join(place)):
                if target.startswith(b"/"):
                    return True
                hops += 1
                place.pop()
                ahead += target.split(b"/")[::-1]
    return False


def _target(path: bytes) -> bytes | None:
    """Where a link points to; None for anything else, or nothing."""
    try:
        return os.readlink(path)  # noqa: PTH115  (bytes)
    except OSError:
        return None


def entries(root: bytes, *, progress: Progress = lambda done: None, processes: int | None = None) -> Iterator[Entry]:
    """Every file and link below `root`, hashed, in the order of `walk`, in bounded memory.

    Raises InputError also for a file that cannot be read, or that changes while it is hashed.
    """
    chunks = _chunks(root)
    first = list(islice(chunks, _ALONE + 1))
    count = processes or os.cpu_count() or 1
    hashed: Iterator[list[Entry]]
    if len(first) <= _ALONE or count == 1:
        hashed = (_joined(chunk, _contents(root, _files(chunk))) for chunk in chain(first, chunks))
    else:
        hashed = _in_processes(root, chain(first, chunks), count)
    for chunk in hashed:
        yield from chunk
        progress(len(chunk))


def stats(root: bytes, *, progress: Progress = lambda done: None) -> Iterator[Entry]:
    """The same by size and time alone: nothing is read."""
    for path, link in walk(root):
        with _told(root + path):
            status = os.lstat(root + path)
        yield Entry(path, link=link) if link is not None else Entry(path, status.st_size, status.st_mtime_ns)
        progress(1)


def _chunks(root: bytes) -> Iterator[list[Found]]:
    chunk: list[Found] = []
    size = 0
    for found in walk(root):
        try:  # _told would take as long again as the call
            size += os.lstat(root + found.path).st_size
        except OSError as error:
            raise _unreadable(root + found.path, error) from None
        chunk.append(found)
        if len(chunk) == _FILES or size >= _BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _in_processes(root: bytes, chunks: Iterator[list[Found]], count: int) -> Iterator[list[Entry]]:
    pool = ProcessPoolExecutor(count, mp_context=get_context("fork" if _one_thread() else "forkserver"))
    waiting: deque[tuple[list[Found], Future[list[_Content | None]]]] = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_contents, root, _files(chunk))))
            if len(waiting) > 4 * count:
                yield _joined(*_first_of(waiting))
        while waiting:
            yield _joined(*_first_of(waiting))
    except BrokenProcessPool:
        raise InputError(
            "a process that hashed files has died (no memory, or a script without if __name__ == '__main__')"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> bool:
    """Whether this process may be forked, which is soonest: a fork of one with threads (a progress bar's) may hang."""
    try:
        return len(list(Path("/proc/self/task").iterdir())) == 1
    except OSError:  # no Linux
        return False


def _first_of(waiting: deque[tuple[list[Found], Future[list[_Content | None]]]]) -> tuple[list[Found], list[Any]]:
    chunk, future = waiting.popleft()
    return chunk, future.result()


def _joined(chunk: list[Found], contents: list[_Content | None]) -> list[Entry]:
    return [
        Entry(found.path, *content) if content else Entry(found.path, link=found.link)
        for found, content in zip(chunk, contents, strict=True)
    ]


def _files(chunk: list[Found]) -> list[bytes | None]:
    """The paths of a chunk's files, None for links: plain values cross to another process soonest."""
    return [found.path if found.link is None else None for found in chunk]


def _contents(root: bytes, files: list[bytes | None]) -> list[_Content | None]:
    """What each file holds, None for links; runs in a process of its own, so plain tuples go back."""
    return [None if path is None else _content(root + path) for path in files]


def _content(path: bytes) -> _Content:
    with _told(path):
        # a link that has taken the file's place is not followed, a pipe not waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            before = os.fstat(descriptor)
            digest, length = hashlib.sha256(), 0
            while length <= before.st_size and (block := os.read(descriptor, min(before.st_size + 1 - length, _BLOCK))):
                digest.update(block)
                length += len(block)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    if length != before.st_size or _state(before) != _state(after) or not stat.S_ISREG(before.st_mode):
        raise InputError(f"{shown(path)} changed while it was read; stop what writes there, and start again")
    return length, before.st_mtime_ns, digest.hexdigest()


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
