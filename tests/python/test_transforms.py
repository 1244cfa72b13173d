"""Transforms: torchvision's arguments in, the daemon's JSON out, clear words otherwise."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from loaderd import (
    BoundingBoxes,
    CenterCrop,
    ColorJitter,
    Mask,
    Normalize,
    Pad,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    Resize,
    ToDtype,
    ToLayout,
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
PAD = {"name": "Pad", "padding": [2, 2, 2, 2], "fill": [0, 0, 0], "padding_mode": "constant"}
RANDOM_CROP = {
    "name": "RandomCrop",
    "size": [5, 5],
    "padding": [0, 0, 0, 0],
    "pad_if_needed": False,
    "fill": [0, 0, 0],
    "padding_mode": "constant",
}
JITTER = {
    "name": "ColorJitter",
    "brightness": None,
    "contrast": None,
    "saturation": None,
    "hue": None,
}
AUGMENT = {
    "name": "RandAugment",
    "num_ops": 2,
    "magnitude": 9,
    "num_magnitude_bins": 31,
    "interpolation": "nearest",
    "fill": None,
}
ERASING = {
    "name": "RandomErasing",
    "p": 0.5,
    "scale": [0.02, 0.33],
    "ratio": [0.3, 3.3],
    "value": [0.0, 0.0, 0.0],
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
        (RandomVerticalFlip(), {"name": "RandomVerticalFlip", "p": 0.5}),
        (RandomGrayscale(), {"name": "RandomGrayscale", "p": 0.1}),
        (Pad(2), PAD),
        (Pad([2], fill=None), PAD),
        (Pad((1, 2), fill=7.0), {**PAD, "padding": [1, 2, 1, 2], "fill": [7, 7, 7]}),
        (
            Pad([1, 2, 3, 4], (1, 2, 3), "edge"),
            {**PAD, "padding": [1, 2, 3, 4], "fill": [1, 2, 3], "padding_mode": "edge"},
        ),
        (RandomCrop(5), RANDOM_CROP),
        (
            RandomCrop((5, 6), 4, pad_if_needed=True, padding_mode="reflect"),
            {
                **RANDOM_CROP,
                "size": [5, 6],
                "padding": [4, 4, 4, 4],
                "pad_if_needed": True,
                "padding_mode": "reflect",
            },
        ),
        (ColorJitter(), JITTER),
        (ColorJitter(0, (1, 1), 0.0, (0, 0)), JITTER),
        (
            ColorJitter(0.25, 2, (0, 3), 0.5),
            {
                **JITTER,
                "brightness": [0.75, 1.25],
                "contrast": [0.0, 3.0],
                "saturation": [0.0, 3.0],
                "hue": [-0.5, 0.5],
            },
        ),
        (RandAugment(), AUGMENT),
        (
            RandAugment(3, 1, 5, "bilinear", 9),
            {
                **AUGMENT,
                "num_ops": 3,
                "magnitude": 1,
                "num_magnitude_bins": 5,
                "interpolation": "bilinear",
                "fill": [9, 9, 9],
            },
        ),
        (RandomErasing(), ERASING),
        (RandomErasing(value=[1, 2, 3], inplace=True), {**ERASING, "value": [1.0, 2.0, 3.0]}),
        (RandomErasing(1, value="random"), {**ERASING, "p": 1.0, "value": "random"}),
        (ToLayout("NHWC"), {"name": "ToLayout", "layout": "NHWC"}),
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
    assert ToDtype(torch.bfloat16) == ToDtype("bfloat16")
    size = numpy.int64(8)
    assert CenterCrop(size) == CenterCrop(8)
    for transform in (Resize(size), Resize([size]), Resize(4, max_size=size), RandAugment(size)):
        assert json.dumps(transform.to_dict())
    half, one = numpy.float32(0.5), numpy.int64(1)
    for ours, theirs in (
        (Normalize([half] * 3, [half]), Normalize([0.5] * 3, [0.5])),
        (RandomHorizontalFlip(half), RandomHorizontalFlip()),
        (RandomResizedCrop(8, scale=(half, one)), RandomResizedCrop(8, scale=(0.5, 1))),
        (ColorJitter(half), ColorJitter(0.5)),
        (RandomErasing(value=[half] * 3), RandomErasing(value=0.5)),
        (Pad([one, one], fill=numpy.uint8(7)), Pad(1, fill=7)),
        (Mask("image", fill=numpy.uint8(255)), Mask("image", fill=255)),
        (BoundingBoxes("image", min_size=numpy.float32(2)), BoundingBoxes("image", min_size=2)),
    ):
        assert json.dumps(ours.to_dict()) == json.dumps(theirs.to_dict())
    with pytest.raises(TransformError, match="from 0 to 1"):
        RandomHorizontalFlip(numpy.bool_(True))


def test_takes_interpolation_of_torchvision() -> None:
    modes = pytest.importorskip("torchvision.transforms").InterpolationMode
    assert Resize(8, modes.BICUBIC) == Resize(8, "bicubic")
    with pytest.raises(TransformError, match="bilinear, bicubic"):
        Resize(8, modes.LANCZOS)
    assert RandAugment(interpolation=modes.BILINEAR) == RandAugment(interpolation="bilinear")


def test_defaults_are_torchvisions() -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    for ours, fields in (
        (RandomResizedCrop(5), ("scale", "ratio", "antialias")),
        (Resize(5), ("max_size", "antialias")),
        (ColorJitter(0.4, (0.2, 3), 1.5, 0.1), ("brightness", "contrast", "saturation", "hue")),
        (RandAugment(), ("num_ops", "magnitude", "num_magnitude_bins", "interpolation", "fill")),
        (RandomCrop(5), ("size", "pad_if_needed", "padding_mode")),
        (RandomErasing(), ("p", "scale", "ratio", "inplace")),
        (RandomGrayscale(), ("p",)),
        (RandomVerticalFlip(), ("p",)),
        (Pad(1), ("padding_mode",)),
    ):
        arguments = {
            ColorJitter: (0.4, (0.2, 3), 1.5, 0.1),
            RandomResizedCrop: (5,),
            Resize: (5,),
            RandomCrop: (5,),
            Pad: (1,),
        }.get(type(ours), ())
        theirs = getattr(v2, type(ours).__name__)(*arguments)
        for field in fields:
            assert getattr(ours, field) == getattr(theirs, field), (ours, field)


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
        (lambda: Resize(8, antialias=False), "Resize: antialias must be True, .* not False"),
        (lambda: CenterCrop("8"), "at least 1 pixel"),
        (lambda: RandomHorizontalFlip(1.5), "from 0 to 1, not 1.5"),
        (lambda: Normalize((0, 0), (1, 1)), "3 numbers, or one"),
        (lambda: Normalize((0, 0, 0), (1, 0, 1)), "std must not be 0"),
        (lambda: Normalize((0, 0, float("nan")), (1, 1, 1)), "finite"),
        (lambda: Normalize.imagenet(dtype="uint8"), "bfloat16, float16 or float32"),
        (lambda: RandomVerticalFlip(-1), "RandomVerticalFlip: p must be from 0 to 1, not -1"),
        (lambda: RandomGrayscale("1"), "RandomGrayscale: p must be from 0 to 1, not '1'"),
        (lambda: Pad(-1), "1, 2 or 4 whole numbers from 0 on, not -1"),
        (lambda: Pad((1, 2, 3)), "1, 2 or 4 whole numbers"),
        (lambda: Pad(1, fill=256), "1 or 3 whole numbers from 0 to 255, not 256"),
        (lambda: Pad(1, fill=(1, 2)), "1 or 3 whole numbers"),
        (lambda: Pad(1, padding_mode="wrap"), "constant, edge, reflect, symmetric, not 'wrap'"),
        (lambda: RandomCrop(0), "size must be at least 1 pixel"),
        (lambda: RandomCrop(1, pad_if_needed=1), "True or False, not 1"),
        (lambda: ColorJitter(-1), "brightness must not be negative"),
        (lambda: ColorJitter(contrast=(2, 1)), r"contrast must be .* 0 <= low <= high"),
        (lambda: ColorJitter(hue=0.6), r"hue must be .* -0.5 <= low <= high <= 0.5"),
        (lambda: ColorJitter(saturation="1"), "saturation must be"),
        (lambda: RandAugment(-1), "num_ops must be a whole number from 0 on, not -1"),
        (lambda: RandAugment(magnitude=31), r"less than num_magnitude_bins \(31\), not 31"),
        (lambda: RandAugment(num_magnitude_bins=1, magnitude=0), "from 2 on, not 1"),
        (lambda: RandAugment(interpolation="bicubic"), "nearest, bilinear, not 'bicubic'"),
        (lambda: RandomErasing(scale=(0.5, 1.5)), "scale must be .* <= high <= 1"),
        (lambda: RandomErasing(ratio=(0, 1)), "ratio must be"),
        (lambda: RandomErasing(value="noise"), "or 'random', not 'noise'"),
        (lambda: ToLayout("channels_last"), "NCHW, NHWC, not 'channels_last'"),
        (lambda: ToDtype("float64"), "uint8, bfloat16, float16, float32, not 'float64'"),
        (lambda: ToDtype("float32", scale=1), "True or False"),
    ],
)
def test_refuses_with_bound_and_value(make: Any, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        make()


def test_request_names_the_twins_of_torchvisions() -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    with pytest.raises(TransformError, match=r"torchvision.*'s CenterCrop: .* loaderd.CenterCrop"):
        to_request({"image": v2.CenterCrop(3)}, ["image"])
    with pytest.raises(TransformError, match="a Compose: give the list"):
        to_request({"image": v2.Compose([CenterCrop(3)])}, ["image"])


def test_request_is_by_column() -> None:
    flip = RandomHorizontalFlip()
    assert to_request(None, ["image"]) == {}
    assert to_request({"image": flip}, ["image"]) == {"image": [flip.to_dict()]}
    request = to_request({"image": [CenterCrop(3), flip]}, ["label", "image"])
    assert [step["name"] for step in request["image"]] == ["CenterCrop", "RandomHorizontalFlip"]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"photo": [CenterCrop(3)]}, "'photo', which is not among columns: image$"),
        ({"imgae": [CenterCrop(3)]}, "columns: image; did you mean 'image'"),
        ({0: [CenterCrop(3)]}, "transform for 0, which is not among columns: image$"),
        ({"image": [CenterCrop(3), "flip"]}, "transform 1 of 'image' is 'flip'"),
        ({"image": len}, "transform 0 of 'image'"),
        ({"image": [CenterCrop(3), Pad]}, r"the class Pad: write Pad\(...\)"),
        ([CenterCrop(3)], "must be a dict"),
    ],
)
def test_request_refuses_strangers(transform: Any, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        to_request(transform, ["image"])
