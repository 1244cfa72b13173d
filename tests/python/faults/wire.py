"""The daemon's protocol by hand: for what no client of ours would say, and no daemon.

Enters: messages as plain objects. Leaves: frames on a Unix socket, and the answers. It
follows ``loaderd/wire/src/frame.rs`` and shares no code with the client.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

from loaderd import _native

MAGIC = b"LDR1"
#: How long the daemon may take to answer or to close, in seconds.
ANSWER_S = 10.0


class Closed(EOFError):
    """The other side has ended the connection."""


def frame(message: Any) -> bytes:
    body = json.dumps(message).encode()
    return MAGIC + struct.pack("<I", len(body)) + body


def connect(path: str, timeout_s: float = ANSWER_S) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            connection.connect(path)
            return connection
        except BlockingIOError:
            # The daemon is behind with accepting; Python waits only for what has begun.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def receive(connection: socket.socket) -> dict[str, Any]:
    """The next message; :class:`Closed` where there is none."""
    magic, size = struct.unpack("<4sI", _exactly(connection, 8))
    assert magic == MAGIC
    message: dict[str, Any] = json.loads(_exactly(connection, size))
    return message


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        try:
            part = connection.recv(count - len(data))
        except ConnectionResetError:
            part = b""
        if not part:
            raise Closed
        data += part
    return data


def hello(path: str, protocol: int = _native.PROTOCOL) -> tuple[socket.socket, dict[str, Any]]:
    """A connection that has said hello, and the daemon's answer."""
    connection = connect(path)
    connection.sendall(
        frame({"type": "hello", "protocol": protocol, "version": "9.9", "binary": "/by/hand"})
    )
    return connection, receive(connection)


def status(path: str) -> dict[str, Any]:
    connection, answer = hello(path)
    with connection:
        assert answer["type"] == "welcome", answer
        connection.sendall(frame({"type": "status"}))
        return receive(connection)
