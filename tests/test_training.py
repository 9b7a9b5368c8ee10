"""Whole networks in training, against a plain loop of torch, and what they learn."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from poisonfrogs import training
from poisonfrogs.small import SMALL
from poisonfrogs.training import Classifier, Pixels, Training
from poisonfrogs.types import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = Training(epochs=2, learning_rate=1e-3, batch_size=16, schedule="constant", precision="fp32")
STATS = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def pictures(n: int = 40, seed: int = 0) -> Pixels:
    """Noise: what fits these has learnt them by heart."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (n,), generator=generator)
    return Pixels(noise.contiguous(memory_format=torch.channels_last), labels, *STATS)


def alexnet(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(SMALL["alexnet32"](), 192, 3)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in network.state_dict().values()])


def by_hand(start: Classifier, data: Pixels, schedule: str) -> Classifier:
    """The loop that everybody writes: a DataLoader, float pictures, torch's Adam."""
    network = copy.deepcopy(start).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    cycle = (
        torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=6, cycle_momentum=False)
        if schedule == "one-cycle"
        else None
    )
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in STATS)
    generator = torch.Generator().manual_seed(7)
    normalised = (data.pictures.contiguous() / 255 - mean) / std
    for _ in range(2):
        order = torch.randperm(len(data), generator=generator)
        loader = DataLoader(TensorDataset(normalised[order], data.labels[order]), batch_size=16)
        for x, y in loader:
            optimiser.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimiser.step()
            if cycle:
                cycle.step()
    return network


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_the_weights_are_those_of_a_plain_loop(schedule):
    start, data = alexnet(), pictures()
    recipe = Training(epochs=2, learning_rate=1e-3, batch_size=16, schedule=schedule, precision="fp32")
    (ours,), theirs = recipe(start, [data], seed=7), by_hand(start, data, schedule)
    assert ours.failure is None
    moved = (weights(theirs) - weights(start)).abs()
    assert float(moved.mean()) > 2e-5
    # Adam divides by gradients near 0: where one vanishes, a last bit may turn a step round
    apart = (weights(ours.network) - weights(theirs)).abs()
    assert float(apart.mean()) < 1e-3 * float(moved.mean())


def test_it_fits_what_it_is_shown():
    data = pictures()
    recipe = Training(epochs=40, learning_rate=3e-3, batch_size=16, schedule="one-cycle")
    loss, accuracy = training.loss_and_accuracy(recipe(alexnet(), [data], seed=1)[0].network, data)
    assert loss < 0.01
    assert accuracy == 1


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    start, data = alexnet(), pictures()
    recipe = Training(epochs=1, learning_rate=1e-3, batch_size=16, schedule="constant")
    one, again, other = (weights(recipe(start, [data], seed=seed)[0].network) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_several_sets_give_each_what_it_gives_alone():
    start, sets = alexnet(), [pictures(40), pictures(33, seed=5)]
    together = PLAIN(start, sets, seed=3)
    for data, found in zip(sets, together, strict=True):
        (alone,) = PLAIN(start, [data], seed=3)
        assert torch.equal(weights(found.network), weights(alone.network))
        assert torch.equal(found.boundaries, alone.boundaries)
    assert PLAIN(start, [], seed=3) == []


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_a_last_picture_alone_joins_those_before_it(schedule):
    """Batch norm of one picture has no variance."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.BatchNorm1d(8))
    recipe = Training(epochs=2, learning_rate=1e-3, batch_size=16, schedule=schedule, precision="fp32")
    (found,) = recipe(Classifier(body, 8, 3), [pictures(33)], seed=7)
    assert found.failure is None
    assert int(found.network.body[2].num_batches_tracked) == len(recipe.rates(33)) == 2 * 2
    assert [training.batches(n, 16) for n in (1, 15, 16, 17, 18, 32)] == [[1], [15], [16], [17], [16, 2], [16, 16]]


def test_how_far_each_layer_turns_is_told_after_each_epoch():
    start = alexnet()
    (found,) = PLAIN(start, [pictures()], seed=3)
    names = list(training.layers(start))
    assert names == [f"body.{name}.weight" for name in ("conv1", "conv2", "conv3", "full1", "full2")] + [
        "linear.weight"
    ]
    assert found.turned.shape == (2, 6)
    assert torch.equal(found.boundaries[-1], found.network.linear.weight)
    assert not torch.equal(found.boundaries[0], found.boundaries[1])
    a, b = (weight.flatten().double() for weight in (start.body.conv1.weight, found.network.body.conv1.weight))
    expected = torch.rad2deg(torch.arccos(a @ b / a.norm() / b.norm()))
    assert found.turned[-1, 0] == pytest.approx(float(expected.detach()), rel=1e-6)
    assert (found.turned[0] < found.turned[1]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_a_gpu_trains_several_as_a_cpu_trains_each(schedule, monkeypatch):
    """From graphs, in streams of their own, with a last batch that is smaller or, for 145, larger by one."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)

    def moved(data: Pixels) -> Pixels:
        return Pixels(data.pictures.cuda(), data.labels.cuda(), data.mean, data.std)

    start, sets = alexnet(), [pictures(140), pictures(200, seed=5), pictures(145, seed=6)]
    recipe = Training(epochs=2, learning_rate=1e-3, batch_size=16, schedule=schedule, precision="fp32")
    expected = recipe(start, sets, seed=7)
    found = recipe(copy.deepcopy(start).cuda(), [moved(data) for data in sets], seed=7)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.failure is None
        distance = (weights(ours.network).cpu() - weights(theirs.network)).abs()
        way = (weights(theirs.network) - weights(start)).abs()
        assert float(distance.mean()) < 0.3 * float(way.mean())  # Adam takes whole steps where gradients vanish
        assert torch.allclose(ours.turned, theirs.turned, rtol=0.1)


def test_the_start_and_the_world_s_randomness_are_left_as_they_were():
    start, data = alexnet(), pictures()
    before, state = weights(start), torch.get_rng_state()
    PLAIN(start, [data], seed=1)
    assert torch.equal(weights(start), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_no_number_is_told_with_its_epoch():
    recipe = Training(epochs=3, learning_rate=float("inf"), batch_size=16, schedule="constant", precision="fp32")
    (found,) = recipe(alexnet(), [pictures()], seed=1)
    assert found.failure == "the training loss is not a finite number in epoch 1"


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_last_step_that_overflows_the_weights_is_told(epochs):
    """No loss comes after it."""
    one_step = Training(epochs=epochs, learning_rate=float("inf"), batch_size=64, schedule="constant", precision="fp32")
    (found,) = one_step(alexnet(), [pictures()], seed=1)
    assert found.failure == "a weight is not a finite number after epoch 1"


class Tuple(nn.Flatten):
    def forward(self, x):
        return (super().forward(x),) if self.training else super().forward(x)


class Raising(nn.Flatten):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (Tuple(), "it raised TypeError: linear.*not tuple .*in training, too, it takes pictures"),
        (Raising(ValueError("no\nclock")), r"it raised ValueError: no clock \(.*test_training.py, line \d+\); mend it"),
        (Raising(RuntimeError("a size does not fit")), "it raised RuntimeError: a size does not fit"),
        (Raising(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")), "give a smaller --size, or fewer"),
        (Raising(torch.OutOfMemoryError("CUDA out of memory")), "give a smaller --size, or fewer pictures"),
        (Raising(MemoryError()), "there is not enough memory to train every layer"),
    ],
)  # fmt: skip
def test_what_a_network_raises_in_training_is_told_in_a_line(body, said):
    with pytest.raises(InputError, match=said) as caught:
        PLAIN(Classifier(body, 3 * 32 * 32, 3), [pictures()], seed=1)
    assert "\n" not in str(caught.value)


def test_what_is_told_of_an_epoch_raises_what_it_will():
    def stop(epochs: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        PLAIN(alexnet(), [pictures()], seed=1, progress=stop)


@pytest.mark.parametrize(("side", "together"), [(32, 500), (224, 10), (1024, 1)])
def test_as_many_pictures_are_asked_about_together_as_their_pixels_allow(side, together):
    some = torch.empty(501, 3, side, side, dtype=torch.uint8, device="meta")
    sizes = [len(chunk) for chunk in training.portions(some)]
    assert max(sizes) == together
    assert sum(sizes) == 501


def test_an_edit_takes_rows_out_and_puts_pictures_at_the_end():
    data, added = pictures(5), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    edited = data.edited(added, 2, (0, 3))
    assert edited.labels.tolist() == [*data.labels[[1, 2, 4]].tolist(), 2, 2]
    assert torch.equal(edited.pictures, torch.cat([data.pictures[[1, 2, 4]], added]))
    assert len(data) == 5


def test_what_is_seen_is_what_torchvision_s_transforms_make():
    from torchvision import transforms

    data = pictures(3)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*STATS)])
    expected = torch.stack([theirs(picture.permute(1, 2, 0).numpy()) for picture in data.pictures])
    assert torch.equal(data.seen(data.pictures), expected)
