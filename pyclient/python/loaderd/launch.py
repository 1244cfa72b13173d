"""Starts the node's daemon where none answers.

Enters: the socket's path, and a way to connect. Leaves: a connection. Of several
processes that come here at once, one starts the daemon and the others wait for it. The
daemon outlives us: it has its own process session and leaves by itself when it is idle.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from loaderd import _native
from loaderd.errors import DaemonUnavailable

Connected = TypeVar("Connected")

#: How long a daemon may take to answer, in seconds.
START_TIMEOUT_S = 20.0
#: How long a daemon that we start stays without a client, in seconds.
IDLE_EXIT_S = 60
#: Nobody listens, or the daemon is just leaving.
ABSENT = (FileNotFoundError, ConnectionRefusedError, ConnectionResetError)

_LOG_TAIL_BYTES = 4096

#: Daemons that this process started. Looking after them lets the kernel forget the dead.
_started: list[subprocess.Popen[bytes]] = []


@atexit.register
def _let_go() -> None:
    """Popen warns about children that outlive it, which here is the point."""
    for process in _started:
        if process.poll() is None:
            process.returncode = 0


def connect_or_start(socket: str, connect: Callable[[], Connected]) -> Connected:
    """Connects; where nobody listens, starts a daemon first.

    Blocks for at most about :data:`START_TIMEOUT_S`. Raises ``DaemonUnavailable`` with the
    end of the daemon's log when it does not answer.
    """
    _started[:] = [process for process in _started if process.poll() is None]
    deadline = time.monotonic() + START_TIMEOUT_S
    process: subprocess.Popen[bytes] | None = None
    log, log_start = "", 0
    with _StartLock(socket) as lock:
        while True:
            # Looked at before connecting: a daemon may find that another one is there.
            exited = process is not None and process.poll() is not None
            holds_lock = lock.acquire()
            try:
                return connect()
            except ABSENT:
                pass
            if exited and process is not None:
                raise DaemonUnavailable(
                    f"the daemon ended with status {process.returncode} before it answered at "
                    f"{socket}; {_tail(log, log_start)}"
                )
            if time.monotonic() > deadline:
                raise DaemonUnavailable(
                    f"no daemon answered at {socket} within {START_TIMEOUT_S:.0f} s; "
                    + (_tail(log, log_start) if process else "another process was to start it")
                )
            if holds_lock and process is None:
                log = os.path.join(_native.state_dir(), "daemon.log")
                log_start = os.path.getsize(log) if os.path.exists(log) else 0
                process = _spawn(socket, log)
            time.sleep(0.02)


def find_binary() -> str:
    """The daemon's executable: ``$LOADERD_BIN``, beside Python, or on the path."""
    named = os.environ.get("LOADERD_BIN")
    if named:
        if os.access(named, os.X_OK) and os.path.isfile(named):
            return os.path.abspath(named)
        raise DaemonUnavailable(
            f"LOADERD_BIN={named} is no executable file: give the daemon's path, or unset it to "
            "have `loaderd` looked for beside Python and on PATH"
        )
    folders = [os.path.dirname(sys.executable), sysconfig.get_path("scripts")]
    for folder in folders:
        path = os.path.join(folder, "loaderd")
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    found = shutil.which("loaderd")
    if found:
        return os.path.abspath(found)
    raise DaemonUnavailable(
        f"the daemon's executable `loaderd` is not in {' or '.join(dict.fromkeys(folders))} and "
        "not on PATH: install the loaderd package, or set LOADERD_BIN"
    )


def _spawn(socket: str, log: str) -> subprocess.Popen[bytes]:
    binary = find_binary()
    environment = dict(os.environ)
    # Relative to our folder, which the daemon leaves.
    environment["LOADERD_STATE"] = os.fspath(_native.state_dir())
    if environment.get("LOADERD_CACHE"):
        environment["LOADERD_CACHE"] = os.path.abspath(environment["LOADERD_CACHE"])
    with open(log, "ab") as output:
        try:
            process = subprocess.Popen(
                [
                    binary,
                    "serve",
                    f"--idle-exit={IDLE_EXIT_S}",
                    f"--log-file={log}",
                    f"--socket={socket}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment,
                close_fds=True,
                start_new_session=True,
            )
        except OSError as error:
            raise DaemonUnavailable(f"cannot start {binary}: {error}") from error
    _started.append(process)
    return process


def _tail(log: str, start: int) -> str:
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace").strip()
    except OSError as error:
        return f"its log {log} can't be read: {error}"
    return f"its log {log} ends with:\n{text}" if text else f"it wrote nothing to its log {log}"


class _StartLock:
    """An flock beside the socket. The file goes with whoever held it last."""

    def __init__(self, socket: str) -> None:
        self._path = f"{socket}.start"
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Whether the lock is ours; never blocks."""
        if self._fd is not None:
            return True
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            socket = self._path.removesuffix(".start")
            raise DaemonUnavailable(
                f"cannot start a daemon at {socket}: folder {os.path.dirname(socket)}: "
                f"{error.strerror}; make it, or choose another socket with LOADERD_SOCKET"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A holder removes the file before it lets go: then ours is a lock on nothing.
            if os.path.samestat(os.fstat(fd), os.stat(self._path)):
                self._fd, fd = fd, -1
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            if fd >= 0:
                os.close(fd)
        return False

    def __enter__(self) -> _StartLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd is not None:
            os.unlink(self._path)
            os.close(self._fd)
            self._fd = None
