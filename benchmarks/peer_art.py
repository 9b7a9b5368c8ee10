"""The peer's half of peer_collision.py, run by the Python of an environment that has the Adversarial Robustness Toolbox.

    PEER_PYTHON benchmarks/peer_art.py FOLDER

FOLDER/pairs.npz holds targets and bases, uint8 (n, h, w, 3), and FOLDER/weights.safetensors the network's tensors. For
each setting the poisons go to FOLDER/art-NAME.npz (float, as the toolbox leaves them), the seconds to stdout as JSON.
"""

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import timm
import torch
from art.attacks.poisoning import FeatureCollisionAttack
from art.estimators.classification import PyTorchClassifier
from safetensors.torch import load_file
from torch import nn

# learning_rate and similarity_coeff; its defaults are 500 * 255 and 256, for which pixels were 0 to 255
SETTINGS = {
    "default": {},
    "rate 50": {"learning_rate": 50.0},
    "rate 5": {"learning_rate": 5.0},
    "rate 50, similarity 1": {"learning_rate": 50.0, "similarity_coeff": 1.0},
}
CAP = 300  # iterations


class Normalised(nn.Module):
    """Pixels in [0, 1] to features, as the toolbox wants its networks: named layers."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.features = body, nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.features(self.body((pixels - 0.5) / 0.5))


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(SETTINGS)
    torch.set_num_threads(int(os.environ.get("THREADS", os.cpu_count() or 1)))
    body = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    body.load_state_dict(load_file(folder / "weights.safetensors"))
    body.eval().requires_grad_(False)
    network = Normalised(body)
    classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), (3, 224, 224), 1280, clip_values=(0.0, 1.0))
    held = np.load(folder / "pairs.npz")
    targets, bases = (held[name].transpose(0, 3, 1, 2).astype(np.float32) / 255 for name in ("targets", "bases"))
    layer = [name for name in classifier.layer_names if name.endswith("features")][-1]
    for name in names:
        made, seconds = [], []
        for target, base in zip(targets, bases, strict=True):
            started = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):
                attack = FeatureCollisionAttack(
                    classifier, target[None], layer, max_iter=CAP, verbose=False, **SETTINGS[name]
                )
                poisons, _ = attack.poison(base[None])
            made.append(poisons[0])
            seconds.append(round(time.perf_counter() - started, 3))
        np.savez(folder / f"art-{name}.npz", poisons=np.stack(made).transpose(0, 2, 3, 1))
        print(json.dumps({"setting": name, "seconds": seconds, "iterations": CAP}), flush=True)


if __name__ == "__main__":
    main()
