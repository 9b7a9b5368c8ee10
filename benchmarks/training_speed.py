"""How fast a whole network trains, beside the loop that everybody writes: python benchmarks/training_speed.py [SHARED]

The scaled-down AlexNet on CIFAR-10, from the same random weights, the same recipe (Adam, one-cycle to 3e-3, batches of
256, EPOCHS epochs), one run after the other, twice, in turn. The plain loop: a Dataset that makes floats of a picture, a
DataLoader, float32, contiguous. About 6 minutes on 2 cores, with 2 threads; the result is
benchmarks/results/training_speed.json. Where there is a GPU, it is of the GPU, with how many victims of the paper's
protocol (batches of 128, 10 epochs) are trained in a minute when 1, 8 and 32 train side by side, in
training_speed_gpu.json.
"""

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from poisonfrogs import load_data
from poisonfrogs.end_to_end import pixels
from poisonfrogs.models import load
from poisonfrogs.pipeline import hardware, versions
from poisonfrogs.training import Classifier, Pixels, Training, loss_and_accuracy

ROOT = Path(__file__).parent.parent
EPOCHS, ROUNDS, BATCH, RATE = 3, 2, 256, 3e-3
SIDE_BY_SIDE = (1, 8, 32)


class Plain(Dataset):
    def __init__(self, data: Pixels) -> None:
        self.arrays = data.pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        self.labels = data.labels.tolist()
        self.transform = Compose([ToTensor(), Normalize(data.mean, data.std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.arrays[i]), self.labels[i]


def plain(start: Classifier, data: Pixels) -> Classifier:
    network, device = copy.deepcopy(start).train(), data.pictures.device
    loader = DataLoader(Plain(data), batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    steps = EPOCHS * len(loader)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, cycle_momentum=False)
    for _ in range(EPOCHS):
        for x, y in loader:
            optimiser.zero_grad()
            F.cross_entropy(network(x.to(device)), y.to(device)).backward()
            optimiser.step()
            rates.step()
    return network.eval()


def ours(start: Classifier, data: Pixels) -> Classifier:
    recipe = Training(epochs=EPOCHS, learning_rate=RATE, batch_size=BATCH, schedule="one-cycle")
    return recipe(start, [data], seed=0)[0].network


def victims_a_minute(start: Classifier, data: Pixels) -> dict[str, float]:
    """Of the paper's protocol, each of its own set."""
    recipe = Training(epochs=10, learning_rate=1.85e-5, batch_size=128, schedule="constant")
    found = {}
    for count in SIDE_BY_SIDE:
        sets = [data.edited(data.pictures[:50], i % 10, ()) for i in range(count)]
        started = time.perf_counter()
        recipe(start, sets, seed=0)
        found[str(count)] = round(60 * count / (time.perf_counter() - started), 1)
        print(f"{count} side by side: {found[str(count)]} victims a minute", flush=True)
    return found


def main() -> None:
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("POISONFROGS_SHARED", ROOT.parent / "shared"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(2)
    net, data = load("alexnet32", untrained=True, device=device), load_data(shared / "data/cifar10")
    (train, _), (test, _) = (pixels(net, images, lambda done: None) for images in (data.train, data.test))
    loops: dict[str, Callable[[Classifier, Pixels], Classifier]] = {"plain": plain, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    accuracy: dict[str, list[float]] = {name: [] for name in loops}
    for seed in range(ROUNDS):
        torch.manual_seed(seed)
        body = load("alexnet32", untrained=True).body.requires_grad_()
        start = Classifier(body, net.dim, len(data.classes)).to(device)
        for name, loop in loops.items():
            started = time.perf_counter()
            network = loop(start, train)
            seconds[name].append((time.perf_counter() - started) / EPOCHS)
            accuracy[name].append(loss_and_accuracy(network, test)[1])
            print(f"{name}: {seconds[name][-1]:.1f} s an epoch, test accuracy {accuracy[name][-1]:.4f}", flush=True)
    result: dict[str, Any] = {
        "n": ROUNDS,
        "epochs": EPOCHS,
        "seconds_an_epoch": {name: [round(one, 2) for one in found] for name, found in seconds.items()},
        "test_accuracy": accuracy,
        "times_faster": round(median(seconds["plain"]) / median(seconds["ours"]), 2),
        "victims_a_minute": victims_a_minute(start, train) if device == "cuda" else None,
        "versions": versions(),
        "hardware": hardware(torch.device(device)),
    }
    name = "training_speed_gpu" if device == "cuda" else "training_speed"
    (ROOT / f"benchmarks/results/{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['times_faster']} times faster")


if __name__ == "__main__":
    main()
