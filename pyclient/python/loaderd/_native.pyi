"""The compiled half: one connection to the daemon, leases of slots, DLPack."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

__all__ = [
    "PROTOCOL",
    "Lease",
    "ProtocolError",
    "Session",
    "SlotTensor",
    "__version__",
    "clear_stale_socket",
    "fence",
    "socket_path",
    "state_dir",
    "unfenced",
]

__version__: str
PROTOCOL: int

class ProtocolError(RuntimeError):
    """What answered does not keep to loaderd's contract."""

@final
class Session:
    """A connection to the daemon; ends when closed or let go of."""

    @staticmethod
    def connect(path: str, version: str, binary: str, timeout_s: float) -> tuple[Session, str]:
        """Connects and says hello; the answer is JSON: ``welcome`` or ``failed``.

        Raises ``FileNotFoundError`` or ``ConnectionRefusedError`` where nobody listens,
        ``ConnectionResetError`` where the daemon hangs up, ``TimeoutError`` where it is
        silent, ``ProtocolError`` where it is no daemon.
        """

    def open(self, request_json: str) -> None:
        """Asks for a job; the answer comes through ``next``: ``opened`` or ``failed``."""

    def start(self, stream: int, epoch: int, step: int) -> None:
        """Begins a stream of batches, and ends the one before."""

    def delivered(self, lease: int) -> None:
        """Tells the daemon that the user has the batch."""

    def next(self, timeout_s: float | None = None) -> tuple[dict[str, Any], Lease | None] | None:
        """The next message as a dict, with a lease where it is ``ready``; ``None`` in time.

        Also ``None`` as soon as a slot waits for ``fence``, which none was called for yet.
        Lets go of the interpreter while it waits, and notices Ctrl-C.
        """

    def close(self) -> None:
        """Ends the connection and unmaps the slots; those with tensors stay.

        Does nothing in a forked child.
        """

    def pin(self, wanted: bool, streams: Callable[[], Sequence[int]]) -> str | None:
        """Decides about pinned memory, once a CUDA context is active in this process.

        Not while one of ``streams`` is being captured, which are asked for where there is
        something to decide. Returns why slots stay unpinned.
        """

    @property
    def is_pinned(self) -> bool:
        """Whether the slots are pinned memory."""

    @property
    def reaped(self) -> int:
        """Leases without tensors, whose slots wait for the GPU."""

    @property
    def held(self) -> int:
        """Leases that live in this process."""

    @property
    def slot_count(self) -> int:
        """Slots of the job; 0 until it is open."""

    @property
    def pid(self) -> int:
        """The process that connected."""

@final
class Lease:
    """A slot that belongs to this process until its last tensor dies."""

    @property
    def id(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def names(self) -> list[str]: ...
    def tensor(self, name: str) -> SlotTensor | None:
        """A dense column, for ``torch.from_dlpack`` and its like; ``None`` where it is ragged.

        ``KeyError`` if there is none.
        """

    def ragged(self, name: str) -> tuple[SlotTensor, list[SlotTensor], SlotTensor | None, bool]:
        """A ragged column; ``KeyError`` where it is dense.

        Values ``[total, ...]``, int64 offsets from the outermost level inwards, int32 shapes
        ``[rows, 3]`` where it has images, and whether it is text.
        """

@final
class SlotTensor:
    """``[rows, ...]``, or an array of a ragged column; C-contiguous, writable, on the CPU."""

    def __dlpack__(
        self,
        *,
        stream: None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

def socket_path() -> Path:
    """Where the node's daemon listens."""

def state_dir() -> Path:
    """The folder of the step log and the daemon's log; created where it is missing."""

def clear_stale_socket(path: str) -> bool:
    """Removes the socket file of a daemon that was killed; true when the path is free."""

def unfenced() -> int:
    """How many slots without tensors wait for ``fence``, over all sessions."""

def fence(streams: Sequence[int]) -> str | None:
    """Has the GPU say when it is done with what it was given by now, for those slots.

    Does nothing while one of ``streams`` is being captured. Returns what the user should know.
    """
