"""First batches: open a dataset, look at what comes out.

python examples/01_batches.py [DATASET]
"""

import argparse

from loaderd import Normalize, RandomHorizontalFlip, RandomResizedCrop
from loaderd.torch import LanceIterableDataset
from sample_data import street_dataset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("dataset", nargs="?", help="a Lance dataset [default: a generated one]")
parser.add_argument("--brief", action="store_true", help="a small run, for the tests")
arguments = parser.parse_args()

dataset = LanceIterableDataset(
    arguments.dataset or street_dataset(24 if arguments.brief else 64),
    columns=["image", "label", "_rowid"],
    transform={
        "image": [RandomResizedCrop(224), RandomHorizontalFlip(), Normalize.imagenet("float16")]
    },
    batch_size=8,
    shuffle=True,
    seed=1,
)
print(f"{dataset.rows} rows at version {dataset.version}, {len(dataset)} steps an epoch")
for notice in dataset.notices:
    print("note:", notice)

names = dataset.classes.get("label", [])
for batch in dataset:
    image, label = batch["image"], batch["label"]
    print(f"step {batch.step}: {tuple(image.shape)} {image.dtype}, rows {batch['_rowid'].tolist()}")
    if names:
        print("  ", ", ".join(names[number] for number in label))
    if batch.step == 2:
        break

print("this is what a checkpoint keeps:", dataset.state_dict())
