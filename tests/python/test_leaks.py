"""What a loader takes of its process, descriptors and mappings, it gives back."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from daemon_process import Daemon
from loaderd import errors

URI = "memory:rows=61,tensor=8:float32"
COLUMNS = ["tensor", "label", "text", "tags"]


def taken() -> tuple[int, int]:
    """Descriptors of this process, and its mappings of slots."""
    gc.collect()
    mappings = Path("/proc/self/maps").read_text().splitlines()
    return len(os.listdir("/proc/self/fd")), sum("memfd:loaderd" in line for line in mappings)


def read_all(loader: Any) -> None:
    assert sum(batch.rows for batch in loader) == 61


def break_off(loader: Any) -> None:
    # Neither closed nor read to its end; the first batch outlives it for a moment.
    kept = next(iter(loader))
    del loader
    assert kept["label"].tolist() == list(range(8))


def read_outside_the_slots(loader: Any) -> None:
    (batch,) = islice(loader, 1)
    assert len(batch["text"]) == 61 and loader._session._oversize == 1


def refuse(loader: Any) -> None:
    with pytest.raises(errors.DatasetError, match="no column"):
        len(loader)


USES: dict[str, tuple[Callable[[Any], None], dict[str, Any]]] = {
    "read all": (read_all, {}),
    "break off": (break_off, {}),
    # So little room that the batch comes with a segment of its own.
    "outside the slots": (read_outside_the_slots, {"variable_bytes": 1, "batch_size": 61}),
    "refused": (refuse, {"columns": ["nothing"]}),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_nothing_is_left_behind(daemon: Daemon, framework: str, use: str) -> None:
    pytest.importorskip(framework)
    act, special = USES[use]
    arguments = {"columns": COLUMNS, "batch_size": 8, **special}

    def once() -> None:
        if framework == "torch":
            loader: Any = daemon.dataset(URI, **arguments)
        else:
            from jax_helpers import loader_of

            loader = loader_of(daemon, URI, partial="pad", **arguments)
        act(loader)

    once()
    before = taken()
    for _ in range(5):
        once()
    assert taken() == before
    # Not even mappings: whatever made them has gone.
    assert before[1] == 0


def test_a_daemon_that_dies_leaves_nothing_in_its_clients(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    counts = []
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        daemon = Daemon(folder)
        batches = iter(daemon.dataset(URI, columns=COLUMNS))
        next(batches)
        daemon.process.kill()
        daemon.process.wait(20)
        with pytest.raises(errors.DaemonDied):
            list(batches)
        del batches, daemon
        counts.append(taken())
    assert counts[1:] == counts[:1] * 3
    assert counts[0][1] == 0
