"""A daemon with clients of its own, and what must be true of them.

Enters: limits, a source, jobs, faults from outside. Leaves: an error that says what was
wrong, or nothing; what must be true of everything at the end is in ``checks``.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import checks, client, wire
from faults.machine import FAKETIME, Disk, Limits, Skip, Usage
from faults.source import Lance, Source
from loaderd import launch

#: How long a schedule's clients may take to finish once the faults are over, in seconds.
FINISH_S = 90.0
#: How long the daemon may take to give back what a client had, in seconds.
RETURN_S = 5.0
#: How long the daemon may take to leave, in seconds.
LEAVE_S = 6.0
#: What allocators may keep of the most that was ever in use.
RSS_GROWTH_KB = 48 << 10


_CONTEXT = multiprocessing.get_context("forkserver")
# What takes long to import; the server finds only what is installed or in PYTHONPATH.
_CONTEXT.set_forkserver_preload(["loaderd.torch"])


def warm_up() -> None:
    """Starts the process that clients are forked from, and waits until it can."""
    process = _CONTEXT.Process(target=os.getpid)
    process.start()
    process.join()


@dataclass
class Client:
    """A client process and what is known of it from outside."""

    spec: client.Spec
    process: Any
    #: Killed or stopped for good by a fault: nothing is expected of it any more.
    is_lost: bool = False

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def is_running(self) -> bool:
        return not self.is_lost and self.process.exitcode is None

    def notes(self, kind: str | None = None) -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            lines = Path(self.spec.notes).read_text().splitlines()
            notes = [json.loads(line) for line in lines if line.endswith("}")]
            return [note for note in notes if kind in (None, note["kind"])]
        return []


@dataclass
class World:
    """One schedule's daemon, clients, folders, and what they read."""

    folder: Path
    disks: dict[str, Disk]
    source: Source
    limits: Limits = field(default_factory=Limits)
    clients: list[Client] = field(default_factory=list)
    #: What is open to the daemon by a fault's hand until the schedule ends.
    held: list[socket.socket] = field(default_factory=list)
    daemon: subprocess.Popen[bytes] | None = None
    baseline: Usage | None = None
    #: Daemons that were killed: what they had not written yet is allowed to be missing.
    kills: int = 0
    #: Processes that were given a clock of their own.
    clocked: list[int] = field(default_factory=list)

    @property
    def socket(self) -> str:
        return str(self.folder / "run" / "sock")

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def clock(self) -> Path:
        """The daemon's wall clock, as an offset from the true one."""
        return self.folder / "clock"

    @property
    def pid(self) -> int:
        """The daemon's."""
        assert self.daemon is not None
        return self.daemon.pid

    @property
    def state(self) -> Path:
        return self.disks["state"].path / self.folder.name

    @property
    def cache(self) -> Path:
        return self.disks["cache"].path / self.folder.name

    @property
    def lance(self) -> Lance:
        if not isinstance(self.source, Lance):
            raise Skip("this world has no dataset")
        return self.source

    def environment(self) -> dict[str, str]:
        return {
            "LOADERD_STATE": str(self.state),
            "LOADERD_CACHE": str(self.cache),
            "TMPDIR": str(self.disks["tmp"].path),
        }

    def spawn(self, limits: Limits | None = None, *arguments: str) -> subprocess.Popen[bytes]:
        """A daemon that may or may not come up."""
        limits = limits or self.limits
        environment = {**os.environ, **self.environment()}
        if limits.has_own_clock:
            if not self.clock.exists():
                self.clock.write_text("+0")
            environment |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_NO_CACHE": "1",
                # The kernel never sets that clock, whatever becomes of the other.
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        with self.log.open("ab") as output:
            daemon = subprocess.Popen(
                [
                    launch.find_binary(),
                    "serve",
                    f"--socket={self.socket}",
                    "--decode-threads=2",
                    "--slot-memory=64M",
                    *arguments,
                ],
                stdout=output,
                stderr=output,
                env=environment,
                cwd="/",
                preexec_fn=limits.apply,
            )
        if limits.has_own_clock:
            self.clocked.append(daemon.pid)
        return daemon

    def start_daemon(self) -> None:
        (self.folder / "run").mkdir(exist_ok=True)
        self.state.mkdir(exist_ok=True)
        self.adopt(self.spawn())

    def adopt(self, daemon: subprocess.Popen[bytes]) -> None:
        """Takes a daemon for ours once it answers."""
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError, wire.Closed):
                if wire.status(self.socket)["pid"] == daemon.pid:
                    break
            assert daemon.poll() is None, f"the daemon does not start:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, "the daemon does not answer"
            time.sleep(0.01)
        self.daemon = daemon
        self._warm_up()
        if self.baseline is None:
            # The first one has no clients yet; those that follow it must need no more.
            self.settle()
            self.baseline = Usage.of(daemon.pid)

    def _warm_up(self) -> None:
        """One small job, for what is only opened or allocated with the first."""
        connection, _ = wire.hello(self.socket)
        with connection:
            request: dict[str, Any] = {
                "uri": self.source.uri,
                "columns": ["label"],
                "batch_size": self.source.rows,
                "protect": "none",
                "rank": 0,
                "world_size": 1,
                "run": f"warm-up-{time.monotonic_ns()}",
            }
            connection.sendall(wire.frame({"type": "open", **request}))
            opened = wire.receive(connection)
            assert opened["type"] == "opened", opened
            connection.sendall(wire.frame({"type": "start", "stream": 1, "epoch": 0, "step": 0}))
            assert wire.receive(connection)["type"] == "ready"
            connection.sendall(wire.frame({"type": "delivered", "lease": 1}))
            assert wire.receive(connection)["type"] == "end_of_epoch"

    def start_client(self, spec: client.Spec) -> Client:
        process = _CONTEXT.Process(target=client.main, args=(spec,), daemon=True)
        process.start()
        self.clients.append(Client(spec, process))
        return self.clients[-1]

    @property
    def running(self) -> list[Client]:
        return [one for one in self.clients if one.is_running]

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.kills += 1
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def wait_until(self, what: str, seconds: float, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
            assert self.daemon is None or self.daemon.poll() is None, "the daemon has ended"
            time.sleep(0.02)

    def settle(self) -> None:
        """Waits until the daemon has nobody's slots and nothing else of anybody."""
        assert self.daemon is not None
        last: list[Any] = []

        def is_free() -> bool:
            status = wire.status(self.socket)
            last[:] = [status["sessions"], status["slot_bytes"][0], self.tags_held()]
            if any(last):
                return False
            if self.baseline is None:
                return True
            usage = Usage.of(status["pid"])
            last.append(usage)
            # The question itself has a descriptor and a thread, which may still be there.
            return (
                usage.descriptors <= self.baseline.descriptors
                and usage.threads <= self.baseline.threads
            )

        try:
            self.wait_until("all is given back", RETURN_S, is_free)
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}, at first {self.baseline}") from None

    def finish(self) -> None:
        """Lets the clients finish, and checks everything."""
        for connection in self.held:
            connection.close()
        deadline = time.monotonic() + FINISH_S
        for one in self.clients:
            if not one.is_lost:
                one.process.join(max(0.1, deadline - time.monotonic()))
                assert one.process.exitcode is not None, (
                    f"{one.spec.name} hangs; its last words: {one.notes()[-3:]}"
                )
            else:
                one.process.kill()
                one.process.join()
        for one in self.clients:
            crashes = one.notes("crash")
            assert not crashes, f"{one.spec.name}: {crashes[0]['message']}"
            assert one.is_lost or one.notes("done"), (
                f"{one.spec.name} left without a word, status {one.process.exitcode}"
            )
        self.settle()
        assert self.daemon is not None and self.baseline is not None
        grown_kb = Usage.of(self.daemon.pid).rss_kb - self.baseline.rss_kb
        assert grown_kb < RSS_GROWTH_KB, f"the daemon has grown by {grown_kb} KiB"
        self.stop_daemon()
        for check in (checks.files, checks.tags, checks.rows, checks.engines, checks.log):
            check(self)

    def tags_held(self) -> list[str]:
        """Tags by which the daemon holds the version for its runs now."""
        assert self.daemon is not None
        if not isinstance(self.source, Lance):
            return []
        of_it = f"-{self.daemon.pid}-"
        return [name for name in self.source.tags() if of_it in name]

    def stop_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        try:
            status = self.daemon.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon does not leave within {LEAVE_S:g} s") from None
        text = self.log.read_text()
        assert status == 0, f"the daemon ended with {status}:\n{text}"
        assert "panicked" not in text, text
        left = set(os.listdir(self.folder / "run")) - {"sock.owner"}
        assert not left, f"left beside the socket: {left}"

    def close(self) -> None:
        """Ends what is left, after a failure too."""
        for connection in self.held:
            connection.close()
        for one in self.clients:
            if one.process.exitcode is None:
                one.process.kill()
                one.process.join()
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        for pid in self.clocked:
            # What libfaketime shares between processes; one that is killed leaves it behind.
            for name in (f"sem.faketime_sem_{pid}", f"faketime_shm_{pid}"):
                Path("/dev/shm", name).unlink(missing_ok=True)

    def prune_tags(self) -> None:
        """Takes off what no living process needs."""
        command = [launch.find_binary(), "tags", "prune", "--older-than=0", self.source.uri]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
