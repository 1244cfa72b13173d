"""WebDataset: tar shards, resampled without end, batched in the worker.

Enters: files of class folders, then tar files. Leaves: batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from peers.loaders.common import decode, samples, transform
from peers.roster import BATCH_SIZE

if TYPE_CHECKING:
    import torch

_ROWS_PER_SHARD = 512
_SHUFFLE_ROWS = 1000


def prepare(tree: Path, target: Path) -> None:
    import webdataset

    target.mkdir()
    pattern = str(target / "%05d.tar")
    with webdataset.ShardWriter(pattern, maxcount=_ROWS_PER_SHARD, verbose=0) as shards:
        for number, (encoded, label) in enumerate(samples(tree)):
            shards.write({"__key__": f"{number:08}", "jpg": encoded, "cls": label})


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    import webdataset

    shards = [str(file) for file in sorted(data.glob("*.tar"))]
    rows = (
        webdataset.WebDataset(shards, resampled=True, shardshuffle=False)
        .shuffle(_SHUFFLE_ROWS)
        .to_tuple("jpg", "cls")
        .map_tuple(Finish(), int)
        .batched(BATCH_SIZE, partial=False)
    )
    for image, _ in webdataset.WebLoader(rows, batch_size=None, num_workers=threads):
        yield image


class Finish:
    """From bytes to a finished picture; made before the workers are."""

    def __init__(self) -> None:
        self._transform = transform()

    def __call__(self, encoded: bytes) -> torch.Tensor:
        return self._transform(decode(encoded))
