"""Boxes and masks that follow their image, through the daemon, against torchvision.

Needs the daemon's executable, as ``test_e2e_memory.py`` does.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
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
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    Resize,
    errors,
)
from loaderd.transforms import Transform

torch = pytest.importorskip("torch")
v2 = pytest.importorskip("torchvision.transforms.v2")
tv_tensors = pytest.importorskip("torchvision.tv_tensors")
numpy = pytest.importorskip("numpy")
pillow = pytest.importorskip("PIL.Image")

from daemon_process import Daemon  # noqa: E402

ROWS = 36
#: The last is smaller than where the later rows' boxes are.
SIZES = [(48, 64), (90, 61), (37, 120), (22, 30)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("followers")) as daemon:
        yield daemon


def blocks(height: int, width: int) -> Any:
    """Blocks of 8 x 8 pixels, each with a value of its own and none of them 0."""
    y, x = numpy.mgrid[:height, :width]
    return (1 + (y // 8) * 16 + x // 8).astype(numpy.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures whose red is the column and whose green is the row, and their masks."""
    images, masks = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("masks")
    for number, (height, width) in enumerate(SIZES):
        y, x = numpy.mgrid[:height, :width]
        picture = numpy.stack([x, y, x * 0], axis=-1).astype(numpy.uint8)
        pillow.fromarray(picture).save(images / f"{number}.png")
        pillow.fromarray(blocks(height, width)).save(masks / f"{number}.png")
    return images, masks


def boxes_of(row: int) -> list[list[float]]:
    """As the memory source has them."""
    return [] if row % 9 == 8 else [[row, k, row + 10, k + 10.5] for k in range(row % 4)]


def categories_of(row: int) -> list[int]:
    return [] if row % 9 == 8 else [row * 10 + k for k in range(row % 4)]


def load(daemon: Daemon, folders: tuple[Path, Path], steps: list[Transform], **options: Any) -> Any:
    boxes = options.pop("boxes", BoundingBoxes("image", with_columns=["categories"]))
    mask = options.pop("mask", Mask("image"))
    arguments: dict[str, Any] = {
        "columns": ["label", "image", "boxes", "categories", "mask", "_valid"],
        "transform": {"image": steps, "boxes": [boxes], "mask": mask},
        "batch_size": 12,
        "shuffle": False,
        **options,
    }
    uri = f"memory:rows={ROWS},images={folders[0]},masks={folders[1]}"
    dataset = daemon.dataset(uri, **arguments)
    batches = [batch.clone() for batch in dataset]
    dataset.close()
    return batches


class Centre(v2.Transform):  # type: ignore[misc]
    """torchvision's CenterCrop with its borders put on beforehand.

    Where they are uneven, it moves boxes a pixel further than their picture.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = [height, width]

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        found = v2.functional.get_size(flat_inputs[0])
        lacking = [max(0, wanted - has) for wanted, has in zip(self.size, found, strict=True)]
        (top, left), (bottom, right) = (
            [lack // 2 for lack in lacking],
            [(lack + 1) // 2 for lack in lacking],
        )
        return {"padding": [left, top, right, bottom]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.center_crop(v2.functional.pad(inpt, params["padding"]), self.size)


LISTS: dict[str, tuple[list[Transform], list[Any]]] = {
    "resize": ([Resize((40, 56))], [v2.Resize((40, 56))]),
    "enlarge": ([Resize((101, 143))], [v2.Resize((101, 143))]),
    "centre": ([Resize(30), CenterCrop((24, 28))], [v2.Resize(30), v2.CenterCrop((24, 28))]),
    "borders": ([CenterCrop((60, 80))], [Centre(60, 80)]),
    "borders first": (
        [Pad([3, 5, 7, 9]), Resize((60, 80)), CenterCrop((70, 75)), CenterCrop((76, 78))],
        [v2.Pad([3, 5, 7, 9]), v2.Resize((60, 80)), Centre(70, 75), Centre(76, 78)],
    ),
    "flip": (
        [RandomHorizontalFlip(1.0), Resize((33, 47))],
        [v2.RandomHorizontalFlip(1.0), v2.Resize((33, 47))],
    ),
    "turns": (
        [
            RandomVerticalFlip(1.0),
            CenterCrop((35, 41)),
            Resize((61, 53)),
            RandomHorizontalFlip(1.0),
            CenterCrop((50, 50)),
        ],
        [
            v2.RandomVerticalFlip(1.0),
            Centre(35, 41),
            v2.Resize((61, 53)),
            v2.RandomHorizontalFlip(1.0),
            v2.CenterCrop((50, 50)),
        ],
    ),
    "pixels": (
        [
            Resize((40, 40)),
            ColorJitter(brightness=0.3),
            Pad([3, 5], fill=9),
            RandomHorizontalFlip(1.0),
            CenterCrop((44, 30)),
            RandomVerticalFlip(1.0),
            RandomErasing(1.0),
            Normalize.imagenet(),
        ],
        [
            v2.Resize((40, 40)),
            v2.Pad([3, 5], fill={tv_tensors.Mask: 0, "others": 9}),
            v2.RandomHorizontalFlip(1.0),
            v2.CenterCrop((44, 30)),
            v2.RandomVerticalFlip(1.0),
        ],
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_as_torchvision(daemon: Daemon, folders: tuple[Path, Path], name: str) -> None:
    ours, theirs = LISTS[name]
    seen = dropped = 0
    for batch in load(daemon, folders, ours):
        size = batch["image"].shape[-2:]
        assert batch["mask"].dtype == torch.uint8 and batch["mask"].shape[1:] == size
        for at, row in enumerate(batch["label"].tolist()):
            height, width = SIZES[row % len(SIZES)]
            sample = {
                "mask": tv_tensors.Mask(torch.from_numpy(blocks(height, width))),
                "boxes": tv_tensors.BoundingBoxes(
                    torch.tensor(boxes_of(row)).reshape(-1, 4),
                    format="XYXY",
                    canvas_size=(height, width),
                ),
            }
            expected = v2.Compose([*theirs, v2.ClampBoundingBoxes()])(sample)
            mask = expected.pop("mask")
            expected["labels"] = torch.tensor(categories_of(row), dtype=torch.int64)
            expected = v2.SanitizeBoundingBoxes(labels_getter="default")(expected)
            assert torch.equal(batch["mask"][at], mask)
            torch.testing.assert_close(
                batch["boxes"][at], torch.as_tensor(expected["boxes"]), rtol=0, atol=1e-4
            )
            assert batch["categories"][at].tolist() == expected["labels"].tolist()
            seen += len(batch["boxes"][at])
            dropped += len(boxes_of(row)) - len(batch["boxes"][at])
    # Borders put on first have room for every box.
    assert seen > 0 and (dropped > 0 or name == "borders first")


def test_random_crops_are_the_images_own(daemon: Daemon, folders: tuple[Path, Path]) -> None:
    steps = [RandomResizedCrop((80, 80), scale=(0.2, 0.8)), RandomHorizontalFlip()]
    flips = 0
    boxes = BoundingBoxes("image", drop_degenerate=False)
    for batch in load(daemon, folders, steps, boxes=boxes, seed=3):
        for at, row in enumerate(batch["label"].tolist()):
            red, green = batch["image"][at, 0].float(), batch["image"][at, 1].float()
            flips += bool(red[0, 0] > red[0, -1])
            # What the picture shows says where its pixels came from.
            value = 1 + (green.round() // 8) * 16 + red.round() // 8
            found = batch["mask"][at].float()
            assert (value == found).float().mean() > 0.8
            height, width = SIZES[row % len(SIZES)]
            assert len(batch["boxes"][at]) == len(boxes_of(row))
            for (x1, y1, x2, y2), (left, top, right, bottom) in zip(
                batch["boxes"][at].tolist(), boxes_of(row), strict=True
            ):
                if x2 - x1 > 4 and y2 - y1 > 4:
                    inside = (
                        slice(round(y1) + 1, round(y2) - 1),
                        slice(round(x1) + 1, round(x2) - 1),
                    )
                    assert red[inside].min() >= min(left, width) - 1.5
                    assert red[inside].max() <= right + 1.5
                    assert green[inside].min() >= top - 1.5
                    assert green[inside].max() <= min(bottom, height) + 1.5
    assert 0 < flips < ROWS


def test_formats_and_what_is_kept(daemon: Daemon, folders: tuple[Path, Path]) -> None:
    steps = [CenterCrop((20, 20))]
    kept = load(
        daemon,
        folders,
        steps,
        boxes=BoundingBoxes("image", drop_degenerate=False, format_out="xywh"),
    )
    corners = load(daemon, folders, steps, boxes=BoundingBoxes("image", drop_degenerate=False))
    centres = load(
        daemon,
        folders,
        steps,
        boxes=BoundingBoxes("image", drop_degenerate=False, format_out="CXCYWH"),
    )
    large = load(daemon, folders, steps, boxes=BoundingBoxes("image", min_size=4, min_area=30))
    for sides, edges, middles, rest in zip(kept, corners, centres, large, strict=True):
        assert sides["boxes"].lengths().tolist() == [
            len(boxes_of(row)) for row in sides["label"].tolist()
        ]
        assert sides["categories"].tolist() == edges["categories"].tolist()
        box = edges["boxes"].values
        size = box[:, 2:] - box[:, :2]
        assert torch.equal(sides["boxes"].values, torch.cat([box[:, :2], size], 1))
        assert torch.allclose(middles["boxes"].values, torch.cat([box[:, :2] + size / 2, size], 1))
        wide = (size >= 4).all(1) & (size.prod(1) >= 30)
        assert torch.equal(rest["boxes"].values, box[wide])


def png(depth: int, colour: int, rows: list[bytes], width: int) -> bytes:
    """A PNG without filters, of any kind."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(48))) if colour == 3 else b""
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_values_are_those_of_the_file(
    daemon: Daemon, tmp_path: Path, depth: int, colour: int
) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    pillow.new("RGB", (16, 4)).save(images / "a.png")
    most = min((1 << depth) - 1, 15)
    values = [[(x + y) % (most + 1) for x in range(16)] for y in range(4)]
    each = 8 // depth
    rows = [
        bytes(
            sum(value << (8 - depth * (i + 1)) for i, value in enumerate(row[at : at + each]))
            for at in range(0, 16, each)
        )
        for row in values
    ]
    (masks / "a.png").write_bytes(png(depth, colour, rows, 16))
    assert numpy.asarray(pillow.open(masks / "a.png")).shape == (4, 16)
    # Wider and less high than the picture: borders at the sides.
    batch = load(daemon, (images, masks), [CenterCrop((2, 20))], mask=Mask("image", fill=99))[0]
    expected = [[99, 99, *row, 99, 99] for row in values[1:3]]
    assert batch["mask"][0].tolist() == expected


@pytest.mark.parametrize(
    ("mode", "name", "cause"),
    [
        ("RGB", "a.png", "a PNG in colour"),
        ("LA", "a.png", "a PNG with transparency"),
        ("I;16", "a.png", "a PNG of 16 bits"),
        ("L", "a.jpg", "a JPEG: save it as a PNG of class numbers"),
        ("L", "large.png", "the mask is 17x8, and its image in column 'image' is 16x8"),
    ],
)
@pytest.mark.parametrize("policy", ["raise", "zero"])
def test_bad_masks(
    daemon: Daemon, tmp_path: Path, mode: str, name: str, cause: str, policy: str
) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    pillow.new("RGB", (16, 8), (7, 7, 7)).save(images / "a.png")
    pillow.new(mode, (17 if "large" in name else 16, 8), 3 if mode in ("L", "I;16") else None).save(
        masks / name
    )
    arguments = {"on_bad_sample": policy, "mask": Mask("image", fill=255)}
    if policy == "raise":
        with pytest.raises(errors.BadSample) as raised:
            load(daemon, (images, masks), [Resize((8, 16))], **arguments)
        assert cause.replace("'", '"') in str(raised.value)
        return
    for batch in load(daemon, (images, masks), [Resize((8, 16))], **arguments):
        assert batch["mask"].unique().tolist() == [255]
        assert batch["image"].unique().tolist() == [7]
        assert not batch["_valid"].any() and batch.bad_rows == batch.rows


def test_rows_of_bad_images(daemon: Daemon, folders: tuple[Path, Path], tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(sorted(folders[0].iterdir())):
        broken = number == 1
        (images / path.name).write_bytes(b"broken" if broken else path.read_bytes())
    steps: list[Transform] = [Resize((40, 40))]
    boxes = BoundingBoxes("image", drop_degenerate=False, with_columns=["categories"])
    for batch in load(
        daemon,
        (images, folders[1]),
        steps,
        boxes=boxes,
        mask=Mask("image", 77),
        on_bad_sample="zero",
    ):
        for at, row in enumerate(batch["label"].tolist()):
            if row % len(SIZES) == 1:
                assert not batch["_valid"][at]
                assert len(batch["boxes"][at]) == len(batch["categories"][at]) == 0
                assert batch["mask"][at].unique().tolist() == [77]
            else:
                assert len(batch["boxes"][at]) == len(batch["categories"][at]) == len(boxes_of(row))
                assert 77 not in batch["mask"][at] or row % len(SIZES) == 2
    replaced = 0
    whole = load(daemon, folders, steps, boxes=boxes)
    by_row = {
        row: (batch["mask"][at], batch["boxes"][at], batch["categories"][at])
        for batch in whole
        for at, row in enumerate(batch["label"].tolist())
    }
    for batch in load(daemon, (images, folders[1]), steps, boxes=boxes, on_bad_sample="replace"):
        replaced += batch.bad_rows
        for at, row in enumerate(batch["label"].tolist()):
            mask, moved, categories = by_row[row]
            assert row % len(SIZES) != 1
            assert torch.equal(batch["mask"][at], mask)
            assert torch.equal(batch["boxes"][at], moved)
            assert torch.equal(batch["categories"][at], categories)
    assert replaced >= ROWS // len(SIZES)


def test_tiled_masks_give_the_same(daemon: Daemon, folders: tuple[Path, Path]) -> None:
    """The source's masks have runs beside their image data then."""
    steps = [RandomResizedCrop((30, 40)), RandomHorizontalFlip(), RandomVerticalFlip()]
    tiled = (folders[0], Path(f"{folders[1]},tiled=image,tiled=mask"))
    batches = (load(daemon, it, steps, shuffle=True, seed=5) for it in (folders, tiled))
    for plain, other in zip(*batches, strict=True):
        for name in ("image", "mask", "_valid"):
            assert torch.equal(plain[name], other[name])


def test_slow_sources_give_the_same(daemon: Daemon, folders: tuple[Path, Path]) -> None:
    steps = [RandomCrop((20, 20)), RandomHorizontalFlip()]
    fast = load(daemon, folders, steps)
    slow = load(daemon, (folders[0], Path(f"{folders[1]},slow")), steps)
    for a, b in zip(fast, slow, strict=True):
        assert torch.equal(a["mask"], b["mask"])
        assert a["boxes"].tolist() == b["boxes"].tolist()
        assert a["categories"].tolist() == b["categories"].tolist()


@pytest.mark.parametrize(
    ("steps", "options", "cause"),
    [
        ([Resize((8, 8)), RandAugment()], {}, "can't follow its shears"),
        ([Resize((8, 8)), Pad(2, padding_mode="reflect")], {}, "borders that repeat"),
        ([Resize((8, 8))], {"boxes": BoundingBoxes("label")}, "no column of images"),
        ([Resize((8, 8))], {"boxes": BoundingBoxes("tags")}, "ask for it too"),
        ([Resize((8, 8))], {"boxes": BoundingBoxes("imgae")}, 'did you mean "image"'),
        ([Resize((8, 8))], {"mask": Mask("mask")}, "no column of images"),
        (
            [Resize((8, 8))],
            {"boxes": BoundingBoxes("image", with_columns=["label"])},
            "no column of lists",
        ),
        ([Resize((8, 8))], {"mask": BoundingBoxes("image")}, "lists of 4 numbers"),
        ([Resize((8, 8))], {"boxes": Mask("image")}, "Mask works on PNGs"),
    ],
)
def test_refusals(
    daemon: Daemon, folders: tuple[Path, Path], steps: Any, options: Any, cause: str
) -> None:
    with pytest.raises(errors.TransformError, match=cause):
        load(daemon, folders, steps, **options)


def test_columns_that_do_not_match(daemon: Daemon, folders: tuple[Path, Path]) -> None:
    boxes = BoundingBoxes("image", with_columns=["tags"])
    with pytest.raises(errors.BadSample, match=r'row address 3: 3 boxes in column "boxes"'):
        load(
            daemon,
            folders,
            [Resize((8, 8))],
            boxes=boxes,
            columns=["image", "boxes", "tags", "mask", "label"],
            batch_size=ROWS,
        )


def test_arguments() -> None:
    for make in (
        lambda: BoundingBoxes(""),
        lambda: BoundingBoxes("image", format="yxyx"),
        lambda: BoundingBoxes("image", min_size=0.5),
        lambda: BoundingBoxes("image", min_area=float("nan")),
        lambda: BoundingBoxes("image", drop_degenerate=1),  # type: ignore[arg-type]
        lambda: BoundingBoxes("image", with_columns="categories"),
        lambda: Mask("image", fill=256),
        lambda: Mask(3),  # type: ignore[arg-type]
    ):
        with pytest.raises(errors.TransformError):
            make()
    formats = tv_tensors.BoundingBoxFormat
    assert BoundingBoxes("image", format=formats.CXCYWH) == BoundingBoxes("image", "cxcywh")
