"""JAX: a batch is a pytree of arrays in the daemon's memory, for as long as they live."""

from __future__ import annotations

import copy
import gc
import pickle
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from client_helpers import EPOCH, NAMES
from daemon_process import ROWS, Daemon
from fake_daemon import BATCH, FakeDaemon
from loaderd import errors
from loaderd.session import Session

jax = pytest.importorskip("jax")
np = pytest.importorskip("numpy")

import jax.numpy as jnp  # noqa: E402

from jax_helpers import connect, loader_of, run  # noqa: E402
from loaderd.jax import Batch, LanceLoader, _on_cpu  # noqa: E402


@pytest.fixture
def loader(fake_daemon: FakeDaemon) -> Iterator[LanceLoader]:
    loader = connect(fake_daemon)
    yield loader
    loader.close()


def test_arrays_have_shapes_types_and_values(loader: LanceLoader) -> None:
    batch = next(iter(loader))
    assert list(batch) == NAMES
    assert all(isinstance(array, jax.Array) for array in batch.values())
    assert {name: (array.shape, str(array.dtype)) for name, array in batch.items()} == {
        "x": ((4, 2, 3), "float32"),
        "half": ((4, 2), "float16"),
        "label": ((4,), "int32"),
        "flag": ((4,), "bool"),
        "byte": ((4, 5), "uint8"),
    }
    assert batch["x"].ravel().tolist() == list(range(24))
    assert batch["label"].tolist() == EPOCH[0]
    assert batch["flag"].tolist() == [True, False, True, False]
    assert batch["byte"].ravel().tolist() == list(range(20))
    assert (batch.version, batch.step, batch.epoch, batch.epoch_step) == (7, 0, 0, 0)
    assert (batch.rows, batch.bad_rows) == (4, 0)
    assert batch.state == loader.get_state()
    assert (loader.version, loader.rows, loader.run) == (7, 10, "made-up")


def in_slots(daemon: FakeDaemon, array: Any) -> bool:
    """Whether an array's first byte lies in the memory that the daemon shares."""
    address = array.unsafe_buffer_pointer()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return daemon.segment_name in line
    return False


def test_arrays_are_the_slots_memory(fake_daemon: FakeDaemon) -> None:
    fake_daemon.slot_count = 2
    loader = connect(fake_daemon)
    seen = set()
    for _ in range(3):
        for batch in islice(loader, 2):
            in_place = [name for name in batch if in_slots(fake_daemon, batch[name])]
            # JAX has no int64 here, so labels are a copy.
            assert in_place == ["x", "half", "flag", "byte"]
            seen.add(batch["x"].unsafe_buffer_pointer())
    assert len(seen) == 2
    assert not any(in_slots(fake_daemon, array) for array in batch.clone().values())
    with jax.enable_x64(True):
        batch = next(iter(loader))
    assert str(batch["label"].dtype) == "int64"
    assert all(in_slots(fake_daemon, array) for array in batch.values())


def test_batches_are_cloned_wherever_they_are(loader: LanceLoader) -> None:
    """Also where their arrays are traced, or NumPy's."""
    batch = next(iter(loader))
    for clone in (jax.jit(Batch.clone)(batch), jax.device_get(batch).clone()):
        assert all((clone[name] == batch[name]).all() for name in batch)


def test_a_slot_is_released_with_its_last_array(
    loader: LanceLoader, fake_daemon: FakeDaemon
) -> None:
    batch = next(iter(loader))
    kept = batch["flag"]
    assert len(fake_daemon.wait_for("delivered", 1)) == 1
    del batch
    gc.collect()
    time.sleep(0.05)
    assert fake_daemon.said("release") == []
    assert kept.tolist() == [True, False, True, False]
    gc.disable()
    try:
        # At once: neither the collector nor another call of JAX's has to come by.
        del kept
        assert fake_daemon.wait_for("release", 1) == [{"type": "release", "lease": 1}]
    finally:
        gc.enable()


def test_computations_under_way_keep_their_slot(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "exhausted_after_s", 0.1)

    @jax.jit
    def slow_sum(image: Any, weight: Any, turns: int) -> Any:
        waited = jax.lax.fori_loop(0, turns, lambda _, found: found @ weight, weight)
        return image.sum() + 0 * waited.sum()

    # About a second, long enough for the loader to wonder where its slots are.
    image, weight = jnp.zeros((8, 3, 4)), jnp.eye(256)
    slow_sum(image, weight, 1).block_until_ready()
    began = time.perf_counter()
    slow_sum(image, weight, 200).block_until_ready()
    turns = int(200 / (time.perf_counter() - began))
    loader = loader_of(daemon, columns=["tensor"], slots=2)
    batches = iter(loader)
    found = [slow_sum(next(batches)["tensor"], weight, turns) for _ in range(4)]
    expected = [np.asarray(batch["tensor"]).sum() for batch in islice(loader, 4)]
    assert [float(value) for value in found] == expected


def test_donated_batches_are_no_trouble(daemon: Daemon) -> None:
    scaled = jax.jit(lambda batch: batch["tensor"] * 2, donate_argnums=0)
    loader = loader_of(daemon, columns=["tensor"], slots=2, batch_size=50)
    first, second = [np.array(scaled(batch)) for batch in loader]
    again = [np.array(batch["tensor"]) * 2 for batch in loader]
    assert (first == again[0]).all() and (second == again[1]).all()


def test_keeping_every_batch_is_an_error(
    fake_daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "exhausted_after_s", 0.1)
    fake_daemon.slot_count = 2
    loader = connect(fake_daemon)
    kept = list(islice(loader, 2))
    with pytest.raises(errors.SlotsExhausted, match=r"all 2 slots .*batch.clone\(\).* slots=4"):
        next(iter(loader))
    kept = [batch.clone() for batch in kept]
    assert next(iter(loader))["label"].tolist() == EPOCH[0]


def test_a_function_of_batches_is_traced_once(daemon: Daemon) -> None:
    traced = []

    @jax.jit
    def total(batch: Batch) -> Any:
        traced.append(type(batch))
        with pytest.raises(AttributeError, match="outside of jit"):
            _ = batch.step
        return jnp.where(batch["_valid"], batch["label"], 0).sum()

    loader = loader_of(daemon, partial="pad")
    totals = [int(total(batch)) for _ in range(2) for batch in loader]
    assert len(totals) == 26
    assert sum(totals) == 2 * sum(range(ROWS))
    assert traced == [Batch]


def test_batches_are_pytrees(loader: LanceLoader) -> None:
    batch = next(iter(loader))
    doubled = jax.tree.map(lambda array: array.astype("float32") * 2, batch)
    assert type(doubled) is Batch
    assert list(doubled) == NAMES
    assert doubled["label"].tolist() == [0, 2, 4, 6]
    assert not hasattr(doubled, "step")
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(batch)]
    assert paths == [f"['{name}']" for name in NAMES]
    structures = {jax.tree.structure(batch) for batch in loader}
    assert structures == {jax.tree.structure(batch)}
    # Wrappers that copy keep the attributes, as in PyTorch.
    for made in (
        copy.copy(batch),
        batch.copy(),
        batch.clone(),
        batch.to(jax.devices()[0]),
        pickle.loads(pickle.dumps(batch)),
    ):
        assert type(made) is Batch
        assert vars(made) == vars(batch)
        assert made["x"].tolist() == batch["x"].tolist()


def test_wide_numbers_are_never_cut_off() -> None:
    def column(*values: Any, dtype: str) -> Any:
        return np.array(values, dtype)

    assert _on_cpu("y", column(2**31 - 1, -(2**31), dtype="int64")).tolist() == [
        2**31 - 1,
        -(2**31),
    ]
    assert str(_on_cpu("y", column(2**32 - 1, dtype="uint64")).dtype) == "uint32"
    assert _on_cpu("y", column(0.1, dtype="float64")).tolist() == [float(np.float32(0.1))]
    for values in (
        column(0, 2**31, dtype="int64"),
        column(-(2**31) - 1, 0, dtype="int64"),
        column(2**32, dtype="uint64"),
    ):
        with pytest.raises(errors.RequestError, match=r"'y' holds -?\d+, .*jax_enable_x64"):
            _on_cpu("y", values)
        with jax.enable_x64(True):
            assert _on_cpu("y", values).tolist() == values.tolist()


def test_types_that_numpy_lacks_are_no_copy() -> None:
    torch = pytest.importorskip("torch")
    halves = torch.arange(64, dtype=torch.bfloat16)
    array = _on_cpu("y", halves)
    assert (str(array.dtype), array.tolist()) == ("bfloat16", list(range(64)))
    if halves.data_ptr() % 64 == 0:
        assert array.unsafe_buffer_pointer() == halves.data_ptr()


def test_row_ids_need_64_bits(daemon: Daemon) -> None:
    for column in ("_rowid", "_rowaddr"):
        with pytest.raises(errors.RequestError, match=f"{column} takes 64 bits.*jax_enable_x64"):
            loader_of(daemon, columns=[column])
        with jax.enable_x64(True):
            batch = next(iter(loader_of(daemon, columns=[column])))
        assert batch[column].tolist() == list(range(8))
        assert batch[column].dtype.itemsize == 8


def test_a_batch_that_cannot_be_made_ends_its_iterator(
    loader: LanceLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, tensor: Any) -> Any:
        raise errors.RequestError("no")

    batches = iter(loader)
    next(batches)
    with monkeypatch.context() as patch:
        patch.setattr("loaderd.jax._on_cpu", refuse)
        with pytest.raises(errors.RequestError, match="no"):
            next(batches)
    # The one after it must not come as if nothing were missing.
    with pytest.raises(RuntimeError, match="could not be made"):
        next(batches)
    assert loader.get_state()["position"] == BATCH
    assert [batch.epoch_step for batch in loader] == [0, 1, 2]


def test_epochs_follow_each_other(loader: LanceLoader) -> None:
    assert [(batch.epoch, batch.epoch_step) for batch in loader] == [(0, 0), (0, 1), (0, 2)]
    for batch in loader:
        assert batch.epoch == 1
        break
    older = iter(loader)
    assert next(older).epoch == 1
    newer = iter(loader)
    with pytest.raises(RuntimeError, match="another iteration"):
        next(older)
    assert [batch.epoch for batch in newer] == [1, 1, 1]
    loader.set_epoch(9)
    assert loader.get_state()["epoch"] == 9
    assert {float(batch["half"][0, 0]) for batch in loader} == {9.0}


def test_a_copied_loader_starts_unconnected(fake_daemon: FakeDaemon) -> None:
    loader = connect(fake_daemon)
    next(iter(loader))
    for made in (copy.copy(loader), pickle.loads(pickle.dumps(loader))):
        assert made._session is None
        assert [batch.epoch for batch in made] == [0, 0, 0]
        made.close()


def test_daemon_death_is_an_error_and_leaves_arrays_readable(fake_daemon: FakeDaemon) -> None:
    fake_daemon.slot_count = 2
    loader = connect(fake_daemon)
    batches = iter(loader)
    batch = next(batches)
    fake_daemon.stop()
    with pytest.raises(errors.DaemonDied, match=r"set_state\(\) in JAX"):
        list(batches)
    del batches, loader
    gc.collect()
    assert batch["x"].ravel().tolist() == list(range(24))


FORK = """
import os, sys, warnings
from loaderd import errors
from loaderd.jax import LanceLoader
warnings.simplefilter("ignore")
loader = LanceLoader("memory:rows=100", columns=["label"], batch_size=8, socket=sys.argv[1],
                     autostart=False)
batches = iter(loader)
batch = next(batches)
child = os.fork()
if child == 0:
    status = 3
    try:
        next(batches)
    except errors.ForkedProcess:
        status = 0
    os._exit(status)
assert os.waitpid(child, 0)[1] == 0
# The child's copy was none of a lease: the parent's batch is still its own.
assert batch["label"].tolist() == list(range(8))
assert [b["label"][0].item() for b in batches] == list(range(8, 96, 8))
"""


def test_a_forked_child_is_told(daemon: Daemon) -> None:
    run(FORK, daemon.socket)


ALONE = """
import sys
import loaderd
assert not {"torch", "jax", "numpy"} & set(sys.modules)
# What is None here can't be imported.
sys.modules[sys.argv[2]] = None
__import__(f"loaderd.{sys.argv[1]}")
assert sys.argv[1] in sys.modules
"""


def test_neither_framework_needs_the_other() -> None:
    run(ALONE, "jax", "torch")
    pytest.importorskip("torch")
    run(ALONE, "torch", "jax")
