"""What the memory source's columns hold, and tests of columns share."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from daemon_process import Daemon, loaderd
from loaderd import Ragged

ROWS = 61
COLUMNS = ["label", "text", "boxes", "categories", "tags"]


# By row; None is null.
def text_of(row: int) -> str | None:
    if row % 7 == 3:
        return None
    return "" if row % 5 == 0 else f"row {row}" + " – ü" * (row % 11)


def boxes_of(row: int) -> list[list[float]] | None:
    return None if row % 9 == 8 else [[row, k, row + 10, k + 10.5] for k in range(row % 4)]


def categories_of(row: int) -> list[int] | None:
    return None if row % 9 == 8 else [row * 10 + k for k in range(row % 4)]


def tags_of(row: int) -> list[str] | None:
    if row % 8 == 5:
        return None
    return ["" if (row + k) % 4 == 0 else f"tag {row}.{k}" for k in range(row % 3)]


EXPECTED: dict[str, Any] = {
    "text": lambda row: text_of(row) or "",
    "boxes": lambda row: boxes_of(row) or [],
    "categories": lambda row: categories_of(row) or [],
    "tags": lambda row: tags_of(row) or [],
}


def check(batch: Any) -> list[int]:
    """Every value of every row; returns the labels."""
    rows: list[int] = batch["label"].tolist()
    for name, expected in EXPECTED.items():
        if name in batch:
            column = batch[name]
            assert isinstance(column, Ragged) and len(column) == len(rows) == batch.rows
            assert column.tolist() == [expected(row) for row in rows], name
            array = column
            while isinstance(array, Ragged):
                assert array.offsets.dtype == torch.int64
                assert array.offsets.data_ptr() % 64 == 0
                array = array.values
            assert array.data_ptr() % 64 == 0
    return rows


def picture(row: int) -> bytes:
    """A picture of one colour, in a size of its own."""
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    size = (16 + 8 * row, 40 - 3 * row)
    image.new("RGB", size, (30 * row, 100, 50)).save(file, "JPEG", quality=95)
    return file.getvalue()


def status(daemon: Daemon) -> Any:
    return json.loads(loaderd("status", "--json", f"--socket={daemon.socket}").stdout)
