"""Batches for PyTorch: finished, in tensors that own their slot.

Enters: leases from :mod:`loaderd.session`. Leaves: :class:`~loaderd.batch.Batch` objects
of ``torch.Tensor``. It decodes nothing, has no workers, and asks ``torch.distributed``
for its ranks and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.utils.data
from torch.utils.data._utils.collate import default_collate_fn_map
from torch.utils.dlpack import from_dlpack

from loaderd._native import Lease, SlotTensor
from loaderd.batch import Batch
from loaderd.errors import RequestError, WorkerProcessError
from loaderd.job import Decode, Job, OnBadSample, OnLogError, Protect
from loaderd.loader import Loader
from loaderd.pinning import PinMemory, Pinning
from loaderd.ragged import column
from loaderd.transforms import Transform

__all__ = ["LanceIterableDataset"]


class LanceIterableDataset(Loader[Batch], torch.utils.data.IterableDataset[Batch]):
    """Shuffled, decoded batches of a Lance dataset, delivered by this machine's daemon.

    Iterating yields one epoch of :class:`~loaderd.batch.Batch` objects: dicts from column
    name to a tensor ``[rows, ...]``, where ``rows`` is ``batch_size`` except in a short last
    batch::

        train = LanceIterableDataset(
            "photos.lance",
            columns=["image", "label"],
            transform={"image": [RandomResizedCrop(224), Normalize.imagenet("float16")]},
            batch_size=256,
            shuffle=True,
        )
        for batch in train:
            x, y = batch["image"], batch["label"]  # [256, 3, 224, 224] float16, [256] int64

    ==========================================  ===============================================
    column                                      in the batch
    ==========================================  ===============================================
    number or boolean                           ``[rows]``, its own type (labels: ``int64``)
    fixed-size list                             ``[rows, length]``, its own type
    image with transforms                       ``[rows, 3, height, width]``, or ``[rows,
                                                height, width, 3]`` after ``ToLayout("NHWC")``;
                                                ``uint8``, or as ``ToDtype`` or ``Normalize``
                                                says: ``float32``, ``float16``, ``bfloat16``
    list, text, bytes without a transform,      :class:`~loaderd.ragged.Ragged`
    image with ``Decode()``
    ==========================================  ===============================================

    Tensors are on the CPU, writable, and are views of a shared-memory slot: nothing is
    copied. A slot is reused once all tensors of its batch are gone and, if this process uses
    CUDA, the GPU has finished reading it, so ``x = batch["image"].cuda(non_blocking=True)``
    may be followed by ``del batch`` at once.

    Iterate it directly, or through ``DataLoader(dataset, batch_size=None)`` with
    ``num_workers=0``: the daemon already works in parallel. The constructor only checks its
    arguments. The connection is made on first use (``iter()``, ``len()``, or a property such
    as :attr:`rows`), which blocks until the daemon has opened the dataset: usually well under
    a second, longer the first time a large dataset is opened. The dataset can be pickled; a
    pickled or copied one starts without a connection, at epoch 0. ``next()`` blocks until a
    batch is ready, with the GIL released.

    Epochs: ``iter()`` begins the next epoch if the previous one was exhausted; after a
    ``break`` it restarts the same epoch. :meth:`set_epoch` selects an epoch, and
    :meth:`load_state_dict` an exact step.

    Args:
        uri: The dataset: a path, or a ``file://`` URI.
        columns: Columns to deliver, in this order. May include ``"_rowid"`` and
            ``"_rowaddr"`` (``int64``), ``"_valid"`` (bool, false where ``on_bad_sample``
            zeroed something in the row, and for a row that only repeats another rank's: see
            ``drop_last``), and ``"name._valid"`` (bool, false where ``name`` is
            null). Null lists, text and bytes are empty, null floats are NaN, null images are
            bad samples. An integer column with nulls is an error unless its ``_valid`` is
            requested as well; the nulls are then 0.
        filter: An SQL expression over any columns; only rows that satisfy it are used.
            Default: all rows.
        version: A version number, a tag's name, or ``None`` (default) for the latest.
            Resolved once and kept for the whole run. A run on several nodes needs one, because
            each node's daemon resolves it.
        transform: A dict from image column to a transform or a list of transforms
            (:mod:`loaderd.transforms`, :mod:`loaderd.augmentations`), which the daemon runs.
            On a text column, the text is the path or ``file://`` URI of an image file;
            relative paths start at the dataset's folder. The daemon can read any file that
            its user can. :class:`~loaderd.BoundingBoxes` and :class:`~loaderd.Mask` transform
            boxes and masks together with their image.
        batch_transform: Your own function, such as MixUp. ``next()`` calls it with each
            :class:`~loaderd.batch.Batch`, in this process and thread, and returns its result.
            To keep the batch's attributes, change the batch in place, or start from
            ``batch.copy()``; any other object (a tuple, a plain dict) is returned as it is.
            It is not part of the checkpoint or the step log. Seed its random numbers from
            ``batch.step`` if resuming should repeat them. If it raises an error, the iterator
            ends, and the batch does not count as returned. It must be a module-level function
            if the dataset is to be pickled.
        batch_size: Rows per rank and step. Give either this or ``global_batch_size``.
        global_batch_size: Rows per step over all ranks, a multiple of ``world_size``.
        shuffle: Reshuffle all rows each epoch. Default: the dataset's own order.
        seed: Seed of shuffling and augmentation, an integer from 0. Default: 0.
        drop_last: Drop the last batch of an epoch if it is short. Default: ``False``: its rows
            are shared out among the ranks, and if there are fewer rows than ranks, each rank
            left over repeats one, with ``_valid`` false, so that all ranks take the same number
            of steps.
        rank: This process's rank. Give ``rank`` and ``world_size`` together, or neither.
        world_size: The number of ranks. By default both are those of ``torch.distributed`` if
            it is initialised when the dataset connects, else the environment's ``RANK`` and
            ``WORLD_SIZE``, else 0 and 1. If processes share a batch (tensor or pipeline
            parallelism), give those of the data-parallel group.
        run: Run id in the step log, the same on all ranks. By default derived from the
            launcher's id, or generated.
        protect: Protects the dataset version from cleanup with a Lance tag: ``"run"`` (default)
            while the run lasts, ``"keep"`` until ``loaderd tags prune``, or ``"none"``.
        on_bad_sample: What to do with a row that can't be decoded. ``"raise"`` (default)
            raises :class:`~loaderd.BadSample`. ``"replace"`` takes another row instead.
            ``"zero"`` zeroes what can't be decoded (an image in its own size becomes empty) and
            sets ``_valid`` to false; the row's other columns are delivered as usual.
        on_log_error: What to do if the step log can't be written: ``"stop"`` (default) with
            :class:`~loaderd.StepLogError`, or ``"continue"`` without a record.
        fast_dct: Let the JPEG decoder scale down to the target size, instead of stopping at
            1.5 times that: faster, and slightly less exact. Default: ``False``.
        exif_orientation: Rotate images upright by their EXIF orientation, or by their XMP
            metadata if EXIF has none, before the transforms, as ``ImageOps.exif_transpose``
            does. Default: ``True``.
        use_tiled: Read the tiled form of images and masks (``loaderd tile``) where a row has
            one: the same pixels, decoded faster. ``False`` reads the originals. Default:
            ``True``.
        decode: Where images are decoded. ``"cpu"``: on CPU cores. ``"gpu"``: on the daemon's
            GPU if it supports the image, else on CPU cores; an error if no GPU can be used.
            ``"auto"`` (default): on both if there is a GPU, else on CPU cores. The two decoders
            round differently, so their pixels are not bit-identical; the step log records which
            was used.
        slots: Batches that may be prefetched or in use at once, from 2 to 1024. Default: 4.
            If slots are pinned, a dropped batch keeps its slot until the GPU has finished the
            work submitted before the next batch was requested: ask for one or two more.
        variable_bytes: Space for ragged columns in each slot, in bytes. By default enough for a
            batch of rows of typical length, at most 256 MiB. A larger batch gets memory of its
            own, which is slower.
        pin_memory: Whether slots are pinned (page-locked), so that ``non_blocking=True`` copies
            to the GPU run asynchronously. ``"auto"`` (default): once PyTorch uses CUDA in this
            process, if the driver allows it (555 or later). ``True``: an error at the first
            batch if that is not possible. ``False``: never. The ragged columns of a batch too
            large for its slot are not pinned. Restrictions: don't call ``next()`` in one thread
            while another captures a CUDA graph; if you copy in a CUDA context other than the
            device's primary one (PyTorch uses the primary one), wait for the copy before you
            drop the batch. Tensors that are freed after :meth:`close`, or after the last batch
            of a loader that is never closed, keep their slots until any loader is closed or
            asked for a batch.
        socket: Path of the daemon's socket. Default: ``LOADERD_SOCKET``, else the user's.
        autostart: Start a daemon if none answers. Default: ``True``.

    Raises:
        RequestError, TransformError: By the constructor, or on first use, if an argument is
            wrong.
        DaemonUnavailable, ProtocolMismatch: On first use, if no daemon answers or it is of
            another version.
        DatasetError, RankConflict, LimitExceeded: On first use, if the dataset is not as
            requested, the rank is taken, or slots don't fit the daemon's memory limit.
        BadSample, ReadError, StepLogError, SlotsExhausted, GpuUnavailable, DaemonDied,
            DaemonUnavailable: By ``next()``; see :mod:`loaderd.errors`.
        WorkerProcessError, ForkedProcess: If it is used in a ``DataLoader`` worker, or in a
            process forked after it had connected.
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
            processes=self._processes(),
        )
        super().__init__(
            job,
            socket=socket,
            autostart=autostart,
            batch_transform=batch_transform,
            pinning=Pinning(pin_memory, _streams, _is_in_use),
        )

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches that ``next()`` has returned, to be checkpointed.

        A dict of JSON types, about a kilobyte, the same on all ranks. If a wrapper prefetches
        batches, save ``batch.state`` of the last batch used instead.
        """
        return self._state()

    def load_state_dict(self, state: Mapping[str, Any], allow_changed: bool = False) -> None:
        """The next ``iter()`` continues with the batch after ``state``.

        It connects (and blocks) at once, and the step log records a new attempt of the run.
        World size and batch size may have changed if a step now begins at the same row.
        Raises ``ResumeRefused``, which lists the differences, if the state belongs to another
        dataset version, filter, list of columns, transform, seed, ``shuffle`` or last batch
        (dropped or not); ``allow_changed=True`` accepts these too, on the same condition.
        """
        self._load_state(state, allow_changed)

    @property
    def sampler(self) -> LanceIterableDataset:
        """The dataset itself: Lightning calls ``set_epoch`` of a loader's ``sampler``."""
        return self

    @property
    def batch_sampler(self) -> None:
        """``None``: Lightning asks for it where there is a ``sampler``."""
        return None

    def _processes(self) -> tuple[int, int] | None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return None

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


def _refuse_to_collate(*_: Any, **__: Any) -> Any:
    raise RequestError(
        "this DataLoader would put whole batches together into another: take "
        "DataLoader(dataset, batch_size=None); rows per batch are the dataset's batch_size="
    )


# A DataLoader whose batch_size is not None stacks what it gets, 5 axes for images, without a word.
default_collate_fn_map[Batch] = _refuse_to_collate


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
