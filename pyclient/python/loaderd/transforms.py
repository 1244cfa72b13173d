"""Image transforms, under torchvision's names and with its arguments.

Enters: what the user writes. Leaves: plain dicts that the daemon understands. Nothing is
computed here: the daemon decodes, crops, resizes and casts. All transforms are frozen
dataclasses, so they compare, print and pickle.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from loaderd.errors import TransformError

DTYPES = ("uint8", "float16", "float32")
INTERPOLATIONS = ("bilinear", "bicubic")


class Transform(ABC):
    """One step of an image column's transform list."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The transform as the daemon takes it: ``name`` and the arguments."""


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """Crops a random part of the image and resizes it.

    ``size`` is ``(height, width)``, or one number for a square. ``scale`` bounds the
    crop's share of the image's area, ``ratio`` its width to height. The result is
    ``[3, height, width]``.
    """

    size: int | Sequence[int]
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3.0 / 4.0, 4.0 / 3.0)
    interpolation: Any = "bilinear"

    def __post_init__(self) -> None:
        name = type(self).__name__
        _set(self, "size", _sides(name, self.size))
        _set(self, "scale", _range(name, "scale", self.scale))
        _set(self, "ratio", _range(name, "ratio", self.ratio))
        _set(self, "interpolation", _interpolation(name, self.interpolation))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "RandomResizedCrop",
            "size": _list(self.size),
            "scale": _list(self.scale),
            "ratio": _list(self.ratio),
            "interpolation": self.interpolation,
        }


@dataclass(frozen=True)
class Resize(Transform):
    """Resizes the image, with antialiasing.

    ``size`` is ``(height, width)``, or one number for the shorter side; then
    ``max_size`` may bound the longer one. An image column needs one size for all its
    rows: follow ``Resize(256)`` by :class:`CenterCrop`.
    """

    size: int | Sequence[int]
    interpolation: Any = "bilinear"
    max_size: int | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        size = self.size
        if not isinstance(size, int) and _is_sequence(size) and len(size) == 1:
            # torchvision takes a list of one number for the shorter side.
            size = size[0]
        if isinstance(size, int):
            _set(self, "size", _side(name, "size", size))
            if self.max_size is not None and _side(name, "max_size", self.max_size) <= size:
                raise TransformError(
                    f"{name}: max_size must be greater than size ({size}), not {self.max_size}"
                )
        else:
            _set(self, "size", _sides(name, size))
            if self.max_size is not None:
                raise TransformError(
                    f"{name}: max_size goes with one number as size, not with {self.size}"
                )
        _set(self, "interpolation", _interpolation(name, self.interpolation))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "Resize",
            "size": self.size if isinstance(self.size, int) else _list(self.size),
            "max_size": self.max_size,
            "interpolation": self.interpolation,
        }


@dataclass(frozen=True)
class CenterCrop(Transform):
    """Cuts ``(height, width)``, or a square, out of the middle.

    An image that is smaller gets black borders first.
    """

    size: int | Sequence[int]

    def __post_init__(self) -> None:
        _set(self, "size", _sides(type(self).__name__, self.size))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "CenterCrop", "size": _list(self.size)}


@dataclass(frozen=True)
class Decode(Transform):
    """Decodes every image in its own size.

    It stands alone in its list. The column becomes a :class:`~loaderd.ragged.Ragged` whose
    rows are uint8 ``[height, width, 3]``.
    """

    def to_dict(self) -> dict[str, Any]:
        return {"name": "Decode"}


@dataclass(frozen=True)
class RandomHorizontalFlip(Transform):
    """Mirrors left and right with probability ``p``."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not _is_number(self.p) or not 0.0 <= self.p <= 1.0:
            raise TransformError(f"RandomHorizontalFlip: p must be from 0 to 1, not {self.p!r}")

    def to_dict(self) -> dict[str, Any]:
        return {"name": "RandomHorizontalFlip", "p": float(self.p)}


@dataclass(frozen=True)
class Normalize(Transform):
    """``(x - mean) / std`` per channel, where x is the pixel's value from 0 to 1.

    ``dtype`` is the result's type: ``"float32"`` or ``"float16"``, or torch's own.
    """

    mean: Sequence[float]
    std: Sequence[float]
    dtype: Any = "float32"

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            values = getattr(self, field)
            if not _is_sequence(values) or len(values) not in (1, 3):
                raise TransformError(
                    f"Normalize: {field} must be 3 numbers, or one for all channels, not {values!r}"
                )
            if not all(_is_number(value) and math.isfinite(value) for value in values):
                raise TransformError(f"Normalize: {field} must be finite numbers, not {values!r}")
            _set(self, field, tuple(float(value) for value in values))
        if 0.0 in self.std:
            raise TransformError(f"Normalize: std must not be 0, but is {self.std}")
        dtype = _dtype("Normalize", self.dtype)
        if dtype == "uint8":
            raise TransformError("Normalize: dtype must be float16 or float32, not uint8")
        _set(self, "dtype", dtype)

    @classmethod
    def imagenet(cls, dtype: Any = "float32") -> Normalize:
        """With the mean and standard deviation of ImageNet."""
        return cls(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), dtype=dtype)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "Normalize",
            "mean": _list(self.mean),
            "std": _list(self.std),
            "dtype": self.dtype,
        }


@dataclass(frozen=True)
class ToDtype(Transform):
    """Casts to ``dtype``; with ``scale``, 0 to 255 becomes 0 to 1 in a float type."""

    dtype: Any
    scale: bool = False

    def __post_init__(self) -> None:
        _set(self, "dtype", _dtype("ToDtype", self.dtype))
        if not isinstance(self.scale, bool):
            raise TransformError(f"ToDtype: scale must be True or False, not {self.scale!r}")

    def to_dict(self) -> dict[str, Any]:
        return {"name": "ToDtype", "dtype": self.dtype, "scale": self.scale}


def to_request(
    transform: Mapping[str, Transform | Sequence[Transform]] | None, columns: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Transforms by column as the daemon takes them."""
    if transform is None:
        return {}
    if not isinstance(transform, Mapping):
        raise TransformError(
            "transform must be a dict from column to a list of transforms, "
            f"not {type(transform).__name__}"
        )
    request = {}
    for column, given in transform.items():
        if column not in columns:
            raise TransformError(
                f"transform for {column!r}, which is not among columns={list(columns)}"
            )
        steps: Sequence[Any] = given if _is_sequence(given) else [given]
        for index, step in enumerate(steps):
            if not isinstance(step, Transform):
                raise TransformError(
                    f"transform {index} of {column!r} is {step!r}: take one of loaderd's own, such "
                    "as loaderd.RandomResizedCrop; others run on the batch, in your own code"
                )
        request[column] = [step.to_dict() for step in steps]
    return request


def _set(transform: Transform, field: str, value: object) -> None:
    object.__setattr__(transform, field, value)


def _list(value: Any) -> list[Any]:
    return list(value)


def _is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _side(name: str, field: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TransformError(f"{name}: {field} must be at least 1 pixel, not {value!r}")
    return value


def _sides(name: str, size: Any) -> tuple[int, int]:
    if _is_sequence(size):
        if len(size) == 1:
            return _sides(name, size[0])
        if len(size) == 2:
            return _side(name, "size", size[0]), _side(name, "size", size[1])
        raise TransformError(f"{name}: size must be one number or (height, width), not {size!r}")
    side = _side(name, "size", size)
    return side, side


def _range(name: str, field: str, value: Any) -> tuple[float, float]:
    if _is_sequence(value) and len(value) == 2 and all(_is_number(end) for end in value):
        low, high = float(value[0]), float(value[1])
        if 0.0 < low <= high < math.inf:
            return low, high
    raise TransformError(f"{name}: {field} must be (low, high) with 0 < low <= high, not {value!r}")


def _interpolation(name: str, value: Any) -> str:
    # torchvision's InterpolationMode is an enum of these strings.
    text = str(getattr(value, "value", value))
    if text not in INTERPOLATIONS:
        raise TransformError(
            f"{name}: interpolation must be one of {', '.join(INTERPOLATIONS)}, not {value!r}"
        )
    return text


def _dtype(name: str, value: Any) -> str:
    # "float32", torch.float32, numpy.dtype("float32") and numpy.float32 alike.
    text = value.__name__ if isinstance(value, type) else str(value).removeprefix("torch.")
    if text not in DTYPES:
        raise TransformError(f"{name}: dtype must be one of {', '.join(DTYPES)}, not {value!r}")
    return text
