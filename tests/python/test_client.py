"""The client against a daemon that does as it is told."""

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
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import BATCH, ROWS, STEPS, FakeDaemon
from loaderd import errors
from loaderd.session import Session

torch = pytest.importorskip("torch")

from loaderd.torch import LanceIterableDataset  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

NAMES = ["x", "half", "label", "flag", "byte"]


def connect(daemon: FakeDaemon, **arguments: Any) -> LanceIterableDataset:
    arguments = {"columns": NAMES, "batch_size": BATCH, "autostart": False, **arguments}
    return LanceIterableDataset("memory:", socket=daemon.path, **arguments)


@pytest.fixture
def dataset(fake_daemon: FakeDaemon) -> Iterator[LanceIterableDataset]:
    dataset = connect(fake_daemon)
    yield dataset
    dataset.close()


def labels(batches: Any) -> list[list[int]]:
    return [batch["label"].tolist() for batch in batches]


EPOCH = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_tensors_have_shapes_types_and_values(dataset: LanceIterableDataset) -> None:
    batch = next(iter(dataset))
    assert list(batch) == NAMES
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()}
    assert shapes == {
        "x": ((4, 2, 3), torch.float32),
        "half": ((4, 2), torch.float16),
        "label": ((4,), torch.int64),
        "flag": ((4,), torch.bool),
        "byte": ((4, 5), torch.uint8),
    }
    assert torch.equal(batch["x"].flatten(), torch.arange(24, dtype=torch.float32))
    assert batch["flag"].tolist() == [True, False, True, False]
    assert batch["byte"].flatten().tolist() == list(range(20))
    assert all(tensor.is_contiguous() for tensor in batch.values())


def test_batches_know_where_they_belong(dataset: LanceIterableDataset) -> None:
    batches = []
    for batch in dataset:
        batches.append(batch.clone())
    assert labels(batches) == EPOCH
    assert [batch.rows for batch in batches] == [4, 4, 2]
    assert [(batch.version, batch.step, batch.epoch, batch.epoch_step) for batch in batches] == [
        (7, 0, 0, 0),
        (7, 1, 0, 1),
        (7, 2, 0, 2),
    ]
    assert [batch.state["position"] for batch in batches] == [4, 8, 10]
    assert batches[-1].state == dataset.state_dict()
    assert len(dataset) == STEPS
    assert (dataset.version, dataset.rows, dataset.run) == (7, ROWS, "made-up")
    assert dataset.classes == {"label": ["cat", "dog"]}
    assert dataset.notices == ["reading with pread"]


def test_tensors_are_the_slots_memory(fake_daemon: FakeDaemon) -> None:
    fake_daemon.slot_count = 2
    dataset = connect(fake_daemon)
    pointers = {batch["x"].data_ptr() for epoch in range(4) for batch in dataset}
    assert len(pointers) == 2
    batch = next(iter(dataset))
    batch["x"].zero_()
    assert batch["x"].sum() == 0


def test_works_through_a_data_loader(dataset: LanceIterableDataset) -> None:
    loader = DataLoader(dataset, batch_size=None, num_workers=0)
    assert len(loader) == STEPS
    for epoch in range(2):
        found = []
        for batch in loader:
            found.append(batch["label"].tolist())
            assert batch.epoch == epoch
            assert batch.state == dataset.state_dict()
        assert found == EPOCH


def test_a_slot_is_released_with_its_last_view(
    dataset: LanceIterableDataset, fake_daemon: FakeDaemon
) -> None:
    batch = next(iter(dataset))
    row = batch["x"][2]
    assert len(fake_daemon.wait_for("delivered", 1)) == 1
    del batch
    gc.collect()
    time.sleep(0.05)
    assert fake_daemon.said("release") == []
    assert row.flatten().tolist() == list(range(12, 18))
    del row
    assert fake_daemon.wait_for("release", 1) == [{"type": "release", "lease": 1}]


def test_keeping_every_batch_is_an_error_that_counts(
    dataset: LanceIterableDataset, fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "exhausted_after_s", 0.3)
    dataset.set_epoch(0)
    kept = list(dataset)
    with pytest.raises(errors.SlotsExhausted, match=r"all 3 slots .*clone.* slots=6"):
        next(iter(dataset))
    # Giving one back is enough to go on.
    kept.pop(0)
    assert next(iter(dataset))["label"].tolist() == EPOCH[0]


def test_tensors_in_reference_cycles_are_found(fake_daemon: FakeDaemon) -> None:
    fake_daemon.slot_count = 2
    gc.disable()
    try:
        for batch in connect(fake_daemon):
            cycle: list[Any] = [batch["label"]]
            cycle.append(cycle)
            del batch
    finally:
        gc.enable()


def test_epochs_follow_each_other(dataset: LanceIterableDataset) -> None:
    assert labels(dataset) == EPOCH
    assert [batch.epoch for batch in dataset] == [1, 1, 1]
    for batch in dataset:
        assert batch.epoch == 2
        break
    # Left in the middle: the same epoch again, from its start.
    assert [(batch.epoch, batch.epoch_step) for batch in dataset] == [(2, 0), (2, 1), (2, 2)]
    dataset.set_epoch(9)
    assert dataset.state_dict()["epoch"] == 9
    assert [batch["half"][0, 0].item() for batch in dataset] == [9.0, 9.0, 9.0]


@pytest.mark.parametrize("steps", range(STEPS + 1))
def test_resume_equals_the_uninterrupted_run(fake_daemon: FakeDaemon, steps: int) -> None:
    whole = connect(fake_daemon)
    expected = [(batch.step, batch["label"].tolist()) for _ in range(2) for batch in whole]
    whole.close()

    first = connect(fake_daemon)
    batches = iter(first)
    found = [(batch.step, batch["label"].tolist()) for batch in islice(batches, steps)]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    first.close()

    second = connect(fake_daemon)
    second.load_state_dict(state)
    assert second.state_dict() == state
    while len(found) < len(expected):
        found += [(batch.step, batch["label"].tolist()) for batch in second]
    assert found == expected
    second.close()


def test_set_epoch_keeps_the_place_of_a_loaded_state(dataset: LanceIterableDataset) -> None:
    batches = iter(dataset)
    states = [next(batches).state for _ in range(STEPS)]
    dataset.load_state_dict(states[0])
    dataset.set_epoch(0)
    assert dataset.state_dict() == states[0]
    assert labels(dataset) == EPOCH[1:]
    dataset.load_state_dict(states[-1])
    dataset.set_epoch(0)
    assert labels(dataset) == []
    assert [batch.epoch for batch in dataset] == [1, 1, 1]
    dataset.load_state_dict(states[0])
    dataset.set_epoch(3)
    assert labels(dataset) == EPOCH


def test_loading_a_state_opens_a_new_attempt(fake_daemon: FakeDaemon) -> None:
    dataset = connect(fake_daemon)
    state = next(iter(dataset)).state
    dataset.load_state_dict(state, allow_changed=True)
    first, second = fake_daemon.wait_for("open", 2)
    assert (first["resume"], first["allow_changed"], first["version"]) == (None, False, None)
    # The version was resolved once, and the run is the cursor's.
    assert (second["resume"], second["allow_changed"], second["version"]) == (state, True, 7)
    assert second["run"] is None
    with pytest.raises(errors.ResumeRefused, match="no state of a loaderd dataset"):
        dataset.load_state_dict({"epoch": 3})


def test_a_rank_that_we_closed_ourselves_is_waited_for(fake_daemon: FakeDaemon) -> None:
    dataset = connect(fake_daemon)
    state = next(iter(dataset)).state
    fake_daemon.opened = {"type": "failed", "kind": "rank", "message": "rank 0 is taken"}
    threading.Timer(0.3, lambda: setattr(fake_daemon, "opened", {})).start()
    dataset.load_state_dict(state)
    assert len(fake_daemon.said("open")) > 2
    fake_daemon.opened = {"type": "failed", "kind": "rank", "message": "rank 0 is taken"}
    with pytest.raises(errors.RankConflict, match="rank 0 is taken"):
        len(connect(fake_daemon))


def test_a_newer_iterator_ends_an_older_one(dataset: LanceIterableDataset) -> None:
    older = iter(dataset)
    next(older)
    newer = iter(dataset)
    with pytest.raises(RuntimeError, match="another iteration"):
        next(older)
    # Batches of the older stream that were under way are given back unseen.
    assert labels(newer) == EPOCH
    assert list(newer) == []


def test_a_closed_dataset_connects_again_as_the_same_run(fake_daemon: FakeDaemon) -> None:
    dataset = connect(fake_daemon, run="mine")
    batches = iter(dataset)
    row = next(batches)["x"][0]
    dataset.close()
    with pytest.raises(errors.RequestError, match="closed"):
        next(batches)
    assert labels(dataset) == EPOCH
    assert [(message["run"], message["version"]) for message in fake_daemon.said("open")] == [
        ("mine", None),
        ("mine", 7),
    ]
    assert row.flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_daemon_death_is_an_error_and_leaves_tensors_readable(fake_daemon: FakeDaemon) -> None:
    fake_daemon.slot_count = 2
    dataset = connect(fake_daemon)
    batches = iter(dataset)
    batch = next(batches)
    fake_daemon.stop()
    with pytest.raises(errors.DaemonDied, match=r"load_state_dict.*/fake/daemon.log"):
        for _ in range(STEPS):
            next(batches)
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


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("dataset", errors.DatasetError),
        ("transform", errors.TransformError),
        ("resume", errors.ResumeRefused),
        ("limit", errors.LimitExceeded),
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
    for part in ("/fake/loaderd", "9.9", "protocol 99", "_native", "protocol 1", "loaderd stop"):
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


def test_slots_beyond_the_segment_are_refused(fake_daemon: FakeDaemon) -> None:
    ready = {"lease": 1, "slot": 3, "rows": 4, "epoch": 0, "epoch_step": 0, "step": 0}
    ready |= {"position": 4, "bad_rows": 0, "published_ns": 0}
    fake_daemon.instead[0] = {"type": "ready", **ready}
    with pytest.raises(errors.InternalError, match="4 rows in slot 3; there are 3 slots"):
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
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    assert time.monotonic() - started < 5
    release.set()
    assert next(batches)["label"].tolist() == EPOCH[0]


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


def test_numpy_takes_the_tensors_too(fake_daemon: FakeDaemon) -> None:
    numpy = pytest.importorskip("numpy")
    dataset = connect(fake_daemon)
    len(dataset)
    session = dataset._session
    assert session is not None
    session.start(0, 0)
    received = session.next()
    assert received is not None
    tensor = received[1].tensor("x")
    array = numpy.from_dlpack(tensor)
    assert (array.shape, array.dtype) == ((4, 2, 3), numpy.float32)
    # Both kinds of capsule, and one that nobody takes over.
    for capsule in (tensor.__dlpack__(), tensor.__dlpack__(max_version=(1, 2))):
        assert torch.equal(torch.from_dlpack(capsule), torch.from_numpy(array))
    assert "dltensor_versioned" in repr(tensor.__dlpack__(max_version=(1, 0)))
    assert '"dltensor"' in repr(tensor.__dlpack__(max_version=(0, 8)))
    for refused in ({"copy": True}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError):
            tensor.__dlpack__(**refused)
    with pytest.raises(KeyError, match="nothing"):
        received[1].tensor("nothing")
    del received, tensor, array, capsule
    assert len(fake_daemon.wait_for("release", 1)) == 1


def mappings(daemon: FakeDaemon) -> int:
    """How often this process maps the slots: the client, and the fake daemon's thread."""
    return Path("/proc/self/maps").read_text().count(f"memfd:{daemon.segment_name}")


def test_memory_stays_mapped_until_the_last_tensor_dies(fake_daemon: FakeDaemon) -> None:
    dataset = connect(fake_daemon)
    batch = next(iter(dataset))
    row = batch["x"][1]
    assert mappings(fake_daemon) == 2
    fake_daemon.stop()
    del dataset, batch
    gc.collect()
    deadline = time.monotonic() + 5
    while mappings(fake_daemon) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mappings(fake_daemon) == 1
    assert row.flatten().tolist() == [6, 7, 8, 9, 10, 11]
    del row
    assert mappings(fake_daemon) == 0
