"""The client against a daemon that does as it is told."""

from __future__ import annotations

import gc
import os
import pickle
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from client_helpers import EPOCH, NAMES, connect, labels
from fake_daemon import ROWS, STEPS, FakeDaemon
from loaderd import errors
from loaderd.session import Session

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from loaderd.torch import LanceIterableDataset  # noqa: E402


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


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_are_not_batched_again(dataset: LanceIterableDataset, batch_size: int) -> None:
    with pytest.raises(errors.RequestError, match=r"take DataLoader\(dataset, batch_size=None\)"):
        next(iter(DataLoader(dataset, batch_size=batch_size)))


def test_a_loader_says_what_it_is(dataset: LanceIterableDataset) -> None:
    assert repr(dataset).startswith("LanceIterableDataset(")
    # Looking at it connects nowhere.
    assert dataset._session is None
    len(dataset)
    assert repr(dataset).endswith(f"version 7, {ROWS} rows, {STEPS} steps an epoch>")


def test_sockets_are_paths(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for socket in ("~/sock", os.fsencode(fake_daemon.path), Path(fake_daemon.path)):
        dataset = LanceIterableDataset("memory:", columns=NAMES, batch_size=4, socket=socket)
        assert len(dataset) == STEPS
        dataset.close()
    for wrong, message in ((5, "must be a path, not 5"), ("", "socket is empty")):
        with pytest.raises(errors.RequestError, match=message):
            LanceIterableDataset("memory:", columns=NAMES, batch_size=4, socket=wrong)


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
    assert (first["run"], second["run"]) == (None, "made-up")
    with pytest.raises(errors.ResumeRefused, match="no state of a loaderd dataset"):
        dataset.load_state_dict({"epoch": 3})


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


def test_a_closed_dataset_goes_on_with_the_same_rows_alone(fake_daemon: FakeDaemon) -> None:
    dataset = connect(fake_daemon)
    next(iter(dataset))
    dataset.close()
    fake_daemon.opened = {"fingerprint": {"filter": None, "identity": "another's"}}
    for _ in range(2):
        with pytest.raises(errors.ResumeRefused, match="replaced by another one"):
            labels(dataset)
    # Wherever they lie by now.
    fake_daemon.opened = {"fingerprint": {"filter": None, "uri": "/elsewhere"}}
    assert labels(dataset) == EPOCH


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
    deadline = time.monotonic() + 30
    while mappings(fake_daemon) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mappings(fake_daemon) == 1
    assert row.flatten().tolist() == [6, 7, 8, 9, 10, 11]
    del row
    assert mappings(fake_daemon) == 0


def settle_at(daemon: FakeDaemon, count: int) -> None:
    """Waits until the slots are mapped so often: the fake daemon's thread needs a moment."""
    deadline = time.monotonic() + 30
    while mappings(daemon) != count:
        assert time.monotonic() < deadline, mappings(daemon)
        time.sleep(0.01)


@pytest.mark.parametrize("end", ["closed", "died"])
def test_a_session_that_is_over_keeps_no_memory_but_its_tensors(
    fake_daemon: FakeDaemon, end: str
) -> None:
    """The next session, which the loader may open, needs as much."""
    fake_daemon.slot_count = 2
    dataset = connect(fake_daemon)
    batches = iter(dataset)
    batch = next(batches)
    if end == "closed":
        dataset.close()
    else:
        fake_daemon.stop()
        with pytest.raises(errors.DaemonDied):
            labels(batches)
    settle_at(fake_daemon, 1)
    assert batch["label"].tolist() == EPOCH[0]
    del batch
    settle_at(fake_daemon, 0)
