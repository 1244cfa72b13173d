"""A real daemon for a test, and its command line."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from faults.machine import Limits
from loaderd import launch
from loaderd.torch import LanceIterableDataset

ROWS = 100
NUMBERS = f"memory:rows={ROWS},tensor=3x4:float32"


def loaderd(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the command line; what it printed."""
    return subprocess.run(
        [launch.find_binary(), *arguments], check=check, capture_output=True, text=True, timeout=240
    )


def logged(shown: str, *arguments: str, times: int = 1) -> str:
    """What `loaderd log` prints, once `shown` is there so many times: a step is marked as
    delivered a moment after it was."""
    deadline = time.monotonic() + 60
    while (text := loaderd("log", *arguments).stdout).count(shown) < times:
        assert time.monotonic() < deadline, text
        time.sleep(0.05)
    return text


class Daemon:
    """A daemon with a socket and folders of its own."""

    def __init__(self, folder: Path, *arguments: str, limits: Limits | None = None) -> None:
        self.socket = str(folder / "sock")
        self.log = folder / "log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [launch.find_binary(), "serve", f"--socket={self.socket}", *arguments],
                stdout=output,
                stderr=output,
                preexec_fn=limits.apply if limits else None,
            )
        deadline = time.monotonic() + 60
        # The file is there a moment before anyone listens.
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(self.socket) != 0:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.01)

    def dataset(self, uri: str = NUMBERS, **arguments: Any) -> LanceIterableDataset:
        arguments = {"columns": ["label"], "batch_size": 8, "autostart": False, **arguments}
        return LanceIterableDataset(uri, socket=self.socket, **arguments)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it; it must neither have failed nor panicked."""
        self.stop()
        assert self.process.returncode == 0, self.log.read_text()
        assert "panicked" not in self.log.read_text()
