"""Transforms that change what pixels are, under torchvision's names and with its arguments.

Enters: what the user writes. Leaves: plain dicts that the daemon understands, as in
:mod:`loaderd.transforms`. Nothing is computed here.

They need images of one size: put them after the transform that sets it and, except
:class:`RandomErasing`, before ``Normalize``. For equal parameters the daemon's pixels are
within one grey level of torchvision's on uint8 tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loaderd._arguments import (
    as_list,
    colour,
    interpolation_name,
    interval,
    is_number,
    is_sequence,
    probability,
    put,
    whole,
)
from loaderd.errors import TransformError
from loaderd.transforms import Transform


@dataclass(frozen=True)
class ColorJitter(Transform):
    """Changes brightness, contrast, saturation and hue, in random order.

    Each is ``None`` (unchanged), ``(low, high)``, from which a factor is drawn uniformly, or
    one number ``x``, short for ``(max(0, 1 - x), 1 + x)``. ``hue`` is a shift instead, as a
    fraction of the colour circle from -0.5 to 0.5; one number ``x`` is short for ``(-x, x)``.
    """

    brightness: float | Sequence[float] | None = None
    contrast: float | Sequence[float] | None = None
    saturation: float | Sequence[float] | None = None
    hue: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        for field in ("brightness", "contrast", "saturation"):
            put(self, field, _factors(field, getattr(self, field), 1.0, 0.0, 1e6))
        put(self, "hue", _factors("hue", self.hue, 0.0, -0.5, 0.5))

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"name": "ColorJitter"}
        for field in ("brightness", "contrast", "saturation", "hue"):
            value = getattr(self, field)
            fields[field] = None if value is None else as_list(value)
        return fields


@dataclass(frozen=True)
class RandomGrayscale(Transform):
    """Converts to grey with probability ``p``; the result has three equal channels."""

    p: float = 0.1

    def __post_init__(self) -> None:
        put(self, "p", probability("RandomGrayscale", self.p))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "RandomGrayscale", "p": self.p}


@dataclass(frozen=True)
class RandAugment(Transform):
    """Applies ``num_ops`` operations, each drawn at random from fourteen.

    ``magnitude`` is their strength, from 0 to ``num_magnitude_bins - 1``. ``interpolation`` of
    shears, translations and rotations is ``"nearest"`` or ``"bilinear"``; ``fill`` is the colour
    of the pixels they uncover: an integer from 0 to 255, one for each of R, G, B, or ``None``
    for black.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    interpolation: Any = "nearest"
    fill: Any = None

    def __post_init__(self) -> None:
        put(self, "num_ops", whole("RandAugment", "num_ops", self.num_ops, 0))
        put(
            self,
            "num_magnitude_bins",
            whole("RandAugment", "num_magnitude_bins", self.num_magnitude_bins, 2),
        )
        put(self, "magnitude", whole("RandAugment", "magnitude", self.magnitude, 0))
        if self.magnitude >= self.num_magnitude_bins:
            raise TransformError(
                "RandAugment: magnitude must be less than num_magnitude_bins "
                f"({self.num_magnitude_bins}), not {self.magnitude}"
            )
        known = ("nearest", "bilinear")
        put(self, "interpolation", interpolation_name("RandAugment", self.interpolation, known))
        if self.fill is not None:
            put(self, "fill", colour("RandAugment", self.fill))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "RandAugment",
            "num_ops": self.num_ops,
            "magnitude": self.magnitude,
            "num_magnitude_bins": self.num_magnitude_bins,
            "interpolation": self.interpolation,
            "fill": None if self.fill is None else as_list(self.fill),
        }


@dataclass(frozen=True)
class RandomErasing(Transform):
    """Overwrites a random rectangle with probability ``p``.

    ``scale`` is the range of its share of the image's area, ``ratio`` of its height divided by
    its width. ``value`` is one number, one per channel, or ``"random"`` for a normally
    distributed number per pixel and channel. After ``Normalize``, ``value`` is in normalised
    units; before it, from 0 to 255. ``inplace`` is accepted as in torchvision, without effect.
    """

    p: float = 0.5
    scale: Sequence[float] = (0.02, 0.33)
    ratio: Sequence[float] = (0.3, 3.3)
    value: float | Sequence[float] | str = 0.0
    inplace: bool = False

    def __post_init__(self) -> None:
        put(self, "p", probability("RandomErasing", self.p))
        put(self, "scale", _bounded("RandomErasing", "scale", self.scale, 0.0, 1.0))
        put(self, "ratio", interval("RandomErasing", "ratio", self.ratio))
        if self.value != "random":
            given: Sequence[Any] = self.value if is_sequence(self.value) else [self.value]
            if len(given) not in (1, 3) or not all(
                is_number(value) and math.isfinite(value) for value in given
            ):
                raise TransformError(
                    "RandomErasing: value must be 1 or 3 finite numbers, or 'random', "
                    f"not {self.value!r}"
                )
            values = [float(value) for value in given] * (3 // len(given))
            put(self, "value", tuple(values))
        put(self, "inplace", False)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "RandomErasing",
            "p": self.p,
            "scale": as_list(self.scale),
            "ratio": as_list(self.ratio),
            "value": self.value if self.value == "random" else as_list(self.value),
        }


def _factors(
    field: str, value: Any, centre: float, least: float, most: float
) -> tuple[float, float] | None:
    if value is None:
        return None
    if is_number(value):
        if value < 0:
            raise TransformError(
                f"ColorJitter: {field} must not be negative as one number, but is {value!r}"
            )
        low = centre - value
        value = (max(low, 0.0) if least == 0.0 else low, centre + value)
    low, high = _bounded("ColorJitter", field, value, least, most)
    return None if low == high == centre else (low, high)


def _bounded(name: str, field: str, value: Any, least: float, most: float) -> tuple[float, float]:
    if is_sequence(value) and len(value) == 2 and all(is_number(end) for end in value):
        low, high = float(value[0]), float(value[1])
        if least <= low <= high <= most and high < math.inf:
            return low, high
    raise TransformError(
        f"{name}: {field} must be (low, high) with {least:g} <= low <= high <= {most:g}, "
        f"not {value!r}"
    )
