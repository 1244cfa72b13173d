"""A small training run: a convolutional network on random crops, with a live progress bar.

python examples/02_train.py [DATASET] [--grid batch.png]
"""

import argparse
import time

import torch
from torch import nn
from tqdm import tqdm

from loaderd import Normalize, RandomHorizontalFlip, RandomResizedCrop
from loaderd.torch import LanceIterableDataset
from sample_data import sample_dataset

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("dataset", nargs="?", help="a Lance dataset [default: a generated one]")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--size", type=int, default=96, help="of the crops, in pixels")
parser.add_argument("--grid", help="save the pictures of one delivered batch here, as a PNG")
parser.add_argument("--run", help="run id in the step log")
parser.add_argument("--brief", action="store_true", help="a small run, for the tests")
arguments = parser.parse_args()


def save_grid(images: torch.Tensor, path: str) -> None:
    """Saves up to 32 normalised pictures, [N, 3, H, W], as one PNG."""
    from torchvision.utils import save_image

    save_image((images[:32].float() * STD + MEAN).clamp(0, 1), path, nrow=8)
    print(f"saved {min(32, len(images))} pictures of the first batch in {path}")


dataset = LanceIterableDataset(
    arguments.dataset or sample_dataset(48 if arguments.brief else 512),
    columns=["image", "label"],
    transform={
        "image": [
            RandomResizedCrop(arguments.size, scale=(0.3, 1.0)),
            RandomHorizontalFlip(),
            Normalize.imagenet("float32"),
        ]
    },
    batch_size=16 if arguments.brief else arguments.batch_size,
    shuffle=True,
    seed=0,
    run=arguments.run,
)
classes = len(dataset.classes.get("label", [])) or 1000
network = nn.Sequential(
    *[
        layer
        for channels_in, channels_out in ((3, 16), (16, 32), (32, 64))
        for layer in (
            nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )
    ],
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(64, classes),
)
optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)

for epoch in range(1 if arguments.brief else arguments.epochs):
    right = seen = 0
    waited = 0.0
    began = before = time.perf_counter()
    with tqdm(dataset, desc=f"epoch {epoch}", unit="step", total=len(dataset)) as steps:
        for batch in steps:
            waited += time.perf_counter() - before
            if arguments.grid and batch.step == 0:
                save_grid(batch["image"], arguments.grid)
            output = network(batch["image"])
            loss = nn.functional.cross_entropy(output, batch["label"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            right += int((output.argmax(1) == batch["label"]).sum())
            seen += batch.rows
            before = time.perf_counter()
            steps.set_postfix_str(
                f"{seen / (before - began):.0f} images/s, loss {loss.item():.2f}, "
                f"{100 * right / seen:.0f} % right"
            )
    seconds = time.perf_counter() - began
    print(
        f"epoch {epoch}: {seen} images at {seen / seconds:.0f} images/s, dataset version "
        f"{dataset.version}, waited for data {100 * waited / seconds:.0f} % of the time"
    )
