"""FFCV: its own file, with the pictures encoded anew by its own rule, lossily.

Enters: files of class folders, then its file. Leaves: batches, and for others the JPEGs that
its file holds. All pictures are JPEGs in it, none raw.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.loaders.common import files_and_labels
from peers.roster import BATCH_SIZE, FFCV_PIXELS_MAX, FFCV_QUALITY, MEAN, RATIO, SCALE, SIZE, STD

if TYPE_CHECKING:
    import torch


class Pictures:
    """Pillow images and labels, as FFCV's writer takes them."""

    def __init__(self, tree: Path) -> None:
        self._files, self._labels = files_and_labels(tree)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, at: int) -> tuple[Any, int]:
        from PIL import Image

        with Image.open(self._files[at]) as image:
            return image.convert("RGB"), self._labels[at]


def prepare(tree: Path, target: Path) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    image = RGBImageField(
        write_mode="jpg", max_resolution=FFCV_PIXELS_MAX, jpeg_quality=FFCV_QUALITY
    )
    writer = DatasetWriter(os.fspath(target), {"image": image, "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(Pictures(tree))


def prepare_files(tree: Path, target: Path) -> None:
    """The same JPEGs, made by FFCV's own functions, in class folders."""
    import numpy
    from ffcv.fields.rgb_image import encode_jpeg, resizer

    pictures = Pictures(tree)
    for at in range(len(pictures)):
        image, label = pictures[at]
        file = target / str(label) / f"{at:08}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = resizer(numpy.array(image), FFCV_PIXELS_MAX)
        file.write_bytes(encode_jpeg(small, FFCV_QUALITY).tobytes())


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    import numpy
    from ffcv.transforms import NormalizeImage, ToTensor, ToTorchImage

    normalise = NormalizeImage(
        255 * numpy.array(MEAN), 255 * numpy.array(STD), numpy.dtype("float32").type
    )
    yield from images(data, threads, [normalise, ToTensor(), ToTorchImage(channels_last=False)])


def uint8_batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    """What FFCV's ImageNet example leaves to the CPU."""
    from ffcv.transforms import ToTensor, ToTorchImage

    yield from images(data, threads, [ToTensor(), ToTorchImage()])


def images(data: Path, threads: int, finish: list[Any]) -> Iterator[torch.Tensor]:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor

    decoder = RandomResizedCropRGBImageDecoder((SIZE, SIZE), scale=SCALE, ratio=RATIO)
    loader = Loader(
        os.fspath(data),
        batch_size=BATCH_SIZE,
        num_workers=threads,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={
            "image": [decoder, RandomHorizontalFlip(), *finish],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    while True:
        for image, _ in loader:
            yield image
