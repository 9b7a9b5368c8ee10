"""Scraping: the attacker puts a picture on the web and waits for a crawler.

    python examples/scraping.py FOLDER

A public picture of a frog is perturbed so that it collides with the plane to be misclassified, and is put on a page
under its right label. The crawler brings it home with the rest. Caught by `match`: the picture it was made from is
public, so the crawler's own index of what it has seen before holds it.

Not caught: a poison made from a picture that nobody else has, such as the attacker's own photograph; a poison that was
cropped or rotated before it was perturbed; anything, once the index itself holds the poison.
"""

import shutil
import sys
from pathlib import Path

from poisons import command, pictures, poisons


def main(folder: Path) -> None:
    seen = pictures(folder)  # what earlier crawls brought, trusted
    planted = poisons(seen, folder / "audit")[0]

    scraped = folder / "scraped"
    shutil.copytree(seen / "val" / "frog", scraped / "frog")  # the honest part of this crawl,
    for path in (seen / "val" / "frog").iterdir():
        path.unlink()  # which was not there before
    shutil.copy(folder / "audit" / planted["poison_files"][0], scraped / "frog" / "cute-frog.png")

    # 1: a slightly changed copy, named with its base and the size of the change; pictures of it are in FOLDER/found
    assert command("match", scraped, "--against", seen, "--out", folder / "found") == 1

    # what was found is looked at and left out; the rest is signed, with where it came from
    (scraped / "frog" / "cute-frog.png").unlink()
    assert command("match", scraped, "--against", seen) == 0
    (folder / "sources.csv").write_text("path,source,collected_at\n.,https://frogs.example,2026-11-24\n")
    assert command("keygen", folder / "key") == 0
    assert command("sign", scraped, "--key", folder / "key", "--sources", folder / "sources.csv") == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
