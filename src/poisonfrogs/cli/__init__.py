"""The command line: parse, call, print. No arithmetic here."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import sys
import traceback
from collections.abc import Sequence

from poisonfrogs.text import printable
from poisonfrogs.types import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done; 1 findings at or above --fail-on; 2 usage, configuration or I/O error;
    3 incomplete or inconclusive; 130 interrupted.
    """
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _refuse("stopped; give the same command again: what is kept is not done twice", code=130)
    except BrokenPipeError:  # the reader of our --help has left
        silence()
        return 0
    except MemoryError:
        return _refuse("there is not enough memory; give smaller pictures, a smaller --size or fewer --workers")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _refuse(f"{error.strerror or error}{where}; mend that, then give the same command again")
    except sqlite3.Error as error:
        return _refuse(f"the cache cannot be used ({error}); make room, or choose another --cache")
    except Exception:  # a fault of ours, or of the code behind --victim; left alone it would end with 1, as findings do
        traceback.print_exc()
        return 2


def _run(argv: Sequence[str]) -> int:
    # threads that spin while they wait for one another take ten times as long on a machine that others use, too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # some microseconds, which spare most of the waking up
    # a hub that cannot be reached is told in our one line, not in a dozen of its own
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from poisonfrogs.cli.commands import parse

        return parse(argv).run()
    finally:
        sys.stdout.flush()


def say(text: str) -> None:
    """Print; silently no more once the reader of our output has left."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence()


def silence() -> None:
    """Send stdout nowhere, so that nothing complains about a closed pipe any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str, code: int = 2) -> int:
    with contextlib.suppress(OSError):  # nobody may be there to read it
        print(f"poisonfrogs: {printable(message)}", file=sys.stderr, flush=True)
    return code
