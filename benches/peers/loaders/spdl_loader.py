"""SPDL: a pipeline of threads in the training process.

Enters: files of class folders. Leaves: batches. Once with its own decoder, FFmpeg, which crops
and resizes in its filter graph; once with torchvision's, for which its documents give recipes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.loaders.common import decode, files_and_labels, transform
from peers.roster import BATCH_SIZE, MEAN, SIZE, STD

if TYPE_CHECKING:
    import torch

_BATCHES_AHEAD = 2


def probe() -> None:
    """Fails where its FFmpeg bindings find no library."""
    import spdl.io.utils

    spdl.io.utils.get_ffmpeg_versions()


def torchvision_batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    import torch

    finish = transform()

    def one(row: tuple[str, int]) -> tuple[torch.Tensor, int]:
        return finish(decode(Path(row[0]).read_bytes())), row[1]

    def many(rows: list[tuple[torch.Tensor, int]]) -> torch.Tensor:
        images, labels = zip(*rows, strict=True)
        torch.tensor(labels)
        return torch.stack(images)

    yield from pipeline(data, threads, one, many)


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    import spdl.io
    import torch
    from torchvision.transforms import RandomResizedCrop

    mean = torch.tensor([255 * value for value in MEAN]).view(1, 3, 1, 1)
    std = torch.tensor([255 * value for value in STD]).view(1, 3, 1, 1)

    def one(row: tuple[str, int]) -> tuple[Any, int]:
        packets = spdl.io.demux_image(row[0])
        # The parameters need only the picture's size.
        sized = torch.empty(1, packets.height, packets.width, device="meta")
        top, left, height, width = RandomResizedCrop.get_params(
            sized, scale=[0.08, 1.0], ratio=[3 / 4, 4 / 3]
        )
        filters = f"crop={width}:{height}:{left}:{top}:exact=1,scale={SIZE}:{SIZE}:flags=bilinear"
        filters += ",hflip" if random.random() < 0.5 else ""
        return spdl.io.decode_packets(packets, filter_desc=f"{filters},format=rgb24"), row[1]

    def many(rows: list[tuple[Any, int]]) -> torch.Tensor:
        frames, labels = zip(*rows, strict=True)
        torch.tensor(labels)
        pixels = spdl.io.to_torch(spdl.io.convert_frames(list(frames)))
        finished = torch.empty(len(labels), 3, SIZE, SIZE)
        finished.copy_(pixels.permute(0, 3, 1, 2))
        return finished.sub_(mean).div_(std)

    yield from pipeline(data, threads, one, many)


def pipeline(
    data: Path, threads: int, one: Callable[[Any], Any], many: Callable[[Any], torch.Tensor]
) -> Iterator[torch.Tensor]:
    import torch
    from spdl.pipeline import PipelineBuilder

    torch.set_num_threads(1)
    files, labels = files_and_labels(data)
    rows = [(str(file), label) for file, label in zip(files, labels, strict=True)]

    def endless() -> Iterator[tuple[str, int]]:
        while True:
            yield from random.sample(rows, len(rows))

    built = (
        PipelineBuilder()
        .add_source(endless())
        .pipe(one, concurrency=threads)
        .aggregate(BATCH_SIZE)
        .pipe(many)
        .add_sink(_BATCHES_AHEAD)
        .build(num_threads=threads)
    )
    with built.auto_stop():
        yield from built
