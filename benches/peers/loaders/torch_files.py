"""``DataLoader`` with worker processes over the files, decoded by torchvision.

Enters: files of class folders. Leaves: batches. ``ImageFolder`` with torchvision's own decoder
in place of Pillow's, persistent workers, an endless sampler.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from peers.loaders.common import transform
from peers.roster import BATCH_SIZE

if TYPE_CHECKING:
    import torch


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision.datasets import ImageFolder

    rows = ImageFolder(str(data), transform=transform(), loader=read)
    loader = DataLoader(
        rows,
        batch_size=BATCH_SIZE,
        num_workers=threads,
        persistent_workers=True,
        drop_last=True,
        sampler=RandomSampler(rows, num_samples=2**62),
    )
    yield from (image for image, _ in loader)


def read(path: str) -> torch.Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    return decode_jpeg(read_file(path), mode=ImageReadMode.RGB)
