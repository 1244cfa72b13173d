"""What is left of a loader's place and connection when something comes in between."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pytest

from client_helpers import EPOCH, connect, labels
from daemon_process import ROWS, Daemon
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

    def take() -> None:
        # Here, because an interrupt anywhere else would end all tests.
        is_waiting.set()
        next(batches)

    with pytest.raises(KeyboardInterrupt):
        take()
    found += labels(batches)
    assert found == EPOCH


def test_errors_of_a_handler_are_its_own(fake_daemon: FakeDaemon) -> None:
    has_given_up = threading.Event()

    def give_up(*_: object) -> None:
        has_given_up.set()
        raise TimeoutError("enough")

    def keep_waiting(daemon: FakeDaemon, step: int) -> None:
        if step == 1:
            has_given_up.wait(10)

    fake_daemon.before_batch = keep_waiting
    batches = iter(connect(fake_daemon))
    found = labels(islice(batches, 1))

    def take() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        next(batches)

    handler = signal.signal(signal.SIGALRM, give_up)
    try:
        with pytest.raises(TimeoutError, match="enough"):
            take()
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert found + labels(batches) == EPOCH


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


def test_a_batch_that_is_lost_as_the_turn_ends_is_no_secret_either(
    dataset: LanceIterableDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Turn:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            raise KeyboardInterrupt

    batches = iter(dataset)
    next(batches)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_turn", Turn())
        with pytest.raises(KeyboardInterrupt):
            next(batches)
    with pytest.raises(RuntimeError, match="lost to an interrupt"):
        next(batches)
    assert labels(dataset) == EPOCH


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(KeyError, KeyError), (KeyboardInterrupt, KeyboardInterrupt), (StopIteration, RuntimeError)],
)
def test_a_batch_whose_transform_fails_is_not_counted(
    fake_daemon: FakeDaemon, raised: type[BaseException], seen: type[BaseException]
) -> None:
    """What is saved on the way out must not leave out a batch that nobody had."""
    failing = [1]

    def transform(batch: Any) -> Any:
        if batch.epoch_step in failing:
            raise raised
        return batch

    dataset = connect(fake_daemon, batch_transform=transform)
    batches = iter(dataset)
    state = next(batches).state
    for _ in range(2):
        with pytest.raises(seen):
            next(batches)
        assert dataset.state_dict() == state
        # Those after it don't hide it.
        with pytest.raises(RuntimeError, match="could not be made"):
            next(batches)
        # A place that was loaded stays one.
        dataset.load_state_dict(state)
        batches = iter(dataset)
    with pytest.raises(seen):
        next(batches)
    failing.clear()
    assert labels(dataset) == EPOCH[1:]


def test_a_transform_that_fails_takes_back_no_batch_of_another_thread(
    fake_daemon: FakeDaemon,
) -> None:
    has_gone_on = threading.Event()

    def transform(batch: Any) -> Any:
        if batch.epoch_step == 0:
            assert has_gone_on.wait(10)
            raise KeyError
        return batch

    dataset = connect(fake_daemon, batch_transform=transform)
    batches = iter(dataset)
    raised: list[BaseException] = []

    def fail() -> None:
        try:
            next(batches)
        except KeyError as error:
            raised.append(error)

    thread = threading.Thread(target=fail)
    thread.start()
    fake_daemon.wait_for("delivered", 1)
    state = next(batches).state
    has_gone_on.set()
    thread.join()
    assert raised and dataset.state_dict() == state
    with pytest.raises(RuntimeError, match="could not be made"):
        next(batches)


def test_a_transform_that_fails_while_another_thread_takes_a_batch_ends_it_too(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_failed, is_taking = threading.Event(), threading.Event()

    def transform(batch: Any) -> Any:
        if batch.epoch_step == 0:
            assert is_taking.wait(10)
            has_failed.set()
            raise KeyError
        return batch

    dataset = connect(fake_daemon, batch_transform=transform)
    make = dataset._make_batch

    def make_slowly(lease: Any, about: dict[str, Any]) -> Any:
        if about["epoch_step"] == 1:
            is_taking.set()
            assert has_failed.wait(10)
            # Until the other one waits for its turn.
            time.sleep(0.1)
        return make(lease, about)

    monkeypatch.setattr(dataset, "_make_batch", make_slowly)
    batches = iter(dataset)
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(next, batches)
        fake_daemon.wait_for("delivered", 1)
        assert next(batches).epoch_step == 1
        assert isinstance(failing.exception(30), KeyError)
    with pytest.raises(RuntimeError, match="could not be made"):
        next(batches)


def test_the_end_of_an_epoch_is_never_lost(
    dataset: LanceIterableDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = iter(dataset)
    for _ in EPOCH:
        next(batches)
    # Nothing is waited for: what would come may have been lost.
    monkeypatch.delattr(Session, "next")
    assert next(batches, None) is None


def test_an_interrupt_while_it_opens_ends_the_connection(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()

    def interrupt(request: object) -> object:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        is_over.wait(10)
        return {"type": "waiting", "message": ""}

    monkeypatch.setattr(fake_daemon, "_answer", interrupt)
    # Its traceback is kept, as a notebook does.
    with pytest.raises(KeyboardInterrupt) as kept:
        len(connect(fake_daemon))
    (connection,) = fake_daemon._connections
    connection.settimeout(5)
    assert connection.recv(1) == b""
    is_over.set()
    assert kept.value


def test_threads_connect_once(fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = connect(fake_daemon)
    answer = fake_daemon._answer
    monkeypatch.setattr(fake_daemon, "_answer", lambda said: time.sleep(0.2) or answer(said))
    threads = [threading.Thread(target=lambda: len(dataset)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fake_daemon.said("open")) == 1


def test_a_place_comes_with_its_session(
    dataset: LanceIterableDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = next(iter(dataset)).state
    is_open = threading.Event()

    def resume_at(session: Session) -> tuple[int, int]:
        is_open.set()
        time.sleep(0.2)
        return 0, 1

    monkeypatch.setattr(Session, "resume_at", property(resume_at))
    thread = threading.Thread(target=dataset.load_state_dict, args=[state])
    thread.start()
    assert is_open.wait(10)
    assert labels(dataset) == EPOCH[1:]
    thread.join()


def test_a_state_in_other_types_leaves_the_connection(dataset: LanceIterableDataset) -> None:
    numpy = pytest.importorskip("numpy")
    batches = iter(dataset)
    next(batches)
    state = dataset.state_dict()
    with pytest.raises(errors.ResumeRefused, match="int64 is not JSON"):
        dataset.load_state_dict({**state, "position": numpy.int64(4)})
    assert labels(batches) == EPOCH[1:]


def test_another_server_at_the_socket_is_no_matter(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "asked_after_s", 0.0)
    fake_daemon.before_batch = lambda daemon, step: time.sleep(0.3)
    batches = iter(connect(fake_daemon))
    fake_daemon.welcome = b"SSH-2.0-OpenSSH"
    assert labels(batches) == EPOCH


def test_too_many_open_files_are_named(daemon: Daemon) -> None:
    dataset = daemon.dataset()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # One is left, for the connection.
    unused = os.dup(0)
    os.close(unused)
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused + 1, limits[1]))
    try:
        with pytest.raises(errors.LimitExceeded, match=r"too many files open .*ulimit -n"):
            len(dataset)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert sum(batch.rows for batch in dataset) == ROWS


def test_epochs_have_a_bound(dataset: LanceIterableDataset) -> None:
    with pytest.raises(errors.RequestError, match=r"to 2\*\*63 - 1"):
        dataset.set_epoch(2**63)
