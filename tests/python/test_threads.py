"""Threads that begin iterations of one loader at once: they share its connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loaderd import errors
from loaderd.session import Session

pytest.importorskip("torch")
pytest.importorskip("jax")

from daemon_process import Daemon
from jax_helpers import loader_of

#: How to make a loader; each in its framework.
LOADERS: dict[str, Callable[..., Any]] = {"torch": Daemon.dataset, "jax": loader_of}


@pytest.fixture(params=LOADERS)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return LOADERS[request.param]


def at_once(call: Callable[[], Any], count: int = 3) -> list[Any]:
    """What the call gives or raises in so many threads at a time."""
    found: list[Any] = []
    together = threading.Barrier(count)

    def run() -> None:
        together.wait()
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@pytest.fixture
def slow_to_open(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Sessions as they open, each slowly enough for the other threads to come along."""
    opened: list[Session] = []
    open_session = Session.open

    def open_slowly(*arguments: Any, **named: Any) -> Session:
        time.sleep(0.2)
        opened.append(open_session(*arguments, **named))
        return opened[-1]

    monkeypatch.setattr(Session, "open", open_slowly)
    return opened


def check_epoch(found: list[Any]) -> None:
    """Of several iterators only the last one goes on, with the whole epoch."""
    assert not [each for each in found if isinstance(each, Exception)], found
    ended, whole = [], []
    for batches in found:
        try:
            whole.append([label for batch in batches for label in batch["label"].tolist()])
        except RuntimeError as error:
            ended.append(str(error))
    assert len(whole) == 1 and len(whole[0]) >= 96
    assert all("began another iteration" in text for text in ended)


def test_the_first_iterations(
    make: Callable[..., Any], daemon: Daemon, slow_to_open: list[Session]
) -> None:
    loader = make(daemon, run="job")
    check_epoch(at_once(lambda: iter(loader)))
    assert len(slow_to_open) == 1


def test_iterations_after_the_daemon_died(
    make: Callable[..., Any], tmp_path: Path, slow_to_open: list[Session]
) -> None:
    first = Daemon(tmp_path)
    loader = make(first, run="job")
    batches = iter(loader)
    next(batches)
    first.process.kill()
    first.process.wait()
    with pytest.raises(errors.DaemonDied):
        for _ in batches:
            pass
    with Daemon(tmp_path):
        check_epoch(at_once(lambda: iter(loader)))
    assert len(slow_to_open) == 2


def test_a_state_is_loaded_while_others_begin(
    make: Callable[..., Any], daemon: Daemon, slow_to_open: list[Session]
) -> None:
    loader = make(daemon, run="job")
    load = getattr(loader, "load_state_dict", None) or loader.set_state
    state = (getattr(loader, "state_dict", None) or loader.get_state)()
    thread = threading.Thread(target=load, args=[state])
    thread.start()
    time.sleep(0.1)
    found = at_once(lambda: iter(loader))
    thread.join(30)
    check_epoch(found)
    assert len(slow_to_open) == 2
