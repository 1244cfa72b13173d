"""Columns whose rows differ in length, end to end through a real daemon."""

from __future__ import annotations

import gc
import io
import json
import logging
import math
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from client_helpers import EPOCH, connect, labels
from daemon_process import Daemon
from fake_daemon import LAYOUT, SEALS, FakeDaemon
from loaderd import CenterCrop, Decode, Ragged, errors, launch
from loaderd.session import Session

ROWS = 61
COLUMNS = ["label", "text", "boxes", "categories", "tags"]


# What the memory source's columns hold, by row; None is null.
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


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.stop()
    assert daemon.process.returncode == 0, daemon.log.read_text()
    assert "panicked" not in daemon.log.read_text()


@pytest.fixture(params=["", ",slow"])
def uri(request: pytest.FixtureRequest) -> str:
    return f"memory:rows={ROWS}{request.param}"


def picture(row: int) -> bytes:
    """A picture of one colour, in a size of its own."""
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    size = (16 + 8 * row, 40 - 3 * row)
    image.new("RGB", size, (30 * row, 100, 50)).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for row in range(8):
        (folder / f"{row}.jpg").write_bytes(picture(row))
    return folder


def status(daemon: Daemon) -> Any:
    command = [launch.find_binary(), "status", "--json", f"--socket={daemon.socket}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


# --- Values ------------------------------------------------------------------------------


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
    assert bad > 20


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
            {"columns": ["text"], "transform": {"text": [Decode()]}},
            errors.BadSample,
            "no path|null",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    daemon: Daemon, arguments: dict[str, Any], expected: type[Exception], match: str
) -> None:
    with pytest.raises(expected, match=match):
        next(iter(daemon.dataset(**arguments)))


# --- Memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", ["", ",slow"])
def test_batches_too_large_for_their_slot(
    daemon: Daemon, slow: str, caplog: pytest.LogCaptureFixture
) -> None:
    arguments: dict[str, Any] = {
        "uri": f"memory:rows=1000{slow}",
        "columns": COLUMNS,
        "batch_size": 64,
        "shuffle": True,
    }
    dataset = daemon.dataset(variable_bytes=0, **arguments)
    with caplog.at_level(logging.WARNING, logger="loaderd"):
        batches = iter(dataset)
        kept = next(batches)
        seen = check(kept) + [row for batch in batches for row in check(batch)]
    assert sorted(seen) == list(range(1000))
    assert check(kept) == seen[:64]
    (said,) = [one.getMessage() for one in caplog.records if "variable_bytes" in one.getMessage()]
    assert "10 of 10 batches" in said
    (session,) = status(daemon)["sessions"]
    assert session["oversize"] == 16
    # What the message advises is enough for the batches that it had seen.
    advised = int(said.split("variable_bytes=")[1].split()[0])
    fits = daemon.dataset(variable_bytes=advised, **arguments)
    batches = iter(fits)
    for _ in range(10):
        check(next(batches))
    assert status(daemon)["sessions"][1]["oversize"] <= 6


def test_the_estimate_holds_what_is_typical(daemon: Daemon) -> None:
    dataset = daemon.dataset(f"memory:rows={ROWS}", columns=COLUMNS, batch_size=16)
    assert sum(len(check(batch)) for batch in dataset) == ROWS
    assert status(daemon)["sessions"][0]["oversize"] == 0


def test_memory_comes_back_with_the_tensors(tmp_path: Path, photos: Path) -> None:
    daemon = Daemon(tmp_path, "--slot-memory=2M")
    dataset = daemon.dataset(
        f"memory:rows=800,images={photos}",
        columns=["image"],
        transform={"image": [Decode()]},
        variable_bytes=0,
        batch_size=64,
        slots=2,
    )
    # Each batch is some 200 KB; twelve of them are more than there is.
    slots = status(daemon)["slot_bytes"][0]
    assert sum(batch.rows for batch in dataset) == 800
    deadline = time.monotonic() + 10
    while status(daemon)["slot_bytes"][0] > slots + 2 * 4096:
        assert time.monotonic() < deadline, status(daemon)
        time.sleep(0.05)
    dataset.close()
    daemon.stop()


def test_too_large_for_the_daemon_is_an_error(tmp_path: Path, photos: Path) -> None:
    daemon = Daemon(tmp_path, "--slot-memory=1M")
    arguments: dict[str, Any] = {
        "columns": ["image"],
        "transform": {"image": [Decode()]},
        "variable_bytes": 0,
        "batch_size": 800,
        "slots": 2,
    }
    dataset = daemon.dataset(f"memory:rows=800,images={photos}", **arguments)
    with pytest.raises(errors.LimitExceeded, match="slot memory are in use: use fewer"):
        next(iter(dataset))
    # The daemon and the session live on.
    smaller = daemon.dataset(f"memory:rows=8,images={photos}", **{**arguments, "batch_size": 8})
    assert [batch.rows for batch in smaller] == [8]
    daemon.stop()


def test_tensors_outlive_session_and_daemon(tmp_path: Path) -> None:
    for variable_bytes in (0, 1 << 20):
        (tmp_path / str(variable_bytes)).mkdir()
        daemon = Daemon(tmp_path / str(variable_bytes))
        dataset = daemon.dataset(
            f"memory:rows={ROWS}", columns=COLUMNS, variable_bytes=variable_bytes, batch_size=32
        )
        boxes = next(iter(dataset))["boxes"][7]
        del dataset
        gc.collect()
        daemon.stop()
        assert boxes.tolist() == boxes_of(7)


def test_keeping_every_batch_is_an_error(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "exhausted_after_s", 0.3)
    for variable_bytes in (0, 1 << 20):
        dataset = daemon.dataset(
            f"memory:rows={ROWS}", columns=COLUMNS, slots=3, variable_bytes=variable_bytes
        )
        # A column's view of one row is enough to keep its batch.
        kept, batches = [], iter(dataset)
        with pytest.raises(errors.SlotsExhausted, match="all 3 slots"):
            kept.extend((b["label"].tolist(), b["text"][1]) for b in batches)
        assert len(kept) == 3
        for rows, text in kept:
            assert bytes(text.tolist()).decode() == EXPECTED["text"](rows[1])
        kept.clear()
        del text
        assert check(next(batches)) == list(range(24, 32))
        dataset.close()


CLIENT = """
import os, sys, time
from loaderd.torch import LanceIterableDataset
dataset = LanceIterableDataset("memory:rows=5000", columns=["boxes", "text"], batch_size=2000,
                               variable_bytes=0, slots=3, socket=sys.argv[1], autostart=False)
batches = iter(dataset)
kept = next(batches)
if sys.argv[2] == "fork":
    child = os.fork()
    if child == 0:
        # The child has a copy of the mapping and of the lease; neither is its own.
        assert len(kept["text"].tolist()) == 2000
        del kept
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert kept["boxes"][7].tolist()[0][0] == 7.0
    more = [batch["boxes"].tolist()[-1] for batch in batches]
    assert len(more) == 2 and more[-1][0][0] == 4999.0, more
print("holding", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("what", ["hold", "fork"])
def test_a_killed_client_gives_its_memory_back(daemon: Daemon, what: str) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, daemon.socket, what], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "holding\n"
    before = status(daemon)
    assert before["sessions"][0]["oversize"] >= 1
    client.kill()
    client.wait()
    client.stdout.close()
    deadline = time.monotonic() + 10
    while (after := status(daemon))["sessions"] or after["slot_bytes"][0]:
        assert time.monotonic() < deadline, after
        time.sleep(0.05)


# --- Parts that lie ----------------------------------------------------------------------

WORDS = {
    "name": "words",
    "dtype": "uint8",
    "shape": [],
    "offset": 0,
    "ragged": {"levels": 1, "text": True},
}
START = LAYOUT["dense_bytes"]


def with_words(daemon: FakeDaemon, **changes: Any) -> None:
    """Four rows of text behind the dense tensors: "ab", "", "cd", "e"."""
    daemon.opened["layout"] = {**LAYOUT, "tensors": [*LAYOUT["tensors"], {**WORDS, **changes}]}
    daemon.variable = struct.pack("<5q24x", 0, 2, 2, 4, 5) + b"abcde"
    part = {"offsets": [{"at": START, "count": 5}], "values": {"at": START + 64, "count": 5}}
    daemon.ready = {"ragged": [part], "rows": 4}


def test_parts_of_a_fake_daemon(fake_daemon: FakeDaemon) -> None:
    with_words(fake_daemon)
    batch = next(iter(connect(fake_daemon)))
    assert batch["words"].tolist() == ["ab", "", "cd", "e"]
    assert batch["label"].tolist() == EPOCH[0]
    assert batch["words"].offsets.data_ptr() % 64 == 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"ragged": []}, "0 ragged columns, the layout has 1"),
        ({"offsets": []}, "levels"),
        ({"offsets": [{"at": START, "count": 4}]}, "rows and one"),
        ({"offsets": [{"at": START + 8, "count": 5}]}, "multiple of 64"),
        ({"offsets": [{"at": 0, "count": 5}]}, "do not lie within"),
        ({"offsets": [{"at": START + 64, "count": 5}]}, "do not begin at 0"),
        ({"offsets": [{"at": 2**64 - 64, "count": 5}]}, "do not lie within"),
        ({"values": {"at": START + 64, "count": 6}}, "number of values"),
        ({"values": {"at": 4096, "count": 5}}, "do not lie within"),
        ({"shapes": {"at": START, "count": 4}}, "shapes come with images"),
        ({"oversize": 4096}, "not exactly the segment"),
        ({"oversize": 4096, "sealed": True}, "do not lie within|do not begin at 0|fall|number of"),
        ({"oversize": 8192, "sealed": True}, "it has 4096 bytes"),
        ({"oversize": 4096, "sealed": False}, "sealed"),
        ({"sealed": True}, "not exactly the segment"),
    ],
)
def test_parts_that_lie_are_refused(
    fake_daemon: FakeDaemon, change: dict[str, Any], match: str
) -> None:
    import fcntl

    with_words(fake_daemon)
    sealed = change.pop("sealed", None)
    if sealed is not None:
        memory = os.memfd_create("lies", os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, 4096)
        os.pwrite(memory, struct.pack("<q", 7) * 512, 0)
        if sealed:
            fcntl.fcntl(memory, 1033, SEALS)
        fake_daemon.attached = [memory]
    for name in ("ragged", "oversize"):
        if name in change:
            fake_daemon.ready[name] = change.pop(name)
    if fake_daemon.ready["ragged"]:
        fake_daemon.ready["ragged"][0].update(change)
    dataset = connect(fake_daemon)
    try:
        with pytest.raises(errors.InternalError, match=match):
            next(iter(dataset))
    finally:
        for memory in fake_daemon.attached:
            os.close(memory)


@pytest.mark.parametrize(
    "changes",
    [
        {"ragged": {"levels": 0}},
        {"ragged": {"levels": 3}},
        {"ragged": {"levels": 1, "text": True}, "dtype": "int64"},
        {"ragged": {"levels": 2, "images": True}},
        {"ragged": {"levels": 1}, "shape": [0]},
        {"ragged": {"levels": 1}, "shape": [2**40, 2**40]},
    ],
)
def test_layouts_that_lie_are_refused(fake_daemon: FakeDaemon, changes: dict[str, Any]) -> None:
    with_words(fake_daemon, **changes)
    with pytest.raises(errors.InternalError, match="is impossible"):
        len(connect(fake_daemon))


def test_a_batch_in_a_memfd_of_a_fake_daemon(fake_daemon: FakeDaemon) -> None:
    import fcntl

    with_words(fake_daemon)
    memory = os.memfd_create("large", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, 4096)
    os.pwrite(memory, struct.pack("<5q24x", 0, 1, 2, 3, 5) + b"vwxyz", 0)
    fcntl.fcntl(memory, 1033, SEALS)
    part = {"offsets": [{"at": 0, "count": 5}], "values": {"at": 64, "count": 5}}
    fake_daemon.ready.update(ragged=[part], oversize=4096)
    fake_daemon.attached = [memory]
    batches = iter(connect(fake_daemon))
    batch = next(batches)
    assert batch["words"].tolist() == ["v", "w", "x", "yz"]
    assert labels([batch]) == [EPOCH[0]]
    words = batch["words"][3]
    del batch
    assert fake_daemon.said("release") == []
    assert bytes(words.tolist()) == b"yz"
    del words
    assert len(fake_daemon.wait_for("release", 1)) == 1
    # Not before: the fake daemon attaches it to every batch.
    os.close(memory)
