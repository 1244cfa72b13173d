"""A few random fault schedules; ``faults/run.py`` runs as many as one likes.

Bounded in time, not in number: a slow machine runs fewer.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from faults.faults import FAULTS
from faults.run import run
from faults.world import Limits

SCHEDULES = 20
#: After so many seconds no other schedule is begun.
SECONDS = 45.0


def test_schedules_of_random_faults() -> None:
    result = run(range(SCHEDULES), seed=2026, deadline_s=SECONDS)
    assert not result.failures, "\n\n".join(result.failures)
    assert sum(result.faults.values()) > 0


@pytest.mark.parametrize(
    "fault",
    [
        "the_daemon_pauses_for_good",
        "descriptors_run_out",
        "the_daemon_is_told_to_stop_on_a_full_disk",
    ],
)
def test_faults_that_took_a_daemon_or_a_client_down(fault: str) -> None:
    assert fault in FAULTS
    result = run(range(1), seed=1, faults=[fault])
    assert not result.failures, "\n\n".join(result.failures)
    if result.skipped:
        pytest.skip("; ".join(result.skipped))
    assert result.faults[fault] == 1


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
