"""``DataLoader`` with worker processes over a Lance dataset, decoded by torchvision.

Enters: a dataset that pylance wrote. Leaves: batches. As pylance's documents recommend:
map-style, one ``take`` a batch, spawned workers that stay. The sampler is endless, so no worker
idles at the end of an epoch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.loaders.common import decode, samples, transform
from peers.roster import BATCH_SIZE

if TYPE_CHECKING:
    import torch

_LANCE_BATCH_ROWS = 256


def prepare(tree: Path, target: Path) -> None:
    """The images in a ``LargeBinary`` column.

    JPEGs don't compress, so compression is off, which spares the reader the work.
    """
    import lance
    import pyarrow as pa

    no_compression = {b"lance-encoding:compression": b"none"}
    schema = pa.schema(
        [
            pa.field("image", pa.large_binary(), metadata=no_compression),
            pa.field("label", pa.int64()),
        ]
    )

    def record_batches() -> Iterator[pa.RecordBatch]:
        rows = samples(tree)
        while part := list(islice(rows, _LANCE_BATCH_ROWS)):
            images, labels = zip(*part, strict=True)
            columns = [pa.array(images, pa.large_binary()), pa.array(labels, pa.int64())]
            yield pa.record_batch(columns, schema=schema)

    lance.write_dataset(record_batches(), os.fspath(target), schema=schema)


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    from lance.torch.data import get_safe_loader
    from torch.utils.data import RandomSampler

    rows = Rows(os.fspath(data))
    loader = get_safe_loader(
        rows,
        batch_size=BATCH_SIZE,
        num_workers=threads,
        persistent_workers=True,
        drop_last=True,
        sampler=RandomSampler(rows, num_samples=2**62),
    )
    yield from (image for image, _ in loader)


class Rows:
    """Decoded and transformed rows of a Lance dataset, fetched a batch at a time."""

    def __init__(self, uri: str) -> None:
        import lance

        self._uri = uri
        self._rows = lance.dataset(uri).count_rows()
        # Opened in the worker: Lance is not fork-safe, and a dataset in use can't be pickled.
        self._dataset: Any = None

    def __len__(self) -> int:
        return self._rows

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, int]]:
        if self._dataset is None:
            import lance

            self._dataset = lance.dataset(self._uri)
            self._transform = transform()
        rows = self._dataset.take(indices, columns=["image", "label"])
        return [
            (self._transform(decode(image.as_buffer())), label)
            for image, label in zip(rows["image"], rows["label"].to_pylist(), strict=True)
        ]
