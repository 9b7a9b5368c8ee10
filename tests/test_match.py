"""Which pictures are copies of known ones: planted among real ones, and found again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from planted import jpeg, mirror, perturbed, png, watermarked
from poisonfrogs import data, findings, journal, match, neighbours
from poisonfrogs.cli import main
from poisonfrogs.images import Images
from poisonfrogs.pictures import MARK, Gone, encode
from poisonfrogs.types import InputError
from runs import on_disk, refused

N = 40  # planted of each kind


@pytest.fixture(scope="module")
def known() -> Images:
    """1,000 frogs and planes; the 200 of the test split are unrelated to them."""
    return data.load("frogs-and-planes").train


@pytest.fixture(scope="module")
def fresh() -> Images:
    return data.load("frogs-and-planes").test


def plant(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def looked_at(folder: Path) -> Images:
    return data.pictures(folder)[0]


def base_of(name: str) -> int:
    """Planted pictures are called by the row of their base."""
    return int(Path(name).stem)


@pytest.mark.parametrize("side", [20, 24, 28, 100])
def test_mirrored_copies_are_found_at_sizes_whose_areas_cut_pixels(side: int, known: Images, tmp_path: Path) -> None:
    old = {f"{i}.png": known[i].resize((side, side), Image.Resampling.LANCZOS) for i in range(0, 25 * N, 25)}
    new = {name: png(mirror(perturbed(picture, i))) for i, (name, picture) in enumerate(old.items())}
    among = looked_at(plant(tmp_path / "known", {name: png(picture) for name, picture in old.items()}))
    images = looked_at(plant(tmp_path / "d", new))
    found = [(images.ids[one.row], among.ids[one.known], one.kind) for one in match.match(images, among).findings]
    assert found == [(name, name, "perturbed") for name in images.ids]


STORED: list[Callable[[Image.Image], bytes]] = [png, lambda image: jpeg(image, 75), lambda image: jpeg(image, 95)]


@pytest.mark.parametrize("stored", STORED, ids=["png", "jpeg:75", "jpeg:95"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_perturbed_copies_are_found_with_their_bases(stored, mirrored: bool, known: Images, tmp_path: Path) -> None:
    turn = mirror if mirrored else lambda image: image
    images = looked_at(
        plant(tmp_path / "d", {f"{i}.jpg": stored(turn(perturbed(known[i], i))) for i in range(0, 25 * N, 25)})
    )
    found = match.match(images, known)
    assert found.counts()["perturbed"] == N
    for finding in found.findings:
        assert finding.known == base_of(images.ids[finding.row])
        assert finding.mirrored is mirrored


@pytest.mark.parametrize("stored", STORED, ids=["png", "jpeg:75", "jpeg:95"])
@pytest.mark.parametrize("where", ["among the known", "among those looked at"])
def test_watermarks_are_found_with_opacity_and_the_other_picture(
    stored, where: str, known: Images, fresh: Images, tmp_path: Path
) -> None:
    made = {f"{i}.jpg": stored(mirror(watermarked(known[i], fresh[i // 5])) if i % 2 else watermarked(known[i], fresh[i // 5])) for i in range(0, 5 * N, 5)}  # fmt: skip
    others = {f"other/{i}.png": png(fresh[i // 5]) for i in range(0, 5 * N, 5)}
    images = looked_at(plant(tmp_path / "d", made | (others if "looked" in where else {})))
    pool = data.joined(known, fresh) if "known" in where else known
    found = [finding for finding in match.match(images, pool).findings if finding.kind in match.SUSPICIOUS]
    names = (*pool.ids, *images.ids)
    right = 0
    for finding in found:
        row = base_of(images.ids[finding.row])
        assert finding.known == row
        if finding.kind == "blend":
            other = f"test/{row // 5}" if "known" in where else f"other/{row}.png"
            right += names[finding.other] == other
            assert finding.opacity == pytest.approx(0.3, abs=0.05)
    assert len(found) >= 0.95 * N
    assert right >= 0.9 * N


@pytest.mark.parametrize("stored", STORED, ids=["png", "jpeg:75", "jpeg:95"])
@pytest.mark.parametrize("turned", ["base", "other"])
def test_blends_of_which_only_one_picture_is_mirrored(
    stored, turned: str, known: Images, fresh: Images, tmp_path: Path
) -> None:
    made = {}
    for i in range(0, 5 * N, 5):
        base, other = known[i], fresh[i // 5]
        blend = watermarked(mirror(base), other) if turned == "base" else watermarked(base, mirror(other))
        made[f"{i}.jpg"] = stored(blend)
    images = looked_at(plant(tmp_path / "d", made))
    pool = data.joined(known, fresh)
    found = [finding for finding in match.match(images, pool).findings if finding.kind == "blend"]
    assert all(finding.known == base_of(images.ids[finding.row]) for finding in found)
    right = [one for one in found if one.other == len(known) + base_of(images.ids[one.row]) // 5]
    assert len(right) >= 0.9 * N
    assert {(one.mirrored, one.other_mirrored) for one in right} == {(turned == "base", turned == "other")}
    again = match.explained(right[0], images, data.joined(pool, images))
    assert (again.rms, again.opacity) == (right[0].rms, right[0].opacity)


def test_blank_and_broken_pictures_hide_nothing(known: Images, fresh: Images, tmp_path: Path) -> None:
    """They have no contrast, and so would be nearer than any picture to what a base leaves unexplained."""
    made = {}
    for i in range(20):
        blend = np.asarray(watermarked(known[i], fresh[i], 0.25), dtype=int)
        patches = np.kron(np.random.default_rng(i).integers(-16, 17, (4, 4, 3)), np.ones((8, 8, 1), dtype=int))
        made[f"{i}.png"] = png(Image.fromarray(np.clip(blend + patches, 0, 255).astype(np.uint8)))
    blank = {f"blank/{i}.png": png(Image.new("RGB", (32, 32), (i, i, i))) for i in range(0, 250, 25)}
    broken = {f"broken/{i}.png": bytes([i]) for i in range(10)}

    def found() -> dict[str, tuple[object, ...]]:
        images = looked_at(tmp_path / "d")
        said = match.match(images, data.joined(known, fresh)).findings
        return {images.ids[one.row]: (one.kind, one.known, one.other) for one in said}

    plant(tmp_path / "d", made)
    alone = found()
    assert sum(alone[f"{i}.png"] == ("blend", i, len(known) + i) for i in range(20)) >= 17
    plant(tmp_path / "d", blank | broken)
    assert found() == alone


def test_known_pictures_that_cannot_be_read_hide_no_dark_ones(known: Images, tmp_path: Path) -> None:
    pixels = [np.asarray(known[i]) // 8 for i in range(8)]
    plant(tmp_path / "old", {f"{i}.png": png(Image.fromarray(one)) for i, one in enumerate(pixels)})
    darker = {f"{i}.png": png(Image.fromarray(one.clip(4) - 4)) for i, one in enumerate(pixels)}
    new = looked_at(plant(tmp_path / "new", darker))
    alone = match.match(new, looked_at(tmp_path / "old")).findings
    assert [one.kind for one in alone].count("perturbed") >= 6
    plant(tmp_path / "old", {f"broken{i}.png": bytes([i]) for i in range(9)})
    again = match.match(new, looked_at(tmp_path / "old")).findings
    assert [(one.row, one.known, one.kind) for one in again] == [(one.row, one.known, one.kind) for one in alone]


def test_flat_pictures_are_neither_copies_nor_blends_of_each_other(tmp_path: Path) -> None:
    flat = {f"{i}.png": png(Image.new("RGB", (40, 30), (i, i, i))) for i in range(0, 250, 40)}
    images = looked_at(plant(tmp_path / "d", flat))
    assert match.match(images, images, same=True).findings == ()


def test_unrelated_pictures_are_no_copies(known: Images, fresh: Images) -> None:
    assert [one.kind for one in match.match(fresh, known).findings] == []


def test_copies_that_nobody_perturbed_are_told_apart(known: Images, tmp_path: Path) -> None:
    content = known.source.read(int(known.rows[3]))
    images = looked_at(
        plant(
            tmp_path / "d",
            {
                "bytes.webp": content,
                "pixels.png": png(known[4]),
                "mirrored.png": png(mirror(known[5])),
                "encoded.jpg": jpeg(known[6], 85),
                "resized.png": png(known[7].resize((64, 48), Image.Resampling.LANCZOS)),
                "cropped.png": png(known[8].crop((6, 6, 32, 32))),
            },
        )
    )
    found = {images.ids[one.row]: (one.kind, one.known, one.mirrored) for one in match.match(images, known).findings}
    assert found == {
        "bytes.webp": ("identical", 3, False),
        "pixels.png": ("identical pixels", 4, False),
        "mirrored.png": ("identical pixels", 5, True),
        "encoded.jpg": ("re-encoded", 6, False),
        "resized.png": ("resized", 7, False),
    }


def test_a_set_is_compared_with_itself(known: Images, tmp_path: Path) -> None:
    made = {f"{i}.png": png(known[i]) for i in range(20)}
    made |= {"again/3.png": made["3.png"], "again/4.png": png(perturbed(known[4], 0))}
    made |= {"again/5.png": png(watermarked(known[5], known[6]))}
    folder = plant(tmp_path / "d", made)
    out = findings.run(str(folder), f"{folder}/", None)
    found = {one["id"]: one for one in out["findings"]}
    assert found["again/3.png"]["known_id"] == "3.png"
    assert found["again/3.png"]["kind"] == "identical"
    assert (found["4.png"]["known_id"], found["again/4.png"]["known_id"]) == ("again/4.png", "4.png")
    assert found["again/5.png"]["kind"] == "blend"
    assert {found["again/5.png"]["known_id"], found["again/5.png"]["other_id"]} == {"5.png", "6.png"}
    assert all(one["id"] != one["known_id"] for one in out["findings"])


@pytest.mark.parametrize("again", [{}, {"compress_level": 0}], ids=["the same bytes", "the same pixels"])
def test_a_poison_stored_twice_hides_nothing_in_one_set(again: dict[str, int], known: Images, tmp_path: Path) -> None:
    once = {"target.png": known[502], "other.png": known[1]}
    twice = {"base": known[0], "perturbed": perturbed(known[0], 0), "blend": watermarked(known[1], known[502])}
    made = {name: png(image) for name, image in once.items()}
    made |= {f"{name}/1.png": png(image) for name, image in twice.items()}
    made |= {f"{name}/2.png": png(image, **again) for name, image in twice.items()}
    images = looked_at(plant(tmp_path / "d", made))
    found = {images.ids[one.row]: one for one in match.match(images, images, same=True).findings}
    assert found["perturbed/1.png"].kind == "perturbed"
    assert images.ids[found["perturbed/1.png"].known] == "base/1.png"
    assert found["blend/1.png"].kind == "blend"
    explained_by = {images.ids[found["blend/1.png"].known], images.ids[found["blend/1.png"].other]}
    assert explained_by == {"other.png", "target.png"}
    for name in twice:  # the first of the same bytes stands for all
        assert found[f"{name}/2.png"].kind == (found[f"{name}/1.png"].kind if again else "identical")


@pytest.mark.parametrize(
    ("base", "target", "eps", "blends", "targets"),
    [
        pytest.param(640, 37, 0, 6, 1, id="of the blend"),  # nearer to what the base leaves than the target
        pytest.param(94, 40, 8, 1, 6, id="of the target"),  # nearer to the blend than the base
    ],
)
def test_copies_take_no_one_s_place(
    base: int, target: int, eps: int, blends: int, targets: int, known: Images, fresh: Images, tmp_path: Path
) -> None:
    blend = png(perturbed(watermarked(known[base], fresh[target], 0.4), base, eps))
    images = looked_at(plant(tmp_path / "d", {f"{i}.png": blend for i in range(blends)}))
    pool = data.joined(known, fresh).select([base, *[len(known) + target] * targets])
    found = [(one.row, one.kind, one.known, one.other) for one in match.match(images, pool).findings]
    assert found == [(row, "blend", 0, 1) for row in range(blends)]


def test_a_copy_of_a_known_picture_is_explained_by_it(known: Images, tmp_path: Path) -> None:
    poison = perturbed(known[0], 0)
    old = looked_at(plant(tmp_path / "known", {"base.png": png(known[0]), "poison.png": png(poison)}))
    new = {"again.png": png(poison, compress_level=0), "bytes.png": png(poison), "encoded.jpg": jpeg(poison, 85)}
    images = looked_at(plant(tmp_path / "new", new))
    found = {images.ids[one.row]: (one.kind, old.ids[one.known]) for one in match.match(images, old).findings}
    assert found == {
        "again.png": ("identical pixels", "poison.png"),
        "bytes.png": ("identical", "poison.png"),
        "encoded.jpg": ("re-encoded", "poison.png"),
    }


def test_what_was_found_is_explained_again(known: Images, fresh: Images, tmp_path: Path) -> None:
    made = {"0.png": png(known[3]), "1.jpg": jpeg(mirror(perturbed(known[7], 0)), 85), "2.png": png(fresh[9])}
    images = looked_at(plant(tmp_path / "d", made | {"3.png": png(watermarked(known[8], fresh[9]))}))
    found = match.match(images, known).findings
    assert [one.kind for one in found] == ["identical pixels", "perturbed", "blend"]
    for one in found:
        said = match.explained(one, images, data.joined(known, images))
        assert (said.kind, said.rms, said.linf, said.opacity) == (one.kind, one.rms, one.linf, one.opacity)
        assert said.difference.shape == (32, 32, 3)
        assert not any(isinstance(value, np.ndarray) for value in vars(one).values())  # 768 bytes a picture, no more
    (tmp_path / "d/1.jpg").write_bytes(png(fresh[0]))
    with pytest.raises(Gone, match=r"1.jpg is another file now than when the data were listed"):
        match.explained(found[1], images, data.joined(known, images))


def test_chunks_blocks_and_libraries_change_nothing(
    known: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {f"{i}.png": png(perturbed(known[i], i)) for i in range(15)}
    made |= {f"{i}.png": png(watermarked(known[i], known[i + 500])) for i in range(20, 35)}
    images = looked_at(plant(tmp_path / "d", made))

    def found() -> list[tuple[object, ...]]:
        return [(one.row, one.known, one.kind, one.mirrored, one.other) for one in match.match(images, known).findings]

    whole = found()
    assert len(whole) == 30
    monkeypatch.setattr(match, "_CHUNK", 7)
    monkeypatch.setattr(neighbours, "_BLOCK", 333)
    assert found() == whole
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert found() == whole


@pytest.fixture
def poisoned(known: Images, fresh: Images, tmp_path: Path) -> Path:
    """A folder `new` with three clean pictures, a perturbed and a blended one, and `known` with their bases."""
    plant(tmp_path / "known", {f"{i}.png": png(known[i]) for i in range(50)} | {"target.png": png(fresh[9])})
    made = {f"clean/{i}.png": png(fresh[i]) for i in range(3)}
    made |= {"bad/7.png": png(perturbed(known[7], 0)), "bad/8.png": png(watermarked(known[8], fresh[9]))}
    made |= {"same.png": png(known[9]), "torn.png": png(known[0])[:60]}
    return plant(tmp_path / "new", made).parent


def test_the_command_names_them_draws_them_and_ends_with_1(
    poisoned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(poisoned)
    before = {name: on_disk(poisoned / name) for name in ("new", "known")}
    assert main(["match", "new", "--against", "known", "--out", "run"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("perturbed        bad/7.png  of 7.png, changed by 16/255 at most, ")
    assert out[1].startswith("blend            bad/8.png  of 8.png, with target.png blended in at 0.3")
    assert out[2].startswith("could not be read  torn.png: ")
    assert out[3] == "6 pictures against 51 known ones: 1 identical, 1 perturbed, 1 blend"
    assert out[4] == "1 could not be read, and nothing is known of them"
    assert "cropped, rotated" in out[5]
    assert {name: on_disk(poisoned / name) for name in ("new", "known")} == before
    written = json.loads(Path("run/findings.json").read_text())
    assert json.loads(Path("run/plan.json").read_text())["kind"] == "match"
    assert written["counts"] == dict.fromkeys(match.KINDS, 0) | {"identical": 1, "perturbed": 1, "blend": 1}
    perturbed_one = next(one for one in written["findings"] if one["kind"] == "perturbed")
    drawn = {name: np.asarray(Image.open(Path("run") / file)) for name, file in perturbed_one["pictures"].items()}
    assert np.array_equal(drawn["picture"], np.asarray(Image.open("new/bad/7.png")))
    assert np.array_equal(drawn["known"], np.asarray(Image.open("known/7.png")))
    change = drawn["picture"].astype(float) - drawn["known"]
    assert np.abs(drawn["difference"] - (127.5 + perturbed_one["magnified"] * change)).max() <= 1
    blended = next(one for one in written["findings"] if one["kind"] == "blend")
    assert set(blended["pictures"]) == {"picture", "known", "other", "difference"}
    assert written["schema_version"] == 1


def test_what_was_crafted_goes_on_saying_so(
    poisoned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(poisoned)
    crafted = np.asarray(Image.open("new/bad/7.png"))
    Path("new/bad/7.png").write_bytes(encode(crafted))
    assert main(["match", "new", "--against", "known", "--out", "run"]) == 1
    found = json.loads(Path("run/findings.json").read_text())["findings"]
    for one in found:
        for name, file in (one["pictures"] or {}).items():
            with Image.open(Path("run") / file) as drawn:
                is_it = (one["id"], name) == ("bad/7.png", "picture")
                assert drawn.info.get("poisonfrogs") == (MARK if is_it else None)


def test_two_runs_do_not_mix_in_one_folder(
    poisoned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(poisoned)
    Path("run").mkdir()
    with journal.one_writer(Path("run")):
        assert main(["match", "new", "--against", "known", "--out", "run"]) == 2
        refused(capsys, "run is being written by another run")

    def meanwhile(path: str | Path) -> tuple[Images, dict[str, str]]:
        if not Path("run/plan.json").exists():
            Path("run/plan.json").write_text("{}")  # another run, which has begun and ended
        return whole(path)

    whole = data.pictures
    monkeypatch.setattr(data, "pictures", meanwhile)
    assert main(["match", "new", "--against", "known", "--out", "run"]) == 2
    refused(capsys, "run is there already")
    assert sorted(path.name for path in Path("run").iterdir()) == [".lock", "plan.json"]


def test_a_run_that_lacks_its_page_says_how_to_get_it(
    poisoned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(poisoned)
    findings.run("new", "known", Path("run"))
    assert main(["match", "new", "--against", "known", "--out", "run"]) == 2
    refused(capsys, "--out run holds a run that lacks its page only: poisonfrogs report run writes it")
    assert main(["report", "run"]) == 0
    text = Path("run/report.html").read_text()
    for words, name in (("known", "8.png"), ("this one", "bad/8.png"), ("blended in", "target.png")):
        assert f'alt="{words}: {name}"' in text


def test_json_and_a_clean_folder_end_with_0(poisoned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["match", str(poisoned / "new/clean"), "--against", str(poisoned / "known"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["n_known"], found["findings"]) == (3, 51, [])


def test_nothing_readable_is_not_clean(tmp_path: Path, poisoned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(tmp_path / "torn", {"a.png": b"x", "b.png": b"y"})
    assert main(["match", str(tmp_path / "torn"), "--against", str(poisoned / "known")]) == 3
    assert "could not be read  a.png" in capsys.readouterr().out
    assert main(["match", str(poisoned / "new/clean"), "--against", str(tmp_path / "torn")]) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("match none --against known", "none does not exist"),
        ("match new --against none", "none does not exist"),
        ("match empty --against known", "empty holds no pictures"),
        ("match new --against empty", "empty holds no pictures"),
        ("match new", "--against"),
        ("match new --against known --out known", "known is there already"),
        ("match new --against known --out same.txt", "same.txt is there already"),
        ("match new --against known --out new/run", "would lie inside new, which is only read"),
        ("match new --against known --out known/a/run", "would lie inside known, which is only read"),
        ("match same.txt --against known", "is a file of no known kind"),
        ("match new/bad --against new", "new/bad lies in new: each of its pictures would be found identical to itself"),
        ("match new/bad/../clean --against .", "new/bad/../clean lies in .: each"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    arguments: str, said: str, poisoned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(poisoned)
    (poisoned / "empty").mkdir()
    (poisoned / "same.txt").touch()
    before = on_disk(poisoned)
    assert main(arguments.split()) == 2
    refused(capsys, said)
    assert on_disk(poisoned) == before


def test_a_run_that_was_stopped_is_gone_on_with(
    poisoned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(poisoned)
    write, written = journal.write_bytes, []

    def stopped(path: Path, content: bytes) -> None:
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    arguments = ["match", "new", "--against", "known", "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_bytes", stopped)
        with contextlib.suppress(KeyboardInterrupt):
            main(arguments)
    assert len(list(Path("run/pictures").iterdir())) == 4
    plant(Path("run"), {"findings.json": b"", "findings.json.partial": b"{", "plan.json.partial": b"{"})
    assert main(arguments) == 1
    assert json.loads(Path("run/findings.json").read_text())["counts"]["blend"] == 1
    capsys.readouterr()
    assert main(arguments) == 2
    refused(capsys, "run is there already")


@pytest.mark.parametrize(
    "name", ["notes.txt", "pictures/holiday.png", "pictures/more/000001-known.png", "journal.jsonl"]
)
def test_a_folder_that_holds_anything_else_is_refused(
    name: str, poisoned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(poisoned)
    plant(poisoned / "run", {"pictures/000001-known.png": b"", name: b"mine"})
    before = on_disk(poisoned)
    assert main(["match", "new", "--against", "known", "--out", "run"]) == 2
    refused(capsys, "run is there already")
    assert on_disk(poisoned) == before


def test_a_link_is_not_gone_on_with(
    poisoned: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(poisoned)
    Path("run").mkdir()
    Path("run/pictures").symlink_to(poisoned / "new/clean")
    assert main(["match", "new", "--against", "known", "--out", "run"]) == 2
    refused(capsys, "run is there already")


def test_what_cannot_be_read_is_counted_once_and_named_on_its_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("new", "known"):
        plant(tmp_path / side, {"a.png": side.encode(), "b.png": b""})
        Image.new("RGB", (40, 30), (200, 20, 20)).save(tmp_path / side / "c.png")
    new, known = str(tmp_path / "new"), str(tmp_path / "known")
    assert main(["match", new, "--against", new, "--format", "json"]) == 3
    alone = json.loads(capsys.readouterr().out)
    assert (sorted(alone["unreadable"]), alone["unreadable_known"]) == (["a.png", "b.png"], {})
    assert alone["n_unreadable"] == 2
    assert main(["match", new, "--against", known, "--format", "json"]) == 3
    two = json.loads(capsys.readouterr().out)
    assert sorted(two["unreadable"]) == sorted(two["unreadable_known"]) == ["a.png", "b.png"]
    assert two["n_unreadable"] == 4
    assert main(["match", new, "--against", known]) == 3
    said = capsys.readouterr().out
    assert "1 pictures against 1 known ones: 1 identical" in said
    assert "4 could not be read, and nothing is known of them" in said
    assert "could not be read  b.png: " in said
    assert "could not be read  b.png, a known one: " in said


def test_copies_of_what_cannot_be_read_are_named_too(known: Images, tmp_path: Path) -> None:
    new = looked_at(plant(tmp_path / "new", {"a.png": b"torn", "b.png": b"torn", "c.png": b"known", "d.png": b"known"}))
    old = looked_at(plant(tmp_path / "known", {"e.png": b"known", "f.png": png(known[0])}))
    found = match.match(new, old)
    assert [sorted(side) for side in found.unreadable] == [["a.png", "b.png", "c.png", "d.png"], ["e.png"]]
    assert found.readable == (0, 1)
    assert found.counts()["identical"] == len(found.findings) == 2


@pytest.mark.parametrize("stray", [".cache/t.parquet", "t.parquet/c.png"])
def test_a_stray_name_makes_no_table_of_a_folder(
    stray: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path / "new", {stray: b"no picture"})
    Image.new("RGB", (40, 30), (200, 20, 20)).save(tmp_path / "new/a.png")
    assert main(["match", str(tmp_path / "new"), "--against", str(tmp_path / "new"), "--format", "json"]) in (0, 3)
    assert json.loads(capsys.readouterr().out)["n_readable"] == 1


def test_no_pictures_are_an_error_and_not_clean(known: Images) -> None:
    with pytest.raises(InputError, match="no pictures among those looked at"):
        match.match(known.select([]), known)
    with pytest.raises(InputError, match="no pictures among those known"):
        match.match(known, known.select([]))


def test_torch_is_not_imported(poisoned: Path) -> None:
    code = "import sys; from poisonfrogs.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    given = ["match", str(poisoned / "new"), "--against", str(poisoned / "known")]
    subprocess.run([sys.executable, "-c", code, *given], check=True, capture_output=True)
