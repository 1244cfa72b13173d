"""Rows that can't be delivered whole: what ``"zero"`` empties, and what masks say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from daemon_process import Daemon
from loaderd import CenterCrop, Decode

ROWS = 24


@pytest.fixture
def photos(photos: Path) -> Path:
    """Of the eight, the source takes one for null."""
    (photos / "6.jpg").rename(photos / "6.null")
    return photos


@pytest.mark.parametrize("slow", ["", ",slow"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("delivered", [True, False])
def test_masks_say_where_a_column_is_null(
    daemon: Daemon, photos: Path, slow: str, shuffle: bool, delivered: bool
) -> None:
    """Whether the column itself is delivered, so that its values come by anyway, or not."""
    columns = ["image", "text", "tags", "boxes"]
    dataset = daemon.dataset(
        f"memory:rows={ROWS},images={photos}{slow}",
        columns=[
            "label",
            *(f"{name}._valid" for name in columns),
            *(columns if delivered else ()),
        ],
        shuffle=shuffle,
    )
    seen = []
    for batch in dataset:
        rows = batch["label"].tolist()
        seen += rows
        found = {name: batch[f"{name}._valid"].tolist() for name in columns}
        assert found == {
            "image": [row % 8 != 6 for row in rows],
            "text": [row % 7 != 3 for row in rows],
            "tags": [row % 8 != 5 for row in rows],
            "boxes": [row % 9 != 8 for row in rows],
        }
        if delivered:
            lengths = batch["image"].lengths().tolist()
            assert [length > 0 for length in lengths] == found["image"]
    assert sorted(seen) == list(range(ROWS))


@pytest.mark.parametrize("slow", ["", ",slow"])
def test_masks_follow_a_replaced_row(daemon: Daemon, photos: Path, slow: str) -> None:
    dataset = daemon.dataset(
        f"memory:rows={ROWS},images={photos}{slow}",
        columns=["image._valid", "path._valid", "text._valid", "image", "text", "label"],
        transform={"image": [CenterCrop(8)]},
        on_bad_sample="replace",
        batch_size=ROWS,
    )
    (batch,) = dataset
    rows = batch["label"].tolist()
    assert batch.bad_rows >= 3 and 6 not in {row % 8 for row in rows}
    assert batch["image._valid"].all() and batch["path._valid"].all()
    assert batch["text._valid"].tolist() == [row % 7 != 3 for row in rows]


@pytest.mark.parametrize("slow", ["", ",slow"])
def test_a_zeroed_row_keeps_what_is_not_bad(daemon: Daemon, photos: Path, slow: str) -> None:
    os.rename(photos / "6.null", photos / "6.jpg")
    arguments: dict[str, Any] = {
        "uri": f"memory:rows=8,images={photos}{slow}",
        "columns": ["image", "path", "label", "score", "boxes", "_rowid", "_valid", "image._valid"],
        "transform": {"image": [CenterCrop(8)], "path": [Decode()]},
        "on_bad_sample": "zero",
    }
    (whole,) = daemon.dataset(**arguments)
    whole = whole.clone()
    assert whole.bad_rows == 0 and whole["_valid"].all()
    dataset = daemon.dataset(**arguments)
    # Once it is open, the source holds its images, and reads the files that text names.
    assert len(dataset) == 1
    (photos / "2.jpg").write_bytes(b"broken")
    (batch,) = dataset
    assert batch.bad_rows == 1
    assert batch["_valid"].tolist() == [row != 2 for row in range(8)]
    # Only what could not be decoded is empty, and all else of the row is as it was.
    assert batch["path"][2].shape == (0, 0, 3)
    for name in ("image", "label", "_rowid", "image._valid"):
        assert torch.equal(batch[name], whole[name]), name
    assert batch["image"][2].any()
    assert torch.equal(batch["score"].nan_to_num(-1), whole["score"].nan_to_num(-1))
    assert batch["boxes"].tolist() == whole["boxes"].tolist()
    for row in set(range(8)) - {2}:
        assert torch.equal(batch["path"][row], whole["path"][row])
    # The other way round: dense pixels are zero, the ones in their own size are there.
    (photos / "2.jpg").write_bytes(b"broken")
    (batch,) = daemon.dataset(
        **{
            **arguments,
            "columns": ["image", "label", "_valid"],
            "transform": {"image": [CenterCrop(8)]},
        }
    )
    assert not batch["image"][2].any() and batch["image"][3].any()
    assert batch["label"].tolist() == list(range(8))
    assert batch["_valid"].tolist() == [row != 2 for row in range(8)]
