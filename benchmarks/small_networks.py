"""The CIFAR ResNets' published weights on all 10,000 test pictures: python benchmarks/small_networks.py [SHARED]

About 2 minutes on 2 cores; the result is benchmarks/results/small_networks.json. It fails where an accuracy is not the
one that is listed beside the weights.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from poisonfrogs import load_data, load_model
from poisonfrogs.end_to_end import pixels
from poisonfrogs.pipeline import hardware, versions
from poisonfrogs.training import Classifier, loss_and_accuracy

ROOT = Path(__file__).parent.parent
LISTED = {20: 0.9173, 32: 0.9263, 44: 0.9310, 56: 0.9339}


def main() -> None:
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("POISONFROGS_SHARED", ROOT.parent / "shared"))
    torch.set_num_threads(2)
    data = load_data(shared / "data/cifar10")
    rows: dict[str, Any] = {}
    for depth, listed in LISTED.items():
        file = shared / f"weights/cifar10_resnet{depth}.safetensors"
        net = load_model(f"cifar_resnet{depth}={file}")
        network = Classifier(net.body, net.dim, len(data.classes)).eval()
        state = load_file(file)
        network.linear.load_state_dict({name: state[f"linear.{name}"] for name in ("weight", "bias")})
        seen, _ = pixels(net, data.test, lambda done: None)
        with torch.inference_mode():
            accuracy = loss_and_accuracy(network, seen)[1]
        rows[net.name] = {"accuracy": accuracy, "listed": listed}
        print(f"{net.name}: {accuracy:.4f}, listed {listed:.4f}", flush=True)
    result = {"n": len(data.test), "rows": rows, "versions": versions(), "hardware": hardware(torch.device("cpu"))}
    (ROOT / "benchmarks/results/small_networks.json").write_text(json.dumps(result, indent=1) + "\n")
    if any(round(row["accuracy"], 4) != row["listed"] for row in rows.values()):
        sys.exit("an accuracy is not the listed one")


if __name__ == "__main__":
    main()
