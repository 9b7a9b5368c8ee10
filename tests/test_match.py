"""Which pictures are copies of known ones: planted among real ones, and found again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from planted import jpeg, mirror, perturbed, png, watermarked
from poisonfrogs import data, findings, match, neighbours
from poisonfrogs.cli import main
from poisonfrogs.images import Images
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
            assert finding.comparison.opacity == pytest.approx(0.3, abs=0.05)
    assert len(found) >= 0.95 * N
    assert right >= 0.9 * N


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
    assert out[3] == "7 pictures against 51 known ones: 1 identical, 1 perturbed, 1 blend"
    assert "cropped, rotated" in out[4]
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


def test_what_cannot_be_read_is_counted_once_and_named_on_its_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("new", "known"):
        plant(tmp_path / side, {"a.png": side.encode(), "b.png": b""})
        Image.new("RGB", (40, 30), (200, 20, 20)).save(tmp_path / side / "c.png")
    new, known = str(tmp_path / "new"), str(tmp_path / "known")
    assert main(["match", new, "--against", new, "--format", "json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert (sorted(alone["unreadable"]), alone["unreadable_known"]) == (["a.png", "b.png"], {})
    assert alone["n_unreadable"] == 2
    assert main(["match", new, "--against", known, "--format", "json"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert sorted(two["unreadable"]) == sorted(two["unreadable_known"]) == ["a.png", "b.png"]
    assert two["n_unreadable"] == 4
    assert main(["match", new, "--against", known]) == 0
    said = capsys.readouterr().out
    assert "could not be read  b.png: " in said
    assert "could not be read  b.png, a known one: " in said


@pytest.mark.parametrize("stray", [".cache/t.parquet", "t.parquet/c.png"])
def test_a_stray_name_makes_no_table_of_a_folder(
    stray: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path / "new", {stray: b"no picture"})
    Image.new("RGB", (40, 30), (200, 20, 20)).save(tmp_path / "new/a.png")
    assert main(["match", str(tmp_path / "new"), "--against", str(tmp_path / "new"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_readable"] >= 1


def test_no_pictures_are_an_error_and_not_clean(known: Images) -> None:
    with pytest.raises(InputError, match="no pictures among those looked at"):
        match.match(known.select([]), known)
    with pytest.raises(InputError, match="no pictures among those known"):
        match.match(known, known.select([]))


def test_torch_is_not_imported(poisoned: Path) -> None:
    code = "import sys; from poisonfrogs.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    given = ["match", str(poisoned / "new"), "--against", str(poisoned / "known")]
    subprocess.run([sys.executable, "-c", code, *given], check=True, capture_output=True)
