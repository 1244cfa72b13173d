"""LanceDB's StreamingDataset: its own threads read and transform, in the training process.

Enters: a table, which is the dataset that pylance wrote. Leaves: batches. As its documents
have it: a ``DataLoader`` without workers, a transform of whole record batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.loaders.common import decode, transform
from peers.roster import BATCH_SIZE

if TYPE_CHECKING:
    import torch


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    import lancedb
    import torch
    from lancedb.streaming import StreamingDataset

    finish = transform()
    torch.set_num_threads(1)

    def rows_of(part: Any) -> list[tuple[torch.Tensor, int]]:
        return [
            (finish(decode(image.as_buffer())), label)
            for image, label in zip(
                part.column("image"), part.column("label").to_pylist(), strict=True
            )
        ]

    table = lancedb.connect(os.fspath(data.parent)).open_table(data.stem)
    epoch = 0
    while True:
        rows = StreamingDataset(
            table,
            shuffle=True,
            epoch=epoch,
            columns=["image", "label"],
            transform=rows_of,
            transform_parallelism=threads,
            # Without a bound it transforms ahead without end.
            transform_queue_depth=4,
        )
        loader = torch.utils.data.DataLoader(rows, batch_size=BATCH_SIZE, drop_last=True)
        yield from (image for image, _ in loader)
        epoch += 1
