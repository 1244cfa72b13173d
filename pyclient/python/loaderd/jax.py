"""Batches for JAX: finished, as pytrees of arrays that own their slot.

Enters: leases from :mod:`loaderd.session`. Leaves: :class:`Batch` objects of ``jax.Array``.
It decodes nothing, starts no thread, never initialises ``jax.distributed``, and never
imports PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Sharding

from loaderd import batch
from loaderd._arguments import is_sequence
from loaderd._native import Lease, SlotTensor
from loaderd._padding import LENGTH, checked, padded
from loaderd.errors import RequestError, SlotsExhausted
from loaderd.job import Decode, Job, OnBadSample, OnLogError, Protect
from loaderd.loader import Loader
from loaderd.ragged import Ragged, column
from loaderd.session import Session
from loaderd.transforms import Transform

__all__ = ["Batch", "LanceLoader"]

Partial = Literal["drop", "pad"]

#: 64 bits wide, and far from zero: a file's number is in the upper half.
_WIDE_COLUMNS = ("_rowid", "_rowaddr")
_VALID = "_valid"
_X64 = 'jax.config.update("jax_enable_x64", True)'


class Batch(batch.Batch):
    """A dict from column name to ``jax.Array`` ``[batch_size, ...]``, in the order of ``columns``.

    It is a pytree of its arrays and their names, which are the same in every batch, so a jitted
    function that takes batches is traced once. Its attributes (``step``, ``state`` and so on)
    differ from batch to batch; they are not part of the pytree, so they don't exist inside
    ``jit`` or after ``jax.tree.map``.

    On the CPU the arrays share one slot of the loader, without a copy. The slot is reused once
    all of them are gone and all computations that read them are done; use :meth:`clone` for
    what you keep for long.
    """

    _LOST = (
        "jax's functions rebuild it from its arrays alone; read it from the batch that the "
        "loader gave, outside of jit and tree.map"
    )

    def clone(self) -> Batch:
        """A copy of the batch that does not occupy a slot."""

        def copy(array: jax.Array) -> jax.Array:
            # Where it lies, also where a mesh is set, of which that is one device. What is traced,
            # and what is NumPy's, lies nowhere.
            place = getattr(array, "sharding", None)
            made: jax.Array = jax.device_put(array, place, may_alias=False)
            return made

        return self._with({name: jax.tree.map(copy, column) for name, column in self.items()})

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """The batch with ``jax.device_put(array, *args, **kwargs)`` of every array."""
        return self._with(
            {name: jax.device_put(column, *args, **kwargs) for name, column in self.items()}
        )

    def _with(self, tensors: Mapping[str, Any]) -> Batch:
        copied = super()._with(tensors)
        assert isinstance(copied, Batch)
        return copied


def _flatten_with_keys(batch: Batch) -> tuple[list[tuple[Any, Any]], Any]:
    return [(jax.tree_util.DictKey(name), array) for name, array in batch.items()], tuple(batch)


def _flatten(batch: Batch) -> tuple[list[Any], Any]:
    return list(batch.values()), tuple(batch)


def _unflatten(names: tuple[str, ...], arrays: Iterable[Any]) -> Batch:
    return Batch(zip(names, arrays, strict=True))


jax.tree_util.register_pytree_with_keys(Batch, _flatten_with_keys, _unflatten, _flatten)


def _ragged_parts(ragged: Ragged) -> tuple[tuple[Any, Any, Any], bool]:
    return (ragged.values, ragged.offsets, ragged.shapes), ragged.text


def _ragged_of(text: bool, parts: Iterable[Any]) -> Ragged:
    values, offsets, shapes = parts
    return Ragged(values, offsets, shapes=shapes, text=text)


jax.tree_util.register_pytree_node(Ragged, _ragged_parts, _ragged_of)


class LanceLoader(Loader[Batch]):
    """Shuffled, decoded batches of a Lance dataset, delivered by this machine's daemon.

    Iterating yields one epoch of :class:`Batch` objects: dicts from column name to
    ``jax.Array``, ``[batch_size, ...]`` in every step::

        loader = LanceLoader(
            "photos.lance",
            columns=["image", "label"],
            transform={"image": [RandomResizedCrop(224), Normalize.imagenet("bfloat16")]},
            batch_size=256,
            shuffle=True,
        )
        for batch in loader:
            x, y = batch["image"], batch["label"]  # [256, 3, 224, 224] bfloat16, [256] int32

    The batches are those of :class:`loaderd.torch.LanceIterableDataset`, in the same order,
    byte for byte: fixed-size lists are ``[batch_size, length]``, images ``[batch_size, 3,
    height, width]``, or ``[batch_size, height, width, 3]`` after ``ToLayout("NHWC")``.

    Lists, text, bytes without a transform and images with ``Decode()`` are
    :class:`~loaderd.ragged.Ragged`, which is a pytree too. The number of their values differs
    from step to step, so a jitted function that takes one is retraced, and they can't be
    sharded: ``pad_ragged`` gives them a fixed shape.

    Types are kept, except that without ``jax_enable_x64`` JAX has no 64-bit types: ``int64``
    (labels) arrives as ``int32``, ``uint64`` as ``uint32`` and ``float64`` as ``float32``. An
    integer that does not fit raises an error, never a wrong value; ``_rowid`` and ``_rowaddr``
    never fit, and are refused.

    On the CPU the arrays are the daemon's shared memory, without a copy, and committed to their
    device. Arrays that are narrowed, padded or split up are copied. For other devices JAX
    copies from shared memory, and the slot is released afterwards.

    The constructor only checks its arguments. The connection is made on first use (``iter()``,
    ``len()``, or a property such as :attr:`rows`), which blocks until the daemon has opened the
    dataset: usually well under a second, longer the first time a large dataset is opened. The
    loader can be pickled if its ``sharding`` can; a pickled or copied one starts without a
    connection, at epoch 0. ``next()`` blocks until a batch is ready, with the GIL released.

    Epochs: ``iter()`` begins the next epoch if the previous one was exhausted; after a
    ``break`` it restarts the same epoch. :meth:`set_epoch` selects an epoch, and
    :meth:`set_state` an exact step.

    Args:
        uri: The dataset: a path, or a ``file://`` URI.
        columns: Columns to deliver, in this order. May include ``"_valid"`` (bool, false where
            ``on_bad_sample`` zeroed something in the row, for padding, and for a row that only
            repeats another rank's: see ``partial``), ``"name._valid"``
            (bool, false where ``name`` is null) and, with ``jax_enable_x64``, ``"_rowid"`` and
            ``"_rowaddr"`` (``int64``). Null lists, text and bytes are empty, null floats are
            NaN, null images are bad samples. An integer column with nulls is an error unless
            its ``_valid`` is requested as well; the nulls are then 0.
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
        batch_transform: Your own function. ``next()`` calls it with each finished
            :class:`Batch`, in this process and thread, and returns its result. Start from
            ``batch.copy()`` to keep the batch's attributes. It is not part of the checkpoint or
            the step log. Seed its random numbers from ``batch.step`` if resuming should repeat
            them. If it raises an error, the iterator ends, and the batch does not count as
            returned. It must be a module-level function if the loader is to be pickled.
        batch_size: Rows per process and step. Give either this or ``global_batch_size``.
        global_batch_size: Rows per step over all processes, a multiple of ``world_size``.
        shuffle: Reshuffle all rows each epoch. Default: the dataset's own order.
        seed: Seed of shuffling and augmentation, an integer from 0. Default: 0.
        drop_last: For code shared with PyTorch; ``True`` is ``partial="drop"``. Leave it out.
        rank: This process's rank. Give ``rank`` and ``world_size`` together, or neither.
        world_size: The number of processes that share the dataset. By default both are
            ``jax.process_index()`` and ``jax.process_count()`` if ``jax.distributed`` is
            initialised when the loader connects, else the environment's ``RANK`` and
            ``WORLD_SIZE``, else 0 and 1.
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
        variable_bytes: Space for ragged columns in each slot, in bytes. By default enough for a
            batch of rows of typical length, at most 256 MiB. A larger batch gets memory of its
            own, which is slower.
        socket: Path of the daemon's socket. Default: ``LOADERD_SOCKET``, else the user's.
        autostart: Start a daemon if none answers. Default: ``True``.
        sharding: How to shard the batch over devices, such as
            ``NamedSharding(mesh, PartitionSpec("data"))``. Arrays are then global, ``[rows of
            all processes, ...]``, and this process's devices hold its ``batch_size`` rows, once
            or replicated. By default arrays are local to this process, on JAX's default device.
            Where ``jit`` is to derive the shardings of what it computes, make the mesh with
            ``axis_types=(jax.sharding.AxisType.Auto,)``.
        partial: What to do with the incomplete batch at the end of an epoch, so that shapes stay
            the same. ``"drop"`` (default) leaves it out. ``"pad"`` fills it up with rows of
            zeros and adds ``_valid`` (``[batch_size]`` bool) to every batch, which is false for
            them; ``batch.rows`` does not count them. If there are fewer rows than ranks, each rank
            left over repeats one, which ``batch.rows`` counts, with ``_valid`` false.
        pad_ragged: A dict from ragged column to the number of values per row:
            ``{"boxes": 64}`` makes the column dense, ``[batch_size, 64, ...]``, padded with
            zeros, and adds ``boxes._length`` (``[batch_size]``, integer), the number of values
            that the row has in the dataset. If that is more than 64, the first 64 are kept, so
            ``jnp.arange(64) < batch["boxes._length"][:, None]`` marks the real values. Works for
            lists, text and bytes, not for lists of lists or images.

    Raises:
        RequestError, TransformError: By the constructor, or on first use, if an argument is
            wrong.
        DaemonUnavailable, ProtocolMismatch: On first use, if no daemon answers or it is of
            another version.
        DatasetError, RankConflict, LimitExceeded: On first use, if the dataset is not as
            requested, the rank is taken, or slots don't fit the daemon's memory limit.
        BadSample, ReadError, StepLogError, SlotsExhausted, GpuUnavailable, DaemonDied,
            DaemonUnavailable: By ``next()``; see :mod:`loaderd.errors`.
        ForkedProcess: If it is used in a process forked after it had connected.
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
        drop_last: bool | None = None,
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
        socket: str | os.PathLike[str] | None = None,
        autostart: bool = True,
        sharding: Sharding | None = None,
        partial: Partial = "drop",
        pad_ragged: Mapping[str, int] | None = None,
    ) -> None:
        job = Job.make(
            uri,
            columns=_with_valid(columns, partial),
            filter=filter,
            version=version,
            transform=transform,
            batch_size=batch_size,
            global_batch_size=global_batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=_is_dropped(drop_last, partial),
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
        _check_wide(job.columns)
        if sharding is not None and not isinstance(sharding, Sharding):
            raise RequestError(
                "sharding must be a jax.sharding.Sharding, such as NamedSharding(mesh, "
                f'PartitionSpec("data")), not {sharding!r}'
            )
        self._sharding = sharding
        self._lengths = checked(pad_ragged, job.columns)
        super().__init__(job, socket=socket, autostart=autostart, batch_transform=batch_transform)

    def get_state(self) -> dict[str, Any]:
        """The position after the batches that ``next()`` has returned, to be checkpointed.

        A dict of JSON types, about a kilobyte, the same on all processes. With Orbax:
        ``ocp.args.JsonSave(loader.get_state())``. Grain has this method on its iterator; here
        it is the loader's, because an iterator ends with its epoch. If a wrapper prefetches
        batches, save ``batch.state`` of the last batch used instead.
        """
        return self._state()

    def set_state(self, state: Mapping[str, Any], allow_changed: bool = False) -> None:
        """The next ``iter()`` continues with the batch after ``state``.

        It connects (and blocks) at once, and the step log records a new attempt of the run.
        World size and batch size may have changed if a step now begins at the same row.
        Raises ``ResumeRefused``, which lists the differences, if the state belongs to another
        dataset version, filter, list of columns, transform, seed, ``shuffle`` or last batch
        (dropped or not); ``allow_changed=True`` accepts these too, on the same condition.
        """
        self._load_state(state, allow_changed)

    def _processes(self) -> tuple[int, int] | None:
        # Asked only where there is a count of JAX's own, because asking starts backends.
        if jax.distributed.is_initialized():
            return jax.process_index(), jax.process_count()
        return None

    def _next(self, session: Session) -> tuple[dict[str, Any], Lease] | None:
        try:
            return session.next()
        except SlotsExhausted:
            pass
        # JAX runs ahead of its computations, and those under way hold what they read.
        jax.block_until_ready(jax.live_arrays())  # type: ignore[no-untyped-call]
        return session.next()

    def _make_batch(self, lease: Lease, about: dict[str, Any]) -> Batch:
        device = _default_device()
        columns = (self._columns(lease, name, device) for name in lease.names)
        return Batch._made(chain.from_iterable(columns), about)

    def _columns(
        self, lease: Lease, name: str, device: jax.Device
    ) -> Iterator[tuple[str, jax.Array | Ragged]]:
        """A column of the dataset, and behind it how long its rows were before padding."""
        if (length := self._lengths.get(name)) is not None:
            made = padded(name, column(lease, name, np.from_dlpack), length)
            for part, values in zip((name, name + LENGTH), made, strict=True):
                array = jax.device_put(_narrowed(part, values), _cpu())
                yield part, self._dense(part, array, device)
            return
        made = column(lease, name, lambda tensor: _on_cpu(name, tensor))
        if not isinstance(made, Ragged):
            yield name, self._dense(name, made, device)
        elif self._sharding is None:
            yield name, _with_rows(made, self._job.batch_size, device)
        else:
            raise RequestError(
                f"column {name!r} is ragged, and a sharding lays out dense columns only: "
                f"pad_ragged={{{name!r}: 64}} makes it one of 64 values a row; or leave it out"
            )

    def _dense(self, name: str, array: jax.Array, device: jax.Device) -> jax.Array:
        array = self._padded(array)
        if self._sharding is not None:
            return self._laid_out(name, array, self._sharding)
        return _placed(array, device)

    def _padded(self, array: jax.Array) -> jax.Array:
        missing = self._job.batch_size - array.shape[0]
        if missing == 0:
            return array
        return _with_zeros(array, missing)

    def _laid_out(self, name: str, local: jax.Array, sharding: Sharding) -> jax.Array:
        """The global array, of which ``local`` is this process's part."""
        rows, *sides = local.shape
        ranks = self._job.ranks
        shape = (rows * ranks.world_size, *sides)
        try:
            sharding.shard_shape(shape)
            places = {
                device: [_bounds(*axis) for axis in zip(index or (), shape, strict=True)]
                for device, index in sharding.addressable_devices_indices_map(shape).items()
            }
        except (ValueError, IndexError):
            raise RequestError(
                f"{sharding} can't lay out column {name!r}, {list(shape)} over all processes: the "
                "rows of a step must divide evenly among the devices, and a PartitionSpec has no "
                'more axes than each column (PartitionSpec("data") fits all)'
            ) from None
        parts = sorted({bounds[0] for bounds in places.values()})
        if sum(stop - start for start, stop in parts) != rows:
            raise RequestError(
                f"{sharding} gives rows {parts} of {shape[0]} to the devices of this process, "
                f"which reads {rows} (rank {ranks.rank} of {ranks.world_size}): the batch axis "
                "must go over all processes, or rank= and world_size= count the parts there are"
            )
        # Where each part begins in `local`.
        starts, read = {}, 0
        for start, stop in parts:
            starts[start] = read
            read += stop - start
        pieces = []
        for device, ((start, stop), *others) in places.items():
            here = [(starts[start], starts[start] + stop - start), *others]
            piece: Any = local
            if here != [(0, side) for side in local.shape]:
                piece = np.asarray(local)[tuple(slice(*bounds) for bounds in here)].copy()
            pieces.append(jax.device_put(piece, device))
        return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def _on_cpu(name: str, tensor: SlotTensor) -> jax.Array:
    """A column as an array on the CPU: the slot's memory, unless its type is narrowed."""
    device = _cpu()
    try:
        values = np.from_dlpack(tensor)
    except (BufferError, RuntimeError):  # Such as bfloat16, which NumPy doesn't have.
        return _shared(tensor)
    narrowed = _narrowed(name, values)
    if narrowed is values:
        return _shared(tensor)
    array: jax.Array = jax.device_put(narrowed, device)
    return array


def _narrowed(name: str, values: Any) -> Any:
    """NumPy's array in a type that JAX has, itself where it is of one."""
    narrow = jax.dtypes.canonicalize_dtype(values.dtype)
    if narrow == values.dtype:
        return values
    # Left to itself, JAX would cut off the upper half of integers.
    if narrow.kind != "f" and values.size:
        bounds = np.iinfo(narrow)
        low, high = int(values.min()), int(values.max())
        if low < bounds.min or high > bounds.max:
            raise RequestError(
                f"column {name!r} holds {low if low < bounds.min else high}, which is no {narrow}, "
                f"and JAX has {values.dtype} only with {_X64}: set it, or leave the column out"
            )
    return values.astype(narrow)


def _placed(array: jax.Array, device: jax.Device) -> jax.Array:
    return array if array.devices() == {device} else jax.device_put(array, device)


def _with_zeros(array: jax.Array, rows: int) -> jax.Array:
    """A copy with so many rows of zeros at the end, on the CPU.

    By NumPy, as all that happens here to a batch: what JAX computes where a mesh is set, it
    computes on all devices of that mesh, and refuses arrays that lie on one of them.
    """
    found = np.zeros((array.shape[0] + rows, *array.shape[1:]), array.dtype)
    found[: array.shape[0]] = array
    padded: jax.Array = jax.device_put(found, _cpu())
    return padded


def _with_rows(ragged: Ragged, rows: int, device: jax.Device) -> Ragged:
    """On the device, with empty rows added at the end."""
    missing = rows - len(ragged)
    offsets, shapes = ragged.offsets, ragged.shapes
    if missing:
        ends = np.pad(np.asarray(offsets), (0, missing), mode="edge")
        offsets = jax.device_put(ends, _cpu())
        shapes = None if shapes is None else _with_zeros(shapes, missing)
    padded = Ragged(ragged.values, offsets, shapes=shapes, text=ragged.text)
    placed: Ragged = jax.tree.map(lambda array: _placed(array, device), padded)
    return placed


def _shared(tensor: SlotTensor) -> jax.Array:
    # Released by the last array itself; JAX keeps NumPy's until it is called again.
    array: jax.Array = jax.dlpack.from_dlpack(tensor)
    return array


def _default_device() -> jax.Device:
    """Where an array comes to lie that nobody places.

    Not seen from one that is made: a mesh that is set spreads it, and a transfer guard refuses it.
    """
    given: jax.Device | str | None = jax.config.jax_default_device  # type: ignore[attr-defined]
    if given is None or isinstance(given, str):
        device: jax.Device = jax.local_devices(backend=given)[0]
        return device
    return given


def _cpu() -> jax.Device:
    try:
        device: jax.Device = jax.local_devices(backend="cpu")[0]
        return device
    except RuntimeError as error:
        raise RequestError(
            f"JAX has no CPU platform here ({error}), and batches arrive in the CPU's memory: "
            "let JAX_PLATFORMS name cpu after the others, such as cuda,cpu"
        ) from None


def _bounds(side: slice, length: int) -> tuple[int, int]:
    start, stop, _ = side.indices(length)
    return start, stop


def _with_valid(columns: Sequence[str], partial: Partial) -> Sequence[str]:
    if partial not in ("drop", "pad"):
        raise RequestError(f"partial must be one of drop, pad, not {partial!r}")
    if partial == "drop" or not is_sequence(columns) or _VALID in columns:
        return columns
    return [*columns, _VALID]


def _is_dropped(drop_last: bool | None, partial: Partial) -> bool:
    if drop_last is not None and drop_last != (partial == "drop"):
        raise RequestError(
            f"drop_last={drop_last} and partial={partial!r} contradict each other: a short last "
            'batch, which JAX would compile for anew, is dropped (partial="drop") or padded '
            '(partial="pad"); leave drop_last out'
        )
    return partial == "drop"


def _check_wide(columns: Sequence[str]) -> None:
    wide = [name for name in columns if name in _WIDE_COLUMNS]
    if wide and jax.dtypes.canonicalize_dtype(np.uint64) != np.uint64:
        raise RequestError(
            f"{wide[0]} takes 64 bits, which JAX has only with {_X64}: set it, or leave "
            f"{wide[0]} out"
        )
