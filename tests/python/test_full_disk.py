"""The step log on a full disk: waited for, given up, or gone on without.

What else may happen to a disk is tried at random; see ``faults``.
"""

from __future__ import annotations

import json
import re
import threading
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from faults.machine import Disk, Limits
from loaderd import errors
from loaderd.session import Session

pytest.importorskip("torch")

from daemon_process import ROWS, Daemon, loaderd

#: How long the daemon waits for space, in seconds.
WAIT_S = 30.0


@pytest.fixture
def daemon(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """One whose step log lies on the disk."""
    monkeypatch.setenv("LOADERD_STATE", str(disk.path))
    with Daemon(tmp_path) as daemon:
        yield daemon
        disk.free()


def log(*arguments: str) -> str:
    return loaderd("log", "--last=1000", *arguments).stdout


def steps(run: str, *, attempt: int = 0) -> list[int]:
    """The steps of a run that are recorded as handed out."""
    records = [json.loads(line) for line in log("--json", f"--run={run}").splitlines()]
    return [record["step"] for record in records if record["attempt"] == attempt]


def rows(batches: Any, count: int = ROWS) -> list[int]:
    """Of the next so many batches, which have one row each."""
    return [batch["label"].item() for batch in islice(batches, count)]


def test_a_full_disk_under_the_log_is_waited_out(
    daemon: Daemon, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = daemon.dataset(batch_size=1, run="waits")
    batches = iter(dataset)
    found = [next(batches)["label"].item()]
    disk.fill(daemon.process.pid)
    began = time.monotonic()
    freed = threading.Timer(2.0, disk.free)
    freed.start()
    # The daemon is asked whether it lives, and answers.
    monkeypatch.setattr(Session, "asked_after_s", 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found += rows(batches)
    assert time.monotonic() - began > 1.5
    freed.join()
    dataset.close()
    daemon.stop()
    assert found == list(range(ROWS)) == steps("waits")


@pytest.mark.parametrize("disk", ["either"], indirect=True)
def test_a_disk_that_stays_full(daemon: Daemon, disk: Disk) -> None:
    """Stops the one run in words; the other goes on, and its gap is in the log."""
    stops = daemon.dataset(batch_size=1, run="stops")
    goes_on = daemon.dataset(batch_size=1, run="goes-on", on_log_error="continue")
    stopping, going = iter(stops), iter(goes_on)
    had = rows(stopping, 3)
    found = rows(going, 3)
    disk.fill(daemon.process.pid)

    began = time.monotonic()
    given_up: list[str] = []

    def wait_for_the_end() -> None:
        try:
            for batch in stopping:
                had.append(batch["label"].item())
        except errors.StepLogError as error:
            given_up.append(str(error))

    waiting = threading.Thread(target=wait_for_the_end)
    waiting.start()
    found += rows(going, 40)
    waited_s = time.monotonic() - began
    waiting.join()
    # Once, and not for each of the batches.
    assert WAIT_S - 1 < waited_s < 2 * WAIT_S
    (message,) = given_up
    for part in (disk.words, str(disk.path), 'on_log_error="continue"'):
        assert part in message
    # By the log's writer and by the session that ends, where the daemon's log can grow.
    assert daemon.log.read_text().count("no batch was published") == 2 * disk.is_own

    state, stopped = goes_on.state_dict(), stops.state_dict()
    disk.free()
    found += rows(going)
    assert found == list(range(ROWS))
    goes_on.close()
    resumed = daemon.dataset(batch_size=1, run="goes-on", on_log_error="continue")
    resumed.load_state_dict(state)
    assert rows(resumed) == found[43:]
    resumed.close()
    # What was handed out is what is recorded, and the rest comes after all.
    stops.load_state_dict(stopped)
    assert had + rows(stops) == list(range(ROWS))
    stops.close()
    daemon.stop()

    recorded = steps("goes-on")
    missing = sorted(set(range(ROWS)) - set(recorded))
    assert 30 < len(missing) < 50 and missing == list(range(missing[0], missing[-1] + 1))
    assert re.findall(r"(\S+ attempt \d): (\d+) steps were published without a record", log()) == [
        ("goes-on attempt 0", str(len(missing)))
    ]
    assert steps("goes-on", attempt=1) == list(range(43, ROWS))
    assert steps("stops") == had
    assert steps("stops", attempt=1) == list(range(len(had), ROWS))


@pytest.mark.parametrize("disk", ["limited"], indirect=True)
def test_jobs_that_open_on_a_full_disk(
    daemon: Daemon, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """The one is refused in words; the other goes on, with records as soon as there is room."""
    before = daemon.dataset(batch_size=1, run="opens", on_log_error="continue")
    assert rows(before) == list(range(ROWS))
    before.close()
    # The log is larger than that by now, and slots are much smaller.
    disk.fill(daemon.process.pid, spared_bytes=1 << 16)

    refused: list[str] = []

    def open_in_vain() -> None:
        with pytest.raises(errors.StepLogError) as caught:
            next(iter(daemon.dataset(batch_size=1, run="refused")))
        refused.append(str(caught.value))

    waiting = threading.Thread(target=open_in_vain)
    began = time.monotonic()
    waiting.start()
    goes_on = daemon.dataset(batch_size=1, run="opens", on_log_error="continue")
    goes_on.load_state_dict({**before.state_dict(), "epoch": 0, "position": 10})
    going = iter(goes_on)
    found = rows(going, 20)
    assert WAIT_S - 1 < time.monotonic() - began < 2 * WAIT_S
    waiting.join()
    (message,) = refused
    for part in (disk.words, str(disk.path), "go on", 'on_log_error="continue"'):
        assert part in message
    (warning,) = [text for text in caplog.messages if "step log" in text]
    for part in (disk.words, str(disk.path), "no records until"):
        assert part in warning

    disk.free()
    found += rows(going)
    assert found == list(range(10, ROWS))
    goes_on.close()
    assert rows(daemon.dataset(batch_size=1, run="refused"), 3) == [0, 1, 2]
    daemon.stop()
    recorded = steps("opens", attempt=1)
    missing = ROWS - 10 - len(recorded)
    assert 20 <= missing < 30 and recorded == list(range(10 + missing, ROWS))
    assert f"run opens attempt 1: {missing} steps were published without a record" in log()


def test_a_daemon_without_room_for_slots_says_why(tmp_path: Path) -> None:
    with Daemon(tmp_path, limits=Limits(file_bytes=1 << 20)) as daemon:
        dataset = daemon.dataset("memory:rows=8,tensor=1024x1024:float32", columns=["tensor"])
        with pytest.raises(errors.LimitExceeded, match=r"shared memory.*\(ulimit -f\)"):
            next(iter(dataset))
        assert rows(daemon.dataset(batch_size=1)) == list(range(ROWS))
