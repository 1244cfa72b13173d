"""Detection: boxes that follow their image through crop and flip, drawn into a saved picture.

python examples/05_boxes.py [DATASET] [--grid boxes.png]

A dataset of yours needs the columns image, boxes and categories, as drawn street frames have them.
"""

import argparse

import torch

from loaderd import BoundingBoxes, RandomHorizontalFlip, RandomResizedCrop
from loaderd.batch import Batch
from loaderd.torch import LanceIterableDataset
from sample_data import street_dataset

COLOURS = ["red", "cyan", "yellow", "lime", "magenta", "orange"]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("dataset", nargs="?", help="a Lance dataset [default: a generated one]")
parser.add_argument("--grid", help="save the first batch with its boxes here, as a PNG")
parser.add_argument("--brief", action="store_true", help="a small run, for the tests")
arguments = parser.parse_args()

dataset = LanceIterableDataset(
    arguments.dataset or street_dataset(12 if arguments.brief else 48),
    columns=["image", "boxes", "categories"],
    transform={
        "image": [
            RandomResizedCrop((360, 640), scale=(0.2, 1.0), ratio=(1.5, 2.0)),
            RandomHorizontalFlip(),
        ],
        # What the crop leaves less than 4 pixels of is dropped, and so is its category.
        "boxes": BoundingBoxes("image", min_size=4, with_columns=["categories"]),
    },
    batch_size=6,
    shuffle=True,
    seed=2,
)
names = dataset.classes.get("categories", [])


def save_grid(batch: Batch, path: str) -> None:
    """Saves a batch's pictures, [N, 3, H, W] uint8, with their boxes drawn into them."""
    from torchvision.utils import draw_bounding_boxes, save_image

    drawn = []
    for image, boxes, own in zip(batch["image"], batch["boxes"], batch["categories"], strict=True):
        numbers = own.tolist()
        labels = [names[number] if names else str(number) for number in numbers]
        colours = [COLOURS[number % len(COLOURS)] for number in numbers]
        if numbers:
            image = draw_bounding_boxes(image, boxes, labels, colors=colours, width=2)
        drawn.append(image)
    save_image(torch.stack(drawn).float() / 255, path, nrow=2)
    print(f"saved the first batch in {path}")


for batch in dataset:
    # What torchvision's detection models train on: a dict of [n, 4] and [n] for each image.
    targets = [
        {"boxes": boxes, "labels": labels}
        for boxes, labels in zip(batch["boxes"], batch["categories"], strict=True)
    ]
    shapes = ", ".join(str(tuple(target["boxes"].shape)) for target in targets)
    print(f"step {batch.step}: images {tuple(batch['image'].shape)}, boxes {shapes}")
    if arguments.grid and batch.step == 0:
        save_grid(batch, arguments.grid)
