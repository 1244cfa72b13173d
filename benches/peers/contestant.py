"""A contestant's side: runs in its own environment, one thing a process, one line of JSON.

Enters: a command line. Leaves: on standard output, what was asked for, so that no contestant
inherits another's threads, memory or imports.

    python -m peers.contestant probe loaderd
    python -m peers.contestant prepare untiled --data pictures/ --into untiled.lance
    python -m peers.contestant check loaderd --data drawn.lance
    python -m peers.contestant measure loaderd --data untiled.lance --seconds 10
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import tree_cpu_s
from peers import calibration
from peers.roster import BATCH_SIZE, CONTESTANTS, FORMS, MEAN, SIZE, STD, Contestant

#: More than any of the contestants reads ahead, so that none starts with a full larder.
WARM_UP_BATCHES_MIN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("probe", "prepare", "check", "measure"))
    parser.add_argument("name", help="of a contestant, or of a form for prepare")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=3.0)
    given = parser.parse_args()
    batches = None
    if given.task == "prepare":
        writer = FORMS[given.name].writer
        assert writer is not None
        find(writer)(given.data, given.into)
        found: dict[str, Any] = {}
    elif given.task == "probe":
        found = probe(CONTESTANTS[given.name])
    else:
        contestant = CONTESTANTS[given.name]
        batches = find(contestant.loader)(given.data, given.threads)
        first = next(batches)
        inspect(first, contestant)
        if given.task == "check":
            found = check(first, batches)
        else:
            mean = mean_of(first)
            # What is held is a slot that can't be filled.
            del first
            found = {"first_mean": mean, **measure(batches, given.seconds, given.warm_up)}
    print(json.dumps(found), flush=True)
    if batches is not None:
        # Ends what the contestant has running: the daemon, or the workers.
        batches.close()
    sys.stderr.flush()
    # An interpreter with pylance and our extension in it has been seen to crash as it ended.
    os._exit(0)


def find(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(
        importlib.import_module(f"peers.loaders.{module}"), function
    )
    return found


def probe(contestant: Contestant) -> dict[str, Any]:
    """Its version; fails where it can't be run here."""
    for module in contestant.modules:
        importlib.import_module(module)
    loader = importlib.import_module(f"peers.loaders.{contestant.loader.partition(':')[0]}")
    if "spdl.io" in contestant.modules:
        loader.probe()
    version = importlib.metadata.version(contestant.package) if contestant.package else None
    return {"version": version}


def inspect(batch: Any, contestant: Contestant) -> None:
    """Batches of another shape, type or layout are other work."""
    found = (str(batch.dtype).removeprefix("torch."), tuple(batch.shape))
    expected = (contestant.dtype, (BATCH_SIZE, 3, SIZE, SIZE))
    if found != expected:
        raise SystemExit(f"a batch is {found}, not {expected}")
    # JAX's arrays are always contiguous.
    is_contiguous = not hasattr(batch, "is_contiguous") or batch.is_contiguous()
    if contestant.dtype == "float32" and not is_contiguous:
        raise SystemExit("a batch is not contiguous as NCHW")


def check(first: Any, batches: Iterator[Any]) -> dict[str, Any]:
    """Which crops it takes of pictures that show it."""
    import numpy as np

    # Copied, so that no slot stays in use.
    taken = itertools.chain([first], itertools.islice(batches, calibration.BATCHES - 1))
    crops = calibration.read([np.array(np.asarray(batch)) for batch in taken])
    return {**asdict(crops), "trouble": crops.trouble()}


def mean_of(batch: Any) -> float:
    """As if it were normalised, whatever its type."""
    if "uint8" not in str(batch.dtype):
        return float(batch.mean())
    channels = batch.float().mean(dim=(0, 2, 3)).tolist()
    means = zip(channels, MEAN, STD, strict=True)
    return sum((value / 255 - mean) / std for value, mean, std in means) / len(channels)


def measure(batches: Iterator[Any], seconds: float, warm_up: float) -> dict[str, Any]:
    """Images, seconds and CPU seconds of the time after the warm-up."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < warm_up or count < WARM_UP_BATCHES_MIN:
        next(batches)
        count += 1
    images = 0
    cpu_s, began = tree_cpu_s(os.getpid()), time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        images += len(next(batches))
    cpu_s = tree_cpu_s(os.getpid()) - cpu_s
    return {"images": images, "seconds": taken, "cpu_s": cpu_s}


if __name__ == "__main__":
    main()
