"""Epochs of one job, for any framework: when it connects, and where it goes on.

Enters: a :class:`~loaderd.job.Job`, and what a framework's class makes of a lease. Leaves:
batches in order, and cursors. It holds no tensors and imports no framework.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Generic

from loaderd._arguments import whole_number
from loaderd._native import Lease
from loaderd.batch import BatchT
from loaderd.errors import RequestError, ResumeRefused
from loaderd.job import Job
from loaderd.pinning import Pinning
from loaderd.ranks import is_told
from loaderd.session import Session

logger = logging.getLogger("loaderd")

#: At which beginning of one epoch in a row to say so.
_BEGUN_OFTEN = 4
#: What belongs to one process and its connection.
_UNPICKLED = (
    "_session",
    "_done",
    "_resumed",
    "_wanted_epoch",
    "_is_wanted_later",
    "_begun",
    "_turn",
    "_connecting",
    "_connecting_in",
)


class Loader(Generic[BatchT]):
    """What the frameworks' classes share; they add arguments and make the batches.

    It connects when first used, so it can be pickled before; a pickled or copied one
    starts without a connection, at epoch 0.
    """

    def __init__(
        self,
        job: Job,
        *,
        socket: str | os.PathLike[str] | None,
        autostart: bool,
        batch_transform: Callable[[BatchT], Any] | None,
        pinning: Pinning | None = None,
    ) -> None:
        if batch_transform is not None and not callable(batch_transform):
            raise RequestError(
                f"batch_transform must be callable with a batch, not {batch_transform!r}; "
                "transforms of single images go into transform"
            )
        self._job = job
        self._batch_transform = batch_transform
        self._socket = None if socket is None else _socket_path(socket)
        self._autostart = autostart
        self._pinning = pinning
        self._begin_unconnected()

    def _make_batch(self, lease: Lease, about: dict[str, Any]) -> BatchT:
        """The batch of a lease; ``about`` holds its attributes by name."""
        raise NotImplementedError

    def _next(self, session: Session) -> tuple[dict[str, Any], Lease] | None:
        """The session's next batch, for frameworks that may hold slots on their own."""
        return session.next()

    def _check_place(self) -> None:
        """Raises where the framework has this loader run in a place that it can't serve."""

    def _processes(self) -> tuple[int, int] | None:
        """This process's number and how many there are, once the framework knows."""
        return None

    def _begin_unconnected(self) -> None:
        self._session: Session | None = None
        #: Epoch, and how many of its steps ``next()`` has handed out.
        self._done = (0, 0)
        #: Whether ``_done`` is where the next iteration goes on, mid-epoch or not.
        self._resumed = False
        #: What ``set_epoch`` asks for, and whether a batch was handed out since.
        self._wanted_epoch: int | None = None
        self._is_wanted_later = False
        #: The epoch that was begun last, and how often in a row.
        self._begun = (-1, 0)
        #: Held while a batch is taken or an epoch begins: threads that share an iterator take
        #: turns, and none takes a batch of an iteration that another has just begun.
        self._turn = threading.RLock()
        #: Held while a session opens: threads that find none share the one that the first of
        #: them opens. A second one would ask for the rank that this one has.
        self._connecting = threading.RLock()
        self._connecting_in = os.getpid()

    def __repr__(self) -> str:
        """What was asked for, and what it came to where it is known: this connects nowhere."""
        job = self._job
        parts = [f"{job.uri!r}, columns={list(job.columns)}, batch_size={job.batch_size}"]
        if job.filter is not None:
            parts.append(f"filter={job.filter!r}")
        if job.ranks.world_size > 1:
            parts.append(f"rank={job.ranks.rank}, world_size={job.ranks.world_size}")
        asked = f"{type(self).__name__}({', '.join(parts)})"
        session = self._session
        if session is None:
            return asked
        rows, steps = session.rows, session.steps_per_epoch
        return f"<{asked}: version {session.version}, {rows} rows, {steps} steps an epoch>"

    def __iter__(self) -> Iterator[Any]:
        """Begins an epoch. The previous iterator, if still in use, raises ``RuntimeError``."""
        session = self._connected()
        with self._turn:
            epoch, step = self._place(session)
            # First, because it may fail: then the next attempt begins at the same place.
            stream = session.start(epoch, step)
            self._count(epoch, step)
            self._wanted_epoch = None
            self._done = (epoch, step)
            return _Epoch(self, session, stream)

    def __len__(self) -> int:
        """The number of steps in a whole epoch, the same on every rank. Connects if needed."""
        return self._connected().steps_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch, from 0, of the next ``iter()``.

        If it is the epoch of a loaded state, it continues where the state was taken; after the
        last batch, nothing is left of it. Any other epoch begins at step 0.
        """
        number = whole_number(epoch)
        if number is None or not 0 <= number < 2**63:
            raise RequestError(f"epoch must be a whole number from 0 to 2**63 - 1, not {epoch!r}")
        self._wanted_epoch = number
        self._is_wanted_later = False

    def close(self) -> None:
        """Closes the connection and releases all slots. Batches that you hold stay readable.

        Iterating again reconnects, as the same run.
        """
        if self._session is not None:
            self._session.check_process()
            self._session.close()

    @property
    def version(self) -> int:
        """The dataset version that is read. Connects if needed, as all properties do."""
        return self._connected().version

    @property
    def run(self) -> str:
        """The run id in the step log."""
        return self._connected().run

    @property
    def rows(self) -> int:
        """The number of selected rows, over all ranks."""
        return self._connected().rows

    @property
    def classes(self) -> dict[str, list[str]]:
        """From column to class names, in the order of their numbers, if the dataset has any."""
        return self._connected().classes

    @property
    def notices(self) -> list[str]:
        """Messages from the daemon, such as which read engine it uses and why."""
        return list(self._connected().notices)

    @property
    def decoder(self) -> str:
        """What decodes images, with versions: libjpeg-turbo, and nvJPEG if a GPU is used."""
        return self._connected().decoder

    def _state(self) -> dict[str, Any]:
        """The cursor after the batches that ``next()`` has handed out."""
        # A connection that is over still knows what its batches were.
        session = self._session or self._connected()
        session.check_process()
        epoch, steps = self._done
        wanted = None if self._is_wanted_later else self._wanted_epoch
        if wanted is not None and not (self._resumed and wanted == epoch):
            epoch, steps = wanted, 0
        return session.cursor_at(epoch, steps)

    def _load_state(self, state: Mapping[str, Any], allow_changed: bool) -> None:
        """The next ``iter()`` goes on with the batch after ``state``, as a new attempt."""
        self._check_place()
        if not isinstance(state, Mapping) or "fingerprint" not in state:
            raise ResumeRefused(f"this is no state of a loaderd dataset: {str(state)[:200]}")
        try:
            state = json.loads(json.dumps(dict(state)))
        except (TypeError, ValueError) as error:
            raise ResumeRefused(
                f"a state has JSON's types only, and what saved this one changed them: {error}"
            ) from None
        with self._opening():
            job = self._job = self._job_by_now()
            if self._session is not None:
                # The version was resolved once, for the whole run.
                job = replace(self._session.again(job), run=job.run)
                self.close()
            session = self._open(job, state, allow_changed)
            epoch, step = session.resume_at
            if step == 0 and epoch == state.get("epoch", epoch) + 1:
                # The end of an epoch and the start of the next are one place, unless
                # `set_epoch` asks for either.
                epoch, step = epoch - 1, session.steps_per_epoch
            # At once, or another thread would begin the session at the place before.
            with self._turn:
                self._session = session
                self._done = (epoch, step)
                self._resumed = True
                self._wanted_epoch = None
                self._begun = (-1, 0)

    def _open(
        self, job: Job, state: Mapping[str, Any] | None = None, allow_changed: bool = False
    ) -> Session:
        return Session.open(
            job,
            socket=self._socket,
            autostart=self._autostart,
            resume=state,
            allow_changed=allow_changed,
            pinning=self._pinning,
        )

    def _opening(self) -> threading.RLock:
        """The lock under which sessions open."""
        if self._connecting_in != os.getpid():
            # The thread that held it when this process was forked is not in it.
            self._connecting = threading.RLock()
            self._connecting_in = os.getpid()
        return self._connecting

    def _connected(self) -> Session:
        self._check_place()
        with self._opening():
            self._job = self._job_by_now()
            before = self._session
            if before is not None:
                before.check_process()
                if before.ranks != self._job.ranks:
                    return self._join(before)
                if not before.closed:
                    return before
            session = self._open(self._job if before is None else before.again(self._job))
            if before is not None and not session.reads_the_same_as(before):
                session.close()
                raise ResumeRefused(
                    f"version {before.version} of {self._job.uri} is not what run {before.run!r} "
                    "has read so far: the dataset was replaced by another one; put the old one "
                    "back, or make a new loader"
                )
            self._session = session
            return session

    def _job_by_now(self) -> Job:
        """The job, with its ranks. Those of a connection outlive the group of processes."""
        processes = self._processes()
        if self._session is not None and processes is None and not is_told():
            return self._job
        return self._job.among(processes)

    def _join(self, before: Session) -> Session:
        """Connects anew, as the rank that this has become: a launcher began after ``len()``."""
        if self._resumed:
            self._load_state(self._state(), False)
        else:
            # Batches that were looked at before don't count, as in any epoch begun again.
            place = self._place(before)
            before.close()
            self._session = self._open(self._job)
            self._done = place
        assert self._session is not None
        return self._session

    def _count(self, epoch: int, step: int) -> None:
        """Says so when a shuffled epoch begins over and over, and nobody asked for it."""
        before, times = self._begun
        is_again = epoch == before and step == 0 and self._wanted_epoch is None
        self._begun = (epoch, times + 1 if is_again else 1)
        if self._job.shuffle and self._begun[1] == _BEGUN_OFTEN:
            logger.warning(
                "epoch %d begins once more, with the same batches as %d times before: an iteration "
                "that was left before its end is repeated by the next one, unless set_epoch() "
                "selects another epoch",
                epoch,
                times,
            )

    def _place(self, session: Session) -> tuple[int, int]:
        """Epoch and step that the next iteration begins at."""
        epoch, steps = self._done
        if self._wanted_epoch is not None:
            if self._resumed and self._wanted_epoch == epoch:
                return epoch, steps
            return self._wanted_epoch, 0
        if steps >= session.steps_per_epoch:
            return epoch + 1, 0
        return epoch, steps if self._resumed else 0

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in _UNPICKLED:
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin_unconnected()


def _socket_path(socket: str | os.PathLike[str]) -> str:
    try:
        path = os.fsdecode(socket)
    except TypeError:
        raise RequestError(f"socket must be a path, not {socket!r}") from None
    if not path:
        raise RequestError("socket is empty: name the daemon's socket, or leave it out")
    return os.path.abspath(os.path.expanduser(path))


class _Epoch(Iterator[Any]):
    """One pass over an epoch, from some step on."""

    def __init__(self, loader: Loader[Any], session: Session, stream: int) -> None:
        self._loader = loader
        self._session = session
        #: ``None`` once a batch could not be made, or was lost: those after it must not hide that.
        self._stream: int | None = stream
        self._ended = False

    def __next__(self) -> Any:
        loader = self._loader
        # Before a lock that a thread of the parent may have held when this process was forked.
        self._session.check_process()
        batch = None
        try:
            with loader._turn:
                before = self._stream, loader._done, loader._resumed
                batch = self._take()
            transform = loader._batch_transform
            return batch if transform is None else _transformed(transform, batch)
        except BaseException:
            if batch is not None:
                self._take_back(*before)
            raise

    def _take_back(self, stream: int | None, done: tuple[int, int], is_resumed: bool) -> None:
        """Nobody has the batch that was taken last: of the user's function that failed with it,
        or of an interrupt as the turn ended. Those after it must not hide that.
        """
        self._stream = None
        loader = self._loader
        with loader._turn:
            # Another thread that was taking one has put it back.
            self._stream = None
            # Unless another thread has gone on meanwhile.
            is_last = loader._done == (done[0], done[1] + 1)
            if loader._session is self._session and self._session.stream == stream and is_last:
                loader._done, loader._resumed = done, is_resumed

    def _take(self) -> Any:
        if self._ended:
            raise StopIteration
        loader, session = self._loader, self._session
        if loader._session is not session or session.stream != self._stream:
            raise self._over()
        epoch, steps = loader._done
        # What says so may have been lost to an interrupt as well, and comes once.
        received = None if steps == session.steps_per_epoch else loader._next(session)
        if received is None and steps == session.steps_per_epoch:
            self._ended = True
            raise StopIteration
        if received is None or (received[0]["epoch"], received[0]["epoch_step"]) != (epoch, steps):
            self._stream = None
            raise self._over()
        event, lease = received
        about = {
            "version": session.version,
            "step": event["step"],
            "epoch": event["epoch"],
            "epoch_step": event["epoch_step"],
            "rows": event["rows"],
            "bad_rows": event["bad_rows"],
            "state": session.cursor(event["epoch"], event["position"]),
        }
        stream, self._stream = self._stream, None
        batch = loader._make_batch(lease, about)
        self._stream = stream
        session.delivered(lease)
        loader._done = (epoch, steps + 1)
        loader._resumed = False
        loader._is_wanted_later = True
        return batch

    def _over(self) -> RuntimeError:
        return RuntimeError(
            "this iterator has ended, because a batch of it could not be made or was lost to an "
            "interrupt, or its loader began another iteration or was closed; one loader gives one "
            "stream of batches at a time"
        )


def _transformed(transform: Callable[[Any], Any], batch: Any) -> Any:
    try:
        return transform(batch)
    except StopIteration as error:
        # As it is, it would end the epoch without a word; generators have PEP 479 for this.
        raise RuntimeError(f"batch_transform raised StopIteration at step {batch.step}") from error
