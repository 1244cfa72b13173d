"""Batches for PyTorch: finished, in tensors that own their slot.

Enters: leases from :mod:`loaderd.session`. Leaves: :class:`~loaderd.batch.Batch` objects
of ``torch.Tensor``. It decodes nothing, has no workers, and never touches
``torch.distributed``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.utils.data
from torch.utils.dlpack import from_dlpack

from loaderd._native import Lease, SlotTensor
from loaderd.batch import Batch
from loaderd.errors import WorkerProcessError
from loaderd.job import Decode, Job, OnBadSample, OnLogError, Protect
from loaderd.loader import Loader
from loaderd.pinning import PinMemory, Pinning
from loaderd.ragged import column
from loaderd.transforms import Transform

__all__ = ["LanceIterableDataset"]


class LanceIterableDataset(Loader[Batch], torch.utils.data.IterableDataset[Batch]):
    """Shuffled batches of a Lance dataset, decoded by the node's daemon.

    Iterating gives one epoch of :class:`~loaderd.batch.Batch` objects: a dict from column
    to tensor, ``[rows, ...]``. Numbers keep their type (``[rows]``, ``int64`` for labels),
    fixed-size lists become ``[rows, length]``, images ``[rows, 3, height, width]`` (after
    ``ToLayout("NHWC")``: ``[rows, height, width, 3]``) in the type that their transforms end
    in (``uint8``, ``bfloat16``, ``float16`` or ``float32``). Lists, text, bytes without a
    transform, and images that ``Decode()`` leaves in their own size become
    :class:`~loaderd.ragged.Ragged`. Tensors
    are on the CPU, writable, and share the daemon's memory without a copy; a slot is
    filled anew when all tensors of its batch are gone, and, once CUDA is in use in this
    process, when the GPU has read it: ``x = batch["image"].cuda(non_blocking=True)`` may be
    followed by ``del batch`` at once.

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
        transform: By image column, a list of transforms (:mod:`loaderd.transforms`,
            :mod:`loaderd.augmentations`), which the daemon runs. A text column with one
            names image files, by path or ``file://`` URI; relative paths begin at the
            dataset's folder. The daemon reads whatever files its user may read. Columns of
            boxes and masks are moved along with an image by
            :class:`~loaderd.BoundingBoxes` and :class:`~loaderd.Mask`.
        batch_transform: Your own code: called with each finished
            :class:`~loaderd.batch.Batch` in ``next()``, in this process and thread, it
            returns what ``next()`` gives instead, such as MixUp of the batch's tensors.
            Change the batch in place, or build the new one by ``batch.copy()``, and it
            keeps its attributes; anything else (a tuple, a plain dict) is handed out as
            it is. It is no part of the checkpoint or the step log, and draws its random
            numbers itself: seed them from ``batch.step`` where resuming should repeat
            them. Its time is the training process's. To be pickled with the dataset, it
            must be a function of a module.
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
            another row, or ``"zero"`` what can't be: such an image is all zeros, or empty
            in its own size, ``_valid`` is false, and the row's other columns are as ever.
        on_log_error: ``"stop"`` when the step log can't be written, or ``"continue"``.
        fast_dct: Lets the decoder scale down to the target size instead of one and a half
            times that: faster, and a little less exact.
        exif_orientation: Turns images upright as their EXIF block says, or, where that says
            nothing, their XMP packet, before any transform
            sees them, as ``ImageOps.exif_transpose`` does. ``False`` takes pixels as they
            are stored.
        use_tiled: Reads the tiled form of images and masks (``loaderd tile``) in rows that have one:
            the same pixels, decoded faster. ``False`` reads the originals.
        decode: Where images are decoded: ``"cpu"``, on CPU cores; ``"gpu"``, on the daemon's GPU,
            what it takes, and the rest on CPU cores, or an error where no GPU can be used;
            ``"auto"``, on both where there is a GPU, and on CPU cores where there is none.
            The two decoders round in different places, so that pixels are not the same to the
            last bit; which one a run had is in the step log.
        slots: Batches that may be in flight or in use at once, at least 2; by default the
            daemon's choice. Where slots are pinned, a batch that was dropped keeps its slot until
            the GPU has done all that it was given before the next batch was asked for: ask for
            one or two more.
        variable_bytes: Room in each slot for ragged columns, in bytes; by default enough for
            a batch of rows of typical length, at most 256 MiB. A batch that needs more takes
            memory of its own, which costs time.
        pin_memory: Whether slots are pinned, so that ``tensor.is_pinned()`` and copies with
            ``non_blocking=True`` run beside the program: ``"auto"`` as soon as a GPU is in
            use by PyTorch in this process and its driver can (555 or later), ``True`` to fail
            where that is not so at the first batch, ``False`` never. Batches too large for
            their slot have ragged columns in memory that is not pinned. Take no batch in one
            thread while another captures a CUDA graph. Slots wait for work in devices' primary
            contexts, which PyTorch uses; wait yourself for copies in others before you drop a
            batch. Tensors that die after :meth:`close`, or after the last batch of a loader that
            is never closed, keep its slots in memory until some loader is asked for a batch or
            closed.
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
        batch_transform: Callable[[Batch], Any] | None = None,
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
        exif_orientation: bool = True,
        use_tiled: bool = True,
        decode: Decode = "auto",
        slots: int | None = None,
        variable_bytes: int | None = None,
        pin_memory: PinMemory = "auto",
        socket: str | os.PathLike[str] | None = None,
        autostart: bool = True,
    ) -> None:
        job = Job.make(
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
            exif_orientation=exif_orientation,
            use_tiled=use_tiled,
            decode=decode,
            slots=slots,
            variable_bytes=variable_bytes,
        )
        super().__init__(
            job,
            socket=socket,
            autostart=autostart,
            batch_transform=batch_transform,
            pinning=Pinning(pin_memory, _streams, _is_in_use),
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the job stands after the batches that ``next()`` has handed out.

        A few hundred bytes of JSON, the same on all ranks. Where a wrapper reads ahead,
        save ``batch.state`` instead.
        """
        return self._state()

    def load_state_dict(self, state: Mapping[str, Any], allow_changed: bool = False) -> None:
        """The next ``iter()`` goes on with the batch after ``state``, as a new attempt.

        Raises ``ResumeRefused``, with the differences, when the state is of another
        dataset version, filter, columns or transform; ``allow_changed=True`` accepts it
        as long as its position means something.
        """
        self._load_state(state, allow_changed)

    def _make_batch(self, lease: Lease, about: dict[str, Any]) -> Batch:
        return Batch._made([(name, column(lease, name, _tensor)) for name in lease.names], about)

    def _check_place(self) -> None:
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            raise WorkerProcessError(
                f"this is worker process {worker.id} of a DataLoader with num_workers="
                f"{worker.num_workers}: take DataLoader(dataset, batch_size=None, num_workers=0); "
                "the daemon reads and decodes in parallel already"
            )


def _is_in_use() -> bool:
    """Whether PyTorch has set up CUDA in this process."""
    # Its ROCm goes by the name of CUDA as well.
    return torch.version.cuda is not None and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _streams() -> list[int]:
    """The CUDA streams on which this thread may be capturing a graph, and what others take."""
    if not _is_in_use():
        return []
    streams = [torch.cuda.current_stream(), torch.cuda.graph.default_capture_stream]
    return [stream.cuda_stream for stream in streams if stream is not None]


def _tensor(array: SlotTensor) -> torch.Tensor:
    # By its capsule: what the producer would be asked first is known, it is on the CPU.
    tensor: torch.Tensor = from_dlpack(array.__dlpack__())
    return tensor
