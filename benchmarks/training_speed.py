"""How fast a whole network trains, beside the loop that everybody writes: python benchmarks/training_speed.py [SHARED]

The scaled-down AlexNet on CIFAR-10, from the same random weights, the same recipe (Adam, one-cycle to 3e-3, batches of
256, EPOCHS epochs), one run after the other, twice, in turn. The plain loop: a Dataset that makes floats of a picture, a
DataLoader, float32, contiguous. About 6 minutes on 2 cores, with 2 threads; the result is
benchmarks/results/training_speed.json.

Where there is a GPU: how many victims of the paper's protocol (10 epochs, batches of 128) train in a minute when 1, 8 and
32 do so side by side, and without the CUDA graph; 50,000 random pictures, about a minute; the result is
benchmarks/results/training_speed_gpu.json.
"""

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from poisonfrogs import load_data, training
from poisonfrogs.end_to_end import pixels
from poisonfrogs.models import load
from poisonfrogs.pipeline import hardware, versions
from poisonfrogs.training import Classifier, Pixels, Training, loss_and_accuracy

ROOT = Path(__file__).parent.parent
EPOCHS, ROUNDS, BATCH, RATE = 3, 2, 256, 3e-3
SIDE_BY_SIDE = (1, 8, 32)


class Plain(Dataset):
    def __init__(self, data: Pixels) -> None:
        self.arrays = data.pictures.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = data.labels.tolist()
        self.transform = Compose([ToTensor(), Normalize(data.mean, data.std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.arrays[i]), self.labels[i]


def plain(start: Classifier, data: Pixels) -> Classifier:
    network = copy.deepcopy(start).train()
    loader = DataLoader(Plain(data), batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    steps = EPOCHS * len(loader)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, cycle_momentum=False)
    for _ in range(EPOCHS):
        for x, y in loader:
            optimiser.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimiser.step()
            rates.step()
    return network.eval()


def ours(start: Classifier, data: Pixels) -> Classifier:
    recipe = Training(epochs=EPOCHS, learning_rate=RATE, batch_size=BATCH, schedule="one-cycle")
    return recipe(start, [data], seed=0)[0].network


def on_gpu() -> dict[str, Any]:
    """Victims a minute; what the pictures show does not matter to the time."""
    torch.manual_seed(0)
    net = load("alexnet32", untrained=True, device="cuda")
    start = Classifier(net.body.requires_grad_(), net.dim, 10).to(net.device)
    pictures = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.randint(0, 10, (len(pictures),))
    data = Pixels(pictures.to(net.device), labels.to(net.device), net.view.mean, net.view.std)
    recipe = Training(epochs=10, learning_rate=1.85e-5, batch_size=128, schedule="constant")
    replace(recipe, epochs=1)(start, [data], seed=0)  # libraries choose and prepare

    def victims_a_minute(count: int, epochs: int) -> float:
        sets = [data.edited(data.pictures[:50], i % 10, ()) for i in range(count)]
        started = time.perf_counter()
        replace(recipe, epochs=epochs)(start, sets, seed=0)
        return round(60 * count / (time.perf_counter() - started) * epochs / recipe.epochs, 1)

    found = {str(count): victims_a_minute(count, recipe.epochs) for count in SIDE_BY_SIDE}
    training.WARM_UP = 10**9
    return {"n": 1, "victims_a_minute": found, "victims_a_minute_without_graphs": victims_a_minute(1, 2)}


def beside_the_plain_loop(shared: Path) -> dict[str, Any]:
    torch.set_num_threads(2)
    net, data = load("alexnet32", untrained=True), load_data(shared / "data/cifar10")
    (train, _), (test, _) = (pixels(net, images, lambda done: None) for images in (data.train, data.test))
    loops: dict[str, Callable[[Classifier, Pixels], Classifier]] = {"plain": plain, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    accuracy: dict[str, list[float]] = {name: [] for name in loops}
    for seed in range(ROUNDS):
        torch.manual_seed(seed)
        start = Classifier(load("alexnet32", untrained=True).body.requires_grad_(), net.dim, len(data.classes))
        for name, loop in loops.items():
            started = time.perf_counter()
            network = loop(start, train)
            seconds[name].append((time.perf_counter() - started) / EPOCHS)
            accuracy[name].append(loss_and_accuracy(network, test)[1])
            print(f"{name}: {seconds[name][-1]:.1f} s an epoch, test accuracy {accuracy[name][-1]:.4f}", flush=True)
    return {
        "n": ROUNDS,
        "epochs": EPOCHS,
        "seconds_an_epoch": {name: [round(one, 2) for one in found] for name, found in seconds.items()},
        "test_accuracy": accuracy,
        "times_faster": round(median(seconds["plain"]) / median(seconds["ours"]), 2),
    }


def main() -> None:
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("POISONFROGS_SHARED", ROOT.parent / "shared"))
    gpu = torch.cuda.is_available()
    found = on_gpu() if gpu else beside_the_plain_loop(shared)
    result = {**found, "versions": versions(), "hardware": hardware(torch.device("cuda" if gpu else "cpu"))}
    name = "training_speed_gpu" if gpu else "training_speed"
    (ROOT / f"benchmarks/results/{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
