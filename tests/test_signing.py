"""Keys of all makers, and signatures that other programs verify."""

from __future__ import annotations

import base64
import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from poisonfrogs import pair, signing
from poisonfrogs.types import InputError

DIGEST = "ab" * 32
PREDICATE = {"manifest_version": 1, "files": 3}
CURVES = {"P-256": "ecdsa-sha2-nistp256", "P-384": "ecdsa-sha2-nistp384", "P-521": "ecdsa-sha2-nistp521"}


def openssl(*arguments: object) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=True).stdout


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "key", signing.generate(tmp_path / "key")


def made_by(maker: str, key: Path) -> Path:
    """A key pair from another program; the public key."""
    public = key.with_name(key.name + ".pub")
    program, kind = maker.split()
    if program == "ssh-keygen":
        options = ["-t", kind] if kind == "ed25519" else ["-t", "ecdsa", "-b", kind]
        subprocess.run(["ssh-keygen", "-q", "-N", "", *options, "-f", key], check=True)
    else:
        options = ["ed25519"] if kind == "ed25519" else ["EC", "-pkeyopt", f"ec_paramgen_curve:{kind}"]
        key.write_bytes(openssl("genpkey", "-algorithm", *options))
        public.write_bytes(openssl("pkey", "-in", key, "-pubout"))
    return public


def written(key: Path, **change: Any) -> bytes:
    return signing.envelope("m.jsonl", DIGEST, PREDICATE | change, signing.private_key(key))


@pytest.mark.parametrize(
    "maker",
    [
        "openssl ed25519",
        *(f"openssl {curve}" for curve in CURVES),
        "ssh-keygen ed25519",
        "ssh-keygen 256",
        "ssh-keygen 384",
    ],
)
def test_keys_of_standard_tools_sign_and_verify(maker: str, tmp_path: Path) -> None:
    public = signing.public_key(made_by(maker, tmp_path / "key"))
    found = signing.opened(written(tmp_path / "key"), public, "s")
    assert (found.sha256, found.predicate, found.keyid) == (DIGEST, PREDICATE, public.keyid)
    other = signing.public_key(made_by(maker, tmp_path / "other"))
    with pytest.raises(InputError, match=f"signed with another key .{public.keyid}. than this one .{other.keyid}"):
        signing.opened(written(tmp_path / "key"), other, "s")


def test_an_older_form_of_an_openssl_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout"))
    (tmp_path / "pub").write_bytes(openssl("ec", "-in", tmp_path / "key", "-pubout"))
    assert signing.opened(written(tmp_path / "key"), signing.public_key(tmp_path / "pub"), "s").sha256 == DIGEST


def test_the_key_is_for_its_owner_alone_and_openssl_reads_it(keys: tuple[Path, Path]) -> None:
    key, public = keys
    assert key.stat().st_mode & 0o777 == 0o600
    assert openssl("pkey", "-in", key, "-pubout") == public.read_bytes()
    assert b"ED25519" in openssl("pkey", "-in", key, "-text", "-noout")


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_a_key_is_never_overwritten(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(InputError, match=f"{there} is there already"):
        signing.generate(tmp_path / "key")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {there: "mine"}


@pytest.mark.parametrize("written_before", [0, 1])
def test_a_key_that_cannot_be_written_whole_is_not_left(
    written_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter([None] * written_before)

    def full(descriptor: int) -> None:
        if next(turns, "full") == "full":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        signing.generate(tmp_path / "key")
    assert error.value.filename == str(tmp_path / ("key", "key.pub")[written_before])
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert signing.generate(tmp_path / "key").exists()


def test_the_statement_is_in_toto_s(keys: tuple[Path, Path]) -> None:
    envelope = json.loads(written(keys[0]))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert json.loads(base64.b64decode(envelope["payload"])) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m.jsonl", "digest": {"sha256": DIGEST}}],
        "predicateType": "urn:poisonfrogs:manifest:v1",
        "predicate": PREDICATE,
    }


def parts(envelope: bytes) -> tuple[bytes, bytes]:
    """What is signed by the DSSE specification, written out here, and the signature."""
    found = json.loads(envelope)
    kind, payload = found["payloadType"].encode(), base64.b64decode(found["payload"])
    signed = b"DSSEv1 " + b" ".join([str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])
    return signed, base64.b64decode(found["signatures"][0]["sig"])


def test_other_programs_verify_it(keys: tuple[Path, Path], tmp_path: Path) -> None:
    envelope = written(keys[0])
    signed, signature = parts(envelope)
    key = serialization.load_pem_public_key(keys[1].read_bytes())
    key.verify(signature, signed)  # type: ignore[union-attr, call-arg]
    Envelope.from_dict(json.loads(envelope)).verify([SSlibKey.from_crypto(key)], 1)
    (tmp_path / "signed").write_bytes(signed)
    (tmp_path / "sig").write_bytes(signature)
    verify = ["pkeyutl", "-verify", "-pubin", "-inkey", keys[1], "-rawin", "-in", tmp_path / "signed", "-sigfile", tmp_path / "sig"]  # fmt: skip
    assert b"Success" in openssl(*verify)
    (tmp_path / "signed").write_bytes(signed + b" ")
    with pytest.raises(subprocess.CalledProcessError):
        openssl(*verify)


def test_what_openssl_signs_is_taken(keys: tuple[Path, Path], tmp_path: Path) -> None:
    envelope = json.loads(written(keys[0]))
    (tmp_path / "signed").write_bytes(parts(written(keys[0]))[0])
    signature = openssl("pkeyutl", "-sign", "-inkey", keys[0], "-rawin", "-in", tmp_path / "signed")
    envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    content = json.dumps(envelope, indent=1).encode() + b"\n"
    assert signing.opened(content, signing.public_key(keys[1]), "s").sha256 == DIGEST


def test_every_bit_of_a_signature_file_counts(keys: tuple[Path, Path]) -> None:
    content, public = written(keys[0]), signing.public_key(keys[1])
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InputError, match=r"altered|truncated|another key|no signature"):
            signing.opened(bytes(changed), public, "s")
    for end in range(len(content)):
        with pytest.raises(InputError, match="truncated or altered"):
            signing.opened(content[:end], public, "s")
    with pytest.raises(InputError, match="truncated or altered"):
        signing.opened(content + b"\n", public, "s")


@pytest.mark.parametrize("maker", ["openssl ed25519", "openssl P-256"])
def test_nothing_is_beside_the_signature(maker: str, tmp_path: Path) -> None:
    public = signing.public_key(made_by(maker, tmp_path / "key"))
    content = written(tmp_path / "key")
    (own,) = json.loads(content)["signatures"]
    junk = {"keyid": "00" * 32, "sig": base64.b64encode(b"junk").decode()}
    for signatures in ([own, junk], [junk, own], [own | {"more": 1}], []):
        changed = json.dumps(json.loads(content) | {"signatures": signatures}, indent=1).encode() + b"\n"
        with pytest.raises(InputError, match="s is truncated or altered"):
            signing.opened(changed, public, "s")
    assert signing.opened(content, public, "s")


HOSTILE: dict[str, Any] = {
    "list": [],
    "number": 7,
    "nothing": {},
    "no signatures": {"payload": "", "payloadType": "x", "signatures": []},
    "signatures of the wrong kind": {"payload": "", "payloadType": "x", "signatures": 3},
    "signature of the wrong kind": {"payload": "", "payloadType": "x", "signatures": [3]},
    "payload of the wrong kind": {"payload": 3, "payloadType": "x", "signatures": []},
    "twice": {"payload": "", "payloadType": "x", "signatures": [{"keyid": "a", "sig": "AA=="}] * 2},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_signature_is_refused_in_one_line(name: str, keys: tuple[Path, Path]) -> None:
    content = json.dumps(HOSTILE[name], indent=1).encode() + b"\n"
    with pytest.raises(InputError) as refusal:
        signing.opened(content, signing.public_key(keys[1]), "s")
    assert "\n" not in str(refusal.value)
    assert signing.claimed(content) is None


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"{", b"\xff"])
def test_what_is_not_json_is_refused(content: bytes, keys: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="truncated or altered"):
        signing.opened(content, signing.public_key(keys[1]), "s")
    assert signing.claimed(content) is None


@pytest.mark.parametrize(
    "statement",
    [
        [],
        {"_type": signing.STATEMENT_TYPE},
        {"_type": "other", "subject": [{"digest": {"sha256": DIGEST}}], "predicateType": signing.PREDICATE_TYPE, "predicate": {}},
        {"_type": signing.STATEMENT_TYPE, "subject": [{"digest": {"sha256": DIGEST}}], "predicateType": "other", "predicate": {}},
        {"_type": signing.STATEMENT_TYPE, "subject": [{"digest": {"sha256": 7}}], "predicateType": signing.PREDICATE_TYPE, "predicate": {}},
        {"_type": signing.STATEMENT_TYPE, "subject": [], "predicateType": signing.PREDICATE_TYPE, "predicate": {}},
    ],
)  # fmt: skip
def test_a_valid_signature_of_something_else_is_no_manifest_s(statement: Any, keys: tuple[Path, Path]) -> None:
    other = Envelope(json.dumps(statement).encode(), signing.PAYLOAD_TYPE, {})
    other.sign(signing.private_key(keys[0]))
    with pytest.raises(InputError, match="signed, but says nothing about a manifest"):
        signing.opened(signing._written(other.to_dict()), signing.public_key(keys[1]), "s")


def test_opening_twice_gives_the_same(keys: tuple[Path, Path]) -> None:
    content, public = written(keys[0]), signing.public_key(keys[1])
    assert signing.opened(content, public, "s") == signing.opened(content, public, "s")
    assert signing.claimed(content) == DIGEST


def test_what_is_no_key_is_refused_in_one_line(keys: tuple[Path, Path], tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    for content, said in {
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"): "a key of the kind rsa",
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"): "no private key",
        openssl("pkey", "-in", keys[0], "-aes256", "-passout", "pass:x"): "is encrypted",
        keys[1].read_bytes(): "no private key",
        b"": "no private key",
        bytes(range(256)): "no private key",
    }.items():
        odd.write_bytes(content)
        with pytest.raises(InputError, match=said) as refusal:
            signing.private_key(odd)
        assert "\n" not in str(refusal.value)
    for content, said in {
        keys[0].read_bytes(): "holds a private key; give its public half",
        openssl("pkey", "-in", keys[0], "-pubout", "-outform", "DER"): "no public key",
        b"ssh-ed25519 AAAA x\n": "no public key",
        b"": "no public key",
    }.items():
        odd.write_bytes(content)
        with pytest.raises(InputError, match=said):
            signing.public_key(odd)
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="is not a file"):
            signing.public_key(path)


def test_an_ssh_key_with_a_password_is_refused(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "password", "-f", tmp_path / "key"], check=True)
    with pytest.raises(InputError, match="is encrypted"):
        signing.private_key(tmp_path / "key")


def test_today_s_signature_is_read_for_ever() -> None:
    """A manifest signed by version 0.1.0; every later version has to verify it."""
    kept = Path(__file__).parent / "fixtures" / "signed"
    with pair.reading(kept / "data.manifest.jsonl", kept / "key.pub") as (signed, file):
        assert len(list(iter(lambda: file.readline(1 << 16), b""))) == 6
    assert signed.predicate["signed_at"].startswith("2026-11-")
