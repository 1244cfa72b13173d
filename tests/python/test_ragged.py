"""Ragged: views, copies and conversions, without a daemon."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest

from loaderd import Batch, Ragged

torch = pytest.importorskip("torch")


def ends(*lengths: int) -> Any:
    return torch.tensor([0, *lengths]).cumsum(0)


def boxes() -> Ragged:
    return Ragged(torch.arange(12.0).reshape(3, 4), ends(2, 0, 1))


def text(*rows: str) -> Ragged:
    whole = "".join(rows).encode()
    lengths = [len(row.encode()) for row in rows]
    return Ragged(torch.tensor(list(whole), dtype=torch.uint8), ends(*lengths), text=True)


def tags() -> Ragged:
    return Ragged(text("a", "bé", "", "d"), ends(2, 0, 2), text=True)


def images() -> Ragged:
    shapes = torch.tensor([[2, 1, 3], [0, 0, 3], [1, 3, 3]], dtype=torch.int32)
    return Ragged(torch.arange(15, dtype=torch.uint8), ends(6, 0, 9), shapes=shapes)


def test_rows_are_views() -> None:
    column = boxes()
    assert len(column) == 3
    assert [row.tolist() for row in column] == column.tolist()
    assert column[0].shape == (2, 4) and column[1].shape == (0, 4)
    assert column[-1].tolist() == [[8.0, 9.0, 10.0, 11.0]]
    column[0][0, 0] = 5.0
    assert column.values[0, 0] == 5.0
    assert column.lengths().tolist() == [2, 0, 1]
    for beyond in (3, -4):
        with pytest.raises(IndexError, match="3 rows"):
            column[beyond]


def test_slices_are_columns() -> None:
    for column in (boxes(), text("a", "bc", "d"), tags(), images()):
        whole = column.tolist()
        for start in range(4):
            for stop in range(4):
                part = column[start:stop]
                assert isinstance(part, Ragged)
                assert part.tolist() == whole[start:stop]
                assert len(part) == len(whole[start:stop])
        with pytest.raises(ValueError, match="steps of 1"):
            column[::2]


def test_lists_and_bytes() -> None:
    assert text("one", "", "drei – ü").tolist() == ["one", "", "drei – ü"]
    assert text("a", "é").tobytes() == [b"a", b"\xc3\xa9"]
    assert tags().tolist() == [["a", "bé"], [], ["", "d"]]
    assert tags()[0].tolist() == ["a", "bé"]
    with pytest.raises(ValueError, match=r"values\.tobytes"):
        tags().tobytes()
    assert images()[2].shape == (1, 3, 3) and images()[1].numel() == 0
    assert images().tolist()[0] == [[[0, 1, 2]], [[3, 4, 5]]]


def test_bytes_of_wider_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    for column in (boxes(), boxes()[1:], Ragged(boxes().values.T[:3, :2], ends(2, 1))):
        expected = [numpy.ascontiguousarray(row.numpy()).tobytes() for row in column]
        assert column.tobytes() == expected
    assert Ragged(torch.zeros(0, 4), ends(0, 0)).tobytes() == [b"", b""]


def test_text_without_numpy() -> None:
    """PyTorch does not bring it along."""
    script = """
import sys
sys.modules["numpy"] = None
import torch
from loaderd import Ragged
values = torch.tensor(list("aé".encode()), dtype=torch.uint8)
text = Ragged(values, torch.tensor([0, 1, 3]), text=True)
assert (text.tolist(), text.tobytes()) == (["a", "é"], [b"a", "é".encode()])
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)


def test_nested_tensors_share_the_memory() -> None:
    column = boxes()
    nested = column.to_nested()
    assert nested.layout == torch.jagged
    assert [row.tolist() for row in nested.unbind()] == column.tolist()
    assert nested.values().data_ptr() == column.values.data_ptr()
    assert [len(row) for row in tags().values.to_nested().unbind()] == [1, 3, 0, 1]
    with pytest.raises(ValueError, match=r"values\.to_nested"):
        tags().to_nested()
    with pytest.raises(ValueError, match="two dimensions"):
        images().to_nested()


@pytest.mark.parametrize("make", [boxes, lambda: text("a", "bc"), tags, images])
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        Ragged.clone,
        lambda column: column.to("cpu"),
        lambda column: pickle.loads(pickle.dumps(column)),
        torch.utils.data.default_convert,
        lambda column: Batch({"x": column}).clone()["x"],
        lambda column: torch.utils.data.default_convert(Batch({"x": column}))["x"],
    ],
)
def test_survives(make: Any, duplicate: Any) -> None:
    column, again = make(), duplicate(make())
    assert type(again) is Ragged
    assert again.tolist() == column.tolist()
    assert again.text == column.text
    assert (again.shapes is None) == (column.shapes is None)
    assert repr(again) == repr(column)


def test_clones_are_apart() -> None:
    column = boxes()
    clone = column.clone()
    column.values.zero_()
    column.offsets.zero_()
    assert clone.tolist() == boxes().tolist()


def test_casts_leave_the_offsets() -> None:
    half = boxes().to(torch.float16)
    assert (half.dtype, half.offsets.dtype) == (torch.float16, torch.int64)
    assert half.tolist() == boxes().tolist()
    meta = tags().to("meta", non_blocking=True)
    assert meta.device.type == meta.offsets.device.type == meta.values.offsets.device.type == "meta"


def test_numpy_arrays_do_as_well() -> None:
    numpy = pytest.importorskip("numpy")
    column = Ragged(numpy.frombuffer(b"abc", dtype="uint8"), numpy.array([0, 2, 3]), text=True)
    assert column.tolist() == ["ab", "c"]
    assert column[:1].tobytes() == [b"ab"]


def test_an_index_stays_as_it_is() -> None:
    row = torch.tensor(-1)
    column = Ragged(torch.arange(6), torch.tensor([0, 2, 6]))
    assert column[row].tolist() == [2, 3, 4, 5]
    assert row.item() == -1
