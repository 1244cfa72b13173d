"""Columns whose rows differ in length: their way from the daemon, their memory, lies about them."""

from __future__ import annotations

import gc
import logging
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from client_helpers import EPOCH, connect, labels
from column_rows import COLUMNS, EXPECTED, ROWS, boxes_of, check, status
from daemon_process import Daemon
from fake_daemon import LAYOUT, SEALS, FakeDaemon
from loaderd import Decode, errors
from loaderd.session import Session

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
