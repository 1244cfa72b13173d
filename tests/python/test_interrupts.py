"""What is left of a loader's place and connection when something comes in between."""

from __future__ import annotations

import os
import signal
import threading
import time
from itertools import islice
from typing import Any

import pytest

from client_helpers import EPOCH, connect, labels
from fake_daemon import FakeDaemon
from loaderd import errors
from loaderd.session import Session

pytest.importorskip("torch")

from loaderd.torch import LanceIterableDataset


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


def test_an_interrupt_takes_no_batch(fake_daemon: FakeDaemon) -> None:
    """Handlers run once the call that waits is over, which has its batch then."""

    is_waiting = threading.Event()

    def interrupt(daemon: FakeDaemon, step: int) -> None:
        if step == 1:
            is_waiting.wait(10)
            time.sleep(0.03)
            os.kill(os.getpid(), signal.SIGINT)
            # Before the wait looks for signals, which it does every 100 ms.
            time.sleep(0.03)

    fake_daemon.before_batch = interrupt
    batches = iter(connect(fake_daemon))
    found = labels(islice(batches, 1))
    is_waiting.set()
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    found += labels(batches)
    assert found == EPOCH


@pytest.mark.parametrize("lost", [1, 2])
def test_a_batch_that_is_lost_is_no_secret(
    dataset: LanceIterableDataset, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """There is a moment in which an interrupt does take one."""
    batches = iter(dataset)
    for _ in range(lost):
        next(batches)
    receive = Session.next

    def interrupted(session: Session) -> Any:
        receive(session)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "next", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(batches)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="lost to an interrupt"):
            next(batches)
    assert labels(dataset) == EPOCH


def test_the_end_of_an_epoch_is_never_lost(
    dataset: LanceIterableDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = iter(dataset)
    for _ in EPOCH:
        next(batches)
    # Nothing is waited for: what would come may have been lost.
    monkeypatch.delattr(Session, "next")
    assert next(batches, None) is None
