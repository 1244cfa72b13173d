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
from typing import Any

from loaderd._arguments import (
    always,
    as_list,
    borders,
    colour,
    dtype_name,
    interpolation_name,
    interval,
    is_number,
    is_sequence,
    not_among,
    one_of,
    probability,
    put,
    side,
    sides,
)
from loaderd.errors import TransformError

PADDING_MODES = ("constant", "edge", "reflect", "symmetric")
LAYOUTS = ("NCHW", "NHWC")


class Transform(ABC):
    """One step of an image column's transform list."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The transform as the daemon takes it: ``name`` and the arguments."""


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """Crops a random part of the image and resizes it, with antialiasing.

    ``size`` is ``(height, width)`` in pixels, or one number for a square. ``scale`` is the
    range of the crop's share of the image's area, ``ratio`` of its width divided by its height.
    ``interpolation`` is ``"bilinear"`` or ``"bicubic"``, or torchvision's enum. ``antialias`` is
    accepted as in torchvision, and must be ``True``. The result is ``[3, height, width]``, uint8.
    """

    size: int | Sequence[int]
    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3.0 / 4.0, 4.0 / 3.0)
    interpolation: Any = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        put(self, "size", sides(name, self.size))
        put(self, "scale", interval(name, "scale", self.scale))
        put(self, "ratio", interval(name, "ratio", self.ratio))
        put(self, "interpolation", interpolation_name(name, self.interpolation))
        put(self, "antialias", always(name, "antialias", self.antialias))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "RandomResizedCrop",
            "size": as_list(self.size),
            "scale": as_list(self.scale),
            "ratio": as_list(self.ratio),
            "interpolation": self.interpolation,
        }


@dataclass(frozen=True)
class Resize(Transform):
    """Resizes the image, with antialiasing.

    ``size`` is ``(height, width)`` in pixels, or one number for the shorter side; then
    ``max_size`` limits the longer one. ``interpolation`` is ``"bilinear"`` or ``"bicubic"``, or
    torchvision's enum. ``antialias`` is accepted as in torchvision, and must be ``True``. All rows
    of a column need the same final size: after ``Resize(256)``, add a :class:`CenterCrop`.
    """

    size: int | Sequence[int]
    interpolation: Any = "bilinear"
    max_size: int | None = None
    antialias: bool = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        size = self.size
        if is_sequence(size) and len(size) == 1:
            # torchvision takes a list of one number for the shorter side.
            size = size[0]
        if not is_sequence(size):
            pixels = side(name, "size", size)
            put(self, "size", pixels)
            if self.max_size is not None:
                put(self, "max_size", side(name, "max_size", self.max_size))
                if self.max_size <= pixels:
                    raise TransformError(
                        f"{name}: max_size must be greater than size ({pixels}), "
                        f"not {self.max_size}"
                    )
        else:
            put(self, "size", sides(name, size))
            if self.max_size is not None:
                raise TransformError(
                    f"{name}: max_size goes with one number as size, not with {self.size}"
                )
        put(self, "interpolation", interpolation_name(name, self.interpolation))
        put(self, "antialias", always(name, "antialias", self.antialias))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "Resize",
            "size": self.size if isinstance(self.size, int) else as_list(self.size),
            "max_size": self.max_size,
            "interpolation": self.interpolation,
        }


@dataclass(frozen=True)
class CenterCrop(Transform):
    """Crops the centre of the image: ``size`` is ``(height, width)``, or one number for a square.

    An image that is smaller is padded with black first.
    """

    size: int | Sequence[int]

    def __post_init__(self) -> None:
        put(self, "size", sides(type(self).__name__, self.size))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "CenterCrop", "size": as_list(self.size)}


@dataclass(frozen=True)
class Decode(Transform):
    """Decodes every image in its own size.

    It must be the only transform of its column, which becomes a
    :class:`~loaderd.ragged.Ragged` whose rows are uint8 ``[height, width, 3]``.
    """

    def to_dict(self) -> dict[str, Any]:
        return {"name": "Decode"}


@dataclass(frozen=True)
class RandomHorizontalFlip(Transform):
    """Flips the image left to right with probability ``p``."""

    p: float = 0.5

    def __post_init__(self) -> None:
        put(self, "p", probability(type(self).__name__, self.p))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "RandomHorizontalFlip", "p": self.p}


@dataclass(frozen=True)
class RandomVerticalFlip(Transform):
    """Flips the image top to bottom with probability ``p``."""

    p: float = 0.5

    def __post_init__(self) -> None:
        put(self, "p", probability(type(self).__name__, self.p))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "RandomVerticalFlip", "p": self.p}


@dataclass(frozen=True)
class Pad(Transform):
    """Adds borders.

    ``padding`` is one number for all sides, ``(left and right, top and bottom)``, or
    ``(left, top, right, bottom)``, in pixels. ``padding_mode`` is ``"constant"`` (filled with
    ``fill``: one integer from 0 to 255, or one for each of R, G, B), ``"edge"``,
    ``"reflect"`` (mirrored without repeating the outermost pixel) or ``"symmetric"`` (mirrored,
    repeating it). Black borders may be added anywhere before a cast to float; others only once
    all images have the same size.
    """

    padding: int | Sequence[int]
    fill: Any = 0
    padding_mode: str = "constant"

    def __post_init__(self) -> None:
        put(self, "padding", borders("Pad", self.padding))
        put(self, "fill", colour("Pad", 0 if self.fill is None else self.fill))
        one_of("Pad", "padding_mode", self.padding_mode, PADDING_MODES)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "Pad",
            "padding": as_list(self.padding),
            "fill": as_list(self.fill),
            "padding_mode": self.padding_mode,
        }


@dataclass(frozen=True)
class RandomCrop(Transform):
    """Crops at a random position: ``size`` is ``(height, width)``, or one number for a square.

    ``padding``, ``fill`` and ``padding_mode`` are those of :class:`Pad`, applied first. An
    image that is still smaller is a bad sample, unless ``pad_if_needed`` pads it on both sides.
    """

    size: int | Sequence[int]
    padding: int | Sequence[int] | None = None
    pad_if_needed: bool = False
    fill: Any = 0
    padding_mode: str = "constant"

    def __post_init__(self) -> None:
        put(self, "size", sides("RandomCrop", self.size))
        padding = 0 if self.padding is None else self.padding
        put(self, "padding", borders("RandomCrop", padding))
        if not isinstance(self.pad_if_needed, bool):
            raise TransformError(
                f"RandomCrop: pad_if_needed must be True or False, not {self.pad_if_needed!r}"
            )
        put(self, "fill", colour("RandomCrop", 0 if self.fill is None else self.fill))
        one_of("RandomCrop", "padding_mode", self.padding_mode, PADDING_MODES)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "RandomCrop",
            "size": as_list(self.size),
            "padding": as_list(self.padding),
            "pad_if_needed": self.pad_if_needed,
            "fill": as_list(self.fill),
            "padding_mode": self.padding_mode,
        }


@dataclass(frozen=True)
class Normalize(Transform):
    """``(x - mean) / std`` per channel, where x is the pixel's value scaled to 0 to 1.

    ``mean`` and ``std`` are 3 numbers, or one for all channels. ``dtype`` is the result's type:
    ``"float32"``, ``"float16"``, ``"bfloat16"``, or the like of torch or NumPy. It is computed
    in float32 and rounded once. It replaces torchvision's ``ToDtype(scale=True)`` as well.
    """

    mean: Sequence[float]
    std: Sequence[float]
    dtype: Any = "float32"

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            values = getattr(self, field)
            if not is_sequence(values) or len(values) not in (1, 3):
                raise TransformError(
                    f"Normalize: {field} must be 3 numbers, or one for all channels, not {values!r}"
                )
            if not all(is_number(value) and math.isfinite(value) for value in values):
                raise TransformError(f"Normalize: {field} must be finite numbers, not {values!r}")
            put(self, field, tuple(float(value) for value in values))
        if 0.0 in self.std:
            raise TransformError(f"Normalize: std must not be 0, but is {self.std}")
        dtype = dtype_name("Normalize", self.dtype)
        if dtype == "uint8":
            raise TransformError("Normalize: dtype must be bfloat16, float16 or float32, not uint8")
        put(self, "dtype", dtype)

    @classmethod
    def imagenet(cls, dtype: Any = "float32") -> Normalize:
        """With the mean and standard deviation of ImageNet."""
        return cls(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), dtype=dtype)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "Normalize",
            "mean": as_list(self.mean),
            "std": as_list(self.std),
            "dtype": self.dtype,
        }


@dataclass(frozen=True)
class ToDtype(Transform):
    """Casts to ``dtype``: ``"uint8"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    With ``scale``, a float type gets values from 0 to 1 instead of 0 to 255.
    """

    dtype: Any
    scale: bool = False

    def __post_init__(self) -> None:
        put(self, "dtype", dtype_name("ToDtype", self.dtype))
        if not isinstance(self.scale, bool):
            raise TransformError(f"ToDtype: scale must be True or False, not {self.scale!r}")

    def to_dict(self) -> dict[str, Any]:
        return {"name": "ToDtype", "dtype": self.dtype, "scale": self.scale}


@dataclass(frozen=True)
class ToLayout(Transform):
    """Sets the memory layout of the finished image; it must be the last transform.

    ``"NCHW"`` is the default: batches of ``[rows, 3, height, width]``. ``"NHWC"`` gives
    ``[rows, height, width, 3]``, C-contiguous, as JAX and most of Flax expect. For PyTorch,
    ``x.permute(0, 3, 1, 2)`` of such a batch is an NCHW tensor in ``torch.channels_last``
    memory format, without a copy.
    """

    layout: str

    def __post_init__(self) -> None:
        one_of("ToLayout", "layout", self.layout, LAYOUTS)

    def to_dict(self) -> dict[str, Any]:
        return {"name": "ToLayout", "layout": self.layout}


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
            raise TransformError(f"transform for {column!r}{not_among(column, columns)}")
        steps: Sequence[Any] = given if is_sequence(given) else [given]
        for index, step in enumerate(steps):
            if not isinstance(step, Transform):
                raise TransformError(f"transform {index} of {column!r} is {_stranger(step)}")
        request[column] = [step.to_dict() for step in steps]
    return request


def _stranger(step: object) -> str:
    """What is no transform of ours, and what to write instead."""
    kind = step if isinstance(step, type) else type(step)
    name = kind.__name__
    if issubclass(kind, Transform):
        return f"the class {name}: write {name}(...)"
    if name in (ours.__name__ for ours in Transform.__subclasses__()):
        return f"{kind.__module__}'s {name}: the daemon runs loaderd.{name}"
    if name == "Compose":
        return "a Compose: give the list of its transforms, loaderd's own"
    return (
        f"{step!r}: take one of loaderd's own, such as loaderd.RandomResizedCrop; others run on "
        "the batch, in your own code (batch_transform=)"
    )
