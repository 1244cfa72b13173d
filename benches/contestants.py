"""One loader at a time, into PyTorch or JAX: RandomResizedCrop(224), flip, normalise, float32 NCHW.

Enters: a contestant's name and its data, on the command line of a process of its own, so
that no contestant inherits another's threads, memory or imports. Leaves: one line of JSON
with images, seconds and CPU seconds of the process and all below it, warm-up excluded.

    python benches/contestants.py loaderd --data pictures.lance --seconds 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import BATCH_SIZE, Daemon, tree_cpu_s

if TYPE_CHECKING:
    import jax
    import torch

SIZE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
#: More than any of the contestants reads ahead, so that none starts with a full larder.
WARM_UP_BATCHES_MIN = 8


def loaderd(data: Path, threads: int) -> Iterator[torch.Tensor]:
    """A Lance dataset through the daemon. Epoch follows epoch, as in training."""
    from loaderd.torch import LanceIterableDataset

    with loaderd_arguments(data, threads) as arguments:
        yield from loaderd_images(LanceIterableDataset(drop_last=True, **arguments))


def loaderd_jax(data: Path, threads: int) -> Iterator[jax.Array]:
    """The same into JAX on the CPU."""
    from loaderd.jax import LanceLoader

    with loaderd_arguments(data, threads) as arguments:
        yield from loaderd_images(LanceLoader(**arguments))


@contextlib.contextmanager
def loaderd_arguments(data: Path, threads: int) -> Iterator[dict[str, Any]]:
    """What both frameworks' loaders are given, with a daemon for as long as the block."""
    from loaderd import Normalize, RandomHorizontalFlip, RandomResizedCrop

    transforms = [RandomResizedCrop(SIZE), RandomHorizontalFlip(), Normalize.imagenet("float32")]
    with (
        tempfile.TemporaryDirectory(prefix="loaderd-bench-") as folder,
        Daemon(Path(folder), f"--decode-threads={threads}") as daemon,
    ):
        yield {
            "uri": os.fspath(data),
            "columns": ["image", "label"],
            "transform": {"image": transforms},
            "batch_size": BATCH_SIZE,
            "shuffle": True,
            "protect": "none",
            "socket": daemon.socket,
            "autostart": False,
        }


def loaderd_images(loader: Any) -> Iterator[Any]:
    # For the record: which read engine it took, and why.
    print(*loader.notices, sep="\n", file=sys.stderr)
    while True:
        for batch in loader:
            yield batch["image"]


def dali(data: Path, threads: int) -> Iterator[torch.Tensor]:
    """DALI's CPU pipeline over the files, without a GPU, endless over epochs.

    The dynamic executor, which DALI's documents recommend, hands tensors over without a
    copy.
    """
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    files = sorted(data.glob("*/*.jpg"))
    # They are sorted by class, and the reader shuffles only within a window.
    random.Random(2).shuffle(files)
    paths = [str(file) for file in files]
    labels = [int(file.parent.name) for file in files]

    @pipeline_def(batch_size=BATCH_SIZE, num_threads=threads, device_id=None, exec_dynamic=True)
    def pipeline() -> tuple[Any, Any]:
        encoded, label = fn.readers.file(
            files=paths, labels=labels, random_shuffle=True, initial_fill=4 * BATCH_SIZE
        )
        image = fn.decoders.image_random_crop(
            encoded,
            device="cpu",
            output_type=types.RGB,
            random_area=[0.08, 1.0],
            random_aspect_ratio=[3 / 4, 4 / 3],
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

    batches = DALIGenericIterator(pipeline(), ["image", "label"])
    for (batch,) in batches:
        yield batch["image"]


def torchvision(data: Path, threads: int) -> Iterator[torch.Tensor]:
    """``DataLoader`` with worker processes over Lance, decoded by torchvision.

    As pylance's documents recommend: map-style, one ``take`` a batch, spawned workers that
    stay. The sampler is endless, so no worker idles at the end of an epoch.
    """
    from lance.torch.data import get_safe_loader
    from torch.utils.data import RandomSampler

    dataset = LanceRows(os.fspath(data))
    yield from (
        image
        for image, _ in get_safe_loader(
            dataset,
            batch_size=BATCH_SIZE,
            num_workers=threads,
            persistent_workers=True,
            drop_last=True,
            sampler=RandomSampler(dataset, num_samples=2**62),
        )
    )


class LanceRows:
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
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        if self._dataset is None:
            import lance

            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            self._dataset = lance.dataset(self._uri)
            self._transform = torchvision_transform()
        rows = self._dataset.take(indices, columns=["image", "label"])
        samples = []
        for image, label in zip(rows["image"], rows["label"].to_pylist(), strict=True):
            encoded = torch.frombuffer(image.as_buffer(), dtype=torch.uint8)
            pixels = decode_jpeg(encoded, mode=ImageReadMode.RGB)
            samples.append((self._transform(pixels), label))
        return samples


def torchvision_transform() -> Any:
    import torch
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def measure(batches: Iterator[Any], seconds: float, warm_up: float) -> dict[str, Any]:
    """Images, seconds and CPU seconds of the time after the warm-up."""
    first = next(batches)
    found = (str(first.dtype).removeprefix("torch."), tuple(first.shape))
    expected = ("float32", (BATCH_SIZE, 3, SIZE, SIZE))
    # JAX's arrays are always contiguous.
    is_contiguous = not hasattr(first, "is_contiguous") or first.is_contiguous()
    if found != expected or not is_contiguous:
        raise SystemExit(f"a batch is {found}, not {expected} and contiguous")
    mean = float(first.mean())
    # What is held is a slot that can't be filled.
    del first
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < warm_up or count < WARM_UP_BATCHES_MIN:
        next(batches)
        count += 1
    images = 0
    cpu_s, began = tree_cpu_s(os.getpid()), time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        images += len(next(batches))
    cpu_s = tree_cpu_s(os.getpid()) - cpu_s
    return {"images": images, "seconds": taken, "cpu_s": cpu_s, "first_mean": mean}


CONTESTANTS = {
    "loaderd": loaderd,
    "loaderd_jax": loaderd_jax,
    "dali": dali,
    "torchvision": torchvision,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=3.0)
    given = parser.parse_args()
    batches = CONTESTANTS[given.contestant](given.data, given.threads)
    print(json.dumps(measure(batches, given.seconds, given.warm_up)), flush=True)
    # Ends what the contestant has running: the daemon, or the workers.
    batches.close()
    # An interpreter with pylance and our extension in it has been seen to crash as it ended.
    os._exit(0)


if __name__ == "__main__":
    main()
