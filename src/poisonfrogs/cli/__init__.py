"""The command line: parse, call, print. No arithmetic here."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Sequence

from poisonfrogs.types import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done; 1 findings at or above --fail-on; 2 usage, configuration or I/O error;
    3 incomplete or inconclusive; 130 interrupted.
    """
    from poisonfrogs.cli.commands import parse

    try:
        return parse(sys.argv[1:] if argv is None else argv).run()
    except InputError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _refuse("stopped; the same command goes on where it was", code=130)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _refuse(f"{error.strerror or error}{where}; mend that, then the same command goes on where it was")
    except sqlite3.Error as error:
        return _refuse(f"the cache cannot be written ({error}); make room, or choose another --cache")


def _refuse(message: str, code: int = 2) -> int:
    line = message.replace("\n", "\\n").replace("\r", "\\r").encode("utf-8", "backslashreplace").decode()
    print(f"poisonfrogs: {line}", file=sys.stderr)
    return code
