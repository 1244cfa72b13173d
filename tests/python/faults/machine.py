"""What the machine gives a daemon: limits, disks, and what ``/proc`` says that it uses.

Enters: what is to be had. Leaves: child processes under limits, small file systems that can
be filled, and counts. It knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

#: Each of the folders that can be filled, in bytes.
DISK_BYTES = 6 << 20
#: Threads that run Lance come and go, up to so many.
LANCE_THREADS = 18

#: Where Debian's package libfaketime puts it.
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
_SYS_IO_URING_SETUP = 425
_PR_CAPBSET_DROP, _CAP_IPC_LOCK = 24, 14
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2


class Skip(Exception):
    """The machine can't do this fault."""


@dataclass(frozen=True)
class Limits:
    """What the daemon is started under."""

    descriptors: int | None = None
    memlock_bytes: int | None = None
    #: What a file may grow to.
    file_bytes: int | None = None
    has_io_uring: bool = True
    #: Its wall clock can be set, by libfaketime.
    has_own_clock: bool = False

    def apply(self) -> None:
        """In the child, before the daemon is executed."""
        if self.descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))
        if self.memlock_bytes is not None:
            # Root may lock without limit through this capability; others don't have it.
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_IPC_LOCK, 0, 0, 0)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (self.memlock_bytes, self.memlock_bytes))
        if self.file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_bytes, self.file_bytes))
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


def limit_growth(pid: int, most_bytes: int | None) -> None:
    """Sets the file size limit of a process; ``None``: the most that it may have."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    soft = hard if most_bytes is None else most_bytes
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


class Disk:
    """A small file system that can be filled.

    Where mounting is refused it is a mere folder, and the one who writes to it is limited:
    no file of a process can grow, here or elsewhere, while its file size limit is 0.
    """

    def __init__(self, path: Path, may_mount: bool = True) -> None:
        self.path = path
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "none", str(path)]
        self.is_own = may_mount and subprocess.run(command, capture_output=True).returncode == 0
        #: What the daemon calls it.
        self.words = "no space left" if self.is_own else "ulimit -f"
        self._limited: int | None = None

    def fill(self, pid: int, spared_bytes: int = 0) -> None:
        """Leaves no room for what that process writes.

        Where the process is limited, its files may still grow to ``spared_bytes``.
        """
        if not self.is_own:
            self._limited = pid
            limit_growth(pid, spared_bytes)
            return
        with open(self.path / "filler", "ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def free(self) -> None:
        filler = self.path / "filler"
        if filler.exists():
            filler.unlink()
        if self._limited is not None:
            with contextlib.suppress(ProcessLookupError):
                limit_growth(self._limited, None)
            self._limited = None

    def close(self) -> None:
        if self.is_own:
            subprocess.run(["umount", "-l", str(self.path)], check=True)


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
        names = []
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                names.append(Path(f"/proc/{pid}/task/{thread}/comm").read_text().strip())
        lance = names.count("loaderd-lance")
        assert lance <= LANCE_THREADS, f"{lance} threads run Lance"
        return cls(
            len(os.listdir(f"/proc/{pid}/fd")),
            len(names) - lance,
            int(rss.split()[1]),
        )
