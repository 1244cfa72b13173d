"""Augmentations through the daemon, against torchvision on the same uint8 pixels.

Needs the daemon's executable, as ``test_e2e_memory.py`` does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loaderd import (
    CenterCrop,
    ColorJitter,
    Normalize,
    Pad,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    Resize,
    ToDtype,
    ToLayout,
    errors,
)
from loaderd.transforms import Transform

torch = pytest.importorskip("torch")
v2 = pytest.importorskip("torchvision.transforms.v2")
numpy = pytest.importorskip("numpy")
pillow = pytest.importorskip("PIL.Image")

from daemon_process import Daemon  # noqa: E402

F = v2.functional
ROWS = 60
SIZE = (48, 64)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("augment")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures with slopes, edges and noise, none of which runs from 0 to 255."""
    folder = tmp_path_factory.mktemp("photos")
    random = numpy.random.default_rng(5)
    y, x = numpy.mgrid[: SIZE[0], : SIZE[1]]
    for number in range(10):
        slopes = [x * (1 + number % 3) + y, 2 * y + number * 9, 200 - x - y * (number % 2)]
        edges = ((x // 9 + y // 7) % 3 == 0) * 60
        pixels = numpy.stack([(slope + edges) % 200 + 20 for slope in slopes], axis=2)
        pixels = numpy.clip(pixels + random.integers(-9, 10, pixels.shape), 12, 240)
        image = pillow.fromarray(pixels.astype(numpy.uint8))
        image.save(folder / f"{number}.jpg", quality=95, subsampling=0)
    return folder


@pytest.fixture(scope="module")
def load(daemon: Daemon, photos: Path) -> Callable[..., Any]:
    """``load(transforms)``: the images of one epoch's only batch."""

    def load(*transforms: Transform, rows: int = ROWS, seed: int = 0) -> Any:
        dataset = daemon.dataset(
            f"memory:rows={rows},images={photos}",
            columns=["image"],
            transform={"image": [CenterCrop(SIZE), *transforms]},
            batch_size=rows,
            seed=seed,
        )
        (batch,) = list(dataset)
        images = batch["image"].clone()
        del batch
        dataset.close()
        return images

    return load


@pytest.fixture(scope="module")
def base(load: Callable[..., Any]) -> Any:
    """The pictures as they are."""
    return load()


def near(ours: Any, theirs: Any) -> bool:
    """Within one grey level, everywhere."""
    difference = (ours.int() - theirs.int()).abs()
    return bool(ours.shape == theirs.shape and difference.max() <= 1)


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        ([ColorJitter(brightness=(1.3, 1.3))], lambda x: F.adjust_brightness(x, 1.3)),
        ([ColorJitter(brightness=(0.0, 0.0))], lambda x: F.adjust_brightness(x, 0.0)),
        ([ColorJitter(contrast=(0.4, 0.4))], lambda x: F.adjust_contrast(x, 0.4)),
        ([ColorJitter(contrast=(1.8, 1.8))], lambda x: F.adjust_contrast(x, 1.8)),
        ([ColorJitter(saturation=(0.2, 0.2))], lambda x: F.adjust_saturation(x, 0.2)),
        ([ColorJitter(saturation=(2.5, 2.5))], lambda x: F.adjust_saturation(x, 2.5)),
        ([ColorJitter(hue=(0.3, 0.3))], lambda x: F.adjust_hue(x, 0.3)),
        ([ColorJitter(hue=(-0.07, -0.07))], lambda x: F.adjust_hue(x, -0.07)),
        ([ColorJitter(hue=(0.5, 0.5))], lambda x: F.adjust_hue(x, 0.5)),
        ([ColorJitter()], lambda x: x),
        ([RandomGrayscale(1)], lambda x: F.rgb_to_grayscale(x, 3)),
        ([RandomGrayscale(0)], lambda x: x),
        ([RandomVerticalFlip(1)], F.vertical_flip),
        ([RandomVerticalFlip(0)], lambda x: x),
        (
            [RandomHorizontalFlip(1), RandomVerticalFlip(1), CenterCrop((20, 31))],
            lambda x: F.center_crop(F.vertical_flip(F.horizontal_flip(x)), [20, 31]),
        ),
        (
            [Pad([1, 2, 3, 4]), RandomVerticalFlip(1), RandomHorizontalFlip(1), Pad([5, 6])],
            lambda x: F.pad(F.rotate(F.pad(x, [1, 2, 3, 4]), 180), [5, 6]),
        ),
        ([Pad(3, fill=(9, 200, 30))], lambda x: F.pad(x, 3, fill=[9, 200, 30])),
        ([Pad((7, 4), padding_mode="edge")], lambda x: F.pad(x, [7, 4], padding_mode="edge")),
        (
            [RandomHorizontalFlip(1), Pad((1, 2, 63, 47), padding_mode="reflect")],
            lambda x: F.pad(F.horizontal_flip(x), [1, 2, 63, 47], padding_mode="reflect"),
        ),
        (
            [Pad((64, 48, 5, 0), padding_mode="symmetric"), RandomVerticalFlip(1)],
            lambda x: F.vertical_flip(F.pad(x, [64, 48, 5, 0], padding_mode="symmetric")),
        ),
        (
            [ColorJitter(brightness=(2, 2)), Pad(2, 5), CenterCrop((60, 30))],
            lambda x: F.center_crop(F.pad(F.adjust_brightness(x, 2.0), 2, fill=5), [60, 30]),
        ),
        ([RandomCrop(SIZE)], lambda x: x),
        (
            [RandomCrop((80, 64), pad_if_needed=True, fill=255), CenterCrop((16, 64))],
            None,
        ),
    ],
)
def test_results_are_torchvisions(
    load: Callable[..., Any], base: Any, transforms: Any, expected: Any
) -> None:
    ours = load(*transforms)
    if expected is None:
        assert ours.shape == (ROWS, 3, 16, 64)
        return
    for image, original in zip(ours, base, strict=True):
        assert near(image, expected(original))


def test_jitter_takes_every_order(load: Callable[..., Any], base: Any) -> None:
    steps = [
        lambda x: F.adjust_brightness(x, 1.6),
        lambda x: F.adjust_contrast(x, 0.6),
        lambda x: F.adjust_saturation(x, 0.3),
        lambda x: F.adjust_hue(x, 0.2),
    ]
    jitter = ColorJitter((1.6, 1.6), (0.6, 0.6), (0.3, 0.3), (0.2, 0.2))
    seen = set()
    for image, original in zip(load(jitter), base, strict=True):
        errors = {}
        for order in itertools.permutations(range(4)):
            expected = original
            for step in order:
                expected = steps[step](expected)
            # A grey level's difference may grow in the steps after it.
            errors[order] = (image.int() - expected.int()).abs().float().mean().item()
        best = min(errors, key=lambda order: errors[order])
        assert errors[best] < 0.7
        seen.add(best)
    assert len(seen) > 12


def test_jitter_draws_uniformly(load: Callable[..., Any]) -> None:
    grey = [Resize((8, 8)), ColorJitter(saturation=(0, 0)), ColorJitter(brightness=0.5)]
    plain = load(Resize((8, 8)), RandomGrayscale(1), rows=500)
    factors = (load(*grey, rows=500).double() / plain.clamp(min=1)).mean(dim=(1, 2, 3))
    # A uniform distribution's mean and deviation are 1 and 0.289; cut-off takes half a level.
    assert abs(factors.mean() - 1.0) < 0.05
    assert abs(factors.std() - 0.289) < 0.03
    assert factors.min() > 0.47
    assert factors.max() < 1.51


@pytest.mark.parametrize(
    ("crop", "padded"),
    [
        (RandomCrop((30, 40)), lambda x: x),
        (RandomCrop((46, 62), padding=4), lambda x: F.pad(x, 4)),
        (
            RandomCrop(48, padding=(3, 5), padding_mode="reflect"),
            lambda x: F.pad(x, [3, 5], padding_mode="reflect"),
        ),
        (
            RandomCrop((50, 64), pad_if_needed=True, fill=(1, 2, 3)),
            lambda x: F.pad(x, [0, 2], fill=[1, 2, 3]),
        ),
    ],
)
def test_random_crops_are_windows(
    load: Callable[..., Any], base: Any, crop: RandomCrop, padded: Any
) -> None:
    places = set()
    for image, original in zip(load(crop), base, strict=True):
        whole = padded(original)
        height, width = image.shape[1:]
        found = [
            (top, left)
            for top in range(whole.shape[1] - height + 1)
            for left in range(whole.shape[2] - width + 1)
            if torch.equal(image, whole[:, top : top + height, left : left + width])
        ]
        assert found
        places.add(found[0])
    rows = whole.shape[1] - height + 1
    columns = whole.shape[2] - width + 1
    assert len(places) > min(ROWS, rows * columns) / 2


def test_crop_of_a_small_image_is_a_bad_sample(daemon: Daemon, photos: Path) -> None:
    dataset = daemon.dataset(
        f"memory:rows=8,images={photos}",
        columns=["image"],
        transform={"image": [RandomCrop((50, 60), padding=(0, 0, 3, 1))]},
    )
    with pytest.raises(errors.BadSample, match=r"67x49 before RandomCrop\(\(h=50, w=60\)\)"):
        list(dataset)
    dataset.close()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("magnitude", [9, 23])
@pytest.mark.parametrize("fill", [None, (200, 100, 50)])
def test_rand_augment(
    load: Callable[..., Any], base: Any, interpolation: str, magnitude: int, fill: Any
) -> None:
    ours = load(RandAugment(1, magnitude, 31, interpolation, fill), seed=magnitude)
    theirs = v2.RandAugment(interpolation=v2.InterpolationMode(interpolation))
    space = theirs._AUGMENTATION_SPACE
    fills = {"others": None if fill is None else [float(value) for value in fill]}
    seen = set()
    for image, original in zip(ours, base, strict=True):
        errors = {}
        for name, (magnitudes, signed) in space.items():
            steps = magnitudes(31, *SIZE)
            strength = 0.0 if steps is None else float(steps[magnitude])
            for sign in (1, -1) if signed else (1,):
                expected = theirs._apply_image_or_video_transform(
                    original, name, sign * strength, interpolation, fills
                )
                off = ((image.int() - expected.int()).abs() > 1).any(dim=0)
                errors[name, sign] = off.float().mean().item()
        best = min(errors, key=lambda key: errors[key])
        # Half-way between two pixels, float32 and integers may choose differently.
        assert errors[best] <= (0.003 if interpolation == "nearest" else 0.0), best
        seen.add(best)
    assert len({name for name, _ in seen}) > 9
    assert len(seen) > 14


def test_rand_augment_takes_several(load: Callable[..., Any], base: Any) -> None:
    assert torch.equal(load(RandAugment(0)), base)
    once, twice = load(RandAugment(1)), load(RandAugment(2))
    changed = [
        (images != base).any(dim=3).any(dim=2).any(dim=1).float().mean() for images in (once, twice)
    ]
    assert 0.7 < changed[0] < changed[1]


def erased(image: Any, original: Any) -> tuple[int, int, int, int] | None:
    """The rectangle outside of which both are the same: top, left, height, width."""
    rows, columns = ((image != original).any(dim=0)).nonzero(as_tuple=True)
    if len(rows) == 0:
        return None
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1


def test_erasing_pixels(load: Callable[..., Any], base: Any) -> None:
    value = (255, 0, 3)
    erasing = RandomErasing(1, scale=(0.1, 0.3), ratio=(0.5, 2), value=value)
    colour = torch.tensor(value)[:, None, None]
    places = set()
    for image, original in zip(load(erasing), base, strict=True):
        top, left, height, width = erased(image, original) or (0, 0, 0, 0)
        assert (image[:, top : top + height, left : left + width] == colour).all()
        # Sides are rounded.
        assert 0.09 < height * width / (SIZE[0] * SIZE[1]) < 0.32
        assert 0.45 < height / width < 2.2
        places.add((top, left))
    assert len(places) > ROWS / 2
    plain = [erased(*pair) for pair in zip(load(RandomErasing(0.3)), base, strict=True)]
    assert 0.4 < plain.count(None) / ROWS < 0.95


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_erasing_finished_values(load: Callable[..., Any], dtype: str, layout: str) -> None:
    def run(*transforms: Transform) -> Any:
        images = load(Normalize.imagenet(dtype), *transforms, ToLayout(layout))
        assert images.dtype == getattr(torch, dtype)
        return images if layout == "NCHW" else images.permute(0, 3, 1, 2)

    normal = run()
    scale = (0.1, 0.3)
    constant = run(RandomErasing(1, scale=scale, value=7.5))
    flipped = run(RandomErasing(1, scale=scale, value=7.5), RandomHorizontalFlip(1))
    noisy = run(RandomErasing(1, scale=scale, value="random"))
    noise = []
    for image, mirrored, random, original in zip(constant, flipped, noisy, normal, strict=True):
        top, left, height, width = erased(image, original) or (0, 0, 0, 0)
        assert (image[:, top : top + height, left : left + width] == 7.5).all()
        assert torch.equal(mirrored.flip(2), image)
        assert erased(random, original) == (top, left, height, width)
        noise.append(random[:, top : top + height, left : left + width].double().flatten())
    values = torch.cat(noise)
    assert abs(values.mean()) < 0.03
    assert abs(values.std() - 1) < 0.03


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16", "bfloat16"])
def test_layouts_and_types(load: Callable[..., Any], dtype: str, flip: int) -> None:
    last = [RandomHorizontalFlip(flip), RandomVerticalFlip(flip)]
    if dtype != "uint8":
        last.append(Normalize.imagenet(dtype))
    crop = CenterCrop((60, 51))
    planes, pixels = load(crop, *last), load(crop, *last, ToLayout("NHWC"))
    assert planes.dtype == pixels.dtype == getattr(torch, dtype)
    assert (planes.shape, pixels.shape) == ((ROWS, 3, 60, 51), (ROWS, 60, 51, 3))
    channels_last = pixels.permute(0, 3, 1, 2)
    assert torch.equal(channels_last, planes)
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    if dtype != "uint8":
        exact = load(crop, *last[:2], Normalize.imagenet("float32"))
        assert torch.equal(planes, exact.to(planes.dtype))
    scaled = load(ToDtype("bfloat16", scale=True))
    assert torch.equal(scaled, (load().float() / 255).to(torch.bfloat16))


def test_draws_depend_on_seed_alone(load: Callable[..., Any]) -> None:
    everything = [
        RandomVerticalFlip(),
        ColorJitter(0.4, 0.4, 0.4, 0.1),
        RandomGrayscale(),
        RandAugment(),
        RandomCrop(40, padding=2, padding_mode="edge"),
        Normalize.imagenet("bfloat16"),
        RandomErasing(value="random"),
        RandomHorizontalFlip(),
        ToLayout("NHWC"),
    ]
    first, again, other = load(*everything), load(*everything), load(*everything, seed=1)
    assert torch.equal(first.view(torch.int16), again.view(torch.int16))
    assert not torch.equal(first, other)


def test_misplaced_transforms_are_refused(daemon: Daemon, photos: Path) -> None:
    for transforms, message in (
        ([ColorJitter(hue=0.1), CenterCrop(9)], "works on pictures of one size"),
        ([CenterCrop(9), ToDtype("float32"), RandomGrayscale()], "must come before transform 1"),
        ([CenterCrop(9), ToLayout("NHWC"), RandomGrayscale()], "it must come last"),
        ([CenterCrop(9), RandomErasing(value="random")], "put it after Normalize"),
    ):
        dataset = daemon.dataset(
            f"memory:rows=8,images={photos}", columns=["image"], transform={"image": transforms}
        )
        with pytest.raises(errors.TransformError, match=message):
            iter(dataset)
        dataset.close()


def halve(batch: Any) -> Any:
    batch["label"] //= 2
    return batch


def test_batch_transform(daemon: Daemon) -> None:
    dataset = daemon.dataset(batch_transform=halve)
    for step, batch in enumerate(dataset):
        assert batch["label"].tolist()[:2] == [step * 4, step * 4]
        assert (batch.step, batch.rows) == (step, len(batch["label"]))
    assert dataset.state_dict() == batch.state
    dataset.close()

    tuples = daemon.dataset(batch_transform=lambda batch: (batch["label"], batch.step))
    for step, (labels, number) in enumerate(tuples):
        assert labels[0] == step * 8
        assert number == step
    tuples.close()

    def fail(batch: Any) -> Any:
        raise KeyError("mixup")

    failing = daemon.dataset(batch_transform=fail)
    with pytest.raises(KeyError, match="mixup"):
        next(iter(failing))
    failing.close()
    with pytest.raises(errors.RequestError, match="callable"):
        daemon.dataset(batch_transform=3)
