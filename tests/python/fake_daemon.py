"""A daemon that does as it is told, in a thread: the contract's other end for tests.

It publishes batches whose values say where they belong, one per free slot, and records
what the client says. It reads no dataset and decodes nothing.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from faults import wire

F_ADD_SEALS, SEALS = 1033, 0x1 | 0x2 | 0x4  # seal, shrink, grow: fcntl.h

ROWS, BATCH, STEPS = 10, 4, 3
SLOT_BYTES = 4096
LAYOUT: dict[str, Any] = {
    "tensors": [
        {"name": "x", "dtype": "float32", "shape": [2, 3], "offset": 0},
        {"name": "half", "dtype": "float16", "shape": [2], "offset": 128},
        {"name": "label", "dtype": "int64", "shape": [], "offset": 192},
        {"name": "flag", "dtype": "bool", "shape": [], "offset": 256},
        {"name": "byte", "dtype": "uint8", "shape": [5], "offset": 320},
    ],
    "batch_size": BATCH,
    "dense_bytes": 384,
    "slot_bytes": SLOT_BYTES,
}


class FakeDaemon:
    """Listens at ``path`` until stopped. Set its attributes before a client connects."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.welcome: dict[str, Any] | bytes = {
            "type": "welcome",
            "protocol": 6,
            "version": "fake",
            "binary": "/fake/loaderd",
            "pid": os.getpid(),
        }
        #: Said before the answer to `open`.
        self.waiting: list[str] = []
        #: Merged into the answer to `open`.
        self.opened: dict[str, Any] = {}
        #: Merged into every `ready`, with these descriptors, and written behind the tensors.
        self.ready: dict[str, Any] = {}
        self.attached: list[int] = []
        self.variable = b""
        #: Sent instead of the batch of a step.
        self.instead: dict[int, dict[str, Any]] = {}
        #: Called with (daemon, step) before a batch is sent.
        self.before_batch: Callable[[FakeDaemon, int], None] = lambda daemon, step: None
        self.slot_count = 3
        self.seals = SEALS
        self.segment_name = f"fake-slots-{os.urandom(4).hex()}"
        #: All that clients said, in order.
        self.heard: list[dict[str, Any]] = []
        self._condition = threading.Condition()
        self._connections: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Ends all connections, as a killed daemon does, and leaves its socket file."""
        # A close alone would leave the thread that waits for connections, and the socket.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def said(self, kind: str) -> list[dict[str, Any]]:
        """Messages of one type."""
        with self._condition:
            return [message for message in self.heard if message["type"] == kind]

    def wait_for(self, kind: str, count: int) -> list[dict[str, Any]]:
        """The first `count` messages of one type, once they are here."""
        deadline = time.monotonic() + 30
        with self._condition:
            while True:
                found = [message for message in self.heard if message["type"] == kind]
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                assert left > 0, f"{len(found)} of {count} {kind} messages: {self.heard}"
                self._condition.wait(left)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), connection:
            assert self._hear(connection)["type"] == "hello"
            if isinstance(self.welcome, bytes):
                connection.sendall(self.welcome)
                self._hear(connection)
                return
            send(connection, self.welcome)
            request = self._hear(connection)
            memory = os.memfd_create(self.segment_name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
            os.ftruncate(memory, SLOT_BYTES * self.slot_count)
            fcntl.fcntl(memory, F_ADD_SEALS, self.seals)
            for message in self.waiting:
                send(connection, {"type": "waiting", "message": message})
            answer = self._answer(request)
            send(connection, answer, [memory] if answer["type"] == "opened" else [])
            if answer["type"] == "opened":
                with mmap.mmap(memory, 0) as slots:
                    _Streams(self, connection, slots).run()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        resume = request.get("resume")
        return {
            "type": "opened",
            "run": request["run"] or (resume or {}).get("run") or "made-up",
            "attempt": 0,
            "decoder": "none",
            "uri": request["uri"],
            "version": 7,
            "rows": ROWS,
            "steps_per_epoch": STEPS,
            "global_batch_size": BATCH,
            "seed": request["seed"],
            "fingerprint": {"filter": request["filter"]},
            "layout": LAYOUT,
            "slot_count": self.slot_count,
            "resume_at": [resume["epoch"], -(-resume["position"] // BATCH)] if resume else [0, 0],
            "classes": {"label": ["cat", "dog"]},
            "notices": ["reading with pread"],
            "warnings": ["reading with pread"],
            "daemon_log": "/fake/daemon.log",
            **self.opened,
        }

    def _hear(self, connection: socket.socket) -> dict[str, Any]:
        message = wire.receive(connection)
        with self._condition:
            self.heard.append(message)
            self._condition.notify_all()
        return message


class _Streams:
    """Fills free slots of one connection, step after step."""

    def __init__(self, daemon: FakeDaemon, connection: socket.socket, slots: mmap.mmap) -> None:
        self.daemon, self.connection, self.slots = daemon, connection, slots
        self.free = list(range(daemon.slot_count))
        self.leased: dict[int, int] = {}
        self.lease = 0
        self.stream, self.epoch, self.step = 0, 0, STEPS + 1

    def run(self) -> None:
        while True:
            while self.step <= STEPS and (self.free or self.step == STEPS):
                self._publish()
            message = self.daemon._hear(self.connection)
            if message["type"] == "start":
                self.stream, self.epoch = message["stream"], message["epoch"]
                self.step = message["step"]
            elif message["type"] == "release":
                self.free.append(self.leased.pop(message["lease"]))

    def _publish(self) -> None:
        step, self.step = self.step, self.step + 1
        if step == STEPS:
            end = {"type": "end_of_epoch", "stream": self.stream, "epoch": self.epoch}
            send(self.connection, end)
            return
        self.daemon.before_batch(self.daemon, step)
        if step in self.daemon.instead:
            send(self.connection, {"stream": self.stream, **self.daemon.instead[step]})
            self.step = STEPS + 1
            return
        slot = self.free.pop(0)
        self.lease += 1
        self.leased[self.lease] = slot
        rows = min(BATCH, ROWS - step * BATCH)
        self._fill(slot * SLOT_BYTES, step)
        ready = {
            "type": "ready",
            "stream": self.stream,
            "lease": self.lease,
            "slot": slot,
            "rows": rows,
            "epoch": self.epoch,
            "epoch_step": step,
            "step": self.epoch * STEPS + step,
            "position": step * BATCH + rows,
            "bad_rows": 0,
            "published_ns": time.monotonic_ns(),
            **self.daemon.ready,
        }
        send(self.connection, ready, self.daemon.attached)

    def _fill(self, start: int, step: int) -> None:
        """Values count up over the batch; labels are positions, `half` is the epoch."""
        first = step * BATCH

        def put(offset: int, data: bytes) -> None:
            self.slots[start + offset : start + offset + len(data)] = data

        put(0, array.array("f", range(first * 6, (first + BATCH) * 6)).tobytes())
        put(128, struct.pack("<8e", *[self.epoch] * 8))
        put(192, struct.pack("<4q", *range(first, first + BATCH)))
        put(256, bytes([1, 0, 1, 0]))
        put(320, bytes(range(20)))
        put(LAYOUT["dense_bytes"], self.daemon.variable)


def send(connection: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """A message, with descriptors on its first byte."""
    frame = wire.frame(message)
    if fds:
        sent = socket.send_fds(connection, [frame], fds)
        frame = frame[sent:]
    connection.sendall(frame)
