"""DALI's CPU pipeline over the files, without a GPU, endless over epochs.

Enters: files of class folders. Leaves: batches. The dynamic executor, which DALI's documents
recommend, hands tensors over without a copy; the decoder decodes only the crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.loaders.common import files_and_labels
from peers.roster import BATCH_SIZE, MEAN, RATIO, SCALE, SIZE, STD

if TYPE_CHECKING:
    import torch


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    # The reader shuffles only within a window.
    files, labels = files_and_labels(data)
    paths = [str(file) for file in files]

    @pipeline_def(batch_size=BATCH_SIZE, num_threads=threads, device_id=None, exec_dynamic=True)
    def pipeline() -> tuple[Any, Any]:
        encoded, label = fn.readers.file(
            files=paths, labels=labels, random_shuffle=True, initial_fill=4 * BATCH_SIZE
        )
        image = fn.decoders.image_random_crop(
            encoded,
            device="cpu",
            output_type=types.RGB,
            random_area=list(SCALE),
            random_aspect_ratio=list(RATIO),
        )
        image = fn.resize(image, size=[SIZE, SIZE], interp_type=types.INTERP_LINEAR)
        image = fn.crop_mirror_normalize(
            image,
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            mirror=fn.random.coin_flip(),
        )
        return image, label

    for (batch,) in DALIGenericIterator(pipeline(), ["image", "label"]):
        yield batch["image"]
