"""What is left of a loader's place and connection when something comes in between."""

from __future__ import annotations

import pytest

from client_helpers import EPOCH, connect, labels
from fake_daemon import FakeDaemon
from loaderd import errors


def test_an_iteration_that_cannot_begin_leaves_the_loaded_place(fake_daemon: FakeDaemon) -> None:
    dataset = connect(fake_daemon)
    next(iter(dataset))
    dataset.load_state_dict(dataset.state_dict())
    fake_daemon.stop()
    with pytest.raises(errors.DaemonDied):
        iter(dataset)
    successor = FakeDaemon(fake_daemon.path)
    try:
        assert labels(dataset) == EPOCH[1:]
    finally:
        successor.stop()
