"""Slots of many GiB, which take the kernel long to zero and to free: nobody waits in vain."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loaderd import errors

pytest.importorskip("torch")

from daemon_process import Daemon
from faults import wire

GIB = 1 << 30
#: What a daemon that is asked to stop, or is left by its client, may take for it.
AT_ONCE_S = 2.0


def available_bytes() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def used(daemon: Daemon) -> int:
    """Of the daemon's slot memory, in bytes."""
    return int(wire.status(daemon.socket)["slot_bytes"][0])


def ask(client: socket.socket, slot_bytes: int, run: str | None = None) -> None:
    """For two slots of so many bytes and a little."""
    request: dict[str, Any] = {
        "uri": "memory:rows=100",
        "columns": ["label"],
        "batch_size": 8,
        "rank": 0,
        "world_size": 1,
        "slots": 2,
        "variable_bytes": slot_bytes,
        "run": run,
    }
    client.sendall(wire.frame({"type": "open", **request}))


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[tuple[Daemon, socket.socket]]:
    """A daemon, and a client whose slots it has just begun to allocate."""
    # As much as takes seconds, of which nearly nothing is ever taken.
    size = min(8 * GIB, available_bytes() // 2)
    if size < 4 * GIB:
        pytest.skip("less than 8 GiB of memory are free")
    with Daemon(tmp_path, f"--slot-memory={size}") as daemon:
        client, _ = wire.hello(daemon.socket)
        with client:
            ask(client, size // 2 - 8192)
            deadline = time.monotonic() + 30
            is_allocating = False
            while not is_allocating:
                assert time.monotonic() < deadline, daemon.log.read_text()
                is_allocating = used(daemon) > 0
                if select.select([client], [], [], 0.02)[0]:
                    answer = wire.receive(client)
                    if answer["type"] != "waiting":
                        # A container may have less than its machine.
                        assert (answer["type"], answer.get("kind")) == ("failed", "limit"), answer
                        pytest.skip(answer["message"])
            yield daemon, client


def test_a_daemon_that_allocates_stops_when_it_is_asked_to(
    opening: tuple[Daemon, socket.socket],
) -> None:
    daemon, client = opening
    started = time.monotonic()
    daemon.stop()
    assert time.monotonic() - started < AT_ONCE_S
    # On a slow machine it was told before how far it is.
    while (answer := wire.receive(client))["type"] == "waiting":
        pass
    assert (answer["type"], answer["kind"]) == ("failed", "stopping")


def test_a_client_that_leaves_ends_the_allocation(
    opening: tuple[Daemon, socket.socket],
) -> None:
    daemon, client = opening
    started = time.monotonic()
    client.close()
    while used(daemon) > 0:
        assert time.monotonic() - started < AT_ONCE_S
        time.sleep(0.01)


def test_memory_that_is_not_there_is_not_tried(tmp_path: Path) -> None:
    """More than can be mapped, lest a daemon that tries takes the machine down."""
    with Daemon(tmp_path, "--slot-memory=2000T") as daemon:
        dataset = daemon.dataset(slots=1024, variable_bytes=1 << 40)
        words = r"1024 slots of 1\.00 TiB need .* can be had, .*slots="
        with pytest.raises(errors.LimitExceeded, match=words):
            len(dataset)


def test_memory_of_a_session_that_ends_is_waited_for(tmp_path: Path) -> None:
    """It is there in a moment, so that nobody is told that it is in use."""
    with Daemon(tmp_path, "--slot-memory=300M") as daemon:
        client, _ = wire.hello(daemon.socket)
        ask(client, 100 << 20)
        for _ in range(5):
            following, _ = wire.hello(daemon.socket)
            assert wire.receive(client)["type"] == "opened"
            client.close()
            ask(following, 100 << 20)
            client = following
        assert wire.receive(client)["type"] == "opened"
        client.close()
