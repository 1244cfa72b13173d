"""LitData: optimised chunks on the local disk, its own loader and its own JPEG decoder.

Enters: files of class folders, then chunks. Leaves: batches. Its decoder is torchvision's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.loaders.common import files_and_labels, forever, transform
from peers.roster import BATCH_SIZE

if TYPE_CHECKING:
    import torch


def prepare(tree: Path, target: Path) -> None:
    import litdata

    files, labels = files_and_labels(tree)
    litdata.optimize(
        fn=sample,
        inputs=[(str(file), label) for file, label in zip(files, labels, strict=True)],
        output_dir=os.fspath(target),
        chunk_bytes="64MB",
        num_workers=1,
        verbose=False,
    )


def sample(row: tuple[str, int]) -> dict[str, Any]:
    """What is kept of a picture: its file's bytes, as they are."""
    from PIL import Image

    return {"image": Image.open(row[0]), "label": row[1]}


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    from litdata import StreamingDataLoader, StreamingDataset

    class Rows(StreamingDataset):
        finish = transform()

        def __getitem__(self, at: Any) -> tuple[torch.Tensor, int]:
            row = super().__getitem__(at)
            return self.finish(row["image"]), row["label"]

    loader = StreamingDataLoader(
        Rows(os.fspath(data), shuffle=True, drop_last=True),
        batch_size=BATCH_SIZE,
        num_workers=threads,
        persistent_workers=True,
        drop_last=True,
    )
    yield from (image for image, _ in forever(loader))
