"""What the tests with the fake daemon share."""

from __future__ import annotations

from typing import Any

import pytest

from fake_daemon import BATCH, FakeDaemon

pytest.importorskip("torch")

from loaderd.torch import LanceIterableDataset

NAMES = ["x", "half", "label", "flag", "byte"]
#: The labels of an epoch of the fake daemon, which does not shuffle.
EPOCH = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def connect(daemon: FakeDaemon, **arguments: Any) -> LanceIterableDataset:
    """A dataset of the fake daemon, not connected yet."""
    arguments = {"columns": NAMES, "batch_size": BATCH, "autostart": False, **arguments}
    return LanceIterableDataset("memory:", socket=daemon.path, **arguments)


def labels(batches: Any) -> list[list[int]]:
    """The labels of each batch; keeps no batch."""
    return [batch["label"].tolist() for batch in batches]
