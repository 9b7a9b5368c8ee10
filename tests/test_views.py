"""The differentiable twin of a view, against the library's own transform."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torchvision import transforms as T

from poisonfrogs.types import InputError
from poisonfrogs.views import View, squash, twin

pytestmark = pytest.mark.usefixtures("one_thread")

# (height, width): portrait, landscape, square, smaller than the crop, odd, a strip, one pixel
SHAPES = [(300, 200), (97, 131), (224, 224), (32, 32), (255, 257), (1, 5), (40, 1), (1, 1)]


def own(name, **changes):
    """timm's own evaluation transform for a name, without building the network."""
    config = timm.get_pretrained_cfg(name).to_dict()
    return create_transform(**(resolve_data_config({}, pretrained_cfg=config) | changes))


def preset(name):
    return torchvision.models.get_model_weights(name).DEFAULT.transforms()


TRANSFORMS = {
    "lite0, bicubic": lambda: own("tf_efficientnet_lite0"),
    "inception_v3, 299 px": lambda: own("inception_v3.tf_in1k"),
    "bilinear": lambda: own("resnet18.tv_in1k"),
    "crop_pct 1": lambda: own("vit_tiny_patch16_224", crop_pct=1.0),
    "squash": lambda: own("vit_base_patch16_clip_224.openai", crop_mode="squash", crop_pct=0.9),
    "border": lambda: own("deepseek_vit_412m", input_size=(3, 96, 96)),
    "border and crop": lambda: own("resnet18.tv_in1k", crop_mode="border", crop_pct=0.8),
    "not square": lambda: own("resnet18.tv_in1k", input_size=(3, 128, 64)),
    "torchvision, bilinear": lambda: preset("resnet18"),
    "torchvision, bicubic": lambda: preset("efficientnet_b0"),
    "torchvision, crop as large as the resize": lambda: preset("swin_t"),
    "our squash": lambda: squash(64, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
}


def pictures(height, width):
    """A smooth one, and hard edges, where a bicubic resize overshoots the most."""
    generator = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[0:height, 0:width]
    smooth = 127 + 127 * np.sin(x[..., None] / 17 + y[..., None] / 23 + np.arange(3))
    hard = 255 * generator.integers(0, 2, (height, width, 3))
    return [array.astype(np.uint8) for array in (smooth, hard)]


def pixels(array):
    return torch.from_numpy(array).permute(2, 0, 1) / 255


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_twin_sees_what_the_library_sees(name, shape):
    """Within Pillow's rounding, nothing else.

    Pillow rounds to 8 bits after each of the two directions. Half a step of the first arrives
    multiplied by at most the sum of the absolute weights of the second (bilinear 1, bicubic 5/4); the
    last adds half a step: 1 or 9/8 steps of 1/255.
    """
    transform = TRANSFORMS[name]()
    view = twin(transform)
    steps = {"bilinear": 1.0, "bicubic": 1.125}[view.interpolation]
    std = torch.tensor(view.std).view(3, 1, 1)
    for array in pictures(*shape):
        theirs, ours = transform(Image.fromarray(array)), view(pixels(array))
        assert ours.shape == theirs.shape
        assert ((ours - theirs) * std * 255).abs().max() <= steps + 1e-3


@pytest.mark.parametrize("name", TRANSFORMS)
def test_without_a_resize_the_twin_is_exact(name):
    transform = TRANSFORMS[name]()
    view = twin(transform)
    side = view.resize if isinstance(view.resize, int) else None
    shape = (side, side + 13) if side else view.resize
    array = pictures(*shape)[1]
    assert view.resized(*shape) == shape
    assert torch.allclose(view(pixels(array)), transform(Image.fromarray(array)), atol=1e-5)


def test_the_twins_are_those_expected():
    """Read by hand off timm's and torchvision's documentation of each."""
    bilinear = {"interpolation": "bilinear", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    half = {"interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert twin(own("tf_efficientnet_lite0")) == View(resize=256, crop=(224, 224), **half)
    assert twin(own("inception_v3.tf_in1k")) == View(resize=341, crop=(299, 299), **half)
    assert twin(preset("resnet18")) == View(resize=256, crop=(224, 224), **bilinear)
    assert twin(squash(64, (0.5,) * 3, (0.5,) * 3)) == View(resize=(64, 64), crop=None, **half)
    border = twin(own("resnet18.tv_in1k", crop_mode="border", crop_pct=0.5, mean=(0.2, 0.4, 0.6)))
    assert (border.resize, border.fit, border.crop, border.fill) == ((448, 448), "contain", (224, 224), (0.2, 0.4, 0.6))
    tall = twin(own("resnet18.tv_in1k", input_size=(3, 128, 64)))
    assert (tall.resize, tall.fit, tall.crop) == ((146, 73), "cover", (128, 64))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", [9, (6, 11), 4], ids=str)
def test_gradients_are_those_of_finite_differences(mode, resize):
    view = View(resize=resize, crop=(5, 8), interpolation=mode, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    generator = torch.Generator().manual_seed(3)
    # away from 0 and 1, where the cut has a kink
    picture = (0.3 + 0.4 * torch.rand(3, 7, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(view, (picture,))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradients_reach_the_pixels(name):
    view = twin(TRANSFORMS[name]())
    picture = torch.rand(3, 60, 60, generator=torch.Generator().manual_seed(0)).requires_grad_()
    view(picture).square().sum().backward()
    reached = picture.grad.abs().sum(0) > 0
    # the middle of the picture always; the rest where no crop cuts it off
    assert reached[20:40, 20:40].all()
    if view.crop is None:
        assert reached.all()


def test_the_crop_cuts_gradients_off_where_it_cuts_the_picture():
    view = View(resize=8, crop=(4, 4), interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
    picture = torch.rand(3, 8, 8).requires_grad_()
    view(picture).sum().backward()
    expected = torch.zeros(8, 8)
    expected[2:6, 2:6] = 1
    assert torch.equal(picture.grad, expected.expand(3, 8, 8))


def test_a_view_keeps_the_precision_of_its_picture():
    view = View(resize=5, crop=None, interpolation="bicubic", mean=(0.1,) * 3, std=(0.3,) * 3)
    picture = torch.full((3, 5, 5), 0.7, dtype=torch.float64)
    assert view(picture).dtype == torch.float64
    assert torch.allclose(view(picture), torch.full_like(picture, 2.0), rtol=0, atol=1e-14)


def test_squash_shows_the_whole_picture():
    """The corners of a strip are in the corners of the square."""
    array = np.full((20, 200, 3), 128, dtype=np.uint8)
    array[:, :20] = 255
    array[:, -20:] = 0
    seen = squash(50, (0.0,) * 3, (1.0,) * 3)(Image.fromarray(array))
    assert seen.shape == (3, 50, 50)
    assert (seen[:, :, 0] == 1).all()
    assert (seen[:, :, -1] == 0).all()


BAD = {
    "nearest": T.Resize(8, T.InterpolationMode.NEAREST),
    "a longest side": T.Resize(8, max_size=9),
    "a random scale": ResizeKeepRatio(8, longest=0.5),
    "a colour step": T.Grayscale(3),
    "a step of many lines": torch.nn.Sequential(torch.nn.ReLU(), torch.nn.ReLU()),
}


@pytest.mark.parametrize("name", BAD)
def test_a_step_without_a_twin_is_refused_in_one_line(name):
    with pytest.raises(InputError, match=r"no differentiable twin .*; try --view squash") as caught:
        twin(T.Compose([BAD[name], T.ToTensor(), T.Normalize((0.5,) * 3, (0.5,) * 3)]))
    assert "\n" not in str(caught.value)


def test_a_grey_border_is_read_as_one():
    transform = T.Compose([ResizeKeepRatio(8, longest=1), CenterCropOrPad(10, fill=51), T.ToTensor()])
    assert twin(T.Compose([*transform.transforms, T.Normalize((0.5,) * 3, (0.5,) * 3)])).fill == (0.2, 0.2, 0.2)


def test_every_view_in_timm_has_its_twin():
    """All of its 3,000 pretrained configurations, but for those that cut no pictures to one size."""
    configs = {name: timm.get_pretrained_cfg(name).to_dict() for name in timm.list_pretrained()}
    views = {str(resolve_data_config({}, pretrained_cfg=config)): config for config in configs.values()}
    assert len(views) > 100
    for config in views.values():
        assert twin(create_transform(**resolve_data_config({}, pretrained_cfg=config))).crop
