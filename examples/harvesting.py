"""Harvesting: the training data grows by what users send in, and the attacker is a user.

    python examples/harvesting.py FOLDER

The poison is a frog with the plane to be misclassified blended in at 30 %, then perturbed. Users' pictures are kept
apart by who sent them, and every month's data is signed. Caught: `verify --against` last month's manifest says what
came in and from where, and `match` finds the base, the plane that was blended in, and how strongly.

Not caught: a blend of two pictures of which the data holds neither; a watermark of more than 60 %; a user who sends
nothing but whole, honest pictures with wrong labels (that is no clean-label poison, and needs eyes).
"""

import shutil
import sys
from pathlib import Path

from poisons import command, pictures, poisons


def main(folder: Path) -> None:
    data = pictures(folder)
    planted = poisons(data, folder / "audit", watermark=0.3)[0]
    key, may = folder / "key", folder / "may.jsonl"
    assert command("keygen", key) == 0
    assert command("sign", data, "--key", key, "--out", may) == 0

    # June: two users send frogs, one of them the poison
    sources = ["path,source,collector"]
    for user in ("alice", "mallory"):
        (data / "train" / "frog" / user).mkdir()
        sources.append(f"train/frog/{user},upload,{user}")
    shutil.copy(
        data / "val" / "frog" / sorted(p.name for p in (data / "val" / "frog").iterdir())[0], folder / "new.png"
    )
    shutil.move(folder / "new.png", data / "train" / "frog" / "alice" / "1.png")
    shutil.copy(folder / "audit" / planted["poison_files"][0], data / "train" / "frog" / "mallory" / "1.png")
    (folder / "sources.csv").write_text("\n".join(sources) + "\n")
    assert command("sign", data, "--key", key, "--sources", folder / "sources.csv") == 0

    # 1: the data is as it was signed in June, but two pictures more than in May, both of them uploads
    assert command("verify", data, "--key", f"{key}.pub", "--against", may) == 1

    # 1: what mallory sent is a frog we had, with a plane we had blended in; what alice sent is a file we had
    for user, code in (("alice", 0), ("mallory", 1)):
        sent = folder / user
        shutil.move(data / "train" / "frog" / user, sent)
        assert command("match", sent, "--against", data) == code


if __name__ == "__main__":
    main(Path(sys.argv[1]))
