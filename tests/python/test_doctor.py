"""``loaderd doctor`` beside real and odd daemons, and on a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loaderd import _native, launch

pytest.importorskip("torch")

from daemon_process import Daemon
from fake_daemon import FakeDaemon


def doctor(*arguments: str, code: int = 0, **environment: str) -> dict[str, Any]:
    """The report, with the checks by name."""
    process = subprocess.run(
        [launch.find_binary(), "doctor", "--json", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
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


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB without a free byte."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "loaderd-test", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        with (folder / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(1 << 12))
            except OSError:
                pass
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named(full_disk: Path, socket: str) -> None:
    for name, variable in (("state", "LOADERD_STATE"), ("cache", "LOADERD_CACHE")):
        check = doctor(socket, code=1, **{variable: str(full_disk)})["checks"][name]
        assert check["verdict"] == "failed", check
        assert str(full_disk) in check["found"]
        assert variable in check["mend"]
    check = doctor(socket, TMPDIR=str(full_disk))["checks"]["temporary"]
    assert check["verdict"] == "slow", check
    assert [path.name for path in full_disk.iterdir()] == ["filler"]


def test_help_names_every_check_and_field(socket: str) -> None:
    text = subprocess.run(
        [launch.find_binary(), "doctor", "--help"], capture_output=True, text=True, check=True
    ).stdout
    report = doctor(socket)
    for name in [*report, *report["versions"], *report["checks"]]:
        assert name in text, name
