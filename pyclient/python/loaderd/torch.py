"""Batches for PyTorch: finished, in tensors that own their slot.

Enters: leases from :mod:`loaderd.session`. Leaves: :class:`~loaderd.batch.Batch` objects
of ``torch.Tensor``. It decodes nothing, has no workers, and never touches
``torch.distributed``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch.utils.data
from torch.utils.dlpack import from_dlpack

from loaderd.batch import Batch
from loaderd.errors import RequestError, ResumeRefused, WorkerProcessError
from loaderd.job import Job, OnBadSample, OnLogError, Protect
from loaderd.ragged import column
from loaderd.session import Session
from loaderd.transforms import Transform

__all__ = ["LanceIterableDataset"]


class LanceIterableDataset(torch.utils.data.IterableDataset[Batch]):
    """Shuffled batches of a Lance dataset, decoded by the node's daemon.

    Iterating gives one epoch of :class:`~loaderd.batch.Batch` objects: a dict from column
    to tensor, ``[rows, ...]``. Numbers keep their type (``[rows]``, ``int64`` for labels),
    fixed-size lists become ``[rows, length]``, images ``[rows, 3, height, width]`` in the
    type that their transforms end in (``uint8``, ``float16`` or ``float32``). Lists, text,
    bytes without a transform, and images that ``Decode()`` leaves in their own size become
    :class:`~loaderd.ragged.Ragged`. Tensors
    are on the CPU, writable, and share the daemon's memory without a copy; a slot is
    filled anew when all tensors of its batch are gone.

    Iterate it directly, or through ``DataLoader(dataset, batch_size=None)`` with
    ``num_workers=0``: the daemon is parallel already. It connects when first used, so it
    can be pickled before; a pickled or copied dataset starts without a connection, at
    epoch 0.

    Epochs: each ``iter()`` begins the next epoch once the one before was exhausted. After a
    ``break``, it begins the same epoch anew. :meth:`set_epoch` chooses the epoch, and
    :meth:`load_state_dict` the very step.

    Args:
        uri: The dataset: a path, or a ``file://`` URI.
        columns: What to deliver, in order. ``_rowid``, ``_rowaddr`` and ``_valid`` may be
            among them, and ``"name._valid"``: bool, false where ``name`` is null. A null list,
            text or bytes is empty, a null float NaN, a null image a bad sample; whole numbers
            with nulls are refused unless their ``_valid`` is asked for, and are 0 there.
        filter: SQL over any columns; rows that fulfil it are selected.
        version: A version number, a tag's name, or ``None`` for the latest. Resolved once
            and held for the whole run.
        transform: By image column, a list of transforms (:mod:`loaderd.transforms`). A text
            column with one names image files, by path or ``file://`` URI; relative paths begin
            at the dataset's folder. The daemon reads whatever files its user may read.
        batch_size: Rows per rank and step. Or give
        global_batch_size: Rows per step over all ranks, a multiple of ``world_size``.
        shuffle: A new order each epoch; else the dataset's.
        seed: Of order and augmentation.
        drop_last: Leave out the last batch of an epoch where it is short.
        rank: This rank, with
        world_size: the number of ranks; both from ``RANK`` and ``WORLD_SIZE`` in the
            environment where they are not given, else 0 of 1.
        run: Run id in the step log, the same on all ranks; by default derived from the
            launcher's id, or made up.
        protect: Holds the version against clean-up: ``"run"`` while the run lasts,
            ``"keep"`` until ``loaderd tags prune``, or ``"none"``.
        on_bad_sample: For a row that can't be decoded: ``"raise"``, ``"replace"`` it by
            another row, or ``"zero"`` it (and set ``_valid`` to false).
        on_log_error: ``"stop"`` when the step log can't be written, or ``"continue"``.
        fast_dct: Lets the decoder scale down to the target size instead of one and a half
            times that: faster, and a little less exact.
        slots: Batches that may be in flight or in use at once, at least 2; by default the
            daemon's choice.
        variable_bytes: Room in each slot for ragged columns, in bytes; by default enough for
            a batch of rows of typical length, at most 256 MiB. A batch that needs more takes
            memory of its own, which costs time.
        socket: The daemon's socket, instead of the node's usual one.
        autostart: Start a daemon where none answers.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        columns: Sequence[str],
        filter: str | None = None,
        version: int | str | None = None,
        transform: Mapping[str, Transform | Sequence[Transform]] | None = None,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        run: str | None = None,
        protect: Protect = "run",
        on_bad_sample: OnBadSample = "raise",
        on_log_error: OnLogError = "stop",
        fast_dct: bool = False,
        slots: int | None = None,
        variable_bytes: int | None = None,
        socket: str | os.PathLike[str] | None = None,
        autostart: bool = True,
    ) -> None:
        super().__init__()
        self._job = Job.make(
            uri,
            columns=columns,
            filter=filter,
            version=version,
            transform=transform,
            batch_size=batch_size,
            global_batch_size=global_batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            run=run,
            protect=protect,
            on_bad_sample=on_bad_sample,
            on_log_error=on_log_error,
            fast_dct=fast_dct,
            slots=slots,
            variable_bytes=variable_bytes,
        )
        self._socket = None if socket is None else os.path.abspath(os.fspath(socket))
        self._autostart = autostart
        self._begin_unconnected()

    def _begin_unconnected(self) -> None:
        self._session: Session | None = None
        #: Epoch, and how many of its steps ``next()`` has handed out.
        self._done = (0, 0)
        #: Whether ``_done`` is where the next iteration goes on, mid-epoch or not.
        self._resumed = False
        #: What ``set_epoch`` asks for.
        self._wanted_epoch: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Begins an epoch. An iterator made before ends with an error."""
        session = self._connected()
        epoch, step = self._place(session)
        self._wanted_epoch = None
        self._resumed = False
        self._done = (epoch, step)
        return _Epoch(self, session, session.start(epoch, step))

    def __len__(self) -> int:
        """Steps of a whole epoch, the same on every rank."""
        return self._connected().steps_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next ``iter()``.

        The epoch of a loaded state goes on where the state says, which is at its very
        end where the state was taken after its last batch. Any other begins at step 0.
        """
        if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
            raise RequestError(f"epoch must be a whole number from 0, not {epoch!r}")
        self._wanted_epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the job stands after the batches that ``next()`` has handed out.

        A few hundred bytes of JSON, the same on all ranks. Where a wrapper reads ahead,
        save ``batch.state`` instead.
        """
        # A connection that is over still knows what its batches were.
        session = self._session or self._connected()
        session.check_process()
        epoch, steps = self._done
        if self._wanted_epoch is not None and not (self._resumed and self._wanted_epoch == epoch):
            epoch, steps = self._wanted_epoch, 0
        return session.cursor_at(epoch, steps)

    def load_state_dict(self, state: Mapping[str, Any], allow_changed: bool = False) -> None:
        """The next ``iter()`` goes on with the batch after ``state``, as a new attempt.

        Raises ``ResumeRefused``, with the differences, when the state is of another
        dataset version, filter, columns or transform; ``allow_changed=True`` accepts it
        as long as its position means something.
        """
        self._check_worker()
        if not isinstance(state, Mapping) or "fingerprint" not in state:
            raise ResumeRefused(f"this is no state of a loaderd dataset: {str(state)[:200]}")
        job = self._job
        if self._session is not None:
            # The version was resolved once, for the whole run.
            job = replace(job, version=self._session.version)
            self.close()
        self._session = Session.open(
            job,
            socket=self._socket,
            autostart=self._autostart,
            resume=state,
            allow_changed=allow_changed,
        )
        epoch, step = self._session.resume_at
        if step == 0 and epoch == state.get("epoch", epoch) + 1:
            # The end of an epoch and the start of the next are one place, unless
            # `set_epoch` asks for either.
            epoch, step = epoch - 1, self._session.steps_per_epoch
        self._done = (epoch, step)
        self._resumed = True
        self._wanted_epoch = None

    def close(self) -> None:
        """Ends the connection and gives back all slots. Batches in hand stay readable.

        Iterating again connects again, as the same run.
        """
        if self._session is not None:
            self._session.check_process()
            self._session.close()

    @property
    def version(self) -> int:
        """Dataset version that is read."""
        return self._connected().version

    @property
    def run(self) -> str:
        """Run id in the step log."""
        return self._connected().run

    @property
    def rows(self) -> int:
        """Selected rows, over all ranks."""
        return self._connected().rows

    @property
    def classes(self) -> dict[str, list[str]]:
        """Class names by number, for columns that have them."""
        return self._connected().classes

    @property
    def notices(self) -> list[str]:
        """What the daemon had to say, such as which read engine it took and why."""
        return list(self._connected().notices)

    def _connected(self) -> Session:
        self._check_worker()
        if self._session is None:
            self._session = Session.open(self._job, socket=self._socket, autostart=self._autostart)
        self._session.check_process()
        if self._session.closed:
            self._session = Session.open(
                replace(self._job, run=self._session.run, version=self._session.version),
                socket=self._socket,
                autostart=self._autostart,
            )
        return self._session

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

    def _check_worker(self) -> None:
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            raise WorkerProcessError(
                f"this is worker process {worker.id} of a DataLoader with num_workers="
                f"{worker.num_workers}: take DataLoader(dataset, batch_size=None, num_workers=0); "
                "the daemon reads and decodes in parallel already"
            )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_session", "_done", "_resumed", "_wanted_epoch"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin_unconnected()


class _Epoch(Iterator[Batch]):
    """One pass over an epoch, from some step on."""

    def __init__(self, dataset: LanceIterableDataset, session: Session, stream: int) -> None:
        self._dataset = dataset
        self._session = session
        self._stream = stream
        self._ended = False

    def __next__(self) -> Batch:
        if self._ended:
            raise StopIteration
        dataset, session = self._dataset, self._session
        session.check_process()
        if dataset._session is not session or session.stream != self._stream:
            raise RuntimeError(
                "this iterator has ended, because its dataset began another iteration or was "
                "closed; one dataset gives one stream of batches at a time"
            )
        received = session.next()
        if received is None:
            self._ended = True
            raise StopIteration
        event, lease = received
        batch = Batch(
            ((name, column(lease, name, from_dlpack)) for name in lease.names),
            version=session.version,
            step=event["step"],
            epoch=event["epoch"],
            epoch_step=event["epoch_step"],
            rows=event["rows"],
            bad_rows=event["bad_rows"],
            state=session.cursor(event["epoch"], event["position"]),
        )
        dataset._done = (event["epoch"], event["epoch_step"] + 1)
        return batch
