"""What training frameworks do to a loader: launch processes around it, count its epochs, begin
iterations that they don't use. Without the frameworks: by what they call and set.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from client_helpers import EPOCH, connect, labels
from daemon_process import ROWS, Daemon
from fake_daemon import FakeDaemon
from loaderd import errors
from loaderd.job import Job
from loaderd.ranks import Ranks, find_ranks

torch = pytest.importorskip("torch")

from loaderd.torch import LanceIterableDataset  # noqa: E402

LIGHTNINGS = {"WORLD_SIZE": "2", "NODE_RANK": "0", "LOCAL_RANK": "1"}

#: One of two processes that a function starts, as `mp.spawn` and Lightning's "ddp_spawn" do.
PROCESS = """
import pickle, sys
import torch.distributed
dataset = pickle.loads(bytes.fromhex(sys.argv[1]))
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{sys.argv[2]}", rank=int(sys.argv[3]), world_size=2
)
rows = [row for batch in dataset for row in batch["label"].tolist()]
torch.distributed.barrier()
torch.distributed.destroy_process_group()
print([len(dataset), rows])
"""

#: As Lightning's launcher: numbers itself, and starts the others.
LAUNCHER = """
import os, subprocess, sys
from loaderd.ranks import launcher_id
code = "from loaderd.ranks import launcher_id; print(launcher_id(world_size=2))"
os.environ |= {"MASTER_PORT": "1", "NODE_RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
print(launcher_id(world_size=2), flush=True)
subprocess.run([sys.executable, "-c", code], env={**os.environ, "LOCAL_RANK": "1"}, check=True)
"""


def start_group(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    """As if ``torch.distributed`` had been initialised."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)


def ranks(daemon: FakeDaemon) -> list[tuple[int, int, int]]:
    """Rank, world size and batch size of each job that was asked for."""
    return [
        (message["rank"], message["world_size"], message["batch_size"])
        for message in daemon.said("open")
    ]


def test_a_process_group_that_begins_late_counts(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = connect(fake_daemon, batch_size=None, global_batch_size=8)
    # As for a learning rate's schedule, before the launcher begins.
    len(dataset)
    start_group(monkeypatch, 1, 2)
    assert labels(dataset) == EPOCH
    len(dataset)
    assert ranks(fake_daemon) == [(0, 1, 8), (1, 2, 4)]
    dataset.close()
    # The environment says less, and arguments say more.
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    for arguments in ({}, {"rank": 2, "world_size": 3}):
        dataset = connect(fake_daemon, **arguments)
        len(dataset)
        dataset.close()
    assert ranks(fake_daemon)[2:] == [(1, 2, 4), (2, 3, 4)]


def test_a_place_is_kept_when_a_process_group_begins(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = connect(fake_daemon)
    state = next(iter(first)).state
    first.close()
    second = connect(fake_daemon)
    second.load_state_dict(state)
    start_group(monkeypatch, 0, 2)
    assert labels(second) == EPOCH[1:]
    assert [message["resume"] for message in fake_daemon.said("open")] == [None, state, state]


def test_a_batch_looked_at_before_a_process_group_begins_is_no_place(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = daemon.dataset()
    next(iter(dataset))
    start_group(monkeypatch, 0, 2)
    # Row 8 begins no step of 16 rows.
    assert labels(dataset)[0] == list(range(8))
    assert next(iter(dataset)).epoch == 1


def test_an_epoch_read_before_a_process_group_begins_is_not_read_again(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = connect(fake_daemon)
    assert labels(dataset) == EPOCH
    start_group(monkeypatch, 0, 2)
    assert [batch.epoch for batch in dataset] == [1, 1, 1]
    assert [message["resume"] for message in fake_daemon.said("open")] == [None, None]


def test_a_rank_outlives_the_process_group(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = [daemon.dataset(run="both") for _ in range(2)]
    for rank, dataset in enumerate(datasets):
        start_group(monkeypatch, rank, 2)
        next(iter(dataset))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    assert [len(dataset) for dataset in datasets] == [7, 7]
    for dataset in datasets:
        dataset.close()
    assert [len(dataset) for dataset in datasets] == [7, 7]


def test_a_batch_that_ranks_cannot_share_is_an_error(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = connect(fake_daemon, batch_size=None, global_batch_size=8)
    start_group(monkeypatch, 0, 3)
    with pytest.raises(errors.RequestError, match="among 3 ranks"):
        iter(dataset)


def test_pickled_datasets_take_the_ranks_of_their_process(daemon: Daemon, tmp_path: Path) -> None:
    dataset = pickle.dumps(daemon.dataset(shuffle=True, run="both", batch_size=7)).hex()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, dataset, str(tmp_path / "store"), str(rank)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    # 100 rows in steps of 14, also when the group is over: alone, both would be the same rank.
    assert [length for length, _ in found] == [8, 8]
    assert sorted(found[0][1] + found[1][1]) == list(range(ROWS))


def test_lightnings_processes(monkeypatch: pytest.MonkeyPatch, fake_daemon: FakeDaemon) -> None:
    assert find_ranks(None, None, LIGHTNINGS) == Ranks(1, 2)
    # Behind the last process Lightning removes WORLD_SIZE, and nothing else.
    assert find_ranks(None, None, {"NODE_RANK": "0", "LOCAL_RANK": "0"}) == Ranks(0, 1)
    # On other nodes only the process group knows.
    for name, value in {**LIGHTNINGS, "NODE_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    dataset = connect(fake_daemon)
    with pytest.raises(errors.RequestError, match=r"initialise torch\.distributed first"):
        len(dataset)
    start_group(monkeypatch, 3, 4)
    len(dataset)
    assert ranks(fake_daemon) == [(3, 4, 4)]


def test_ranks_that_rank_0_starts_are_one_run() -> None:
    # Launchers differ in whether the ranks are siblings.
    launched = subprocess.run(
        [sys.executable, "-c", LAUNCHER], check=True, capture_output=True, text=True
    )
    first, second = launched.stdout.split()
    assert first == second
    assert str(os.getpid()) not in first


def test_a_job_keeps_the_ranks_that_were_given() -> None:
    given = Job.make("x", columns=["a"], batch_size=1, rank=1, world_size=2)
    assert given.among((5, 6)) is given
    assert Job.make("x", columns=["a"], batch_size=1).among((5, 6)).ranks == Ranks(5, 6)


def test_iterations_that_nobody_uses_cost_no_place(dataset: LanceIterableDataset) -> None:
    state = next(iter(dataset)).state
    dataset.load_state_dict(state)
    for _ in range(3):
        iter(dataset)
        assert dataset.state_dict() == state
    assert labels(dataset) == EPOCH[1:]
    assert [batch.epoch for batch in dataset] == [1, 1, 1]


def test_set_epoch_within_an_epoch_is_for_the_next(dataset: LanceIterableDataset) -> None:
    # Lightning has begun the first epoch when it says so.
    batches = iter(dataset)
    dataset.set_epoch(0)
    for batch in islice(batches, 2):
        assert dataset.state_dict() == batch.state
    dataset.set_epoch(4)
    assert dataset.state_dict()["epoch"] == 4
    last = next(batches)
    assert (last.epoch, dataset.state_dict()) == (0, last.state)
    del last, batch
    assert [batch.epoch for batch in dataset] == [4, 4, 4]


def test_lightning_counts_the_epochs(dataset: LanceIterableDataset) -> None:
    """With ``limit_train_batches``, every epoch is left before its end."""
    found = []
    for epoch in range(3):
        # `lightning.fabric.utilities.data._set_sampler_epoch`.
        assert dataset.batch_sampler is None
        dataset.sampler.set_epoch(epoch)
        found += [(batch.epoch, batch.epoch_step) for batch in islice(dataset, 2)]
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_an_epoch_begun_over_and_over_is_told(
    fake_daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(times: int, epoch: int | None = None, **arguments: Any) -> list[str]:
        caplog.clear()
        dataset = connect(fake_daemon, **arguments)
        with caplog.at_level(logging.WARNING, logger="loaderd"):
            for _ in range(times):
                if epoch is not None:
                    dataset.set_epoch(epoch)
                next(iter(dataset))
        dataset.close()
        messages = [record.getMessage() for record in caplog.records]
        # Beside the daemon's own warnings.
        return [message for message in messages if message.startswith("epoch")]

    (told,) = begin(9, shuffle=True)
    assert told.startswith("epoch 0 begins once more, with the same batches as 3 times before")
    assert "set_epoch()" in told
    # A look at a batch or two is none of it, nor what was asked for, nor an order that never
    # changes.
    assert begin(3, shuffle=True) == []
    assert begin(9, epoch=0, shuffle=True) == []
    assert begin(9) == []
