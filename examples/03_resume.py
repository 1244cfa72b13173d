"""Stop in the middle of an epoch and go on: exactly the batches that were missing.

python examples/03_resume.py [DATASET]
"""

import argparse
import json

import torch

from loaderd import CenterCrop, RandomHorizontalFlip, Resize
from loaderd.torch import LanceIterableDataset
from sample_data import street_dataset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("dataset", nargs="?", help="a Lance dataset [default: a generated one]")
parser.add_argument("--brief", action="store_true", help="a small run, for the tests")
arguments = parser.parse_args()
uri = arguments.dataset or street_dataset(40)


def open_dataset() -> LanceIterableDataset:
    """The same job every time; each call is a connection of its own."""
    return LanceIterableDataset(
        uri,
        columns=["image", "label", "_rowid"],
        transform={"image": [Resize(72), CenterCrop(64), RandomHorizontalFlip()]},
        batch_size=7,
        shuffle=True,
        seed=3,
    )


# The slots are lent: what is kept for later is copied out of them.
whole = [{name: tensor.clone() for name, tensor in batch.items()} for batch in open_dataset()]

interrupted = open_dataset()
for batch in interrupted:
    if batch.step == 1:
        break
checkpoint = json.dumps(interrupted.state_dict())
print(f"stopped after step {batch.step}; the checkpoint has {len(checkpoint)} bytes")
del batch
interrupted.close()

resumed = open_dataset()
resumed.load_state_dict(json.loads(checkpoint))
for batch in resumed:
    expected = whole[batch.step]
    same = all(torch.equal(batch[name], expected[name]) for name in expected)
    print(f"step {batch.step}: rows {batch['_rowid'].tolist()}, same as uninterrupted: {same}")
    if not same:
        raise SystemExit("resuming gave another batch")
