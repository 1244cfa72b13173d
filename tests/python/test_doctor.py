"""``loaderd doctor`` beside real and odd daemons, and on a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loaderd import _native, launch

pytest.importorskip("torch")

from daemon_process import Daemon
from fake_daemon import FakeDaemon
from faults.machine import Disk, Limits


def doctor(
    *arguments: str, code: int = 0, limits: Limits | None = None, **environment: str
) -> dict[str, Any]:
    """The report, with the checks by name."""
    process = subprocess.run(
        [launch.find_binary(), "doctor", "--json", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=limits.apply if limits else None,
    )
    assert process.returncode == code, process.stdout + process.stderr
    report = json.loads(process.stdout)
    report["checks"] = {check["name"]: check for check in report["checks"]}
    return report


@pytest.fixture
def socket(tmp_path: Path) -> str:
    return f"--socket={tmp_path / 'sock'}"


def test_a_daemon_of_the_same_version_is_fine(tmp_path: Path, socket: str) -> None:
    daemon = Daemon(tmp_path)
    try:
        report = doctor(socket)
        check = report["checks"]["daemon"]
        assert check["verdict"] == "ok"
        assert f"pid {daemon.process.pid}" in check["found"]
        assert report["versions"]["protocol"] == _native.PROTOCOL
        # The doctor's own socket was beside the daemon's, which still answers.
        assert sum(1 for _ in daemon.dataset()) > 0
    finally:
        daemon.stop()
    assert "none runs" in doctor(socket)["checks"]["daemon"]["found"]


def test_a_daemon_that_hangs_is_named(tmp_path: Path, socket: str) -> None:
    daemon = Daemon(tmp_path)
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        check = doctor(socket, code=1)["checks"]["daemon"]
    finally:
        daemon.process.send_signal(signal.SIGCONT)
        daemon.stop()
    assert check["verdict"] == "failed"
    assert "does not answer" in check["found"]
    assert check["mend"].startswith(f"kill -9 {daemon.process.pid}")


@pytest.mark.parametrize(
    ("answer", "found", "mend"),
    [
        (
            {"type": "failed", "kind": "protocol", "message": "7 here, 0 there"},
            "7 here, 0 there",
            "kill ",
        ),
        (
            {"type": "welcome", "protocol": 99, "version": "9.9", "binary": "x", "pid": 1},
            "protocol 99",
            "kill ",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no loaderd", "LOADERD_SOCKET"),
    ],
)
def test_other_daemons_are_named(
    fake_daemon: FakeDaemon, answer: dict[str, Any] | bytes, found: str, mend: str
) -> None:
    fake_daemon.welcome = answer
    check = doctor(f"--socket={fake_daemon.path}", code=1)["checks"]["daemon"]
    assert check["verdict"] == "failed"
    assert found in check["found"]
    assert mend in check["mend"]


def test_a_full_disk_is_named(disk: Disk, socket: str) -> None:
    names = {"state": "LOADERD_STATE", "cache": "LOADERD_CACHE", "temporary": "TMPDIR"}
    # A limit is on the whole process, a file system fills for everyone.
    limits = None if disk.is_own else Limits(file_bytes=0)
    if disk.is_own:
        disk.fill(os.getpid())
    before = list(disk.path.iterdir())
    folders = dict.fromkeys(names.values(), str(disk.path))
    checks = doctor(socket, code=1, limits=limits, **folders)["checks"]
    for name, variable in names.items():
        # Sessions write nothing to the temporary folder.
        assert checks[name]["verdict"] == ("slow" if name == "temporary" else "failed")
        assert str(disk.path) in checks[name]["found"]
        assert variable in checks[name]["mend"]
    assert list(disk.path.iterdir()) == before


def test_help_names_every_check_and_field(socket: str) -> None:
    text = subprocess.run(
        [launch.find_binary(), "doctor", "--help"], capture_output=True, text=True, check=True
    ).stdout
    report = doctor(socket)
    for name in [*report, *report["versions"], *report["checks"]]:
        assert name in text, name
