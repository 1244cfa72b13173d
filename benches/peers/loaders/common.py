"""What several peers share: the pictures as samples, torchvision's decoder and transforms.

Enters: files of class folders, or encoded bytes. Leaves: samples and finished tensors. Peers
whose examples decode with Pillow are given torchvision's decoder too, which is faster.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.roster import MEAN, RATIO, SCALE, SIZE, STD

if TYPE_CHECKING:
    import torch


def files_and_labels(tree: Path) -> tuple[list[Path], list[int]]:
    """All pictures in a fixed random order: no reader shall profit from sorted classes."""
    files = sorted(tree.glob("*/*.jpg"))
    random.Random(2).shuffle(files)
    return files, [int(file.parent.name) for file in files]


def samples(tree: Path) -> Iterator[tuple[bytes, int]]:
    """Encoded bytes and label of each picture."""
    for file, label in zip(*files_and_labels(tree), strict=True):
        yield file.read_bytes(), label


def decode(encoded: Any) -> torch.Tensor:
    """``[3, height, width]`` uint8 from anything that is a buffer."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    # Nothing writes to it.
    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    return decode_jpeg(torch.frombuffer(encoded, dtype=torch.uint8), mode=ImageReadMode.RGB)


def transform() -> Any:
    """From a decoded picture to ``[3, 224, 224]`` float32."""
    import torch
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=SCALE, ratio=RATIO, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def forever(epochs: Any) -> Iterator[Any]:
    """Batches of epoch after epoch."""
    while True:
        yield from epochs
