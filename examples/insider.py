"""An insider: someone with access to the training data puts a poison in the place of its base.

    python examples/insider.py FOLDER

The file keeps its name, its label and even its time. Caught by `verify`: its SHA-256 is not the one that was signed.
An audit that requires signed data refuses to start.

Not caught: an insider who holds the private key and signs the changed data, which is why the key belongs elsewhere
(keep an older manifest somewhere safe, and use --against); a poison that was there before the data was signed; a change
after `verify` and before training.
"""

import os
import shutil
import sys
from pathlib import Path

from poisons import command, pictures, poisons


def main(folder: Path) -> None:
    data = pictures(folder)
    planted = poisons(data, folder / "audit")[0]
    key = folder / "key"
    assert command("keygen", key) == 0
    assert command("sign", data, "--key", key) == 0
    assert command("verify", data, "--key", f"{key}.pub") == 0

    base = data / planted["base_ids"][0]
    poison, before = (folder / "audit" / planted["poison_files"][0]).read_bytes(), base.stat()
    shutil.copy(base, folder / "original.png")
    base.write_bytes(poison)
    os.utime(base, ns=(before.st_atime_ns, before.st_mtime_ns))

    # 1: changed, and which file
    assert command("verify", data, "--key", f"{key}.pub") == 1
    # 2: data that is not as it was signed is not trained on
    audit = ("audit", data, "--require-signed", f"{key}.pub", "--out", folder / "refused")
    assert command(*audit) == 2

    # was it a slip or a poison? against the backup: a perturbed copy
    (folder / "suspect").mkdir()
    (folder / "backup").mkdir()
    shutil.copy(base, folder / "suspect")
    shutil.move(folder / "original.png", folder / "backup")
    assert command("match", folder / "suspect", "--against", folder / "backup") == 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
