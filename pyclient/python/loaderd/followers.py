"""Transforms of columns that follow an image: its boxes and its masks.

Enters: what the user writes. Leaves: plain dicts that the daemon understands, as in
:mod:`loaderd.transforms`. Nothing is computed here.

Both get the crop, resize, borders and flips of the image's own transforms, with the same random
parameters, so they must be the only transform of their column. The image may not use
:class:`~loaderd.RandAugment`, which shears and rotates, nor borders that repeat the picture.
Changes of colour and :class:`~loaderd.RandomErasing` don't affect them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loaderd._arguments import as_list, is_number, is_sequence, one_of, put, whole_number
from loaderd.errors import TransformError
from loaderd.transforms import Transform

BOX_FORMATS = ("xyxy", "xywh", "cxcywh")


@dataclass(frozen=True)
class BoundingBoxes(Transform):
    """Transforms boxes together with the image in column ``follows``.

    Each row of the column is a list of boxes, each a fixed-size list of 4 numbers in ``format``
    (``"xyxy"``, ``"xywh"`` or ``"cxcywh"``), in pixels of the upright image. It becomes a
    :class:`~loaderd.ragged.Ragged` of float32 ``[n, 4]`` in ``format_out``, in pixels of the
    finished image. Boxes are clipped as in torchvision: at the edges of every crop and of
    the finished image, borders included, but not at the edges of the original picture. A box
    that extends beyond the picture in the dataset can therefore extend into a border.

    Boxes that then have a side shorter than ``min_size`` or an area below ``min_area`` are
    dropped, as by torchvision's ``SanitizeBoundingBoxes``, together with their entries in
    ``with_columns``: list columns with one entry per box, such as categories. A row where the
    lengths differ is an error, whatever ``on_bad_sample`` says. Boxes whose corners
    are in the wrong order, or that contain a NaN, have no size, and are dropped as well;
    infinite edges are clipped like others. With ``drop_degenerate=False`` every box stays, and
    such boxes are left as they are. A row whose image is zeroed loses all its boxes.

    ``torchvision.tv_tensors.BoundingBoxes(batch["boxes"][i], format="XYXY",
    canvas_size=(height, width))`` makes torchvision's own of a row, without a copy.
    """

    follows: str
    format: str = "xyxy"
    min_size: float = 1.0
    min_area: float = 1.0
    drop_degenerate: bool = True
    with_columns: Sequence[str] = ()
    format_out: str = "xyxy"

    def __post_init__(self) -> None:
        name = "BoundingBoxes"
        _column(name, self.follows)
        for field in ("format", "format_out"):
            # torchvision's BoundingBoxFormat is an enum of these strings in capitals.
            value = getattr(self, field)
            put(self, field, str(getattr(value, "value", value)).lower())
            one_of(name, field, getattr(self, field), BOX_FORMATS)
        for field in ("min_size", "min_area"):
            value = getattr(self, field)
            if not is_number(value) or not 1.0 <= value < math.inf:
                raise TransformError(f"{name}: {field} must be at least 1, not {value!r}")
            put(self, field, float(value))
        if not isinstance(self.drop_degenerate, bool):
            raise TransformError(
                f"{name}: drop_degenerate must be True or False, not {self.drop_degenerate!r}"
            )
        if not is_sequence(self.with_columns) or not all(
            isinstance(column, str) for column in self.with_columns
        ):
            raise TransformError(
                f"{name}: with_columns must be a list of columns, not {self.with_columns!r}"
            )
        put(self, "with_columns", tuple(self.with_columns))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": "BoundingBoxes",
            "follows": self.follows,
            "format": self.format,
            "format_out": self.format_out,
            "min_size": self.min_size,
            "min_area": self.min_area,
            "drop_degenerate": self.drop_degenerate,
            "with_columns": as_list(self.with_columns),
        }


@dataclass(frozen=True)
class Mask(Transform):
    """Places a mask as the image in column ``follows`` is placed.

    The column holds a PNG a row, as large as the upright image: one of another size is a bad
    sample, as is one that is damaged, in colour or of 16 bits. Its values are class numbers,
    8-bit, 4-bit, 2-bit or 1-bit grey or the numbers of a palette's colours, and come as they
    are stored, by nearest sampling as torchvision's masks. The column becomes uint8
    ``[rows, height, width]``; losses that want int64 need ``batch["mask"].long()``. ``fill``
    is the value outside the picture, and of masks that are zeroed; 255 is what most losses
    are told to ignore.
    """

    follows: str
    fill: int = 0

    def __post_init__(self) -> None:
        _column("Mask", self.follows)
        fill = whole_number(self.fill)
        if fill is None or not 0 <= fill <= 255:
            raise TransformError(
                f"Mask: fill must be a whole number from 0 to 255, not {self.fill!r}"
            )
        put(self, "fill", fill)

    def to_dict(self) -> dict[str, Any]:
        return {"name": "Mask", "follows": self.follows, "fill": self.fill}


def _column(name: str, follows: object) -> None:
    if not isinstance(follows, str) or not follows:
        raise TransformError(f"{name}: follows must name the image's column, not {follows!r}")
