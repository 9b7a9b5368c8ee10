"""README's two pictures and the sample report, from a run of the demo: python scripts/draw_readme.py runs/demo

The pictures are the report's own drawings, made to stand alone; as on the page, they follow the reader's light or dark.
"""

import sys
from pathlib import Path

from poisonfrogs.report import page
from poisonfrogs.report.sections import explained, space

DOCS = Path(__file__).parent.parent / "docs"
GAP = 24


def main() -> None:
    folder = Path(sys.argv[1])
    _, run = page.opened(folder)
    example = explained.exemplar(run)
    assert example
    evasion = explained.evasion(run, example)
    assert evasion
    (DOCS / "two-attacks.svg").write_text(beside(evasion, explained.poison(run, example), 448, 324))
    surest = space.panels(run)[0]
    (DOCS / "feature-space.svg").write_text(beside(surest.before.svg, surest.after.svg, 420, 300))
    page.write(folder, DOCS / "sample-report.html")


def beside(left: str, right: str, width: int, height: int) -> str:
    """Two drawings of one size as one file with the page's own style."""
    placed = [
        str(svg).replace("<svg ", f'<svg x="{GAP + i * (width + GAP)}" y="{GAP}" width="{width}" height="{height}" ', 1)
        for i, svg in enumerate((left, right))
    ]
    whole = f"0 0 {2 * width + 3 * GAP} {height + 2 * GAP}"
    ground = '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    style = f"<style><![CDATA[{page.static('page.css')}]]></style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{whole}">{style}{ground}{"".join(placed)}</svg>\n'


if __name__ == "__main__":
    main()
