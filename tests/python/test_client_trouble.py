"""The client when things go wrong: dead daemons, refusals, forks, signals, exits."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from client_helpers import EPOCH, connect, labels
from fake_daemon import BATCH, FakeDaemon
from loaderd import errors, session
from loaderd.session import Session

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from loaderd.torch import LanceIterableDataset  # noqa: E402


def test_daemon_death_is_an_error_and_leaves_tensors_readable(fake_daemon: FakeDaemon) -> None:
    fake_daemon.slot_count = 2
    dataset = connect(fake_daemon)
    batches = iter(dataset)
    batch = next(batches)
    fake_daemon.stop()
    with pytest.raises(errors.DaemonDied, match=r"load_state_dict.*/fake/daemon.log"):
        list(batches)
    with pytest.raises(errors.DaemonDied):
        next(batches)
    # Nothing is left behind, and what is in hand stays right.
    assert not os.path.exists(fake_daemon.path)
    assert batch["x"].flatten().tolist() == list(range(24))
    assert dataset.state_dict()["position"] >= BATCH
    del batches, dataset
    gc.collect()
    assert batch["label"].tolist() == EPOCH[0]
    with pytest.raises(errors.DaemonUnavailable, match="loaderd serve"):
        len(connect(fake_daemon))


def test_training_goes_on_with_a_new_daemon(fake_daemon: FakeDaemon) -> None:
    fake_daemon.slot_count = 2
    dataset = connect(fake_daemon)
    batches = iter(dataset)
    assert next(batches)["label"].tolist() == EPOCH[0]
    fake_daemon.stop()
    with pytest.raises(errors.DaemonDied):
        list(batches)
    state = dataset.state_dict()
    successor = FakeDaemon(fake_daemon.path)
    try:
        dataset.load_state_dict(state)
        assert labels(dataset) == EPOCH[state["position"] // BATCH :]
    finally:
        successor.stop()


def test_a_failed_stream_leaves_the_session(fake_daemon: FakeDaemon) -> None:
    message = "row 5 of a.lance: JPEG ends early"
    fake_daemon.instead[1] = {"type": "failed", "kind": "bad_sample", "message": message}
    dataset = connect(fake_daemon)
    batches = iter(dataset)
    next(batches)
    for _ in range(2):
        with pytest.raises(errors.BadSample, match=message):
            next(batches)
    assert dataset.state_dict()["position"] == BATCH
    fake_daemon.instead.clear()
    assert labels(dataset) == EPOCH
    assert len(fake_daemon.said("open")) == 1


def test_a_failure_of_a_stream_that_was_left_is_not_raised(fake_daemon: FakeDaemon) -> None:
    def first_stream_only(daemon: FakeDaemon, step: int) -> None:
        failure = {"type": "failed", "kind": "io", "message": "disk"}
        daemon.instead = {1: failure} if len(daemon.said("start")) == 1 else {}

    fake_daemon.before_batch = first_stream_only
    dataset = connect(fake_daemon)
    next(iter(dataset))
    assert labels(dataset) == EPOCH


def test_raised_errors_keep_no_slots(fake_daemon: FakeDaemon) -> None:
    fake_daemon.instead[2] = {"type": "failed", "kind": "io", "message": "disk"}
    dataset = connect(fake_daemon)

    def train() -> None:
        for batch in dataset:
            assert batch.rows == BATCH

    with pytest.raises(errors.ReadError):
        train()
    assert len(fake_daemon.wait_for("release", 2)) == 2


def test_last_words_of_the_daemon_are_raised(fake_daemon: FakeDaemon) -> None:
    fake_daemon.instead[1] = {
        "type": "failed",
        "kind": "stopping",
        "message": "the daemon was told to stop",
        "stream": None,
    }
    batches = iter(connect(fake_daemon))
    next(batches)
    with pytest.raises(errors.DaemonDied, match="told to stop"):
        next(batches)


def test_last_words_are_heard_by_who_only_speaks(fake_daemon: FakeDaemon) -> None:
    failure = {"type": "failed", "kind": "stopping", "message": "told to stop", "stream": None}
    fake_daemon.instead[1] = failure
    dataset = connect(fake_daemon)
    next(iter(dataset))
    # It listens once it has said all that it has to say.
    fake_daemon.wait_for("delivered", 1)
    fake_daemon.stop()
    with pytest.raises(errors.DaemonDied, match="told to stop"):
        iter(dataset)


def test_the_way_out_of_a_silent_gpu_is_to_iterate_again(fake_daemon: FakeDaemon) -> None:
    message = "the GPU has 12 of this session's images"
    told = {"type": "failed", "kind": "gpu", "message": message, "stream": None}
    fake_daemon.instead[1] = told
    dataset = connect(fake_daemon)
    batches = iter(dataset)
    assert next(batches)["label"].tolist() == EPOCH[0]
    state = dataset.state_dict()
    for _ in range(2):
        with pytest.raises(errors.GpuUnavailable, match=message):
            next(batches)
    fake_daemon.instead.clear()
    dataset.load_state_dict(state)
    assert labels(dataset) == EPOCH[1:]
    # The slots of the first session are the GPU's.
    assert len(fake_daemon.said("open")) == 2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("dataset", errors.DatasetError),
        ("transform", errors.TransformError),
        ("resume", errors.ResumeRefused),
        ("limit", errors.LimitExceeded),
        ("rank", errors.RankConflict),
    ],
)
def test_refusals_have_their_class(
    fake_daemon: FakeDaemon, kind: str, expected: type[Exception]
) -> None:
    fake_daemon.opened = {"type": "failed", "kind": kind, "message": "two\nlines"}
    with pytest.raises(expected, match="two\nlines"):
        iter(connect(fake_daemon))


def test_a_daemon_of_another_protocol_is_named(fake_daemon: FakeDaemon) -> None:
    assert isinstance(fake_daemon.welcome, dict)
    fake_daemon.welcome.update(protocol=99, version="9.9")
    with pytest.raises(errors.ProtocolMismatch) as caught:
        len(connect(fake_daemon))
    for part in ("/fake/loaderd", "9.9", "protocol 99", "_native", "protocol 6", "loaderd stop"):
        assert part in str(caught.value)


def test_what_is_no_daemon_is_named(fake_daemon: FakeDaemon) -> None:
    fake_daemon.welcome = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with pytest.raises(errors.ProtocolMismatch, match='starts with "HTTP"'):
        len(connect(fake_daemon))


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        ({"slot_count": 5}, "5 slots of 4096 bytes were announced"),
        (
            {
                "layout": {
                    "tensors": [{"name": "x", "dtype": "int64", "shape": [2**62], "offset": 0}],
                    "batch_size": 4,
                    "dense_bytes": 4096,
                    "slot_bytes": 4096,
                }
            },
            "does not fit into a slot",
        ),
    ],
)
def test_memory_that_is_not_as_announced_is_refused(
    fake_daemon: FakeDaemon, opened: dict[str, Any], message: str
) -> None:
    fake_daemon.opened = opened
    with pytest.raises(errors.InternalError, match=message):
        len(connect(fake_daemon))


def test_memory_that_could_shrink_is_refused(fake_daemon: FakeDaemon) -> None:
    fake_daemon.seals = 0
    with pytest.raises(errors.InternalError, match="sealed"):
        len(connect(fake_daemon))


@pytest.mark.parametrize(("slot", "rows"), [(3, 4), (0, 5)])
def test_batches_beyond_the_segment_are_refused(
    fake_daemon: FakeDaemon, slot: int, rows: int
) -> None:
    ready = {"lease": 1, "slot": slot, "rows": rows, "epoch": 0, "epoch_step": 0, "step": 0}
    ready |= {"position": 4, "bad_rows": 0, "published_ns": 0}
    fake_daemon.instead[0] = {"type": "ready", **ready}
    expected = f"{rows} rows in slot {slot}; there are 3 slots of 4 rows"
    with pytest.raises(errors.InternalError, match=expected):
        next(iter(connect(fake_daemon)))


def test_pickles_and_copies_before_and_after_use(dataset: LanceIterableDataset) -> None:
    for _ in range(2):
        for duplicate in (pickle.loads(pickle.dumps(dataset)), copy.copy(dataset)):
            assert labels(duplicate) == EPOCH
            duplicate.close()
        next(iter(dataset))


class Probe(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """Asks in a worker, and brings the answer back as a text."""

    def __init__(self, dataset: LanceIterableDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[str]:
        try:
            iter(self.dataset)
        except errors.LoaderdError as error:
            yield f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_worker_processes_are_refused(dataset: LanceIterableDataset, used: bool) -> None:
    if used:
        next(iter(dataset))
    (answer,) = DataLoader(Probe(dataset), batch_size=None, num_workers=1)
    assert answer.startswith("WorkerProcessError: this is worker process 0")
    assert "num_workers=0" in answer


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_fork_notices_and_harms_nothing(
    dataset: LanceIterableDataset, fake_daemon: FakeDaemon
) -> None:
    batches = iter(dataset)
    batch = next(batches)
    child = os.fork()
    if child == 0:
        # No assertion may leave the child: it would run the other tests.
        try:
            answers = 0
            for attempt in (lambda: next(batches), lambda: len(dataset), dataset.close):
                try:
                    attempt()
                except errors.ForkedProcess:
                    answers += 1
            readable = batch["label"].tolist() == EPOCH[0]
            del batch, batches, dataset
            gc.collect()
            os._exit(0 if answers == 3 and readable else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    time.sleep(0.05)
    assert fake_daemon.said("release") == []
    assert next(batches)["label"].tolist() == EPOCH[1]


def test_waiting_notices_signals(fake_daemon: FakeDaemon) -> None:
    release = threading.Event()
    fake_daemon.before_batch = lambda daemon, step: release.wait(10) and None
    batches = iter(connect(fake_daemon))

    def take() -> None:
        # Here, because an interrupt anywhere else would end all tests.
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        next(batches)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        take()
    assert time.monotonic() - started < 5
    release.set()
    assert next(batches)["label"].tolist() == EPOCH[0]


def test_waiting_ends_when_another_thread_closes(fake_daemon: FakeDaemon) -> None:
    release = threading.Event()
    fake_daemon.before_batch = lambda daemon, step: release.wait(10) and None
    dataset = connect(fake_daemon)
    batches = iter(dataset)
    threading.Timer(0.2, dataset.close).start()
    with pytest.raises(errors.RequestError, match="by another thread"):
        next(batches)
    release.set()


def test_an_iteration_that_begins_as_another_thread_closes_says_so(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = connect(fake_daemon)
    place = dataset._place
    monkeypatch.setattr(dataset, "_place", lambda session: (dataset.close(), place(session))[1])
    with pytest.raises(errors.RequestError, match="by another thread"):
        iter(dataset)


def test_waiting_lets_other_threads_run(fake_daemon: FakeDaemon) -> None:
    release = threading.Event()
    fake_daemon.before_batch = lambda daemon, step: release.wait(10) and None
    batches = iter(connect(fake_daemon))
    threading.Timer(0.2, release.set).start()
    assert next(batches)["label"].tolist() == EPOCH[0]


def test_a_long_wait_is_reported(fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "stalled_after_s", 0.2)
    release = threading.Event()
    fake_daemon.before_batch = lambda daemon, step: release.wait(10) and None
    batches = iter(connect(fake_daemon))
    threading.Timer(1.0, release.set).start()
    with pytest.warns(RuntimeWarning, match="still waiting"):
        next(batches)


class Clock:
    """A session's clock and daemon, told what to do."""

    asked_after_s, silent_after_s = 10.0, 120.0
    stalled_after_s, exhausted_after_s = 60.0, 5.0
    slot_count, held, reaped, daemon_pid, daemon_log, _socket = 3, 0, 0, 7, "log", "sock"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.answers = 0.0, True
        native = SimpleNamespace(
            Session=SimpleNamespace(connect=self.connect), __version__="", __file__=""
        )
        monkeypatch.setattr(session, "_native", native)
        monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: self.now))

    def connect(self, *_: object) -> tuple[Any, str]:
        if not self.answers:
            raise TimeoutError
        return SimpleNamespace(close=lambda: None), ""

    def _end(self) -> None:
        pass


def test_silence_counts_from_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = Clock(monkeypatch)
    pulse = session._Pulse(clock)
    for clock.now in range(0, 600, 10):
        pulse.feel()
    clock.answers, clock.now = False, 600
    with pytest.warns(
        RuntimeWarning, match=r"process 7\) has not answered for 10 s.*still waiting"
    ):
        pulse.feel()
    # Said once.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for clock.now in range(610, 720, 10):
            pulse.feel()
    clock.now = 720
    with pytest.raises(errors.DaemonUnavailable, match=r"not answered for 130 s.*kill -9 7"):
        pulse.feel()


def test_slots_are_exhausted_when_none_came_back_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = Clock(monkeypatch)
    patience = session._Patience(clock)
    for clock.now, clock.held in ((0, 3), (4, 3), (5, 2), (50, 3), (54, 3)):
        patience.wait()
    clock.now = 56
    with pytest.raises(errors.SlotsExhausted, match="all 3 slots"):
        patience.wait()


def test_what_the_daemon_waits_for_is_told(
    fake_daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    fake_daemon.waiting = ["1 of 8 GiB", "7 of 8 GiB"]
    assert labels(connect(fake_daemon)) == EPOCH
    # Behind them comes what the answer itself warns of.
    assert [record.message for record in caplog.records][:2] == fake_daemon.waiting


def test_tensors_may_die_in_any_thread_and_at_exit(fake_daemon: FakeDaemon) -> None:
    program = """
import sys, threading, torch
from loaderd.torch import LanceIterableDataset
dataset = LanceIterableDataset("memory:", columns=["x"], batch_size=4, socket=sys.argv[1],
                               autostart=False)
batches = iter(dataset)
box = [next(batches)]
thread = threading.Thread(target=box.clear)
thread.start()
thread.join()
cycle = [next(batches)["x"]]
cycle.append(cycle)
torch.kept = next(batches)["x"]
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program, fake_daemon.path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "reading with pread\n")
