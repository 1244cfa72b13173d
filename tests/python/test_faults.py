"""A few random fault schedules; ``faults/run.py`` runs as many as one likes.

Bounded in time, not in number: a slow machine runs fewer.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemon_process import Daemon
from faults.dataset_faults import DATASET_FAULTS
from faults.faults import FAULTS
from faults.machine import Limits
from faults.run import run
from loaderd.session import Session

SCHEDULES = 20
#: After so many seconds no other schedule is begun.
SECONDS = 25.0


def test_schedules_of_random_faults() -> None:
    result = run(range(SCHEDULES), seed=2026, deadline_s=SECONDS)
    assert not result.failures, "\n\n".join(result.failures)
    assert sum(result.faults.values()) > 0


@pytest.mark.parametrize(
    ("fault", "may_mount"),
    [
        *((fault, True) for fault in sorted(FAULTS)),
        ("a_disk_is_full_for_a_while", False),
        ("the_daemon_is_told_to_stop_on_a_full_disk", False),
    ],
)
def test_each_fault_is_tried(fault: str, may_mount: bool) -> None:
    """By itself, where schedules draw some; once more where its clients were too quick for it."""
    for seed in range(1, 6):
        result = run(range(1), seed=seed, faults=[fault], kinds=["memory"], may_mount=may_mount)
        assert not result.failures, "\n\n".join(result.failures)
        if result.faults[fault]:
            return
    pytest.skip("; ".join(result.skipped))


def test_what_can_happen_to_a_dataset() -> None:
    result = run(range(1), seed=2, faults=sorted(DATASET_FAULTS), kinds=["lance"])
    assert not result.failures, "\n\n".join(result.failures)
    if result.skipped:
        pytest.skip("; ".join(result.skipped))
    assert set(result.faults) == set(DATASET_FAULTS)


def test_a_pause_of_the_daemon_is_told_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "asked_after_s", 0.3)
    daemon = Daemon(tmp_path)
    batches = iter(daemon.dataset(slots=2))
    next(batches)
    daemon.process.send_signal(signal.SIGSTOP)
    threading.Timer(4.0, daemon.process.send_signal, [signal.SIGCONT]).start()
    pid = daemon.process.pid
    with pytest.warns(RuntimeWarning, match=f"process {pid}.*not answered.*kill -CONT {pid}"):
        rest = [row for batch in batches for row in batch["label"].tolist()]
    assert rest == list(range(8, 100))
    daemon.stop()


@pytest.mark.parametrize("kind", ["descriptors", "memlock", "ring"])
def test_limits_are_applied(kind: str) -> None:
    """The daemon of a schedule runs under what the schedule says: else it tests nothing."""
    limits, program = {
        "descriptors": (
            Limits(descriptors=40),
            "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE) == (40, 40))",
        ),
        "memlock": (
            Limits(memlock_bytes=0),
            "import resource as r; print(r.getrlimit(r.RLIMIT_MEMLOCK) == (0, 0))",
        ),
        "ring": (
            Limits(has_io_uring=False),
            "import ctypes; libc = ctypes.CDLL(None, use_errno=True); "
            "print(libc.syscall(425, 1, None) == -1 and ctypes.get_errno() == 1)",
        ),
    }[kind]
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        preexec_fn=limits.apply,
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
