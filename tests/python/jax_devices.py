"""Four devices of one process: where each row of a batch lies. Run by test_jax.py.

Takes the daemon's socket. Its status says whether all was as it should be.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from loaderd import errors
from loaderd.jax import LanceLoader

DEVICES = jax.devices()
LINE = jax.make_mesh((4,), ("data",))
SQUARE = jax.make_mesh((2, 2), ("data", "model"))


def make(batch_size: int = 8, **arguments: Any) -> LanceLoader:
    return LanceLoader(
        "memory:rows=100,tensor=3x4:float32",
        columns=["tensor", "label"],
        batch_size=batch_size,
        socket=sys.argv[1],
        autostart=False,
        **arguments,
    )


def refused(message: str, **arguments: Any) -> None:
    with pytest.raises(errors.RequestError, match=message):
        next(iter(make(**arguments)))


def rows_by_device(array: jax.Array) -> dict[int, list[int]]:
    return {shard.device.id: shard.data.tolist() for shard in array.addressable_shards}


assert len(DEVICES) == 4
expected = [(np.array(batch["tensor"]), batch["label"].tolist()) for batch in make()]
assert len(expected) == 12

# One axis: two rows a device. Two slots are enough, so all are given back.
loader = make(sharding=NamedSharding(LINE, PartitionSpec("data")), slots=2)
for batch, (tensor, labels) in zip(loader, expected, strict=True):
    assert batch["tensor"].sharding == NamedSharding(LINE, PartitionSpec("data"))
    assert (np.array(batch["tensor"]) == tensor).all()
    assert rows_by_device(batch["label"]) == {
        device.id: labels[2 * place : 2 * place + 2]
        for place, device in enumerate(LINE.devices.flat)
    }
    weights = jax.device_put(jnp.ones(8), NamedSharding(LINE, PartitionSpec("data")))
    assert (weights * batch["label"]).sum() == sum(labels)

# Two axes: the model's axis has replicas; or the columns' second axis is split over it.
batch = next(iter(make(sharding=NamedSharding(SQUARE, PartitionSpec("data")))))
assert sorted(rows_by_device(batch["label"]).values()) == [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2
split = NamedSharding(SQUARE, PartitionSpec("data", None, "model"))
loader = LanceLoader(
    "memory:rows=100,tensor=3x4:float32",
    columns=["tensor"],
    batch_size=8,
    sharding=split,
    socket=sys.argv[1],
    autostart=False,
)
batch = next(iter(loader))
assert {shard.data.shape for shard in batch["tensor"].addressable_shards} == {(4, 3, 2)}
assert (np.array(batch["tensor"]) == expected[0][0]).all()

# One device that is not the first, by sharding or as JAX's default.
batch = next(iter(make(sharding=SingleDeviceSharding(DEVICES[2]))))
assert batch["tensor"].devices() == batch["label"].devices() == {DEVICES[2]}
with jax.default_device(DEVICES[3]):
    batch = next(iter(make()))
assert batch["tensor"].devices() == batch["label"].devices() == {DEVICES[3]}
assert (np.array(batch["tensor"]) == expected[0][0]).all()

# Padding makes the last batch divide too.
loader = make(sharding=NamedSharding(LINE, PartitionSpec("data")), partial="pad")
last = [batch.clone() for batch in loader][-1]
assert last["label"].tolist() == [96, 97, 98, 99, 0, 0, 0, 0]
assert last["_valid"].tolist() == [True] * 4 + [False] * 4

# Where a mesh is set, JAX refuses to compute with what lies on one device of it.
for mesh in (LINE, jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
    with jax.set_mesh(mesh):
        whole = [batch.clone() for batch in make(partial="pad")]
        parts = [
            batch.clone()
            for batch in make(partial="pad", sharding=NamedSharding(mesh, PartitionSpec("data")))
        ]
        (texts,) = LanceLoader(
            "memory:rows=5",
            columns=["text"],
            batch_size=8,
            partial="pad",
            socket=sys.argv[1],
            autostart=False,
        )
        assert texts["text"].tolist()[4:] == ["row 4 – ü – ü – ü – ü", "", "", ""]
        total = jax.jit(lambda tensor: tensor.sum())(parts[0]["tensor"])
    assert len(whole) == len(parts) == 13
    assert whole[0]["tensor"].devices() == {DEVICES[0]}
    assert parts[0]["tensor"].devices() == set(DEVICES)
    assert float(total) == expected[0][0].sum()
    for one, other in zip(whole, parts, strict=True):
        assert all((np.array(one[name]) == np.array(other[name])).all() for name in one)
    for (tensor, _), one in zip(expected, whole, strict=False):
        assert (np.array(one["tensor"]) == tensor).all()

# Nothing is sent to a device unasked.
with jax.transfer_guard("disallow"):
    assert sum(batch.rows for batch in make(partial="pad")) == 100

# Lists have a shape once they are padded, and lie with their rows.
line = NamedSharding(LINE, PartitionSpec("data"))
lists: dict[str, Any] = {
    "uri": "memory:rows=100",
    "columns": ["label", "categories"],
    "batch_size": 8,
    "socket": sys.argv[1],
    "autostart": False,
}
batch = next(iter(LanceLoader(sharding=line, pad_ragged={"categories": 3}, **lists)))
assert batch["categories"].sharding == batch["categories._length"].sharding == line
numbers = [[row * 10 + k for k in range(row % 4)] for row in range(8)]
assert batch["categories._length"].tolist() == [len(row) for row in numbers]
padded = [row + [0] * (3 - len(row)) for row in numbers]
assert rows_by_device(batch["categories"]) == {
    device.id: padded[2 * place : 2 * place + 2] for place, device in enumerate(LINE.devices.flat)
}
with pytest.raises(
    errors.RequestError, match=r"pad_ragged=\{'categories': 64\} makes it one of 64"
):
    next(iter(LanceLoader(sharding=line, **lists)))

refused("must divide evenly", batch_size=6, sharding=line)
refused("label", sharding=split)
# Ranks that JAX knows nothing of: its devices are those of all the rows.
refused("rank 0 of 2", sharding=line, rank=0, world_size=2, run="two")
gc.collect()
