"""Rows of different lengths as one dense array, for frameworks whose shapes must not change.

Enters: a :class:`~loaderd.ragged.Ragged` of NumPy arrays. Leaves: NumPy arrays of its own
memory. It knows no framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loaderd._arguments import not_among, whole_number
from loaderd.errors import RequestError
from loaderd.ragged import Ragged

#: After a column's name: how many values each row has.
LENGTH = "._length"


def checked(lengths: Mapping[str, int] | None, columns: Sequence[str]) -> dict[str, int]:
    """``pad_ragged=`` as it was given, once it is found to make sense."""
    if lengths is not None and not isinstance(lengths, Mapping):
        raise RequestError(
            f'pad_ragged must be by column, such as {{"boxes": 64}}, not {lengths!r}'
        )
    found = {}
    for name, length in (lengths or {}).items():
        if name not in columns:
            raise RequestError(f"pad_ragged names {name!r}{not_among(name, columns)}")
        if name + LENGTH in columns:
            raise RequestError(
                f"{name + LENGTH!r} is what pad_ragged adds beside {name!r}: leave it out of "
                "columns"
            )
        values = whole_number(length)
        if values is None or values < 1:
            raise RequestError(
                f"pad_ragged[{name!r}] must be at least 1 value a row, not {length!r}"
            )
        found[name] = values
    return found


def padded(name: str, ragged: Any, length: int) -> tuple[Any, Any]:
    """Values ``[rows, length, ...]``, zero behind each row's own, and lengths int64 ``[rows]``.

    Of a row with more values the first ``length`` are there; its length stays what it was.
    """
    if not isinstance(ragged, Ragged):
        raise RequestError(
            f"column {name!r} is dense: pad_ragged is for columns whose rows differ in length"
        )
    if ragged.shapes is not None or isinstance(ragged.values, Ragged):
        what = "images in their own size" if ragged.shapes is not None else "lists of lists"
        raise RequestError(
            f"column {name!r} holds {what}, whose rows differ in two dimensions, and pad_ragged "
            "pads one: give images a size by their transform, or read the column without a "
            "sharding, as Ragged"
        )
    values, lengths = ragged.values, ragged.lengths()
    places = np.arange(length) < lengths[:, None]
    dense = np.zeros((len(ragged), length, *values.shape[1:]), values.dtype)
    if lengths.max(initial=0) > length:
        numbers = np.arange(len(values)) - np.repeat(ragged.offsets[:-1], lengths)
        values = values[numbers < length]
    dense[places] = values
    return dense, lengths
