"""What a training process does around pinned slots, one function a story.

``test_pinning.py`` runs each in a process of its own, because a process has one CUDA driver,
with a stand-in for it and a real daemon. No framework is needed.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from loaderd import _native, errors
from loaderd import session as session_module
from loaderd.job import Job
from loaderd.pinning import Pinning
from loaderd.session import Session

#: What the stand-in takes for the stream of a capture.
CAPTURED = 0x77
_, STORY, LIBRARY, SOCKET = sys.argv

said: list[str] = []


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said.append(record.getMessage())


def load() -> ctypes.CDLL:
    """As a framework does that was asked for CUDA."""
    library = ctypes.CDLL(LIBRARY)
    library.standin_is_pinned.argtypes = [ctypes.c_size_t]
    library.standin_pinned_bytes.restype = ctypes.c_size_t
    return library


def in_use() -> ctypes.CDLL:
    library = load()
    library.standin_activate(0)
    return library


def begin(
    pin: Any = "auto",
    streams: tuple[int, ...] = (),
    slots: int = 2,
    is_in_use: Callable[[], bool] = lambda: True,
) -> Session:
    job = Job.make(
        "memory:rows=800,tensor=1000:float32",
        columns=["tensor", "label"],
        batch_size=8,
        slots=slots,
    )
    pinning = Pinning(pin, lambda: streams, is_in_use)
    session = Session.open(job, socket=SOCKET, autostart=False, pinning=pinning)
    session.start(0, 0)
    return session


def take(session: Session) -> Any:
    """A batch's tensor, which alone keeps the slot."""
    received = session.next()
    assert received is not None
    session.delivered(received[1])
    return numpy.from_dlpack(received[1].tensor("tensor"))


def address(array: Any) -> int:
    return int(array.ctypes.data)


def look(session: Session) -> None:
    """What is done before a wait for a batch."""
    assert session._pinning is not None
    session._pinning.look(session._native)


def nothing_comes(session: Session, seconds: float = 0.3) -> bool:
    """Whether the daemon has no slot to fill; asked as ``Session.next`` does."""
    deadline = time.monotonic() + seconds
    while (left_s := deadline - time.monotonic()) > 0:
        look(session)
        if session._native.next(left_s) is not None:
            return False
    return True


class Waiter:
    """A thread that asks for a batch, as a prefetcher does, and waits for it by now.

    Only what wakes it can end its wait in time.
    """

    def __init__(self, session: Session) -> None:
        session_module._POLL_S = 60.0
        self.array: Any = None
        self._thread = threading.Thread(target=self._take, args=[session], daemon=True)
        self._thread.start()
        time.sleep(0.3)
        assert self.array is None

    def _take(self, session: Session) -> None:
        self.array = take(session)

    def taken(self) -> Any:
        self._thread.join(20)
        assert self.array is not None, said
        return self.array


def until(holds: Any) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, said
        time.sleep(0.005)


def a_process_without_cuda_stays_one() -> None:
    session = begin()
    for _ in range(6):
        take(session)
    assert not session.is_pinned and session.reaped == 0
    # No library was loaded by us.
    maps = Path("/proc/self/maps").read_text()
    assert LIBRARY not in maps and "libcuda" not in maps


def slots_are_pinned_once_a_context_is_active() -> None:
    cuda = load()
    session = begin()
    early = take(session)
    assert not session.is_pinned and cuda.standin_retained() == 0
    cuda.standin_activate(1)
    batch = take(session)
    assert session.is_pinned and cuda.standin_retained() == 1
    # Both slots, whenever they were handed out; and their neighbourhood is left alone.
    assert all(cuda.standin_is_pinned(address(array)) for array in (early, batch))
    assert cuda.standin_pinned_bytes() == 2 * session._opened["layout"]["slot_bytes"]
    # With the last tensor, and the GPU idle, all is as it was.
    del early, batch
    session.close()
    del session
    until(lambda: cuda.standin_pinned_bytes() == 0 and cuda.standin_events() == 0)
    assert said == []


def a_slot_goes_back_when_the_gpu_has_read_it() -> None:
    cuda = in_use()
    session = begin()
    first = take(session)
    place = address(first)
    # A copy behind a long kernel; then the tensor dies.
    cuda.standin_queue(0)
    del first
    second = take(session)
    assert nothing_comes(session)
    assert (session.held, session.reaped, session.slot_count) == (1, 1, 2)
    # Work that comes later is not waited for.
    cuda.standin_finish(0)
    cuda.standin_queue(0)
    third = take(session)
    assert address(third) == place
    until(lambda: session.reaped == 0)
    assert address(second) != place and cuda.standin_events() == 0


def every_device_is_waited_for() -> None:
    cuda = in_use()
    session = begin()
    first = take(session)
    # In use later than the slots were pinned.
    cuda.standin_activate(1)
    cuda.standin_queue(1)
    del first
    second = take(session)
    assert nothing_comes(session)
    cuda.standin_finish(1)
    third = take(session)
    assert address(second) != address(third)
    # One more was to try it out.
    assert cuda.standin_records() == 3


def a_capture_is_never_disturbed() -> None:
    cuda = in_use()
    for streams, is_blocking in ((CAPTURED,), False), ((), True):
        session = begin(streams=streams)
        first = take(session)
        cuda.standin_capture(1, is_blocking)
        del first
        second = take(session)
        assert nothing_comes(session) and _native.unfenced() == 1
        cuda.standin_capture(0, False)
        third = take(session)
        assert address(second) != address(third)
        del second, third
        session.close()
        del session
        until(lambda: cuda.standin_pinned_bytes() == 0)
    # The reaper's thread comes to an event while another thread captures.
    session = begin(slots=3)
    first = take(session)
    cuda.standin_queue(0)
    del first
    second = take(session)
    del second
    third = take(session)
    assert session.reaped == 2 and _native.unfenced() == 0
    cuda.standin_capture(1, False)
    cuda.standin_finish(0)
    until(lambda: session.reaped == 0)
    assert not cuda.standin_capture_is_broken() and third.shape == (8, 1000) and said == []


def pinning_waits_for_the_end_of_a_capture() -> None:
    cuda = in_use()
    cuda.standin_capture(1, False)
    session = begin(streams=(CAPTURED,))
    look(session)
    assert not session.is_pinned and cuda.standin_records() == 0
    cuda.standin_capture(0, False)
    look(session)
    assert session.is_pinned and cuda.standin_events() == 0
    cuda.standin_capture(1, False)
    session.close()
    del session
    # Taken back as well, by this thread: no tensor has kept the memory.
    assert cuda.standin_pinned_bytes() == 0 and not cuda.standin_capture_is_broken()


def a_capture_that_ends_wakes_who_waits() -> None:
    cuda = in_use()
    session = begin(streams=(CAPTURED,))
    first, second = take(session), take(session)
    cuda.standin_capture(1, False)
    waiter = Waiter(session)
    del first
    time.sleep(0.3)
    assert waiter.array is None and _native.unfenced() == 1
    cuda.standin_capture(0, False)
    assert address(waiter.taken()) != address(second)
    assert not cuda.standin_capture_is_broken() and said == []


def a_tensor_that_dies_wakes_who_waits() -> None:
    cuda = in_use()
    session = begin(slots=3)
    arrays = [take(session) for _ in range(3)]
    for _ in range(5):
        waiter = Waiter(session)
        cuda.standin_queue(0)
        place = address(arrays.pop(0))
        # The waiter fences it; what it waits for now is the GPU.
        until(lambda: session.reaped == 1 and _native.unfenced() == 0)
        assert waiter.array is None
        cuda.standin_finish(0)
        arrays.append(waiter.taken())
        assert address(arrays[-1]) == place
    # Dropped before anybody waits: nothing is left that would wake anybody.
    del arrays
    look(session)
    received = session._native.next(60.0)
    assert received is not None and _native.unfenced() == 0 and said == []


def a_tensor_may_die_while_slots_are_pinned() -> None:
    cuda = load()
    session = begin()
    first = take(session)
    cuda.standin_activate(0)
    cuda.standin_gate(1)
    pinning = threading.Thread(target=look, args=[session])
    pinning.start()
    # The driver has pinned them and still holds the thread.
    deadline = time.monotonic() + 10
    while not cuda.standin_is_pinned(address(first)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cuda.standin_queue(0)
    del first
    cuda.standin_gate(0)
    pinning.join()
    second = take(session)
    assert session.is_pinned and nothing_comes(session)
    cuda.standin_finish(0)
    third = take(session)
    assert address(second) != address(third)


def a_framework_that_uses_no_cuda_costs_nothing() -> None:
    cuda = in_use()
    answers = [False, False, True]
    session = begin(is_in_use=lambda: answers.pop(0))
    look(session)
    look(session)
    # Nobody has looked for a driver.
    assert not session.is_pinned and cuda.standin_retained() == 0
    look(session)
    assert session.is_pinned
    with pytest.raises(errors.RequestError, match="no GPU is in use here yet"):
        take(begin(pin=True, is_in_use=lambda: False))


def a_session_ends_whatever_the_framework_says() -> None:
    in_use()
    for ends_by_itself in False, True:
        end_beside_a_broken_framework(ends_by_itself)
        # The stand-in knows one registration.
        gc.collect()


def end_beside_a_broken_framework(by_itself: bool) -> None:
    def broken() -> tuple[int, ...]:
        raise RuntimeError("CUDA error: unspecified launch failure")

    session = begin()
    assert session._pinning is not None
    first = take(session)
    assert session.is_pinned
    del first
    session._pinning._streams = broken
    if by_itself:
        # As where the daemon is gone.
        session._native.close()
        is_over = session._died()
        assert isinstance(is_over, errors.DaemonDied) and "unspecified" in said[0]
    else:
        with pytest.raises(RuntimeError, match="unspecified launch failure"):
            session.close()
    with pytest.raises(ConnectionResetError):
        session._native.start(2, 0, 0)
    _native.fence(())
    until(lambda: session.reaped == 0)


def a_capture_that_nobody_told_of_is_named() -> None:
    cuda = in_use()
    session = begin()
    first = take(session)
    del first
    cuda.standin_capture(1, False)
    second = take(session)
    assert nothing_comes(session)
    assert "being captured while a batch was asked for" in said[0] and len(said) == 1
    assert "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900)" in said[0]
    # Not given back too early for that, and not never.
    cuda.standin_capture(0, False)
    third = take(session)
    assert address(second) != address(third)


def a_broken_context_hangs_nobody() -> None:
    cuda = in_use()
    session = begin()
    first = take(session)
    cuda.standin_queue(0)
    del first
    second = take(session)
    assert nothing_comes(session)
    cuda.standin_break(700)
    for _ in range(4):
        second = take(session)
    assert second.shape == (8, 1000)
    assert said == [
        "the GPU gave up (cuEventSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS (700)): slots go back "
        "without waiting for it"
    ]


def events_that_can_not_be_recorded_leave_slots_unpinned() -> None:
    cuda = in_use()
    cuda.standin_refuse(201)
    session = begin()
    for _ in range(6):
        take(session)
    assert (cuda.standin_pinned_bytes(), cuda.standin_events(), session.reaped) == (0, 0, 0)
    assert said == [
        "slots stay unpinned: this driver can't say when the GPU has read them (cuCtxRecordEvent: "
        "CUDA_ERROR_INVALID_CONTEXT (201)): restart the process"
    ]
    assert_refused("cuCtxRecordEvent")


def a_context_without_events_is_waited_for() -> None:
    cuda = in_use()
    session = begin()
    first = take(session)
    cuda.standin_queue(0)
    cuda.standin_refuse(201)
    del first
    second = take(session)
    assert nothing_comes(session) and (session.reaped, _native.unfenced()) == (1, 0)
    cuda.standin_finish(0)
    third = take(session)
    assert address(second) != address(third) and said == []


def an_older_driver_leaves_slots_unpinned() -> None:
    in_use()
    session = begin()
    for _ in range(6):
        take(session)
    assert not session.is_pinned and session.reaped == 0
    assert len(said) == 1 and "555 or later" in said[0]
    assert_refused("cuCtxRecordEvent")


def what_can_not_be_pinned_is_said_once() -> None:
    cuda = in_use()
    session = begin()
    for _ in range(6):
        take(session)
    # Tried out once.
    assert not session.is_pinned and cuda.standin_records() == 1
    assert len(said) == 1
    assert said[0].startswith(
        "slots stay unpinned: cuMemHostRegister: CUDA_ERROR_OUT_OF_MEMORY (2): free some memory"
    )
    assert_refused("cuMemHostRegister")


def pinning_can_be_insisted_on() -> None:
    assert_refused("no GPU is in use here yet")
    in_use()
    session = begin(pin=True)
    take(session)
    assert session.is_pinned


def pinning_can_be_declined() -> None:
    cuda = in_use()
    session = begin(pin=False)
    cuda.standin_queue(0)
    for _ in range(6):
        take(session)
    assert (cuda.standin_pinned_bytes(), cuda.standin_records(), cuda.standin_retained()) == (
        0,
        0,
        1,
    )


def coherent_memory_is_watched_unpinned() -> None:
    cuda = in_use()
    session = begin(pin=False)
    first = take(session)
    cuda.standin_queue(0)
    del first
    second = take(session)
    assert nothing_comes(session) and cuda.standin_pinned_bytes() == 0
    cuda.standin_finish(0)
    third = take(session)
    assert address(second) != address(third)


def a_fork_leaves_cuda_alone() -> None:
    cuda = in_use()
    # The child has the only session, and unmaps what the parent has pinned.
    session = begin()
    look(session)
    assert session.is_pinned
    if (child := os.fork()) == 0:
        del session
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    session.close()
    del session
    session = begin(slots=3)
    first, second = take(session), take(session)
    del first
    cuda.standin_queue(0)
    third = take(session)
    child = os.fork()
    if child == 0:
        # The stand-in ends a child that calls what it must not.
        _native.fence([])
        del second, third
        session.close()
        del session
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert session.reaped == 1 and cuda.standin_pinned_bytes() > 0
    cuda.standin_finish(0)
    until(lambda: session.reaped == 0)
    assert address(second) != address(third)


def memory_outlives_its_session_until_it_was_read() -> None:
    cuda = in_use()
    session = begin()
    batch = take(session)
    session.close()
    del session
    cuda.standin_queue(0)
    del batch
    # Somebody else asks for batches, with slots that are not pinned.
    other = begin(pin=False)
    take(other)
    time.sleep(0.1)
    assert cuda.standin_pinned_bytes() > 0
    cuda.standin_finish(0)
    until(lambda: cuda.standin_pinned_bytes() == 0)


def tensors_may_die_in_any_order_at_exit() -> None:
    cuda = in_use()
    session = begin(slots=4)
    first = take(session)
    cuda.standin_queue(0)
    del first
    # The reaper waits for a GPU that never finishes, one slot waits for an event, and one
    # tensor lives on.
    second, third = take(session), take(session)
    del second
    sys.modules["kept"] = third


def a_gpu_that_hangs_is_named() -> None:
    cuda = in_use()
    session = begin()
    first = take(session)
    cuda.standin_queue(0)
    del first
    second = take(session)
    Session.stalled_after_s = 0.5
    # Its warning ends this wait, as warnings do where they are errors.
    with pytest.raises(RuntimeWarning, match="1 of 2 slots wait for the GPU"):
        take(session)
    assert second.shape == (8, 1000)


def assert_refused(why: str) -> None:
    session = begin(pin=True)
    with pytest.raises(errors.RequestError, match=f'pin_memory=True: .*{why}.*pin_memory="auto"'):
        take(session)
    # The same reason once more.
    with pytest.raises(errors.RequestError, match=f"pin_memory=True: .*{why}"):
        take(session)
    session.close()


if __name__ == "__main__":
    logging.getLogger("loaderd").addHandler(_Said())
    warnings.simplefilter("error", RuntimeWarning)
    globals()[STORY]()
