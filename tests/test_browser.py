"""The page in a browser: Debian's chromium, driven by playwright; and what axe-core says of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from pages import edited
from poisonfrogs import journal
from poisonfrogs.audit import run_audit
from poisonfrogs.certify import run_certify
from poisonfrogs.grid import Grid, run_grid
from poisonfrogs.plan import Audit, Certify
from poisonfrogs.report import page

AXE = "axe-core@4.14.1"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def without(reason: str) -> NoReturn:
    """In CI the browser has to be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        without("no chromium here; apt-get install chromium")
    with sync_playwright() as playwright:
        # a container's root may not make the namespaces of the sandbox; the page is our own
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("npm") is None:
        without("no npm here to get axe-core with; apt-get install npm")
    folder = tmp_path_factory.mktemp("axe")
    got = subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, check=False)
    if got.returncode:
        without(f"npm could not get {AXE}: {got.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as packed:
        member = packed.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path, cache: Path) -> Path:
    """An audit of the toy data whose trials fall, stand, fail and are ineligible: one of each is made so by hand."""
    out = tmp_path_factory.mktemp("browser") / "run"
    run_audit(
        Audit(
            data=data, model="toy:factory", out=out, cache=cache, threads=1, passes=20, head="logistic:100",
            precision="fp32", targets=8, eps=64 / 255, auditor="toy:factory",
        )
    )  # fmt: skip
    rows = journal.rows(out / "journal.jsonl")
    rows[5] |= {"failed": True, "failure": "<b>no memory</b>", "success": False}
    rows[6] |= {"eligible": False, "control_wrong": True, "success": False}
    (out / "journal.jsonl").write_bytes(b"".join(map(journal.encode, rows)))
    page.write(out)
    return out


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def visit(browser: Browser, run: Path) -> Iterator[Callable[..., Page]]:
    """Open a page; whatever goes wrong in it, and whatever it asks for, is found at the end."""
    complaints: list[str] = []
    asked: list[str] = []
    contexts = []

    def opened(folder: Path = run, **options: object) -> Page:
        context = browser.new_context(**({"viewport": WIDE} | options))
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((folder / "report.html").as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert all(url.endswith("/report.html") or url.startswith("data:image/") for url in asked)


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_opens_whole(visit: Callable[..., Page], scheme: str, size: dict) -> None:
    tab = visit(viewport=size, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == size["width"]
    for picture in tab.locator("main img:visible").all():
        picture.scroll_into_view_if_needed()
        picture.evaluate("async image => { image.loading = 'eager'; await image.decode(); }")
        assert picture.evaluate("image => image.naturalWidth") > 0
    assert tab.locator("main img:visible").count() >= 8 * 4
    # nothing is wider than its column, and no text of a drawing leaves it
    assert tab.evaluate(
        """() => [...document.querySelectorAll('svg[role=img] text')].filter(text => {
            const own = text.getBoundingClientRect(), all = text.ownerSVGElement.getBoundingClientRect();
            return own.left < all.left - 1 || own.right > all.right + 1 || own.top < all.top - 1 || own.bottom > all.bottom + 1;
        }).map(text => text.textContent)"""
    ) == []  # fmt: skip


def luminance(colour: str) -> float:
    return sum(map(float, colour[4:-1].split(","))) / 3


def test_dark_is_dark_and_print_is_light(visit: Callable[..., Page]) -> None:
    light, dark = (visit(color_scheme=scheme) for scheme in ("light", "dark"))
    ground = "getComputedStyle(document.body).backgroundColor"
    assert luminance(light.evaluate(ground)) > 230
    assert luminance(dark.evaluate(ground)) < 40
    dark.emulate_media(media="print", color_scheme="dark")
    assert luminance(dark.evaluate(ground)) > 230
    assert not dark.locator("nav").is_visible()
    assert len(dark.pdf()) > 10_000


def shown(tab: Page) -> list[int]:
    return [int(str(card.get_attribute("data-trial"))) for card in tab.locator("#cards > li:visible").all()]


def test_it_sorts_and_filters(visit: Callable[..., Page], run: Path) -> None:
    rows = journal.rows(run / "journal.jsonl")
    tab = visit()
    assert sorted(shown(tab)) == list(range(8))
    base = {"blue": 0, "red": 1}
    orders = {
        "trial": lambda row: row["trial_id"],
        "confidence": lambda row: -row["probabilities"][base[row["base_class"]]],
        "distance": lambda row: row["distance_after"][0],
        "ssim": lambda row: -row["ssim"][0],
    }
    for name, key in orders.items():
        tab.select_option("#sort", name)
        found = [key(rows[i]) for i in shown(tab)]
        assert found == sorted(found)
    tab.select_option("#filter", "failed")
    assert shown(tab) == [5]
    assert tab.inner_text("#shown") == "1 of 8 shown"
    assert "<b>no memory</b>" in str(tab.text_content("#cards > li:visible"))
    tab.select_option("#filter", "ineligible")
    assert shown(tab) == [6]
    tab.select_option("#filter", "fell")
    assert shown(tab) == [i for i in shown(tab) if rows[i]["success"]]
    tab.select_option("#filter", "")
    assert len(shown(tab)) == 8


def test_a_click_enlarges_and_flips(visit: Callable[..., Page]) -> None:
    tab = visit()
    card = tab.locator("#cards > li").first
    source = {
        name: card.locator(f"[data-name={name}] img").get_attribute("src") for name in ("base", "poison", "target")
    }
    viewer, stage = tab.locator("#viewer"), tab.locator("#viewer .stage img")
    assert not viewer.is_visible()
    card.locator("[data-name=poison]").click()
    assert viewer.is_visible()
    assert stage.get_attribute("src") == source["poison"]
    small, large = card.locator("[data-name=poison]").bounding_box(), stage.bounding_box()
    assert small
    assert large
    assert large["width"] > 2 * small["width"]
    tab.get_by_role("button", name="flip base and poison").click()
    assert stage.get_attribute("src") == source["base"]
    assert tab.locator("#viewer [data-show=base]").get_attribute("aria-pressed") == "true"
    stage.click()
    assert stage.get_attribute("src") == source["poison"]
    tab.locator("#viewer [data-show=target]").click()
    assert stage.get_attribute("src") == source["target"]
    tab.get_by_role("button", name="Close").click()
    assert not viewer.is_visible()


def test_the_keyboard_suffices(visit: Callable[..., Page]) -> None:
    tab = visit()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "result"
    first = tab.locator("#cards > li").first
    first.locator("[data-name=base]").focus()
    tab.keyboard.press("Enter")
    stage = tab.locator("#viewer .stage img")
    base = stage.get_attribute("src")
    tab.keyboard.press("f")
    assert stage.get_attribute("src") != base
    tab.keyboard.press("f")
    assert stage.get_attribute("src") == base
    title = tab.inner_text("#viewer-title")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#viewer-title") != title
    tab.keyboard.press("ArrowLeft")
    assert tab.inner_text("#viewer-title") == title
    tab.keyboard.press("Escape")
    assert not tab.locator("#viewer").is_visible()
    # the focus is where it was, and can be seen
    assert tab.evaluate("document.activeElement.dataset.name") == "base"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.locator("summary").first.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("details").first.get_attribute("open") is not None


def test_without_javascript_everything_can_be_read(visit: Callable[..., Page]) -> None:
    tab = visit(java_script_enabled=False)
    assert tab.locator("#cards > li:visible").count() == 8
    assert not tab.locator(".controls").is_visible()
    tab.locator("summary").first.click()
    assert tab.locator("details td").first.is_visible()


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_axe_finds_nothing(visit: Callable[..., Page], axe: str, scheme: str, size: dict) -> None:
    tab = visit(viewport=size, color_scheme=scheme)
    tab.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    for opened in (False, True):
        if opened:
            tab.locator("[data-name=poison]").first.click()
        tab.evaluate(axe)
        found = tab.evaluate("axe.run()")
        assert [
            (one["id"], one["impact"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found["violations"]
        ] == []
        assert len(found["passes"]) > 20


def test_axe_would_find_something(visit: Callable[..., Page], axe: str) -> None:
    tab = visit()
    tab.evaluate("document.querySelector('main img').removeAttribute('alt')")
    tab.evaluate(axe)
    assert "image-alt" in [one["id"] for one in tab.evaluate("axe.run()")["violations"]]


def test_names_of_300_characters_fit(visit: Callable[..., Page], run: Path, tmp_path: Path) -> None:
    name = "<script>document.title = 'taken'</script>" + "n" * 260

    def rows(held: list[dict]) -> list[dict]:
        classes = {"blue": name, "red": "\u202ered"}
        return [
            row | {key: classes[row[key]] for key in ("base_class", "target_class")} | {"target_id": name}
            for row in held
        ]

    mine = edited(run, tmp_path / "run", rows, lambda plan: plan["data"].update(classes=[name, "\u202ered"]))
    page.write(mine)
    for size in (WIDE, NARROW):
        tab = visit(mine, viewport=size)
        assert tab.evaluate("document.documentElement.scrollWidth") == size["width"]
        assert tab.title() == "How easily can this training data be poisoned? · poisonfrogs"
        assert name in str(tab.text_content("#cards"))


def test_a_run_without_trials_opens(visit: Callable[..., Page], run: Path, tmp_path: Path) -> None:
    mine = edited(run, tmp_path / "run", lambda rows: [])
    page.write(mine)
    tab = visit(mine)
    assert "Nothing has been measured" in tab.inner_text("#result")
    assert tab.locator("#cards").count() == 0


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_of_a_grid_opens_and_axe_finds_nothing(
    visit: Callable[..., Page], axe: str, scheme: str, size: dict, data: Path, cache: Path, tmp_path: Path
) -> None:
    shared = {"data": data, "model": "toy:factory", "cache": cache, "threads": 1, "targets": 2, "head": "logistic:1"}
    grid = Grid({**shared, "watermark": 0.3, "out": tmp_path / "run"}, {"passes": [1, 2], "poisons": [1, 2, 3]})
    run_grid(grid, after=page.write)
    page.write(grid.out)
    tab = visit(grid.out, viewport=size, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert tab.locator("#curves svg").count() == 1
    assert tab.evaluate(
        """() => [...document.querySelectorAll('svg[role=img] text')].every(text => {
            const own = text.getBoundingClientRect(), all = text.ownerSVGElement.getBoundingClientRect();
            return own.left >= all.left - 1 && own.right <= all.right + 1 && own.bottom <= all.bottom + 1;
        })"""
    )
    tab.evaluate(axe)
    assert tab.evaluate("axe.run()")["violations"] == []
    tab.locator("#cells a").first.click()
    tab.wait_for_load_state()
    assert "One-shot kills" in tab.content()


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_of_certify_opens_and_axe_finds_nothing(
    visit: Callable[..., Page], axe: str, scheme: str, size: dict, data: Path, cache: Path, tmp_path: Path
) -> None:
    given = Certify(data=data, model="toy:factory", out=tmp_path / "run", cache=cache, threads=1, against="1")
    run_certify(given)
    page.write(given.out)
    tab = visit(given.out, viewport=size, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == size["width"]
    tab.evaluate(axe)
    assert tab.evaluate("axe.run()")["violations"] == []
