"""What the tests of networks share: pictures, files, and refusals."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import toy
from poisonfrogs.models import load
from poisonfrogs.types import InputError

PICTURES = [toy.picture((200, 90, 40), 1, (70, 50)), toy.picture((30, 90, 140), 2, (50, 90))]


def refused(*fragments, model, **options):
    with pytest.raises(InputError) as caught:
        load(model, **options)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def stored(path, body):
    (save_file if path.suffix == ".safetensors" else torch.save)(body.state_dict(), path)
    return path


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
