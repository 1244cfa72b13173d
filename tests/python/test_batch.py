"""Batch: its attributes survive whatever copies mappings."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from loaderd import Batch

torch = pytest.importorskip("torch")


def make() -> Batch:
    return Batch(
        {"x": torch.arange(3), "y": torch.ones(2)},
        version=4,
        step=12,
        epoch=1,
        epoch_step=2,
        rows=3,
        bad_rows=0,
        state={"epoch": 1, "position": 9},
    )


def check_same(batch: Any, original: Batch) -> None:
    assert type(batch) is Batch
    assert vars(batch) == vars(original)
    assert batch.state == {"epoch": 1, "position": 9}
    assert list(batch) == ["x", "y"]
    assert all(torch.equal(batch[name], original[name]) for name in original)


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        Batch.copy,
        Batch.clone,
        lambda batch: batch.to("cpu"),
        lambda batch: pickle.loads(pickle.dumps(batch)),
        torch.utils.data.default_convert,
    ],
)
def test_survives(duplicate: Any) -> None:
    original = make()
    check_same(duplicate(original), original)


def test_is_a_dict_without_copies() -> None:
    batch = make()
    assert isinstance(batch, dict)
    assert copy.copy(batch)["x"] is batch["x"]
    assert torch.utils.data.default_convert(batch)["x"] is batch["x"]
    assert batch.clone()["x"].data_ptr() != batch["x"].data_ptr()
    assert batch.to(torch.float64)["x"].dtype == torch.float64


def test_rebuilt_batches_say_what_they_lost() -> None:
    batch = Batch(dict(make()))
    with pytest.raises(AttributeError, match=r"rebuilt it .* and lost it"):
        _ = batch.state
    with pytest.raises(AttributeError, match="no attribute 'stat'"):
        _ = batch.stat
    assert not hasattr(batch, "step")
