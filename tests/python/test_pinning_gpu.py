"""Pinned slots on a real GPU: skipped, visibly, where PyTorch finds none.

``test_pinning.py`` has what can be tested without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from daemon_process import Daemon  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here")

#: 3.2 MB a batch, and other values in each row.
URI = "memory:rows=4000,tensor=100000:float32"
#: A tenth of a second, and more on slower clocks.
CYCLES = 200_000_000


@pytest.fixture
def stream() -> Any:
    """One that no default stream waits for, as a prefetcher has it; the GPU is in use."""
    torch.zeros(1, device="cuda")
    return torch.cuda.Stream()


def batches(daemon: Daemon, **arguments: Any) -> Iterator[Any]:
    arguments = {"columns": ["tensor", "label"], "slots": 2, **arguments}
    return iter(daemon.dataset(URI, **arguments))


def test_slots_are_pinned_once_the_gpu_is_in_use(daemon: Daemon, stream: Any) -> None:
    batch = next(batches(daemon, pin_memory=True))
    assert all(tensor.is_pinned() for tensor in batch.values())
    assert batch["tensor"].pin_memory().data_ptr() == batch["tensor"].data_ptr()
    assert not next(batches(daemon, pin_memory=False))["tensor"].is_pinned()


def test_copies_run_beside_the_program(daemon: Daemon, stream: Any) -> None:
    source = batches(daemon, slots=4)
    # Memory is allocated, and the kernel loaded, before time counts.
    with torch.cuda.stream(stream):
        torch.cuda._sleep(1)
        next(source)["tensor"].cuda()
    batch = next(source)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        started = time.monotonic()
        copied = batch["tensor"].cuda(non_blocking=True)
        done = torch.cuda.Event()
        done.record()
    # Unpinned, the call would have waited for the kernel.
    assert time.monotonic() - started < 0.05 and not done.query()
    done.synchronize()
    assert torch.equal(copied.cpu(), batch["tensor"])


def test_a_tensor_may_die_before_its_copy_has_begun(daemon: Daemon, stream: Any) -> None:
    source = batches(daemon)
    previous = None
    for _ in range(8):
        batch = next(source)
        expected = batch["tensor"].clone()
        assert previous is None or not torch.equal(expected, previous)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(CYCLES)
            copied = batch["tensor"].cuda(non_blocking=True)
        del batch
        # What a daemon does with a slot that came back too early, it has done by then.
        following = next(source)["label"].tolist()
        assert len(following) == 8
        stream.synchronize()
        assert torch.equal(copied.cpu(), expected)
        previous = expected


def test_graphs_are_captured_between_batches_and_around_them(daemon: Daemon, stream: Any) -> None:
    source = batches(daemon, slots=4)
    static = next(source)["tensor"].cuda(non_blocking=True)
    next(source)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = static * 2
        # A slot waits for its event, which would break the capture.
        label = next(source)["label"].tolist()
    batch = next(source)
    static.copy_(batch["tensor"], non_blocking=True)
    expected = batch["tensor"].clone() * 2
    del batch
    next(source)
    graph.replay()
    assert torch.equal(doubled.cpu(), expected) and len(label) == 8
