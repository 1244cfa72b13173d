"""What the tests of JAX share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("jax")

from client_helpers import NAMES
from daemon_process import NUMBERS, Daemon
from fake_daemon import BATCH, FakeDaemon
from loaderd.jax import Batch, LanceLoader


def connect(daemon: FakeDaemon, **arguments: Any) -> LanceLoader:
    """A loader of the fake daemon, whose epochs end with a batch of two rows: it is padded."""
    arguments = {"columns": NAMES, "batch_size": BATCH, "autostart": False, **arguments}
    return LanceLoader("memory:", socket=daemon.path, **arguments)


def loader_of(daemon: Daemon, uri: str = NUMBERS, **arguments: Any) -> LanceLoader:
    arguments = {"columns": ["label"], "batch_size": 8, "autostart": False, **arguments}
    return LanceLoader(uri, socket=daemon.socket, **arguments)


def trace(batches: Any) -> list[tuple[int, list[int]]]:
    return [(batch.step, batch["label"].tolist()) for batch in batches]


def valid(batch: Batch) -> list[int]:
    """The labels of rows that are no padding."""
    return [int(label) for label in batch["label"][batch["_valid"]]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(script: str, *arguments: str, **environment: str) -> None:
    process = start(script, *arguments, **environment)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
