"""Boxes and masks that follow their image, out of real Lance datasets.

Needs the daemon's executable with lance in it (``LOADERD_BIN``, or beside Python), pylance,
which is the reference for what the datasets hold, and torchvision, for where it must go.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest

from loaderd import (
    BoundingBoxes,
    CenterCrop,
    Mask,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    errors,
)

torch = pytest.importorskip("torch")
lance = pytest.importorskip("lance")
pa = pytest.importorskip("pyarrow")
numpy = pytest.importorskip("numpy")
image_module = pytest.importorskip("PIL.Image")
tv_tensors = pytest.importorskip("torchvision.tv_tensors")
v2 = pytest.importorskip("torchvision.transforms.v2")

from daemon_process import Daemon, loaderd  # noqa: E402

FRAMES = 10


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("followers") / "streets.lance")
    loaderd("ingest", "--synthetic", str(FRAMES), "--mask", path)
    return path


def png(values: Any) -> bytes:
    file = io.BytesIO()
    image_module.fromarray(numpy.asarray(values, numpy.uint8)).save(file, "PNG")
    return file.getvalue()


def test_street_frames_as_torchvision(daemon: Daemon, streets: str) -> None:
    """Blob columns, read by the ring: shuffled, and over two epochs."""
    dataset = lance.dataset(streets)
    columns = ["name", "boxes", "categories", "category_names"]
    rows = {row["name"]: row for row in dataset.to_table(columns=columns).to_pylist()}
    masks = [blob.read() for blob in dataset.take_blobs("mask", indices=list(range(FRAMES)))]
    for row, mask in zip(rows.values(), masks, strict=True):
        row["mask"] = numpy.array(image_module.open(io.BytesIO(mask)))
    ours = [Resize((300, 533)), RandomHorizontalFlip(1.0), CenterCrop((320, 320))]
    theirs = v2.Compose(
        [
            v2.Resize((300, 533)),
            v2.RandomHorizontalFlip(1.0),
            v2.CenterCrop((320, 320)),
            v2.SanitizeBoundingBoxes(min_size=3, labels_getter="default"),
        ]
    )
    loader = daemon.dataset(
        streets,
        columns=[*columns, "image", "mask"],
        transform={
            "image": ours,
            "boxes": BoundingBoxes(
                "image", min_size=3, with_columns=["categories", "category_names"]
            ),
            "mask": Mask("image"),
        },
        batch_size=4,
        shuffle=True,
        seed=1,
    )
    seen, boxes = [], 0
    for _ in range(2):
        for batch in loader:
            names = batch["category_names"].tolist()
            for at, name in enumerate(batch["name"].tolist()):
                row = rows[name]
                height, width = row["mask"].shape
                expected = theirs(
                    {
                        "boxes": tv_tensors.BoundingBoxes(
                            torch.tensor(row["boxes"]).reshape(-1, 4),
                            format="XYXY",
                            canvas_size=(height, width),
                        ),
                        # With an image there, tensors of no kind of their own are left alone.
                        "image": tv_tensors.Image(torch.zeros(3, height, width)),
                        "labels": torch.arange(len(row["boxes"])),
                        "mask": tv_tensors.Mask(torch.from_numpy(row["mask"])),
                    }
                )
                kept = expected["labels"].tolist()
                torch.testing.assert_close(
                    batch["boxes"][at], torch.as_tensor(expected["boxes"]), rtol=0, atol=1e-3
                )
                assert batch["categories"][at].tolist() == [row["categories"][k] for k in kept]
                assert names[at] == [row["category_names"][k] for k in kept]
                assert torch.equal(batch["mask"][at], expected["mask"])
                seen.append(name)
                boxes += len(kept)
    assert sorted(seen) == sorted([*rows] * 2) and boxes > FRAMES


def test_the_same_whichever_way_rows_are_read(daemon: Daemon, streets: str, tmp_path: Path) -> None:
    """Random crops of blobs, and of the same bytes in plain columns that Lance reads."""
    source = lance.dataset(streets)
    indices = list(range(FRAMES))
    table = source.to_table(columns=["name", "boxes", "categories"])
    for column in ("image", "mask"):
        payloads = [blob.read() for blob in source.take_blobs(column, indices=indices)]
        table = table.append_column(column, pa.array(payloads, pa.binary()))
    plain = str(tmp_path / "plain.lance")
    lance.write_dataset(table, plain, max_rows_per_file=4)

    def batches(uri: str) -> list[Any]:
        dataset = daemon.dataset(
            uri,
            columns=["image", "boxes", "categories", "mask"],
            transform={
                "image": [RandomResizedCrop((90, 160)), RandomHorizontalFlip()],
                "boxes": BoundingBoxes("image", with_columns=["categories"], format_out="cxcywh"),
                "mask": Mask("image"),
            },
            batch_size=5,
            shuffle=True,
            seed=8,
        )
        return [batch.clone() for batch in dataset]

    for fast, slow in zip(batches(streets), batches(plain), strict=True):
        assert torch.equal(fast["image"], slow["image"])
        assert torch.equal(fast["mask"], slow["mask"])
        assert fast["boxes"].tolist() == slow["boxes"].tolist()
        assert fast["categories"].tolist() == slow["categories"].tolist()


HOSTILE = [
    [math.nan, 2.0, 9.0, 9.0],
    [2.0, 2.0, 9.0, math.nan],
    [-math.inf, 2.0, math.inf, 9.0],
    [9.0, 9.0, 2.0, 2.0],
    [1e300, 1e300, 1e301, 1e301],
    [3.0, 3.0, 5.0, 6.0],
]


def write(path: Path, kind: Any, boxes: list[Any], masks: list[bytes | None]) -> str:
    """Pictures of 16 x 12 pixels, with these boxes and masks."""
    picture = png(numpy.full((12, 16, 3), 9))
    table = pa.table(
        {
            "id": pa.array(range(len(boxes)), pa.int64()),
            "image": pa.array([picture] * len(boxes), pa.binary()),
            "boxes": pa.array(boxes, pa.list_(pa.list_(kind, 4))),
            "mask": pa.array(masks, pa.large_binary()),
        }
    )
    lance.write_dataset(table, str(path))
    return str(path)


def test_hostile_boxes(daemon: Daemon, tmp_path: Path) -> None:
    mask = png(numpy.ones((12, 16)))
    uri = write(tmp_path / "a.lance", pa.float64(), [HOSTILE, [], None], [mask] * 3)
    steps = [CenterCrop((8, 8))]

    def boxes(**options: Any) -> Any:
        rule = BoundingBoxes("image", **options)
        (batch,) = daemon.dataset(
            uri,
            columns=["image", "boxes", "boxes._valid"],
            transform={"image": steps, "boxes": rule},
        )
        assert batch["boxes"].dtype == torch.float32
        assert batch["boxes._valid"].tolist() == [True, True, False]
        return batch["boxes"].clone()

    # The crop shows columns 4 to 12 and rows 2 to 10.
    assert boxes().tolist() == [[[0, 0, 8, 7], [0, 1, 1, 4]], [], []]
    every = boxes(drop_degenerate=False)
    assert every.lengths().tolist() == [6, 0, 0]
    first = every[0]
    assert first[0, 0].isnan() and first[1, 3].isnan()
    assert first[3].tolist() == [5, 7, 0, 0] and first[4].tolist() == [8, 8, 8, 8]


def test_whole_numbers_and_other_formats(daemon: Daemon, tmp_path: Path) -> None:
    mask = png(numpy.ones((12, 16)))
    for number, kind in enumerate((pa.int32(), pa.int64(), pa.float32())):
        uri = write(tmp_path / f"{number}.lance", kind, [[[6, 3, 4, 5]]], [mask])
        (batch,) = daemon.dataset(
            uri,
            columns=["image", "boxes"],
            transform={
                "image": [CenterCrop((8, 8))],
                "boxes": BoundingBoxes("image", format="xywh"),
            },
        )
        assert batch["boxes"].tolist() == [[[2, 1, 6, 6]]]


def test_hostile_masks(daemon: Daemon, tmp_path: Path) -> None:
    good = png(numpy.full((12, 16), 5))
    deep = io.BytesIO()
    image_module.new("I;16", (16, 12)).save(deep, "PNG")
    masks = {
        "good": good,
        "null": None,
        "empty": b"",
        "cut": good[:-20],
        "garbled": good[:50] + bytes([good[50] ^ 1]) + good[51:],
        "other size": png(numpy.ones((16, 12))),
        "colour": png(numpy.ones((12, 16, 3))),
        "deep": deep.getvalue(),
        "text": b"class 3",
    }
    boxes = [[[4.0, 2.0, 12.0, 10.0]]] * len(masks)
    uri = write(tmp_path / "masks.lance", pa.float32(), boxes, list(masks.values()))
    arguments: dict[str, Any] = {
        "columns": ["id", "image", "boxes", "mask", "_valid"],
        "transform": {
            "image": [CenterCrop((8, 8))],
            "boxes": BoundingBoxes("image"),
            "mask": Mask("image", fill=255),
        },
        "batch_size": len(masks),
    }
    (batch,) = daemon.dataset(uri, on_bad_sample="zero", **arguments)
    assert batch["mask"][0].unique().tolist() == [5]
    assert batch["mask"][1:].unique().tolist() == [255]
    assert batch["image"][0].unique().tolist() == [9]
    assert batch["_valid"].tolist() == [True] + [False] * (len(masks) - 1)
    assert len(batch["boxes"][0]) == 1
    (batch,) = daemon.dataset(uri, on_bad_sample="replace", **arguments)
    assert batch["mask"].unique().tolist() == [5] and batch["_valid"].all()
    with pytest.raises(errors.BadSample):
        list(daemon.dataset(uri, filter="id > 0", **arguments))
