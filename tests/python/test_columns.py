"""Columns whose rows differ in length: what they hold, end to end through a real daemon."""

from __future__ import annotations

import math
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from column_rows import COLUMNS, ROWS, boxes_of, check, picture, tags_of, text_of
from daemon_process import Daemon
from loaderd import CenterCrop, Decode, Ragged, errors


@pytest.fixture(params=["", ",slow"])
def uri(request: pytest.FixtureRequest) -> str:
    return f"memory:rows={ROWS}{request.param}"


def test_every_value_of_every_row(daemon: Daemon, uri: str) -> None:
    dataset = daemon.dataset(uri, columns=COLUMNS, shuffle=True, seed=3)
    for _ in range(2):
        seen = [row for batch in dataset for row in check(batch)]
        assert sorted(seen) == list(range(ROWS))
        assert seen != list(range(ROWS))


def test_types_and_order_of_columns(daemon: Daemon) -> None:
    columns = ["tags", "boxes", "label", "categories", "text"]
    batch = next(iter(daemon.dataset(columns=columns)))
    assert list(batch) == columns
    assert (batch["boxes"].dtype, batch["boxes"].values.shape[1:]) == (torch.float32, (4,))
    assert batch["categories"].dtype == torch.int64
    assert batch["text"].text and batch["tags"].text and not batch["boxes"].text
    assert batch["boxes"].to_nested().shape[0] == 8


def test_ranks_share_the_rows(daemon: Daemon) -> None:
    seen = []
    for rank in range(3):
        dataset = daemon.dataset(
            f"memory:rows={ROWS}", columns=COLUMNS, rank=rank, world_size=3, run="ranks"
        )
        seen += [row for batch in dataset for row in check(batch)]
    assert sorted(seen) == list(range(ROWS))


def test_resume(daemon: Daemon, uri: str) -> None:
    arguments = {"columns": COLUMNS, "shuffle": True, "seed": 9}
    whole = [check(batch) for batch in daemon.dataset(uri, **arguments)]
    first = daemon.dataset(uri, **arguments)
    found = [check(batch) for batch in islice(iter(first), 3)]
    state = first.state_dict()
    first.close()
    second = daemon.dataset(uri, **arguments)
    second.load_state_dict(state)
    assert found + [check(batch) for batch in second] == whole


def test_the_same_bytes_every_time(daemon: Daemon, uri: str) -> None:
    def arrays() -> list[Any]:
        found: list[Any] = []
        for batch in daemon.dataset(uri, columns=COLUMNS, shuffle=True):
            for name in COLUMNS[1:]:
                array = batch[name]
                while isinstance(array, Ragged):
                    found.append(array.offsets.clone())
                    array = array.values
                found.append(array.clone())
        return found

    for one, other in zip(arrays(), arrays(), strict=True):
        assert torch.equal(one, other)


# --- Nulls -------------------------------------------------------------------------------


def test_masks(daemon: Daemon, uri: str) -> None:
    columns = ["label", "text", "text._valid", "boxes._valid", "tags._valid", "label._valid"]
    for batch in daemon.dataset(uri, columns=columns, shuffle=True):
        rows = check(batch)
        for name, value in (("text", text_of), ("boxes", boxes_of), ("tags", tags_of)):
            assert batch[f"{name}._valid"].tolist() == [value(row) is not None for row in rows]
        assert batch["label._valid"].all() and batch["text._valid"].dtype == torch.bool


def test_null_numbers(daemon: Daemon, uri: str) -> None:
    columns = ["label", "score", "score._valid", "count", "count._valid"]
    for batch in daemon.dataset(uri, columns=columns):
        for row, score, has_score, count, has_count in zip(
            *(batch[name].tolist() for name in columns), strict=True
        ):
            assert has_score == (row % 6 != 5)
            assert score == row / 2 if has_score else math.isnan(score)
            assert has_count == (row % 10 != 9)
            assert count == (row * 2 if has_count else 0)
    # Six of 61 rows, and nothing in an int64 that says so.
    with pytest.raises(errors.DatasetError, match=r'null in 6 of 61 .*"count._valid"'):
        len(daemon.dataset(uri, columns=["count"]))
    assert len(daemon.dataset(uri, columns=["score"])) == 8


# --- Images and bytes --------------------------------------------------------------------


@pytest.mark.parametrize("slow", ["", ",slow"])
def test_bytes_are_left_alone(daemon: Daemon, photos: Path, slow: str) -> None:
    (photos / "8.null").touch()
    (photos / "9.jpg").write_bytes(b"")
    (photos / "a.jpg").write_bytes(b"no image at all \x00\xff")
    files = sorted(photos.iterdir())
    dataset = daemon.dataset(
        f"memory:rows=40,images={photos}{slow}",
        columns=["label", "image", "image._valid"],
        shuffle=True,
    )
    for batch in dataset:
        named = [files[row % len(files)] for row in batch["label"].tolist()]
        assert batch["image"].tobytes() == [path.read_bytes() for path in named]
        assert batch["image._valid"].tolist() == [path.suffix != ".null" for path in named]


@pytest.mark.parametrize("column", ["image", "path"])
@pytest.mark.parametrize("slow", ["", ",slow"])
def test_images_in_their_own_size(daemon: Daemon, photos: Path, column: str, slow: str) -> None:
    numpy = pytest.importorskip("numpy")
    image = pytest.importorskip("PIL.Image")
    dataset = daemon.dataset(
        f"memory:rows=24,images={photos}{slow}",
        columns=[column, "label"],
        transform={column: [Decode()]},
        shuffle=True,
    )
    for batch in dataset:
        assert batch[column].shapes.dtype == torch.int32
        for row, pixels in zip(batch["label"].tolist(), batch[column], strict=True):
            expected = numpy.asarray(image.open(photos / f"{row % 8}.jpg"))
            assert (pixels.dtype, pixels.shape) == (torch.uint8, expected.shape)
            # The same library may have another version, which rounds as it likes.
            assert numpy.abs(pixels.numpy().astype(int) - expected).max() <= 2


@pytest.mark.parametrize("slow", ["", ",slow"])
def test_images_in_files(daemon: Daemon, photos: Path, slow: str) -> None:
    arguments: dict[str, Any] = {"batch_size": 24, "shuffle": True, "seed": 1}
    uri = f"memory:rows=24,images={photos}{slow}"
    found, expected = (
        next(
            iter(
                daemon.dataset(
                    uri, columns=[name, "label"], transform={name: [CenterCrop(12)]}, **arguments
                )
            )
        )
        for name in ("path", "image")
    )
    assert torch.equal(found["path"], expected["image"])


@pytest.mark.parametrize("column", ["image", "path"])
def test_bad_samples(daemon: Daemon, photos: Path, column: str) -> None:
    (photos / "5.jpg").write_bytes(picture(5)[:100])

    def make(policy: Any) -> Any:
        return daemon.dataset(
            f"memory:rows=8,images={photos}",
            columns=[column, "label", "text", "tags", "_valid"],
            transform={column: [Decode()]},
            on_bad_sample=policy,
        )

    with pytest.raises(errors.BadSample, match="row address 5 "):
        next(iter(make("raise")))
    zeroed = next(iter(make("zero")))
    assert check(zeroed) == list(range(8))
    assert zeroed[column][5].shape == (0, 0, 3)
    assert zeroed["_valid"].tolist() == [row != 5 for row in range(8)]
    replaced = [next(iter(make("replace"))).clone() for _ in range(2)]
    rows = check(replaced[0])
    assert replaced[0].bad_rows >= 1 and rows[5] != 5 and 5 not in rows[:5]
    sides = [[40 - 3 * row, 16 + 8 * row, 3] for row in rows]
    assert replaced[0][column].shapes.tolist() == sides
    assert replaced[0][column].tolist() == replaced[1][column].tolist()


@pytest.mark.parametrize("slow", ["", ",slow"])
def test_replaced_rows_bring_all_their_values(daemon: Daemon, photos: Path, slow: str) -> None:
    for row in (1, 2, 4, 6):
        (photos / f"{row}.jpg").write_bytes(b"broken")
    dataset = daemon.dataset(
        f"memory:rows={ROWS},images={photos}{slow}",
        columns=["image", *COLUMNS, "text._valid"],
        transform={"image": [CenterCrop(8)]},
        on_bad_sample="replace",
        shuffle=True,
    )
    bad = 0
    for batch in dataset:
        rows = check(batch)
        assert not {row % 8 for row in rows} & {1, 2, 4, 6}
        assert batch["text._valid"].tolist() == [text_of(row) is not None for row in rows]
        bad += batch.bad_rows
    # Rows, not replacements tried: every other one is broken, too.
    assert bad == sum(row % 8 in {1, 2, 4, 6} for row in range(ROWS))


@pytest.mark.parametrize("policy", ["zero", "replace"])
def test_a_row_with_two_bad_images_is_one_bad_row(
    daemon: Daemon, photos: Path, policy: Any
) -> None:
    for row in (1, 2, 6):
        (photos / f"{row}.jpg").write_bytes(b"broken")
    dataset = daemon.dataset(
        f"memory:rows=8,images={photos}",
        columns=["image", "path", "label"],
        transform={"image": [CenterCrop(8)], "path": [CenterCrop(8)]},
        on_bad_sample=policy,
    )
    assert [batch.bad_rows for batch in dataset] == [3]


@pytest.mark.parametrize(
    ("instead", "match"),
    [
        (None, r'"path", row address 3 .*photos/3\.jpg: No such file'),
        (os.mkfifo, "no regular file"),
    ],
)
def test_files_that_cannot_be_read(daemon: Daemon, photos: Path, instead: Any, match: str) -> None:
    dataset = daemon.dataset(
        f"memory:rows=8,images={photos}",
        columns=["path"],
        transform={"path": [CenterCrop(8)]},
        batch_size=4,
    )
    # The source lists the folder when it is opened.
    assert len(dataset) == 2
    (photos / "3.jpg").unlink()
    if instead is not None:
        instead(photos / "3.jpg")
    with pytest.raises(errors.BadSample, match=match):
        next(iter(dataset))


@pytest.mark.parametrize(
    ("arguments", "expected", "match"),
    [
        (
            {"columns": ["boxes"], "transform": {"boxes": [Decode()]}},
            errors.TransformError,
            "lists",
        ),
        (
            {"columns": ["label"], "transform": {"label": [Decode()]}},
            errors.TransformError,
            "lists",
        ),
        ({"columns": ["tags"], "transform": {"tags": [Decode()]}}, errors.TransformError, "lists"),
        (
            {"columns": ["text"], "transform": {"text": [Decode(), CenterCrop(3)]}},
            errors.TransformError,
            "stands alone",
        ),
        (
            {"columns": ["text"], "transform": {"text": []}},
            errors.TransformError,
            r"\[Decode\(\)\]",
        ),
        ({"columns": ["texts._valid"]}, errors.DatasetError, "no column"),
        (
            {"columns": ["lable"]},
            errors.DatasetError,
            r'no column "lable" \(did you mean "label"\?\)',
        ),
        ({"columns": ["scores._valid"]}, errors.DatasetError, 'did you mean "score"'),
        (
            {"columns": ["text"], "transform": {"text": [Decode()]}},
            errors.BadSample,
            "no path|is relative|null",  # Whichever row comes first.
        ),
    ],
)
def test_what_cannot_be_is_refused(
    daemon: Daemon, arguments: dict[str, Any], expected: type[Exception], match: str
) -> None:
    with pytest.raises(expected, match=match):
        next(iter(daemon.dataset(**arguments)))
