"""JAX: ragged columns in shapes that never change."""

from __future__ import annotations

from typing import Any

import pytest

from daemon_process import Daemon
from loaderd import errors

jax = pytest.importorskip("jax")
np = pytest.importorskip("numpy")

import jax.numpy as jnp  # noqa: E402

from jax_helpers import loader_of  # noqa: E402

ROWS = 61
URI = f"memory:rows={ROWS}"
COLUMNS = ["label", "boxes", "categories", "text"]
LENGTHS = {"boxes": 3, "categories": np.int64(2), "text": 16}
#: Numbers of a value, and their type, by column.
KINDS: dict[str, tuple[list[int], str]] = {
    "boxes": ([4], "float32"),
    "categories": ([], "int32"),
    "text": ([], "uint8"),
}


def values_of(name: str, row: int) -> list[Any]:
    """A row of the memory source; null is empty."""
    if name == "text":
        if row % 7 == 3 or row % 5 == 0:
            return []
        return list(f"row {row}{' – ü' * (row % 11)}".encode())
    count = 0 if row % 9 == 8 else row % 4
    if name == "categories":
        return [row * 10 + k for k in range(count)]
    return [[row, k, row + 10, k + 10.5] for k in range(count)]


@pytest.mark.parametrize("uri", [URI, f"{URI},slow"])
def test_rows_are_padded_and_their_lengths_told(daemon: Daemon, uri: str) -> None:
    loader = loader_of(
        daemon, uri, columns=COLUMNS, shuffle=True, partial="pad", pad_ragged=LENGTHS
    )
    seen, cut = [], 0
    for batch in loader:
        assert list(batch) == [
            "label",
            *(part for name in LENGTHS for part in (name, f"{name}._length")),
            "_valid",
        ]
        rows = batch["label"].tolist()[: batch.rows]
        seen += rows
        for name, length in LENGTHS.items():
            shape, dtype = KINDS[name]
            column, lengths = np.array(batch[name]), np.array(batch[f"{name}._length"])
            assert (column.shape, str(column.dtype)) == ((8, length, *shape), dtype)
            assert (lengths.shape, str(lengths.dtype)) == ((8,), "int32")
            expected = [values_of(name, row) for row in rows]
            assert lengths.tolist() == [len(row) for row in expected] + [0] * (8 - len(rows))
            for found, row in zip(column, expected, strict=False):
                assert found[: len(row)].tolist() == row[:length]
                assert not found[len(row) :].any()
                cut += len(row) > length
            assert not column[len(rows) :].any()
    assert sorted(seen) == list(range(ROWS))
    assert cut > 20


def test_a_function_of_padded_rows_is_traced_once(daemon: Daemon) -> None:
    traced = []

    @jax.jit
    def total(batch: Any) -> Any:
        traced.append(1)
        real = jnp.arange(3) < batch["categories._length"][:, None]
        return jnp.where(real, batch["categories"], 0).sum()

    # Two slots: what is made of them doesn't hold them.
    loader = loader_of(daemon, URI, columns=["categories"], pad_ragged={"categories": 3}, slots=2)
    kept = list(loader)
    expected = sum(sum(values_of("categories", row)) for row in range(56))
    assert sum(int(total(batch)) for batch in kept) == expected
    assert len(kept) == 7 and traced == [1]


def test_numbers_that_do_not_fit_are_not_cut_off_in_lists_either(daemon: Daemon) -> None:
    arguments: dict[str, Any] = {"columns": ["categories"], "pad_ragged": {"categories": 3}}
    with jax.enable_x64(True):
        batch = next(iter(loader_of(daemon, URI, **arguments)))
    assert {str(array.dtype) for array in batch.values()} == {"int64"}
    # Row numbers far beyond 2^31 are not to be had here, so the check itself is called.
    from loaderd.jax import _narrowed

    with pytest.raises(errors.RequestError, match="'categories' holds 4294967296"):
        _narrowed("categories", np.array([[0, 2**32]]))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (
            {"boxs": 3},
            "names 'boxs', which is not among columns: label, boxes, tags; did you mean 'boxes'",
        ),
        ({0: 3}, "names 0, which is not among columns: label, boxes, tags$"),
        ({"boxes": 0}, r"pad_ragged\['boxes'\] must be at least 1 value a row, not 0"),
        ({"boxes": 2.0}, r"pad_ragged\['boxes'\] must be .* not 2.0"),
        ({"boxes": True}, r"pad_ragged\['boxes'\] must be .* not True"),
        (64, "pad_ragged must be by column"),
        ({"label": 3}, "'label' is dense"),
        ({"tags": 3}, "'tags' holds lists of lists"),
    ],
)
def test_what_cannot_be_padded_is_refused(daemon: Daemon, lengths: Any, message: str) -> None:
    with pytest.raises(errors.RequestError, match=message):
        next(iter(loader_of(daemon, URI, columns=["label", "boxes", "tags"], pad_ragged=lengths)))


def test_a_name_that_padding_needs_is_refused(daemon: Daemon) -> None:
    with pytest.raises(errors.RequestError, match=r"'boxes._length' is what pad_ragged adds"):
        loader_of(daemon, URI, columns=["boxes", "boxes._length"], pad_ragged={"boxes": 3})


def test_batches_without_a_value_are_padded_too(daemon: Daemon) -> None:
    # Rows 0 and 8 of the source have no boxes.
    loader = loader_of(
        daemon, "memory:rows=1", columns=["boxes"], pad_ragged={"boxes": 5}, batch_size=1
    )
    (batch,) = loader
    assert batch["boxes"].shape == (1, 5, 4) and not np.array(batch["boxes"]).any()
    assert batch["boxes._length"].tolist() == [0]


def test_trees_of_other_things_than_arrays_can_be_shown(daemon: Daemon) -> None:
    batch = next(iter(loader_of(daemon, URI, columns=["categories", "tags"])))
    shapes = repr(jax.tree.map(jnp.shape, batch))
    assert "'categories': Ragged(values=(12,), offsets=(9,))" in shapes
    assert "'tags': Ragged(values=Ragged(values=" in shapes
    assert repr(jax.eval_shape(lambda batch: batch, batch)["categories"]) == repr(
        batch["categories"]
    )
