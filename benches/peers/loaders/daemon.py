"""loaderd itself: a real daemon, its default settings, the step log on.

Enters: a Lance dataset that `loaderd ingest` wrote. Leaves: batches as a training process gets
them, into PyTorch or JAX; epoch follows epoch, as in training.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from peers.roster import BATCH_SIZE, SIZE

if TYPE_CHECKING:
    import jax
    import torch


def prepare_tiled(tree: Path, target: Path) -> None:
    if not tiles():
        raise SystemExit("this loaderd's ingest does not tile")
    ingest(tree, target)


def prepare_untiled(tree: Path, target: Path) -> None:
    ingest(tree, target, *(["--no-tile"] if tiles() else []))


def tiles() -> bool:
    return "--no-tile" in harness.run_loaderd("ingest", "--help")


def ingest(tree: Path, target: Path, *options: str) -> None:
    report = json.loads(harness.run_loaderd("ingest", tree, target, "--json", *options))
    if report["skipped"]:
        raise SystemExit(f"loaderd ingest left out {report['skipped']} pictures")


def torch_batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    from loaderd import Normalize
    from loaderd.torch import LanceIterableDataset

    finish = Normalize.imagenet("float32")
    with arguments(data, threads, finish) as given:
        yield from images(LanceIterableDataset(drop_last=True, **given))


def fast_dct_batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    from loaderd import Normalize
    from loaderd.torch import LanceIterableDataset

    finish = Normalize.imagenet("float32")
    with arguments(data, threads, finish) as given:
        yield from images(LanceIterableDataset(drop_last=True, fast_dct=True, **given))


def jax_batches(data: Path, threads: int) -> Iterator[jax.Array]:
    from loaderd import Normalize
    from loaderd.jax import LanceLoader

    with arguments(data, threads, Normalize.imagenet("float32")) as given:
        yield from images(LanceLoader(**given))


def uint8_batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    """Without normalisation, and channels last in memory, as FFCV delivers it."""
    from loaderd import ToLayout
    from loaderd.torch import LanceIterableDataset

    with arguments(data, threads, ToLayout("NHWC")) as given:
        for batch in images(LanceIterableDataset(drop_last=True, **given)):
            yield batch.permute(0, 3, 1, 2)


@contextlib.contextmanager
def arguments(data: Path, threads: int, finish: Any) -> Iterator[dict[str, Any]]:
    """What every loader is given, with a daemon for as long as the block."""
    from loaderd import RandomHorizontalFlip, RandomResizedCrop

    with (
        tempfile.TemporaryDirectory(prefix="loaderd-bench-") as folder,
        harness.Daemon(Path(folder), f"--decode-threads={threads}") as daemon,
    ):
        yield {
            "uri": os.fspath(data),
            "columns": ["image", "label"],
            "transform": {"image": [RandomResizedCrop(SIZE), RandomHorizontalFlip(), finish]},
            "batch_size": BATCH_SIZE,
            "shuffle": True,
            "protect": "none",
            "socket": daemon.socket,
            "autostart": False,
        }


def images(loader: Any) -> Iterator[Any]:
    # For the record: which read engine it took, and why.
    print(*loader.notices, sep="\n", file=sys.stderr)
    while True:
        for batch in loader:
            yield batch["image"]
