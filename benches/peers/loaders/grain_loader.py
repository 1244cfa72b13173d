"""Grain: ArrayRecord, a global shuffle, worker processes that hand over shared memory.

Enters: files of class folders, then record files. Leaves: batches that PyTorch maps without a
copy. Decoded and transformed by torchvision.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.loaders.common import decode, samples, transform
from peers.roster import BATCH_SIZE

if TYPE_CHECKING:
    import torch

_LABEL_BYTES = 8
_BATCHES_AHEAD = 2


def prepare(tree: Path, target: Path) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    target.mkdir()
    # One record a group: the documents ask for it where rows are read at random. JPEGs don't
    # compress.
    writer = ArrayRecordWriter(str(target / "rows.array_record"), "group_size:1,uncompressed")
    for encoded, label in samples(tree):
        writer.write(label.to_bytes(_LABEL_BYTES, "little") + encoded)
    writer.close()


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    import grain
    import torch
    from absl import flags

    # Its worker processes read them.
    flags.FLAGS(["grain"])

    class Finish(grain.transforms.Map):
        """From a record to a finished picture."""

        def map(self, record: bytes) -> dict[str, Any]:
            # In a worker process, as DataLoader does in its own.
            torch.set_num_threads(1)
            label = int.from_bytes(record[:_LABEL_BYTES], "little")
            image = finish(decode(memoryview(record)[_LABEL_BYTES:]))
            return {"image": image.numpy(), "label": label}

    finish = transform()
    rows = grain.sources.ArrayRecordDataSource(os.fspath(data / "rows.array_record"))
    loader = grain.DataLoader(
        data_source=rows,
        sampler=grain.samplers.IndexSampler(
            num_records=len(rows),
            num_epochs=None,
            shuffle=True,
            seed=0,
            shard_options=grain.sharding.NoSharding(),
        ),
        operations=[Finish(), grain.transforms.Batch(BATCH_SIZE, drop_remainder=True)],
        worker_count=threads,
        worker_buffer_size=_BATCHES_AHEAD,
    )
    for batch in loader:
        yield torch.from_numpy(batch["image"])
