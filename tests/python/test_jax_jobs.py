"""JAX: the same rows as PyTorch, in the same order, on however many devices and processes.

What needs several devices or processes runs ``jax_devices.py`` and ``jax_processes.py``.
"""

from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from daemon_process import ROWS, Daemon
from loaderd import CenterCrop, Normalize, RandomHorizontalFlip, RandomResizedCrop, errors

jax = pytest.importorskip("jax")
np = pytest.importorskip("numpy")

import jax.numpy as jnp  # noqa: E402

from jax_helpers import free_port, loader_of, run, start, trace, valid  # noqa: E402
from loaderd.jax import Batch, LanceLoader  # noqa: E402

HERE = Path(__file__).parent


def test_the_last_rows_are_dropped_or_padded(daemon: Daemon) -> None:
    columns = ["tensor", "label"]
    dropped = [batch.clone() for batch in loader_of(daemon, columns=columns)]
    assert len(dropped) == 12
    assert all(list(batch) == columns for batch in dropped)
    loader = loader_of(daemon, columns=columns, partial="pad")
    padded = [batch.clone() for batch in loader]
    assert len(loader) == len(padded) == 13
    assert {batch["tensor"].shape for batch in padded} == {(8, 3, 4)}
    assert all(list(batch) == [*columns, "_valid"] for batch in padded)
    assert [batch.rows for batch in padded] == [8] * 12 + [4]
    assert [row for batch in padded for row in valid(batch)] == list(range(ROWS))
    last = padded[-1]
    assert last["_valid"].tolist() == [True] * 4 + [False] * 4
    assert last["label"].tolist() == [96, 97, 98, 99, 0, 0, 0, 0]
    assert not last["tensor"][4:].any()
    for one, other in zip(dropped, padded, strict=False):
        assert one["tensor"].tolist() == other["tensor"].tolist()


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_take_the_same_steps_of_the_same_shape(daemon: Daemon, world_size: int) -> None:
    for partial in ("drop", "pad"):
        ranks: list[list[Batch]] = [
            [
                batch.clone()
                for batch in loader_of(
                    daemon,
                    columns=["label", "_valid"],
                    shuffle=True,
                    rank=rank,
                    world_size=world_size,
                    run=partial,
                    partial=partial,
                )
            ]
            for rank in range(world_size)
        ]
        whole, rest = divmod(ROWS, 8 * world_size)
        assert {len(found) for found in ranks} == {whole + (partial == "pad" and rest > 0)}
        assert {batch["label"].shape for found in ranks for batch in found} == {(8,)}
        rows = sorted(row for found in ranks for batch in found for row in valid(batch))
        if partial == "pad":
            assert rows == list(range(ROWS))
        else:
            assert len(set(rows)) == len(rows) == whole * 8 * world_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop_last": False}, 'drop_last=False .* partial="pad"|padded'),
        ({"drop_last": True, "partial": "pad"}, "contradict"),
        ({"partial": "keep"}, "partial must be one of drop, pad, not 'keep'"),
        ({"sharding": "data"}, "sharding must be a jax.sharding.Sharding"),
        ({"rank": 1}, "give both"),
        ({"columns": "label"}, "columns must be a list"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.RequestError, match=message):
        LanceLoader("memory:", **{"columns": ["label"], "batch_size": 4, **arguments})


def test_drop_last_may_be_said_as_in_pytorch(daemon: Daemon) -> None:
    assert len(loader_of(daemon, drop_last=True)) == len(loader_of(daemon)) == 12
    assert len(loader_of(daemon, drop_last=False, partial="pad")) == 13


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty pictures of noise, no two alike."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(1)
    for number in range(20):
        coarse = random.integers(0, 255, (9, 12, 3), "uint8")
        image.fromarray(coarse).resize((96, 72)).save(folder / f"{number:02}.jpg", quality=92)
    return folder


@pytest.mark.parametrize(
    "transform",
    [
        [RandomResizedCrop(32), RandomHorizontalFlip()],
        [RandomResizedCrop(32), RandomHorizontalFlip(), Normalize.imagenet("float16")],
        [CenterCrop(32), Normalize.imagenet("float32")],
    ],
)
def test_batches_are_those_of_pytorch(daemon: Daemon, photos: Path, transform: list[Any]) -> None:
    pytest.importorskip("torch")
    from loaderd.torch import LanceIterableDataset

    uri = f"memory:rows=60,images={photos}"
    arguments: dict[str, Any] = {
        "columns": ["image", "label", "_valid"],
        "transform": {"image": transform},
        "batch_size": 8,
        "shuffle": True,
        "seed": 11,
        "socket": daemon.socket,
        "autostart": False,
    }
    reference = LanceIterableDataset(uri, drop_last=True, **arguments)
    expected = [
        (batch.step, batch.state["position"], batch["label"].tolist(), pixels(batch["image"]))
        for _ in range(2)
        for batch in reference
    ]

    def found_by(batches: Any) -> list[Any]:
        return [
            (batch.step, batch.state["position"], batch["label"].tolist(), pixels(batch["image"]))
            for batch in batches
        ]

    loader = LanceLoader(uri, **arguments)
    found = found_by(islice(loader, 3))
    state = loader.get_state()
    loader.close()
    # Stopped in mid-epoch; another process would do as this one does.
    resumed = LanceLoader(uri, **arguments)
    resumed.set_state(pickle.loads(pickle.dumps(state)))
    found += found_by(resumed) + found_by(resumed)
    assert len(found) == 14
    assert found == expected
    # One cursor for both: what PyTorch began, JAX can go on with.
    reference.set_epoch(0)
    next(batches := iter(reference))
    resumed.set_state(next(batches).state)
    assert found_by(resumed) == expected[2:7]


def pixels(image: Any) -> bytes:
    return bytes(np.asarray(image).tobytes())


@pytest.mark.parametrize("steps", range(14))
def test_resume_equals_the_uninterrupted_run(daemon: Daemon, steps: int) -> None:
    whole = loader_of(daemon, shuffle=True, partial="pad")
    expected = trace(whole) + trace(whole)
    first = loader_of(daemon, shuffle=True, partial="pad")
    found = trace(islice(first, steps))
    state = first.get_state()
    first.close()
    second = loader_of(daemon, shuffle=True, partial="pad")
    second.set_state(state)
    assert second.get_state() == state
    while len(found) < len(expected):
        found += trace(second)
    assert found == expected


def test_states_that_are_refused(daemon: Daemon) -> None:
    state = loader_of(daemon, shuffle=True).get_state()
    with pytest.raises(errors.ResumeRefused, match="columns"):
        loader_of(daemon, columns=["tensor"], shuffle=True).set_state(state)
    changed = loader_of(daemon, columns=["tensor"], shuffle=True)
    changed.set_state(state, allow_changed=True)
    with pytest.raises(errors.ResumeRefused, match="no state of a loaderd dataset"):
        changed.set_state({"epoch": 3})


def test_orbax_saves_and_restores_the_state(daemon: Daemon, tmp_path: Path) -> None:
    ocp = pytest.importorskip("orbax.checkpoint")
    loader = loader_of(daemon, shuffle=True)
    batches = iter(loader)
    model = {"weight": jnp.arange(3.0)}
    next(batches), next(batches)
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(
            2,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(model), data=ocp.args.JsonSave(loader.get_state())
            ),
        )
    expected = trace(batches)
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        restored = manager.restore(
            2,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(model), data=ocp.args.JsonRestore()
            ),
        )
    resumed = loader_of(daemon, shuffle=True)
    resumed.set_state(restored["data"])
    assert trace(resumed) == expected
    assert len(expected) == 10


def test_several_devices_of_a_process(daemon: Daemon) -> None:
    flags = "--xla_force_host_platform_device_count=4"
    run((HERE / "jax_devices.py").read_text(), daemon.socket, XLA_FLAGS=flags)


def test_several_processes(daemon: Daemon) -> None:
    """Two processes of two devices each make global arrays, as one process would."""
    script = (HERE / "jax_processes.py").read_text()
    flags = "--xla_force_host_platform_device_count=2"
    port = str(free_port())
    processes = [
        start(script, daemon.socket, port, str(number), XLA_FLAGS=flags) for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    # What rank 0 has seen of the global batches is what a process alone gets.
    alone = trace(loader_of(daemon, batch_size=8, shuffle=True, seed=2))
    assert outputs[0].splitlines()[-1] == str([labels for _, labels in alone])
