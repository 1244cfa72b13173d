"""Client and daemon together, over rows in memory: order, resume, leases, deaths.

Needs the daemon's executable (``LOADERD_BIN``, or beside Python), built with or without
lance, and fails without it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from loaderd import CenterCrop, RandomHorizontalFlip, RandomResizedCrop, ToDtype, errors, launch
from loaderd.session import Session

torch = pytest.importorskip("torch")

from column_rows import picture  # noqa: E402
from daemon_process import ROWS, Daemon  # noqa: E402
from loaderd.torch import LanceIterableDataset  # noqa: E402


def trace(batches: Any) -> list[tuple[int, list[int]]]:
    return [(batch.step, batch["label"].tolist()) for batch in batches]


def rows(batches: list[tuple[int, list[int]]]) -> list[int]:
    return [row for _, labels in batches for row in labels]


def test_every_row_once_an_epoch_in_a_new_order(daemon: Daemon) -> None:
    dataset = daemon.dataset(shuffle=True, seed=3)
    first, second = trace(dataset), trace(dataset)
    assert len(dataset) == len(first) == 13
    assert [step for step, _ in first + second] == list(range(26))
    assert sorted(rows(first)) == sorted(rows(second)) == list(range(ROWS))
    assert rows(first) != rows(second)
    again = daemon.dataset(shuffle=True, seed=3)
    assert trace(again) == first
    assert rows(trace(daemon.dataset())) == list(range(ROWS))
    assert len(trace(daemon.dataset(drop_last=True))) == 12


def test_tensors_arrive_as_they_are(daemon: Daemon) -> None:
    for dtype in ("float32", "float16", "int64", "uint8", "bool", "float64", "int32"):
        dataset = daemon.dataset(
            f"memory:rows=20,tensor=3x4:{dtype}", columns=["tensor", "label", "_valid"]
        )
        batch = next(iter(dataset))
        assert (batch["tensor"].shape, batch["tensor"].dtype) == (
            (8, 3, 4),
            getattr(torch, dtype),
        )
        counts = (torch.arange(8)[:, None] + torch.arange(12)) % 64
        if dtype == "float16":
            counts = counts % 2 + 1
        expected = (counts % 2 if dtype == "bool" else counts).to(batch["tensor"].dtype)
        assert torch.equal(batch["tensor"].reshape(8, 12), expected)
        assert (batch["_valid"].dtype, batch["_valid"].all()) == (torch.bool, True)
        dataset.close()


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_each_step(daemon: Daemon, world_size: int) -> None:
    ranks = [
        daemon.dataset(
            batch_size=4, shuffle=True, rank=rank, world_size=world_size, run="job", seed=1
        )
        for rank in range(world_size)
    ]
    traces = [trace(dataset) for dataset in ranks]
    steps = -(-ROWS // (4 * world_size))
    assert {len(found) for found in traces} == {steps}
    assert sorted(row for found in traces for row in rows(found)) == list(range(ROWS))
    assert {dataset.run for dataset in ranks} == {"job"}
    # Cursors are of the job, not of the rank.
    assert all(dataset.state_dict() == ranks[0].state_dict() for dataset in ranks)


def test_the_global_order_does_not_depend_on_the_world_size(daemon: Daemon) -> None:
    def order(world_size: int) -> list[list[int]]:
        traces = [
            trace(
                daemon.dataset(
                    batch_size=None,
                    global_batch_size=12,
                    shuffle=True,
                    rank=rank,
                    world_size=world_size,
                    run=f"w{world_size}",
                )
            )
            for rank in range(world_size)
        ]
        return [
            [row for _, labels in parts for row in labels] for parts in zip(*traces, strict=True)
        ]

    assert order(1) == order(2) == order(3)


def test_more_ranks_than_rows(daemon: Daemon) -> None:
    ranks = [
        daemon.dataset(
            "memory:rows=3", columns=["label", "_valid"], rank=rank, world_size=5, run="few"
        )
        for rank in range(5)
    ]
    batches = [[batch.clone() for batch in dataset] for dataset in ranks]
    assert {len(found) for found in batches} == {1}
    valid = [
        row
        for ((batch,),) in zip(batches, strict=True)
        for row, is_valid in zip(batch["label"].tolist(), batch["_valid"].tolist(), strict=True)
        if is_valid
    ]
    assert sorted(valid) == [0, 1, 2]


def test_a_rank_that_is_taken_is_an_error(daemon: Daemon) -> None:
    first = daemon.dataset(rank=0, world_size=2, run="job")
    assert len(first) == 7
    with pytest.raises(errors.RankConflict):
        len(daemon.dataset(rank=0, world_size=2, run="job"))
    first.close()


def test_resume_equals_the_uninterrupted_run(daemon: Daemon) -> None:
    arguments = {"shuffle": True, "seed": 5, "batch_size": 32}
    whole = daemon.dataset(**arguments)
    expected = trace(whole) + trace(whole)
    for steps in range(len(whole) + 1):
        first = daemon.dataset(**arguments)
        found = trace(islice(iter(first), steps))
        state = first.state_dict()
        first.close()
        second = daemon.dataset(**arguments)
        second.load_state_dict(state)
        assert second.run == state["run"]
        assert second.state_dict() == state
        while len(found) < len(expected):
            found += trace(second)
        assert found == expected, steps
        second.close()


def test_resume_in_place(daemon: Daemon) -> None:
    dataset = daemon.dataset(shuffle=True)
    batches = iter(dataset)
    found = trace(islice(batches, 5))
    state = dataset.state_dict()
    expected = trace(batches)
    for _ in range(3):
        dataset.load_state_dict(state)
        assert trace(dataset) == expected
    assert sorted(rows(found + expected)) == list(range(ROWS))


def test_set_epoch_keeps_the_place_of_a_loaded_state(daemon: Daemon) -> None:
    dataset = daemon.dataset(batch_size=32)
    states = [batch.state for batch in dataset]
    for steps, state in enumerate(states, start=1):
        dataset.load_state_dict(state)
        dataset.set_epoch(0)
        assert [step for step, _ in trace(dataset)] == list(range(steps, 4))
        assert [step for step, _ in trace(dataset)] == [4, 5, 6, 7]
    dataset.load_state_dict(states[1])
    dataset.set_epoch(2)
    assert [step for step, _ in trace(dataset)] == [8, 9, 10, 11]


def test_a_changed_plan_is_refused_with_a_diff(daemon: Daemon) -> None:
    state = daemon.dataset(shuffle=True).state_dict()
    changed = daemon.dataset(columns=["tensor", "label"], shuffle=True)
    with pytest.raises(errors.ResumeRefused, match="columns"):
        changed.load_state_dict(state)
    changed.load_state_dict(state, allow_changed=True)
    assert len(trace(changed)) == 13


def test_breaking_out_and_starting_over(daemon: Daemon) -> None:
    dataset = daemon.dataset(shuffle=True, slots=2)
    for _ in range(20):
        for batch in dataset:
            assert (batch.epoch, batch.epoch_step) == (0, 0)
            break
    # Two slots: the batch in hand and the one on its way, and none for an old one.
    del batch
    dataset.set_epoch(7)
    assert [batch.epoch for batch in dataset] == [7] * 13


def test_threads_that_share_an_iterator_take_turns(daemon: Daemon) -> None:
    def take(turn: int) -> list[int]:
        return [batch.step for batch in batches]

    dataset = daemon.dataset(batch_size=1, slots=8)
    batches = iter(dataset)
    with ThreadPoolExecutor(4) as pool:
        taken = [step for steps in pool.map(take, range(4)) for step in steps]
    assert sorted(taken) == list(range(len(dataset)))


def test_no_thread_takes_a_batch_of_an_iteration_begun_elsewhere(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "exhausted_after_s", 0.5)
    dataset = daemon.dataset(batch_size=1, slots=2)
    before = iter(dataset)
    kept = [next(before), next(before)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, before)
        # Until it is that one's turn, or, on a machine that lets us sleep so long, was.
        while not waiting.done() and dataset._turn.acquire(blocking=False):
            dataset._turn.release()
            time.sleep(0.01)
        batches = iter(dataset)
        # It began when the one that waits had its answer.
        assert isinstance(waiting.exception(30), errors.SlotsExhausted)
    kept.clear()
    assert [batch.epoch_step for batch in batches] == list(range(len(dataset)))
    with pytest.raises(RuntimeError, match="began another iteration"):
        next(before)


def test_keeping_every_batch_is_an_error(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "exhausted_after_s", 0.3)
    dataset = daemon.dataset(slots=3)
    kept = []
    batches = iter(dataset)
    with pytest.raises(errors.SlotsExhausted, match="all 3 slots"):
        kept.extend(batches)
    assert rows(trace(kept)) == list(range(24))
    kept.clear()
    assert next(batches)["label"].tolist() == list(range(24, 32))


@pytest.mark.parametrize(
    ("arguments", "expected", "message"),
    [
        ({"columns": ["lable"]}, errors.DatasetError, "lable"),
        ({"uri": "memory:rows=0"}, errors.DatasetError, "rows"),
        ({"uri": "memory:rows=5", "drop_last": True}, errors.LoaderdError, "drop_last"),
        ({"version": "v1"}, errors.DatasetError, "v1"),
        ({"batch_size": 2**31}, errors.LimitExceeded, "batch_size"),
    ],
)
def test_requests_that_cannot_be_met(
    daemon: Daemon, arguments: dict[str, Any], expected: type[Exception], message: str
) -> None:
    with pytest.raises(expected, match=message):
        len(daemon.dataset(**arguments))


CLIENT = """
import os, sys, time
from loaderd.torch import LanceIterableDataset
dataset = LanceIterableDataset("memory:rows=100,tensor=64x1024:float32", columns=["tensor"],
                               batch_size=8, slots=4, socket=sys.argv[1], autostart=False)
batches = iter(dataset)
kept = [next(batches), next(batches), next(batches)]
print("holding", flush=True)
time.sleep(60)
"""


def test_a_killed_client_gives_its_slots_back(tmp_path: Path) -> None:
    # Room for four slots of 2 MiB and a little more, so a second job must wait for them.
    daemon = Daemon(tmp_path, "--slot-memory=10M")
    bystander = daemon.dataset(slots=2)
    batches = iter(bystander)
    next(batches)
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, daemon.socket], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "holding\n"
    large = daemon.dataset(
        "memory:rows=100,tensor=64x1024:float32", columns=["tensor"], batch_size=8, slots=4
    )
    with pytest.raises(errors.LimitExceeded):
        len(large)
    client.kill()
    client.wait()
    client.stdout.close()
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(errors.LimitExceeded):
            assert len(large) == 13
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(trace(batches)) == 12
    daemon.stop()


def test_a_killed_daemon_is_an_error_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(tmp_path)
    dataset = daemon.dataset(shuffle=True, seed=2, autostart=True)
    expected = trace(dataset)
    dataset.set_epoch(0)
    batches = iter(dataset)
    found = trace(islice(batches, 4))
    batch = next(batches)
    found.append((batch.step, batch["label"].tolist()))
    started = time.monotonic()
    daemon.process.kill()
    daemon.process.wait()
    with pytest.raises(errors.DaemonDied, match="load_state_dict"):
        found += [(late.step, late["label"].tolist()) for late in batches]
    assert time.monotonic() - started < 5
    assert not os.path.exists(daemon.socket)
    # Others may make files there meanwhile.
    assert not [name for name in os.listdir("/dev/shm") if "loaderd" in name]
    assert batch["label"].tolist() == found[4][1]
    # A new daemon is started, and the run goes on where its last batch was handed out.
    state = dataset.state_dict()
    dataset.load_state_dict(state)
    assert dataset._session is not None
    try:
        step = state["position"] // 8
        assert trace(dataset) == expected[step:]
    finally:
        os.kill(dataset._session.daemon_pid, signal.SIGTERM)
        dataset.close()
        launch._started.pop().wait(20)


def test_a_stopped_daemon_says_so(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    batches = iter(daemon.dataset())
    next(batches)
    daemon.stop()
    with pytest.raises(errors.DaemonDied, match="stop"):
        list(batches)
    assert not os.path.exists(daemon.socket)


def test_tensors_outlive_session_and_daemon(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    dataset = daemon.dataset()
    row = next(iter(dataset))["label"][3:]
    del dataset
    gc.collect()
    daemon.stop()
    assert row.tolist() == [3, 4, 5, 6, 7]


def test_images_are_decoded(daemon: Daemon, photos: Path) -> None:
    for transforms, dtype in (
        ([RandomResizedCrop(16), RandomHorizontalFlip()], torch.uint8),
        ([CenterCrop(16), ToDtype("float16", scale=True)], torch.float16),
    ):
        dataset = daemon.dataset(
            f"memory:rows=8,images={photos}",
            columns=["image", "label"],
            transform={"image": transforms},
        )
        (batch,) = list(dataset)
        assert (batch["image"].shape, batch["image"].dtype) == ((8, 3, 16, 16), dtype)
        scale = 255 if dtype == torch.float16 else 1
        for row, image in zip(batch["label"].tolist(), batch["image"], strict=True):
            means = (image.float() * scale).mean(dim=(1, 2))
            assert (means - torch.tensor([30.0 * row, 100.0, 50.0])).abs().max() < 3
        dataset.close()


@pytest.mark.parametrize("broken", [b"", picture(0)[:200]])
def test_bad_samples(daemon: Daemon, photos: Path, broken: bytes) -> None:
    (photos / "5.jpg").write_bytes(broken)

    def make(policy: Any) -> LanceIterableDataset:
        return daemon.dataset(
            f"memory:rows=8,images={photos}",
            columns=["image", "label", "_valid"],
            transform={"image": [CenterCrop(16)]},
            batch_size=4,
            on_bad_sample=policy,
        )

    batches = iter(make("raise"))
    assert next(batches)["label"].tolist() == [0, 1, 2, 3]
    with pytest.raises(errors.BadSample, match="5"):
        next(batches)

    first, second = [batch.clone() for batch in make("zero")]
    assert (first.bad_rows, second.bad_rows) == (0, 1)
    assert second["_valid"].tolist() == [True, False, True, True]
    assert second["image"][1].sum() == 0

    runs = [[batch.clone() for batch in make("replace")] for _ in range(2)]
    assert [batch.bad_rows for batch in runs[0]] == [0, 1]
    assert runs[0][1]["label"][1] != 5
    assert torch.equal(runs[0][1]["image"], runs[1][1]["image"])
    assert torch.equal(runs[0][1]["label"], runs[1][1]["label"])
