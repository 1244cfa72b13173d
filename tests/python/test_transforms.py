"""Transforms: torchvision's arguments in, the daemon's JSON out, clear words otherwise."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from loaderd import (
    CenterCrop,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToDtype,
    TransformError,
)
from loaderd.transforms import Transform, to_request

CROP = {
    "name": "RandomResizedCrop",
    "size": [224, 224],
    "scale": [0.08, 1.0],
    "ratio": [0.75, 1.3333333333333333],
    "interpolation": "bilinear",
}
RESIZE = {"name": "Resize", "size": 256, "max_size": None, "interpolation": "bilinear"}


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (RandomResizedCrop(224), CROP),
        (RandomResizedCrop([224]), CROP),
        (RandomResizedCrop((224, 224), scale=[0.08, 1]), CROP),
        (RandomResizedCrop((8, 9)), {**CROP, "size": [8, 9]}),
        (RandomResizedCrop(224, interpolation="bicubic"), {**CROP, "interpolation": "bicubic"}),
        (Resize(256), RESIZE),
        (Resize([256]), RESIZE),
        (Resize(256, max_size=300), {**RESIZE, "max_size": 300}),
        (Resize((3, 4)), {**RESIZE, "size": [3, 4]}),
        (CenterCrop(5), {"name": "CenterCrop", "size": [5, 5]}),
        (RandomHorizontalFlip(), {"name": "RandomHorizontalFlip", "p": 0.5}),
        (RandomHorizontalFlip(1), {"name": "RandomHorizontalFlip", "p": 1.0}),
        (
            Normalize.imagenet(dtype="float16"),
            {
                "name": "Normalize",
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
                "dtype": "float16",
            },
        ),
        (ToDtype("uint8"), {"name": "ToDtype", "dtype": "uint8", "scale": False}),
        (ToDtype("float32", scale=True), {"name": "ToDtype", "dtype": "float32", "scale": True}),
    ],
)
def test_becomes_json(transform: Transform, expected: dict[str, Any]) -> None:
    assert json.loads(json.dumps(transform.to_dict())) == expected
    assert pickle.loads(pickle.dumps(transform)) == transform


def test_takes_types_of_torch_and_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    for dtype in (torch.float16, numpy.float16, numpy.dtype("float16"), "float16"):
        assert ToDtype(dtype) == ToDtype("float16")
    assert Normalize([0.5], [0.5], torch.float32).dtype == "float32"


def test_takes_interpolation_of_torchvision() -> None:
    modes = pytest.importorskip("torchvision.transforms").InterpolationMode
    assert Resize(8, modes.BICUBIC) == Resize(8, "bicubic")
    with pytest.raises(TransformError, match="bilinear, bicubic"):
        Resize(8, modes.LANCZOS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizedCrop(0), "RandomResizedCrop: size must be at least 1 pixel, not 0"),
        (lambda: RandomResizedCrop((1, 2, 3)), r"one number or \(height, width\)"),
        (lambda: RandomResizedCrop(8, scale=(1.0, 0.5)), "scale must be .* 0 < low <= high"),
        (lambda: RandomResizedCrop(8, scale=(0, 1)), "scale must be"),
        (lambda: RandomResizedCrop(8, ratio=(1, float("inf"))), "ratio must be"),
        (lambda: RandomResizedCrop(8, ratio=1), "ratio must be"),
        (lambda: Resize(8, interpolation="nearest"), "not 'nearest'"),
        (lambda: Resize(8, max_size=8), r"greater than size \(8\)"),
        (lambda: Resize((8, 9), max_size=10), "goes with one number"),
        (lambda: Resize(True), "at least 1 pixel"),
        (lambda: CenterCrop("8"), "at least 1 pixel"),
        (lambda: RandomHorizontalFlip(1.5), "from 0 to 1, not 1.5"),
        (lambda: Normalize((0, 0), (1, 1)), "3 numbers, or one"),
        (lambda: Normalize((0, 0, 0), (1, 0, 1)), "std must not be 0"),
        (lambda: Normalize((0, 0, float("nan")), (1, 1, 1)), "finite"),
        (lambda: Normalize.imagenet(dtype="uint8"), "float16 or float32"),
        (lambda: ToDtype("float64"), "uint8, float16, float32, not 'float64'"),
        (lambda: ToDtype("float32", scale=1), "True or False"),
    ],
)
def test_refuses_with_bound_and_value(make: Any, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        make()


def test_request_is_by_column() -> None:
    flip = RandomHorizontalFlip()
    assert to_request(None, ["image"]) == {}
    assert to_request({"image": flip}, ["image"]) == {"image": [flip.to_dict()]}
    request = to_request({"image": [CenterCrop(3), flip]}, ["label", "image"])
    assert [step["name"] for step in request["image"]] == ["CenterCrop", "RandomHorizontalFlip"]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"img": [CenterCrop(3)]}, "'img', which is not among columns"),
        ({"image": [CenterCrop(3), "flip"]}, "transform 1 of 'image' is 'flip'"),
        ({"image": len}, "transform 0 of 'image'"),
        ([CenterCrop(3)], "must be a dict"),
    ],
)
def test_request_refuses_strangers(transform: Any, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        to_request(transform, ["image"])
