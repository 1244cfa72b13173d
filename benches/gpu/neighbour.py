"""What a training step loses while loaderd delivers beside it.

Enters: a process that multiplies matrices on the same GPU. Leaves: how long a step of it takes
alone, beside 5,000 images/s decoded on the GPU, and beside as many decoded on CPU cores; each
between two times alone, so that what the device does by itself can be told.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import harness
from gpu import rates, streams
from gpu.bundle import Bundle, Failed, Skipped, keep, last_line

IMAGES_PER_S = 5_000
_BATCH_SIZE = 250
_SECONDS = 5.0
_SIDE = 8192
_PRODUCTS = 4

_STEPS = f"""
import json, sys, time
import torch
a = torch.randn({_SIDE}, {_SIDE}, device="cuda", dtype=torch.bfloat16)
b = torch.randn_like(a)
def step():
    for _ in range({_PRODUCTS}):
        a @ b
    torch.cuda.synchronize()
for _ in range(8):
    step()
print("ready", flush=True)
for line in sys.stdin:
    end, steps = time.perf_counter() + float(line), []
    while (began := time.perf_counter()) < end:
        step()
        steps.append((time.perf_counter() - began) * 1e3)
    print(json.dumps(steps), flush=True)
"""


def cost(bundle: Bundle, brief: bool) -> dict[str, Any]:
    if not harness.installed("torch"):
        raise Skipped("PyTorch is not installed")
    import torch

    if not torch.cuda.is_available():
        raise Failed(f"PyTorch {torch.__version__} sees no GPU")
    seconds = 0.3 if brief else _SECONDS
    found: dict[str, Any] = {"images_per_s": IMAGES_PER_S, "ways": []}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name, _Neighbour() as neighbour:
        tiled = Path(name) / "tiled"
        bundle.gpucheck("tile", bundle.photos, tiled)
        for decode, form, folder in (
            ("gpu", "untiled", bundle.photos),
            ("gpu", "tiled", tiled),
            ("cpu", "tiled", tiled),
        ):
            with streams.daemon(bundle) as daemon, _Consumer(daemon, folder, decode) as consumer:
                before = neighbour.steps(seconds)
                consumer.runs.set()
                # Until batches come at their pace.
                time.sleep(min(1.0, seconds))
                decoded = streams.gpu_of(daemon.socket)
                consumer.count = 0
                began = time.perf_counter()
                beside = neighbour.steps(seconds)
                count, taken = consumer.count, time.perf_counter() - began
                share = rates.share(decoded, streams.gpu_of(daemon.socket), count)
                consumer.runs.clear()
                time.sleep(min(0.5, seconds))
                after = neighbour.steps(seconds)
            alone = statistics.mean(before + after)
            found["ways"].append(
                {
                    "decode": decode,
                    "form": form,
                    "step_ms_before": statistics.mean(before),
                    "step_ms_beside": statistics.mean(beside),
                    "step_ms_after": statistics.mean(after),
                    "slowed_by": statistics.mean(beside) / alone - 1,
                    "images_per_s": count / taken,
                    "gpu_share": share,
                    "is_pinned": consumer.is_pinned,
                }
            )
            keep(found)
    return found


class _Neighbour:
    """The process that multiplies."""

    def __enter__(self) -> _Neighbour:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _STEPS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def steps(self, seconds: float) -> list[float]:
        """How long each step took, in ms."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        found: list[float] = json.loads(self._said())
        return found

    def _said(self) -> str:
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the multiplying process: {last_line(self._process.stderr.read())}")
        return line


class _Consumer:
    """A thread that takes batches at a pace, and copies them to the device."""

    def __init__(self, daemon: harness.Daemon, folder: Path, decode: str) -> None:
        self.runs = threading.Event()
        self.count = 0
        #: Of the latest batch: whether slots that a daemon has pinned can be pinned here as well.
        self.is_pinned: bool | None = None
        self._ended = False
        self._failed: BaseException | None = None
        self._loader = streams.tensors(
            daemon.socket,
            folder,
            1 << 17,
            streams.training("float16"),
            columns=["image"],
            batch_size=_BATCH_SIZE,
            shuffle=True,
            drop_last=True,
            decode=decode,
        )
        self._batches = harness.endless(self._loader)
        # Connects, and has the daemon set up its decoder.
        next(self._batches)
        self._thread = threading.Thread(target=self._guarded)

    def __enter__(self) -> _Consumer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._ended = True
        self.runs.set()
        self._thread.join()
        self._batches.close()
        self._loader.close()
        if kind is None and self._failed is not None:
            raise self._failed

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:
            # Raised where the thread is joined: without it, images just did not come.
            self._failed = error

    def _run(self) -> None:
        import torch

        stream = torch.cuda.Stream()
        due = 0.0
        while not self._ended:
            if not self.runs.wait(0.05):
                continue
            now = time.perf_counter()
            # What was missed is not caught up: the pace is a bound from above.
            due = max(due + _BATCH_SIZE / IMAGES_PER_S, now)
            time.sleep(due - now)
            with torch.cuda.stream(stream):
                images = next(self._batches)["image"]
                self.is_pinned = images.is_pinned()
                images.to("cuda", non_blocking=True)
            # Not kept: its slot goes back once it was copied.
            del images
            stream.synchronize()
            self.count += _BATCH_SIZE
