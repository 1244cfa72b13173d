"""One of two processes with two devices each, over JAX's own rendezvous. Run by test_jax.py.

Takes the daemon's socket, the coordinator's port and the process's number. Prints the
labels of each global batch, as a list of lists.
"""

from __future__ import annotations

import sys

import jax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from loaderd.jax import LanceLoader

socket, port, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=number)

mesh = jax.make_mesh((4,), ("data",))
loader = LanceLoader(
    "memory:rows=100",
    columns=["label"],
    global_batch_size=8,
    shuffle=True,
    seed=2,
    run="both",
    sharding=NamedSharding(mesh, PartitionSpec("data")),
    socket=socket,
    autostart=False,
)
assert len(loader) == 12
seen = []
total = jax.jit(lambda label: label.sum())
for batch in loader:
    label = batch["label"]
    assert (label.shape, label.is_fully_addressable) == ((8,), False)
    whole = multihost_utils.process_allgather(label, tiled=True)
    assert int(total(label)) == whole.sum()
    again = multihost_utils.process_allgather(batch.clone()["label"], tiled=True)
    assert (again == whole).all()
    seen.append(whole.tolist())
print(seen, flush=True)
