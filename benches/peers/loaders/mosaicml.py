"""MosaicML Streaming: MDS shards on the local disk, shuffled, ``DataLoader`` workers.

Enters: files of class folders, then shards. Leaves: batches. The images are a ``bytes`` column,
so that torchvision decodes them and not Pillow. An epoch is long, so that workers seldom idle.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from peers.loaders.common import decode, forever, samples, transform
from peers.roster import BATCH_SIZE

if TYPE_CHECKING:
    import torch

_EPOCHS_IN_ONE = 32


def prepare(tree: Path, target: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=os.fspath(target), columns={"image": "bytes", "label": "int"}) as shards:
        for encoded, label in samples(tree):
            shards.write({"image": encoded, "label": label})


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    import json

    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    class Rows(StreamingDataset):
        finish = transform()

        def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
            row = super().__getitem__(at)
            return self.finish(decode(row["image"])), row["label"]

    clean_stale_shared_memory()
    index = json.loads((data / "index.json").read_text())
    rows = Rows(
        local=os.fspath(data),
        shuffle=True,
        batch_size=BATCH_SIZE,
        epoch_size=_EPOCHS_IN_ONE * sum(shard["samples"] for shard in index["shards"]),
    )
    loader = DataLoader(
        rows,
        batch_size=BATCH_SIZE,
        num_workers=threads,
        persistent_workers=True,
        drop_last=True,
    )
    yield from (image for image, _ in forever(loader))
