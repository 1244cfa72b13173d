"""A daemon with clients of its own, and what must be true of them.

Enters: limits, jobs, faults from outside. Leaves: an error that says what was wrong, or
nothing. It makes its folders on small file systems of their own where it may, so that they
can be filled.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import resource
import signal
import socket
import struct
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import client, wire
from loaderd import launch

#: Each of the folders that can be filled, in bytes.
DISK_BYTES = 6 << 20
#: How long a schedule's clients may take to finish once the faults are over, in seconds.
FINISH_S = 90.0
#: How long the daemon may take to give back what a client had, in seconds.
RETURN_S = 5.0
#: How long the daemon may take to leave, in seconds.
LEAVE_S = 6.0
#: What allocators may keep of the most that was ever in use.
RSS_GROWTH_KB = 48 << 10

#: Where Debian's package libfaketime puts it.
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")

#: Different pictures in a memory source; row i has picture i modulo their number.
PICTURES = 8

_SYS_IO_URING_SETUP = 425
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_CONTEXT = multiprocessing.get_context("forkserver")
# What takes long to import; the server finds only what is installed or in PYTHONPATH.
_CONTEXT.set_forkserver_preload(["loaderd.torch"])


def warm_up() -> None:
    """Starts the process that clients are forked from, and waits until it can."""
    process = _CONTEXT.Process(target=os.getpid)
    process.start()
    process.join()


class Skip(Exception):
    """The machine can't do this fault."""


@dataclass(frozen=True)
class Limits:
    """What the daemon is started under."""

    descriptors: int | None = None
    memlock_bytes: int | None = None
    has_io_uring: bool = True
    #: Its wall clock can be set, by libfaketime.
    has_own_clock: bool = False

    def apply(self) -> None:
        """In the child, before the daemon is executed."""
        if self.descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))
        if self.memlock_bytes is not None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (self.memlock_bytes, self.memlock_bytes))
        if not self.has_io_uring:
            _refuse_io_uring()


def _refuse_io_uring() -> None:
    """As the seccomp filters of container runtimes do: EPERM."""
    step = struct.Struct("=HBBI")
    # Load the call's number; is it io_uring_setup? then EPERM, else allow.
    program = b"".join(
        [
            step.pack(0x20, 0, 0, 0),
            step.pack(0x15, 0, 1, _SYS_IO_URING_SETUP),
            step.pack(0x06, 0, 0, 0x00050000 | 1),
            step.pack(0x06, 0, 0, 0x7FFF0000),
        ]
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = ctypes.create_string_buffer(
        struct.pack("@HxxxxxxP", len(program) // step.size, ctypes.addressof(buffer))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


class Disk:
    """A small file system that can be filled; a mere folder where mounting is refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "none", str(path)]
        self.is_own = subprocess.run(command, capture_output=True).returncode == 0

    def fill(self) -> None:
        if not self.is_own:
            raise Skip("a file system of our own can't be mounted here")
        with open(self.path / "filler", "ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def free(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.path / "filler").unlink()

    def close(self) -> None:
        if self.is_own:
            subprocess.run(["umount", "-l", str(self.path)], check=True)


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


@dataclass(frozen=True)
class Usage:
    """What a process has, by ``/proc``."""

    descriptors: int
    threads: int
    rss_kb: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        status = Path(f"/proc/{pid}/status").read_text()
        rss = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return cls(
            len(os.listdir(f"/proc/{pid}/fd")),
            len(os.listdir(f"/proc/{pid}/task")),
            int(rss.split()[1]),
        )


@dataclass
class World:
    """One schedule's daemon, clients and folders."""

    folder: Path
    disks: dict[str, Disk]
    limits: Limits = field(default_factory=Limits)
    images: Path | None = None
    clients: list[Client] = field(default_factory=list)
    #: What is open to the daemon by a fault's hand until the schedule ends.
    held: list[socket.socket] = field(default_factory=list)
    daemon: subprocess.Popen[bytes] | None = None
    baseline: Usage | None = None
    #: Daemons that were killed: what they had not written yet is allowed to be missing.
    kills: int = 0
    #: By run, the numbers of pictures that can't be decoded: their rows come zeroed.
    unseen: dict[str, set[int]] = field(default_factory=dict)

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
    def state(self) -> Path:
        return self.disks["state"].path / self.folder.name

    def environment(self) -> dict[str, str]:
        return {
            "LOADERD_STATE": str(self.state),
            "LOADERD_CACHE": str(self.disks["cache"].path / self.folder.name),
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
            return subprocess.Popen(
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
                "uri": "memory:rows=4",
                "columns": ["label"],
                "batch_size": 4,
                "rank": 0,
                "world_size": 1,
                "run": f"warm-up-{time.monotonic_ns()}",
            }
            connection.sendall(wire.frame({"type": "open", **request}))
            assert wire.receive(connection)["type"] == "opened"
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
            last[:] = [status["sessions"], status["slot_bytes"][0]]
            if status["sessions"] or status["slot_bytes"][0]:
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
        self._check_rows()
        self._check_log()

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

    def _by_run(self) -> Iterator[tuple[str, list[Client]]]:
        runs: dict[str, list[Client]] = defaultdict(list)
        for one in self.clients:
            runs[one.spec.arguments["run"]].append(one)
        yield from runs.items()

    def _check_rows(self) -> None:
        """Every valid row once an epoch, where all ranks of a run lived to the end."""
        for run, ranks in self._by_run():
            steps = [(note["step"], n) for n, r in enumerate(ranks) for note in r.notes("batch")]
            assert len(steps) == len(set(steps)), f"{run}: a step came twice"
            if any(rank.is_lost for rank in ranks):
                continue
            rows = int(ranks[0].spec.arguments["uri"].split("rows=")[1].split(",")[0])
            for epoch in range(ranks[0].spec.epochs):
                seen = sorted(
                    row
                    for rank in ranks
                    for note in rank.notes("batch")
                    if note["epoch"] == epoch
                    for row, valid in zip(note["rows"], note["valid"], strict=True)
                    if valid
                )
                unseen = self.unseen.get(run, set())
                expected = [row for row in range(rows) if row % PICTURES not in unseen]
                assert seen == expected, (
                    f"{run}, epoch {epoch}: {len(seen)} rows of {len(expected)}, "
                    f"{len(set(seen))} different"
                )

    def _check_log(self) -> None:
        """The step log has what was handed out: no more, no less."""
        for run, ranks in self._by_run():
            delivered: set[tuple[int, int]] = set()
            prepared: set[tuple[int, int]] = set()
            if any(rank.notes("batch") for rank in ranks):
                for row in self._logged(run):
                    step = (row["rank"], row["step"])
                    prepared.add(step)
                    if row["delivered_ms"] is not None:
                        delivered.add(step)
            had = {
                (rank.spec.arguments["rank"], note["step"])
                for rank in ranks
                for note in rank.notes("batch")
            }
            # A killed client may have been handed one batch that it could not note; a
            # killed daemon, marks that were on their way.
            lost = sum(rank.is_lost for rank in ranks)
            extra, missing = delivered - had, had - delivered
            assert len(extra) <= lost, f"{run}: in the log only: {sorted(extra)}"
            allowed = 8 * self.kills * len(ranks)
            assert len(missing) <= allowed, f"{run}: not in the log: {sorted(missing)}"
            assert had <= prepared, f"{run}: seen, never recorded: {sorted(had - prepared)}"

    def _logged(self, run: str) -> list[dict[str, Any]]:
        command = [launch.find_binary(), "log", "--json", "--all", "--last=1000000"]
        done = subprocess.run(
            [*command, f"--run={run}", f"--state={self.state}"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]
