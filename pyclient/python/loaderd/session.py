"""One rank's conversation with the daemon, for any framework.

Enters: a :class:`~loaderd.job.Job`. Leaves: batches as leases, in order, and cursors. It
raises what the user can act on, and never hangs on a daemon that is gone. It holds no
tensors and imports no framework.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loaderd import _native, launch
from loaderd.errors import (
    DaemonUnavailable,
    ForkedProcess,
    InternalError,
    LimitExceeded,
    LoaderdError,
    ProtocolMismatch,
    RequestError,
    SlotsExhausted,
    from_failure,
)
from loaderd.job import Job
from loaderd.pinning import Pinning
from loaderd.ranks import Ranks

logger = logging.getLogger("loaderd")

#: The version of cursors that ``loaderd-plan`` reads.
CURSOR_FORMAT = 1

_HANDSHAKE_TIMEOUT_S = 10.0
#: The kernel may need a moment to close the socket of a process that was killed.
_DEATH_PATIENCE_S = 0.5
_POLL_S = 0.25
#: The same while slots can't be fenced, because a CUDA graph is being captured: nobody tells
#: when that is over.
_CAPTURE_POLL_S = 0.005
#: After how many batches that were too large for their slot to say so.
_OVERSIZE_MANY = 10
#: How long the daemon may take to answer a question, in seconds.
_ANSWER_TIMEOUT_S = 2.0


class Session:
    """A connection with one open job. Close it, or let go of it, to give back its slots."""

    #: How long to wait for a slot when the user holds all of them, in seconds.
    exhausted_after_s = 5.0
    #: After how long without a batch to say so, in seconds.
    stalled_after_s = 60.0
    #: After how long without a word from the daemon to ask whether it still answers, and to
    #: say so where it does not, in seconds.
    asked_after_s = 10.0
    #: After how long without an answer to give it up, in seconds.
    silent_after_s = 120.0

    def __init__(
        self,
        native: _native.Session,
        welcome: Mapping[str, Any],
        job: Job,
        socket: str,
        pinning: Pinning | None,
    ) -> None:
        self._native = native
        self._welcome = welcome
        self._job = job
        self._socket = socket
        self._pinning = pinning
        self._opened: dict[str, Any] = {}
        #: What all cursors of the job have in common.
        self._cursor: dict[str, Any] = {}
        #: Dataset version that is read.
        self.version = 0
        #: Why the stream or the session ended; made into a new exception each time, because
        #: a raised one keeps its frames, and with them the user's tensors.
        self._over: Mapping[str, Any] | None = None
        #: Whether the connection has ended, by us or the daemon.
        self.closed = False
        self.stream = 0
        self.notices: list[str] = []
        #: What decodes images, with versions.
        self.decoder = ""
        #: Batches so far, those too large for their slot, and the most bytes of one.
        self._batches, self._oversize, self._oversize_bytes = 0, 0, 0

    @classmethod
    def open(
        cls,
        job: Job,
        *,
        socket: str | None = None,
        autostart: bool = True,
        resume: Mapping[str, Any] | None = None,
        allow_changed: bool = False,
        pinning: Pinning | None = None,
    ) -> Session:
        """Connects, starts a daemon if there is none, and opens the job.

        Blocks as long as the daemon prepares the job: the first use of a dataset version
        takes a scan of its descriptors. Without ``pinning``, slots go back to the daemon at
        once: for frameworks that keep them until the GPU has read them.
        """
        path = os.path.abspath(socket) if socket is not None else _default_socket()
        native, welcome = _connect(path, autostart)
        session = cls(native, welcome, job, path, pinning)
        try:
            session._open(job.request(resume, allow_changed))
        except BaseException:
            # A traceback that is kept, as notebooks do, keeps the connection, and with it the rank.
            session._end()
            raise
        return session

    def _open(self, request: dict[str, Any]) -> None:
        try:
            self._native.open(json.dumps(request))
        except ConnectionError:
            raise self._died() from None
        except ValueError as error:
            raise RequestError(f"the daemon can't be asked for this: {error}") from None
        pulse = _Pulse(self)
        while True:
            received = self._receive(_POLL_S)
            if received is None:
                pulse.feel()
                continue
            event, _ = received
            if event.get("type") == "waiting":
                logger.warning("%s", event["message"])
            if event.get("type") == "opened":
                self._opened = event
                self.version = int(event["version"])
                self._cursor = {
                    "format": CURSOR_FORMAT,
                    "fingerprint": event["fingerprint"],
                    "run": event["run"],
                    "seed": event["seed"],
                    "global_batch_size": event["global_batch_size"],
                }
                self.notices = list(event["notices"])
                self.decoder = str(event["decoder"])
                # Once per job is enough.
                if self._job.ranks.rank == 0:
                    for text in event["warnings"]:
                        logger.warning("%s", text)
                return

    @property
    def ranks(self) -> Ranks:
        """The rank that this is, of how many."""
        return self._job.ranks

    @property
    def run(self) -> str:
        """Run id."""
        return str(self._opened["run"])

    def again(self, job: Job) -> Job:
        """``job`` of the same run, at the version that is read, for another connection.

        The tag of ``job`` may have led to a branch, whose versions have their own numbers.
        """
        uri = str(self._opened["uri"]) if isinstance(job.version, str) else job.uri
        return replace(job, uri=uri, run=self.run, version=self.version)

    def reads_the_same_as(self, other: Session) -> bool:
        """Whether both read the same rows of the same dataset, wherever it lies."""
        mine, others = (dict(one._cursor["fingerprint"]) for one in (self, other))
        return {**mine, "uri": None} == {**others, "uri": None}

    @property
    def rows(self) -> int:
        """Selected rows."""
        return int(self._opened["rows"])

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, the same on every rank."""
        return int(self._opened["steps_per_epoch"])

    @property
    def resume_at(self) -> tuple[int, int]:
        """Epoch and step to go on at; ``(0, 0)`` without a cursor."""
        epoch, step = self._opened["resume_at"]
        return int(epoch), int(step)

    @property
    def classes(self) -> dict[str, list[str]]:
        """Class names by number, for columns that have them."""
        return dict(self._opened["classes"])

    def cursor(self, epoch: int, position: int) -> dict[str, Any]:
        """Where the job stands when ``position`` rows of ``epoch`` are delivered to all ranks."""
        return {**self._cursor, "epoch": epoch, "position": position}

    def cursor_at(self, epoch: int, steps: int) -> dict[str, Any]:
        """The cursor after so many steps of ``epoch``."""
        return self.cursor(epoch, min(steps * int(self._opened["global_batch_size"]), self.rows))

    def start(self, epoch: int, step: int) -> int:
        """Begins a stream of batches at a step of an epoch; returns its number."""
        self.check_process()
        self.stream += 1
        self._over = None
        try:
            self._native.start(self.stream, epoch, step)
        except ConnectionError:
            raise self._lost() from None
        return self.stream

    def next(self) -> tuple[dict[str, Any], _native.Lease] | None:
        """The stream's next batch; ``None`` at the end of the epoch.

        The batch counts as delivered when :meth:`delivered` has said so. Waits for the
        daemon. Raises what the daemon reports, ``DaemonDied`` when it is gone, and
        ``SlotsExhausted`` when the user's tensors hold all slots.
        """
        self.check_process()
        if self._over is not None:
            raise from_failure(self._over)
        if self.closed:
            raise RequestError("the loader was closed: begin a new iteration")
        patience = _Patience(self)
        while True:
            timeout_s = _POLL_S
            if self._pinning is not None:
                self._pinning.look(self._native)
                if _native.unfenced() > 0:
                    timeout_s = _CAPTURE_POLL_S
            received = self._receive(timeout_s)
            if received is None:
                patience.wait()
                continue
            event, lease = received
            if event.get("stream") != self.stream:
                # Of a stream that has been ended: the slot goes back as the lease goes.
                del received, lease
                continue
            if event["type"] == "end_of_epoch":
                return None
            if event["type"] == "ready" and lease is not None:
                self._count(event)
                return event, lease

    def delivered(self, lease: _native.Lease) -> None:
        """Tells the daemon that the user has the batch, for the step log.

        The last thing to do before the batch is handed out: it wakes the daemon, which then
        wants a core.
        """
        try:
            self._native.delivered(lease.id)
        except ConnectionError:
            raise self._lost() from None

    def _count(self, event: Mapping[str, Any]) -> None:
        """Says so once when many batches are too large for their slot."""
        self._batches += 1
        oversize = event.get("oversize")
        if oversize is None:
            return
        self._oversize += 1
        self._oversize_bytes = max(self._oversize_bytes, int(oversize))
        if self._oversize == _OVERSIZE_MANY:
            layout = self._opened["layout"]
            logger.warning(
                "%d of %d batches had more in ragged columns than the %d bytes that a slot keeps "
                "for them, and took memory of their own, which costs time: variable_bytes=%d would "
                "have held them all",
                self._oversize,
                self._batches,
                layout["slot_bytes"] - layout["dense_bytes"],
                self._oversize_bytes,
            )

    def check_process(self) -> None:
        """A forked child has the parent's connection, which only one can use."""
        if self._native.pid != os.getpid():
            raise ForkedProcess(
                f"the loader was connected in process {self._native.pid}, and this is a fork of it "
                f"({os.getpid()}): make the dataset in the child, or start processes with "
                'multiprocessing\'s "spawn" method'
            )

    def close(self) -> None:
        """Ends the job's rank here. Tensors that live on keep their memory."""
        self.closed = True
        try:
            if self._pinning is not None:
                self._pinning.fence()
        finally:
            self._native.close()

    def _end(self) -> None:
        """As ``close``, where what has ended the session is to be raised and nothing else."""
        try:
            self.close()
        except Exception as error:
            logger.warning("slots stay with their memory until the next batch: %s", error)

    @property
    def held(self) -> int:
        """Batches whose tensors are still alive."""
        return self._native.held

    @property
    def reaped(self) -> int:
        """Batches without tensors, whose slots wait for the GPU."""
        return self._native.reaped

    @property
    def is_pinned(self) -> bool:
        """Whether slots are pinned memory."""
        return self._native.is_pinned

    @property
    def slot_count(self) -> int:
        """Slots of this rank."""
        return self._native.slot_count

    @property
    def daemon_pid(self) -> int:
        """The daemon's process."""
        return int(self._welcome["pid"])

    @property
    def daemon_log(self) -> str:
        """Where to look for what the daemon says."""
        log = self._opened.get("daemon_log")
        return log or os.path.join(_native.state_dir(), "daemon.log")

    def _receive(
        self, timeout_s: float | None
    ) -> tuple[dict[str, Any], _native.Lease | None] | None:
        """The next message that is not ours to deal with here."""
        try:
            received = self._native.next(timeout_s)
        except ConnectionError:
            raise self._lost() from None
        except _native.ProtocolError as error:
            self._end()
            raise InternalError(f"{error}; {self._versions()}") from None
        except OSError as error:
            if type(error) is not OSError:
                # Of a signal's handler, such as the TimeoutError of one that ends long waits.
                raise
            # Of memory to map, or of descriptors.
            self._end()
            raise LimitExceeded(str(error)) from None
        if received is None:
            return None
        event: dict[str, Any] = received[0]
        if event["type"] == "failed":
            self._failed(event)
            return {}, None
        return event, received[1]

    def _failed(self, event: Mapping[str, Any]) -> None:
        stream = event.get("stream")
        if stream is not None and stream != self.stream:
            return
        self._over = event
        if stream is None:
            self._end()
        raise from_failure(event)

    def _lost(self) -> LoaderdError:
        """Why the connection is over, which may be our own doing."""
        if self.closed and self._over is None:
            return RequestError(
                "the loader was closed, or given another state, by another thread: begin a new "
                "iteration"
            )
        return self._died()

    def _died(self) -> LoaderdError:
        """The connection is over: the daemon's last words if there are any, else our own."""
        self.closed = True
        if self._over is None:
            with contextlib.suppress(Exception):
                while (received := self._native.next(0.0)) is not None:
                    event = received[0]
                    if event["type"] == "failed":
                        self._over = event
        self._end()
        if self._over is None:
            message = (
                f"the daemon (process {self._welcome['pid']}) is gone. Batches in hand stay "
                "readable. Load the last checkpoint's state (load_state_dict() in PyTorch, "
                "set_state() in JAX) and go on: that starts a new daemon, unless autostart is "
                f"off. Its log: {self.daemon_log}"
            )
            self._over = {"kind": "stopping", "message": message}
            # A killed daemon can't remove its socket. Where we can't either, the next
            # daemon does.
            deadline = time.monotonic() + _DEATH_PATIENCE_S
            with contextlib.suppress(Exception):
                while not _native.clear_stale_socket(self._socket):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.01)
        return from_failure(self._over)

    def _versions(self) -> str:
        return (
            f"daemon {self._welcome.get('binary')} ({self._welcome.get('version')}), "
            f"client {_native.__file__} ({_native.__version__})"
        )


class _Pulse:
    """Whether the daemon still answers: by a connection of its own, since on ours it may
    have nothing to say for long. A killed daemon ends ours; one that is stopped does not.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._answered = self._asked = time.monotonic()
        self._told = False

    def feel(self) -> None:
        """Called every now and then in a wait. Raises when there was no answer for too long."""
        session = self._session
        if time.monotonic() - self._asked < session.asked_after_s:
            return
        is_answered = True
        try:
            native, _ = _native.Session.connect(
                session._socket, _native.__version__, _native.__file__, _ANSWER_TIMEOUT_S
            )
            native.close()
        except (TimeoutError, BlockingIOError):
            is_answered = False
        except (OSError, _native.ProtocolError):
            # It listens there no more, which says nothing about whether it lives.
            pass
        self._asked = time.monotonic()
        if is_answered:
            self._answered = self._asked
            self._told = False
            return
        silent_s = self._asked - self._answered
        pid = session.daemon_pid
        text = (
            f"the daemon (process {pid}) has not answered for {silent_s:.0f} s. If it was stopped, "
            f"`kill -CONT {pid}` lets it go on"
        )
        if silent_s > session.silent_after_s:
            session._end()
            raise DaemonUnavailable(
                f"{text}; else end it with `kill -9 {pid}`, load the last checkpoint's state, and "
                f"go on. Its log: {session.daemon_log}"
            )
        if not self._told:
            self._told = True
            warnings.warn(f"{text}; still waiting", RuntimeWarning, stacklevel=6)


class _Patience:
    """What to do while no batch comes."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pulse = _Pulse(session)
        self._started = time.monotonic()
        self._exhausted_since: float | None = None
        self._told = False

    def wait(self) -> None:
        """Called every now and then in a wait."""
        session = self._session
        self._pulse.feel()
        now = time.monotonic()
        if session.held < session.slot_count:
            self._exhausted_since = None
            if not self._told and now - self._started > session.stalled_after_s:
                self._told = True
                cause = f"its log: {session.daemon_log}"
                if session.reaped and _native.unfenced():
                    cause = (
                        f"{session.reaped} of {session.slot_count} slots wait for the end of a "
                        "CUDA graph's capture: take no batch within"
                    )
                elif session.held + session.reaped >= session.slot_count:
                    cause = (
                        f"{session.reaped} of {session.slot_count} slots wait for the GPU, which "
                        "has not finished what it was given before their tensors were dropped: "
                        "see whether a kernel or a collective hangs"
                    )
                warnings.warn(
                    f"no batch from the daemon (process {session.daemon_pid}) for "
                    f"{session.stalled_after_s:.0f} s, still waiting; {cause}",
                    RuntimeWarning,
                    stacklevel=5,
                )
            return
        if self._exhausted_since is None:
            self._exhausted_since = now
            # Tensors in reference cycles live until someone looks for them.
            gc.collect()
        elif now - self._exhausted_since > session.exhausted_after_s:
            count = session.slot_count
            raise SlotsExhausted(
                f"tensors that are still alive hold all {count} slots of this rank, so there is "
                "none to fill: keep copies instead (batch.clone()), or ask for "
                f"more with slots={2 * count}; a DataLoader around the dataset must have "
                "batch_size=None, or it gathers as many batches"
            )


def _connect(path: str, autostart: bool) -> tuple[_native.Session, dict[str, Any]]:
    def handshake() -> tuple[_native.Session, dict[str, Any]]:
        native, reply = _native.Session.connect(
            path, _native.__version__, _native.__file__, _HANDSHAKE_TIMEOUT_S
        )
        welcome = json.loads(reply)
        if isinstance(welcome, dict) and welcome.get("type") == "failed":
            if welcome.get("kind") == "stopping":
                raise ConnectionResetError(welcome["message"])
            if welcome.get("kind") != "protocol":
                raise from_failure(welcome)
        _check_protocol(welcome, path)
        return native, welcome

    try:
        if autostart:
            # Not within an `except`: what can't be started would seem a consequence.
            with contextlib.suppress(*launch.ABSENT):
                return handshake()
            return launch.connect_or_start(path, handshake)
        return handshake()
    except launch.ABSENT as error:
        raise DaemonUnavailable(
            f"no daemon answers at {path} ({error}): start one with `loaderd serve`, or leave "
            "autostart on"
        ) from None
    except _native.ProtocolError as error:
        raise ProtocolMismatch(
            f"what answers at {path} is no loaderd daemon that this client "
            f"({_native.__file__}, {_native.__version__}) understands: {error}"
        ) from None
    except OSError as error:
        raise DaemonUnavailable(f"cannot reach the daemon at {path}: {error}") from error


def _default_socket() -> str:
    try:
        return os.fspath(_native.socket_path())
    except OSError as error:
        raise DaemonUnavailable(str(error)) from None


def _check_protocol(welcome: Any, path: str) -> None:
    if isinstance(welcome, dict) and welcome.get("type") == "welcome":
        if welcome.get("protocol") == _native.PROTOCOL:
            return
        theirs = (
            f"{welcome.get('binary')} (version {welcome.get('version')}, "
            f"protocol {welcome.get('protocol')})"
        )
    elif isinstance(welcome, dict) and welcome.get("type") == "failed":
        theirs = str(welcome.get("message"))
    else:
        theirs = f"an answer that is no welcome: {str(welcome)[:200]}"
    raise ProtocolMismatch(
        f"daemon and client do not fit. At {path}: {theirs}. Here: {_native.__file__} (version "
        f"{_native.__version__}, protocol {_native.PROTOCOL}). Stop that daemon with `loaderd "
        "stop`, and install the same version of both"
    )
