"""Columns whose rows differ in length: lists, text, bytes, images in their own size.

Enters: arrays that own their slot. Leaves: :class:`Ragged`, which is views of them. It
imports no framework: the arrays may be PyTorch's, NumPy's or JAX's.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaderd._native import Lease, SlotTensor


class Ragged:
    """A column whose rows differ in length; row i is ``values[offsets[i]:offsets[i + 1]]``.

    ====================  ==================  ===============================================
    in the dataset        ``values``          a row, ``column[i]``
    ====================  ==================  ===============================================
    lists of numbers      ``[total]``         ``[n]``
    lists of boxes        ``[total, 4]``      ``[n, 4]``
    text, bytes           ``[total]`` uint8   ``[n]`` uint8
    images, ``Decode()``  ``[total]`` uint8   ``[height, width, 3]`` uint8
    lists of lists        a :class:`Ragged`   a :class:`Ragged`
    ====================  ==================  ===============================================

    Rows are views: only :meth:`tolist`, :meth:`tobytes` and :meth:`clone` copy. In JAX, where there
    are no views, rows are copied too. A null row is empty; request the column ``name._valid`` to
    tell null from empty.
    """

    __slots__ = ("offsets", "shapes", "text", "values")

    values: Any
    """The values of all rows, concatenated: ``[total, ...]``; for lists of lists, a
    :class:`Ragged` of the inner lists."""
    offsets: Any
    """Where rows begin and end in ``values``: int64, ``[rows + 1]``, from 0."""
    shapes: Any
    """For images: int32, ``[rows, 3]``, height, width and channels. Otherwise ``None``."""
    text: bool
    """Whether the innermost values are the bytes of UTF-8 text."""

    def __init__(
        self, values: Any, offsets: Any, *, shapes: Any = None, text: bool = False
    ) -> None:
        self.values = values
        self.offsets = offsets
        self.shapes = shapes
        self.text = text

    def __len__(self) -> int:
        """The number of rows."""
        return int(self.offsets.shape[0]) - 1

    def __getitem__(self, row: int | slice) -> Any:
        """A row as a view of ``values``; a slice ``[start:stop]`` is a :class:`Ragged`."""
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            if step != 1:
                raise ValueError(f"rows of a ragged column are sliced in steps of 1, not {step}")
            return self._rows(start, max(start, stop))
        row = operator.index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a ragged column of {len(self)} rows")
        row %= len(self)
        start, stop = (int(end) for end in self.offsets[row : row + 2])
        return self._row(row, start, stop)

    def __iter__(self) -> Iterator[Any]:
        """The rows, as views."""
        ends = self.offsets.tolist()
        for row in range(len(self)):
            yield self._row(row, ends[row], ends[row + 1])

    def __repr__(self) -> str:
        what = "text" if self.text else "images" if self.shapes is not None else "values"
        inner = "lists of " if isinstance(self.values, Ragged) else ""
        try:
            return f"Ragged({len(self)} rows of {inner}{what}, {self.dtype})"
        except (AttributeError, TypeError, IndexError):
            # What a function over a pytree has put in place of the arrays, such as their shapes.
            return f"Ragged(values={self.values!r}, offsets={self.offsets!r})"

    @property
    def dtype(self) -> Any:
        """The type of the innermost values."""
        return self.values.dtype

    @property
    def device(self) -> Any:
        """The framework's device that holds the values."""
        return self.values.device

    def lengths(self) -> Any:
        """The number of values in each row (or of inner lists): int64, ``[rows]``."""
        return self.offsets[1:] - self.offsets[:-1]

    def tolist(self) -> list[Any]:
        """The rows as Python lists, or as ``str`` if they are text."""
        ends = self.offsets.tolist()
        if self.text and not isinstance(self.values, Ragged):
            return [row.decode() for row in self.tobytes()]
        if self.shapes is not None:
            return [image.tolist() for image in self]
        values = self.values.tolist()
        return [values[start:stop] for start, stop in pairwise(ends)]

    def tobytes(self) -> list[bytes]:
        """The bytes of each row, such as an audio file, as they are in the dataset."""
        if isinstance(self.values, Ragged):
            raise ValueError("rows of lists of lists are not bytes: take values.tobytes()")
        ends = self.offsets.tolist()
        if hasattr(self.values, "data_ptr"):
            # PyTorch's, which may be there without NumPy.
            values = self.values.cpu().contiguous()
            whole = ctypes.string_at(values.data_ptr(), values.nbytes)
            width = values.nbytes // max(len(values), 1)
            return [whole[start * width : stop * width] for start, stop in pairwise(ends)]
        import numpy

        array = numpy.asarray(self.values)
        return [array[start:stop].tobytes() for start, stop in pairwise(ends)]

    def to_nested(self) -> Any:
        """A ``torch.nested`` tensor in the jagged layout, ``[rows, n, ...]``, without a copy."""
        if isinstance(self.values, Ragged):
            raise ValueError(
                "a nested tensor has one ragged dimension: take values.to_nested(), whose rows are "
                "the inner lists"
            )
        if self.shapes is not None:
            raise ValueError("images differ in two dimensions: iterate over them instead")
        import torch

        return torch.nested.nested_tensor_from_jagged(self.values, self.offsets)

    def to(self, *args: Any, **kwargs: Any) -> Ragged:
        """As ``values.to(*args, **kwargs)``; offsets and shapes move to the same device.

        In JAX it is ``jax.device_put(column, device)``, as for any pytree.
        """
        values = self.values.to(*args, **kwargs)

        def follow(array: Any) -> Any:
            extra = {"non_blocking": True} if kwargs.get("non_blocking") else {}
            return array.to(values.device, **extra)

        return self._with(values, follow)

    def clone(self) -> Ragged:
        """A copy that does not occupy a slot."""
        return self._with(self.values.clone(), lambda array: array.clone())

    def pin_memory(self, device: Any = None) -> Ragged:
        """A copy in pinned memory, for PyTorch's ``DataLoader(pin_memory=True)``."""
        extra = () if device is None else (device,)
        return self._with(self.values.pin_memory(*extra), lambda array: array.pin_memory(*extra))

    def _with(self, values: Any, follow: Callable[[Any], Any]) -> Ragged:
        shapes = None if self.shapes is None else follow(self.shapes)
        return Ragged(values, follow(self.offsets), shapes=shapes, text=self.text)

    def _row(self, row: int, start: int, stop: int) -> Any:
        values = self.values[start:stop]
        if self.shapes is None:
            return values
        return values.reshape(tuple(self.shapes[row].tolist()))

    def _rows(self, start: int, stop: int) -> Ragged:
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Ragged(
            self.values[first:last],
            self.offsets[start : stop + 1] - first,
            shapes=None if self.shapes is None else self.shapes[start:stop],
            text=self.text,
        )


def column(lease: Lease, name: str, from_dlpack: Callable[[SlotTensor], Any]) -> Any:
    """One column of a batch, made of a framework's arrays: dense, or a :class:`Ragged`."""
    tensor = lease.tensor(name)
    if tensor is not None:
        return from_dlpack(tensor)
    values, offsets, shapes, text = lease.ragged(name)
    array = from_dlpack(values)
    for level in reversed(offsets[1:]):
        array = Ragged(array, from_dlpack(level), text=text)
    return Ragged(
        array,
        from_dlpack(offsets[0]),
        shapes=None if shapes is None else from_dlpack(shapes),
        text=text,
    )
