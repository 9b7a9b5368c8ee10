"""Who says so: keys, and a signed in-toto Statement in a DSSE envelope over the digest of a file.

https://github.com/in-toto/attestation/tree/main/spec/v1, https://github.com/secure-systems-lab/dsse
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poisonfrogs.journal import about, to_the_disk
from poisonfrogs.types import InputError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:poisonfrogs:manifest:v1"  # a name, not an address
START = b'{\n "payload": "'  # of every envelope
_LONGEST = 1 << 20  # bytes of a signature file or a key: hostile ones could be of any size
_KINDS = ("ed25519", "ecdsa")
_EXPECTED = "expected an Ed25519 or ECDSA key (P-256, P-384, P-521), PEM or OpenSSH, as poisonfrogs keygen makes"


@dataclass(frozen=True)
class Signed:
    """What a verified signature says."""

    sha256: str  # of the file it is about
    keyid: str
    predicate: dict[str, Any]


def generate(key: Path) -> Path:
    """Write an Ed25519 key pair: `key` (PKCS#8 PEM, mode 600) and `key`.pub (its public half), which is returned.

    Raises InputError where either is there already, OSError where one cannot be written; then neither is left.
    """
    _signer_class()
    if not key.name:
        raise InputError(f"{key} is a folder; give the name of a file for the key")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.generate()
    public = key.with_name(key.name + ".pub")
    for path in (key, public):
        if os.path.lexists(path):
            raise InputError(f"{path} is there already; a key is never overwritten: choose another name")
    _create(key, made.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()), 0o600)
    try:
        half = made.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        _create(public, half, 0o644)
    except BaseException:
        key.unlink()  # left alone it would be in the way of the next try
        raise
    return public


def _create(path: Path, content: bytes, mode: int) -> None:
    with about(path), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        try:
            to_the_disk(file, content)
        except BaseException:
            path.unlink()
            raise


def private_key(path: Path) -> CryptoSigner:
    """The signer of a private key file. Raises InputError for anything but an unencrypted key of a known kind."""
    signer = _signer_class()
    from cryptography.hazmat.primitives import serialization

    content = _content(path)
    openssh = content.startswith(b"-----BEGIN OPENSSH")
    read = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        found: CryptoSigner = signer(read(content, None))
    except TypeError:
        raise InputError(f"{path} is encrypted; write it without a password first (openssl pkey -in KEY)") from None
    except Exception as error:  # parsers of hostile bytes raise many kinds
        raise InputError(f"{path} holds no private key that can be used ({_brief(error)}); {_EXPECTED}") from None
    if found.public_key.keytype not in _KINDS:
        raise InputError(f"{path} holds a key of the kind {found.public_key.keytype}; {_EXPECTED}")
    return found


def public_key(path: Path) -> SSlibKey:
    """The public key of a file. Raises InputError for anything but a public key of a known kind."""
    _signer_class()
    from cryptography.hazmat.primitives import serialization
    from securesystemslib.signer import SSlibKey

    content = _content(path)
    if b"PRIVATE KEY-----" in content:
        raise InputError(f"{path} holds a private key; give its public half (KEY.pub), and keep this one to yourself")
    openssh = content.startswith((b"ssh-", b"ecdsa-"))
    read = serialization.load_ssh_public_key if openssh else serialization.load_pem_public_key
    try:
        found = SSlibKey.from_crypto(read(content))
    except Exception as error:  # parsers of hostile bytes raise many kinds
        raise InputError(f"{path} holds no public key that can be used ({_brief(error)}); {_EXPECTED}") from None
    if found.keytype not in _KINDS:
        raise InputError(f"{path} holds a key of the kind {found.keytype}; {_EXPECTED}")
    return found


def envelope(name: str, sha256: str, predicate: dict[str, Any], signer: CryptoSigner) -> bytes:
    """A signed envelope around a Statement that `name` has this digest."""
    from securesystemslib.dsse import Envelope

    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    signed = Envelope(json.dumps(statement).encode("ascii"), PAYLOAD_TYPE, {})
    signed.sign(signer)
    return _written(signed.to_dict())


def opened(content: bytes, key: SSlibKey, name: str) -> Signed:
    """What an envelope says, its signature checked first. Raises InputError for anything but a whole, valid one."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError

    found = _parsed(content, name)
    try:
        signed = Envelope.from_dict(copy.deepcopy(found))  # it changes its argument
        as_written = _written(signed.to_dict()) == content  # base64 has bits that nothing is decoded from
        # one signature without more fields: what is beside it is signed by nobody
        if not as_written or [set(one) for one in found["signatures"]] != [{"keyid", "sig"}]:
            raise InputError(f"{name} is truncated or altered; nothing below it is trusted")
        signed.verify([key], threshold=1)
    except InputError:
        raise
    except VerificationError:
        raise InputError(_refusal(found, key, name)) from None
    except Exception as error:  # hostile bytes raise many kinds
        raise InputError(f"{name} is no signature ({_brief(error)}); nothing below it is trusted") from None
    try:
        statement = json.loads(signed.payload)
        (subject,) = statement["subject"]
        digest, predicate = subject["digest"]["sha256"], statement["predicate"]
        kinds = signed.payload_type, statement["_type"], statement["predicateType"]
        ours = isinstance(digest, str) and isinstance(predicate, dict)
    except (ValueError, TypeError, KeyError):
        kinds, ours = ("", "", ""), False
    if not ours or kinds != (PAYLOAD_TYPE, STATEMENT_TYPE, PREDICATE_TYPE):
        raise InputError(f"{name} is signed, but says nothing about a manifest; expected what poisonfrogs sign writes")
    return Signed(digest, key.keyid, predicate)


def claimed(content: bytes) -> str | None:
    """The digest that an envelope names, its signature NOT checked; None where it names none."""
    import base64

    try:
        statement = json.loads(base64.b64decode(json.loads(content)["payload"]))
        digest = statement["subject"][0]["digest"]["sha256"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return digest if isinstance(digest, str) else None


def _parsed(content: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
        whole = isinstance(found, dict) and _written(found) == content
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:  # a change that no signature covers (a space, a second field) is a change, too
        raise InputError(f"{name} is truncated or altered; nothing below it is trusted")
    return dict(found)


def _refusal(found: dict[str, Any], key: SSlibKey, name: str) -> str:
    keyid = str(found["signatures"][0]["keyid"])[:64]
    if key.keyid == keyid:
        return f"{name} is altered: its signature does not fit; nothing below it is trusted"
    return f"{name} is signed with another key ({keyid}) than this one ({key.keyid}); nothing below it is trusted"


def _written(found: dict[str, Any]) -> bytes:
    return json.dumps(found, indent=1).encode("ascii") + b"\n"


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file; {_EXPECTED}")
        with path.open("rb") as file:
            return file.read(_LONGEST)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {_EXPECTED}") from None


def _brief(error: Exception) -> str:
    return (str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__)[:100]


def _signer_class() -> type[CryptoSigner]:
    try:
        import cryptography  # noqa: F401
        from securesystemslib.signer import CryptoSigner
    except ImportError:
        raise InputError("signatures need securesystemslib; pip install 'poisonfrogs[provenance]'") from None
    return CryptoSigner
