"""Batches of the daemon's, for a part of the check.

Enters: a folder of JPEGs, where to decode. Leaves: batches in PyTorch where that is installed, else
in NumPy; and what the daemon says of its GPU. The daemon lives as long as the part.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
from gpu.bundle import Bundle, Skipped

SIZE = 224


#: How daemons ended that did not end as they should.
ended_badly: list[str] = []


@contextlib.contextmanager
def daemon(bundle: Bundle, *options: str) -> Iterator[harness.Daemon]:
    """A daemon of the bundle's, with folders of its own. Where all went well but its end (exit
    handlers of drivers have been known to crash, or hang), that is noted, and costs nothing
    else."""
    os.environ["LOADERD_BIN"] = str(bundle.loaderd)
    with harness.scratch(None) as folder, contextlib.ExitStack() as stack:
        running = stack.enter_context(harness.Daemon(folder, *options))
        try:
            yield running
            try:
                stack.close()
            except (SystemExit, subprocess.TimeoutExpired) as why:
                ended_badly.append(str(why).partition("\n")[0])
        finally:
            # For whoever looks into a part that failed.
            print(running.log.read_text(errors="replace"), file=sys.stderr, flush=True)


def training(dtype: str) -> list[Any]:
    """The work of a training input."""
    from loaderd import Normalize, RandomHorizontalFlip, RandomResizedCrop

    return [RandomResizedCrop(SIZE), RandomHorizontalFlip(), Normalize.imagenet(dtype)]


def arrays(socket: str, folder: Path, rows: int, transform: list[Any], **more: Any) -> Any:
    """A loader of NumPy arrays, in the folder's order."""
    if not harness.installed("numpy"):
        raise Skipped("NumPy is not installed")
    import numpy

    from loaderd._native import Lease
    from loaderd.batch import Batch
    from loaderd.job import Job
    from loaderd.loader import Loader
    from loaderd.ragged import column

    class Arrays(Loader[Batch]):
        """Batches of arrays that own their slot."""

        def _make_batch(self, lease: Lease, about: dict[str, Any]) -> Batch:
            made = [(name, column(lease, name, numpy.from_dlpack)) for name in lease.names]
            return Batch._made(made, about)

    job = Job.make(**_wanted(folder, rows, transform), **more)
    return Arrays(job, socket=socket, autostart=False, batch_transform=None)


def tensors(socket: str, folder: Path, rows: int, transform: list[Any], **more: Any) -> Any:
    """A loader of tensors where there is PyTorch, else of arrays."""
    if not harness.installed("torch"):
        return arrays(socket, folder, rows, transform, **more)
    from loaderd.torch import LanceIterableDataset

    return LanceIterableDataset(
        **_wanted(folder, rows, transform), **more, socket=socket, autostart=False
    )


def _wanted(folder: Path, rows: int, transform: list[Any]) -> dict[str, Any]:
    return {
        "uri": f"memory:rows={rows},images={folder}",
        "transform": {"image": transform},
        "seed": 7,
    }


def gpu_of(socket: str) -> dict[str, Any] | None:
    """What the daemon says of its GPU: what was found, images decoded and given back."""
    status = json.loads(harness.run_loaderd("status", "--json", f"--socket={socket}"))
    found: dict[str, Any] | None = status.get("gpu")
    return found
