"""Checks of arguments, of transforms above all.

Enters: what the user gave. Leaves: the one form of it that the daemon takes, or a
:class:`~loaderd.errors.TransformError` that states the bound and the value. It knows no
transform.
"""

from __future__ import annotations

import difflib
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, TypeGuard

from loaderd.errors import TransformError

DTYPES = ("uint8", "bfloat16", "float16", "float32")
INTERPOLATIONS = ("bilinear", "bicubic")

#: Columns that a message lists at most.
COLUMNS_SHOWN = 20


def put(transform: object, field: str, value: object) -> None:
    object.__setattr__(transform, field, value)


def as_list(value: Any) -> list[Any]:
    return list(value)


def is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def is_number(value: object) -> TypeGuard[int | float]:
    # NumPy's are such numbers, of every width.
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def whole_number(value: object) -> int | None:
    """Python's own integer for it, also for NumPy's; ``None`` for what is no whole number."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:  # Such as an array's, which has several numbers.
        return None


def not_among(name: object, columns: Sequence[str]) -> str:
    """The rest of a sentence about a column that was not asked for; bounded, however many were."""
    shown = ", ".join(columns[:COLUMNS_SHOWN])
    more = len(columns) - COLUMNS_SHOWN
    listed = shown if more <= 0 else f"{shown}, and {more} more"
    near = difflib.get_close_matches(str(name), columns, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f", which is not among columns: {listed}{hint}"


def side(name: str, field: str, value: object) -> int:
    pixels = whole_number(value)
    if pixels is None or pixels < 1:
        raise TransformError(f"{name}: {field} must be at least 1 pixel, not {value!r}")
    return pixels


def sides(name: str, size: Any) -> tuple[int, int]:
    if is_sequence(size):
        if len(size) == 1:
            return sides(name, size[0])
        if len(size) == 2:
            return side(name, "size", size[0]), side(name, "size", size[1])
        raise TransformError(f"{name}: size must be one number or (height, width), not {size!r}")
    both = side(name, "size", size)
    return both, both


def interval(name: str, field: str, value: Any) -> tuple[float, float]:
    if is_sequence(value) and len(value) == 2 and all(is_number(end) for end in value):
        low, high = float(value[0]), float(value[1])
        if 0.0 < low <= high < math.inf:
            return low, high
    raise TransformError(f"{name}: {field} must be (low, high) with 0 < low <= high, not {value!r}")


def interpolation_name(name: str, value: Any, known: Sequence[str] = INTERPOLATIONS) -> str:
    # torchvision's InterpolationMode is an enum of these strings.
    text = str(getattr(value, "value", value))
    if text not in known:
        raise TransformError(
            f"{name}: interpolation must be one of {', '.join(known)}, not {value!r}"
        )
    return text


def dtype_name(name: str, value: Any) -> str:
    # "float32", torch.float32, numpy.dtype("float32") and numpy.float32 alike.
    text = value.__name__ if isinstance(value, type) else str(value).removeprefix("torch.")
    if text not in DTYPES:
        raise TransformError(f"{name}: dtype must be one of {', '.join(DTYPES)}, not {value!r}")
    return text


def probability(name: str, value: object) -> float:
    if not is_number(value) or not 0.0 <= value <= 1.0:
        raise TransformError(f"{name}: p must be from 0 to 1, not {value!r}")
    return float(value)


def always(name: str, field: str, value: object) -> bool:
    """``True``, of what the daemon does in any case."""
    if value is not True:
        raise TransformError(f"{name}: {field} must be True, as it always is, not {value!r}")
    return value


def one_of(name: str, field: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise TransformError(f"{name}: {field} must be one of {', '.join(known)}, not {value!r}")


def whole(name: str, field: str, value: object, least: int) -> int:
    number = whole_number(value)
    if number is None or number < least:
        raise TransformError(
            f"{name}: {field} must be a whole number from {least} on, not {value!r}"
        )
    return number


def borders(name: str, padding: Any) -> tuple[int, int, int, int]:
    """One number, one for each direction or one for each side: left, top, right, bottom."""
    given = padding if is_sequence(padding) else [padding]
    pixels = [number for each in given if (number := whole_number(each)) is not None]
    if len(given) not in (1, 2, 4) or len(pixels) != len(given) or min(pixels) < 0:
        raise TransformError(
            f"{name}: padding must be 1, 2 or 4 whole numbers from 0 on, not {padding!r}"
        )
    left, top, right, bottom = pixels * (4 // len(pixels))
    return left, top, right, bottom


def colour(name: str, fill: Any) -> tuple[int, int, int]:
    """One whole number from 0 to 255, or one for each of R, G, B."""
    given = fill if is_sequence(fill) else [fill]
    if len(given) not in (1, 3) or not all(
        is_number(value) and 0 <= value <= 255 and value == int(value) for value in given
    ):
        raise TransformError(
            f"{name}: fill must be 1 or 3 whole numbers from 0 to 255, not {fill!r}"
        )
    values = [int(value) for value in given] * (3 // len(given))
    return values[0], values[1], values[2]
