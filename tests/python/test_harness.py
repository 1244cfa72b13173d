"""What the Python benches share, where it can be told right from wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

BENCHES = Path(__file__).parents[2] / "benches"


def test_a_bench_that_is_told_to_end_takes_its_daemon_along(tmp_path: Path) -> None:
    command = [sys.executable, BENCHES / "handover.py", f"--scratch={tmp_path}"]
    bench = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/daemon.sock")):
        assert bench.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    (daemon,) = Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split()
    assert "serve" in Path(f"/proc/{daemon}/cmdline").read_text()
    bench.terminate()
    assert bench.wait(30) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{daemon}").exists()
    assert list(tmp_path.iterdir()) == []
