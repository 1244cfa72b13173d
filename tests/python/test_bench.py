"""``loaderd bench``: what its report says, and that its picture can be read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from loaderd import launch

CROP = json.dumps([{"name": "RandomResizedCrop", "size": [32, 32]}])
SHAPES = {
    f"{{http://www.w3.org/2000/svg}}{name}" for name in ("svg", "rect", "text", "line", "path")
}


def command(*arguments: str) -> str:
    process = subprocess.run(
        [launch.find_binary(), *arguments], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def refused(*arguments: str) -> str:
    """What is said of a command that fails, which it does at once."""
    process = subprocess.run(
        [launch.find_binary(), *arguments], capture_output=True, text=True, timeout=20
    )
    assert process.returncode == 1
    return process.stderr


def bench(*arguments: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(command("bench", "--json", *arguments))
    return report


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A source of small drawn pictures."""
    folder = tmp_path_factory.mktemp("images")
    command("sample", str(folder), "--count=24", "--width=96", "--height=64")
    flat = tmp_path_factory.mktemp("flat")
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        path.rename(flat / f"{number}.jpg")
    return f"memory:rows=400,images={flat}"


def test_each_part_has_its_times(images: str) -> None:
    report = bench(images, "--seconds=1", "--batch-size=8", f"--transform={CROP}")
    assert [stage["name"] for stage in report["stages"]] == ["read", "decode", "end to end"]
    parts = {part["name"]: part for part in report["spreads"]}
    # Rows in memory are not read. A resize writes the finished values, so that there is a finish
    # of its own only for crops that had the target's size already.
    found = [name for name in parts if name != "finish"]
    assert found == ["header", "decode", "resize", "hand-over", "gap"]
    for part in parts.values():
        assert sum(part["bins_count"]) == part["count"] > 0
        assert len(part["bins_from_us"]) == len(part["bins_count"])
        known = [part[name] for name in ("p50_us", "p99_us", "p999_us") if part[name] is not None]
        assert known == sorted(known)
        assert all(value <= part["max_us"] for value in known)
        assert part["bins_from_us"][0] <= part["p50_us"] <= part["max_us"]
        # A quantile of so few would be the longest alone.
        assert (part["p999_us"] is None) == (part["count"] < 1000)
    end_to_end = report["stages"][-1]
    batches = end_to_end["rows"] / 8
    # Each image is timed once, those of batches that were not consumed included.
    assert parts["decode"]["count"] == parts["header"]["count"] >= end_to_end["rows"]
    assert parts["hand-over"]["count"] == pytest.approx(batches, abs=1)
    # From batch to batch is all the time there is.
    time_s = end_to_end["rows"] / end_to_end["rows_per_s"]
    assert parts["gap"]["mean_us"] * parts["gap"]["count"] == pytest.approx(time_s * 1e6, rel=0.2)
    assert any(line.startswith("slots: batches came ") for line in report["advice"])


@pytest.mark.parametrize("column", ["text", "boxes", "tags"])
def test_lists_and_text_are_counted_with_their_offsets(column: str) -> None:
    report = bench("memory:rows=61", f"--column={column}", "--seconds=0.3", "--batch-size=61")
    assert report["column"] == column
    assert report["verdict"].startswith("copy-bound")
    (stage,) = report["stages"]
    assert stage["name"] == "end to end" and stage["rows"] >= 61
    # A batch is all rows, so each has the same bytes.
    boxes = [0 if row % 9 == 8 else row % 4 for row in range(61)]
    tags = [0 if row % 8 == 5 else row % 3 for row in range(61)]
    expected = {
        "boxes": sum(boxes) * 16 + 62 * 8,
        # At least so many inner offsets, and at most 9 bytes a tag.
        "tags": 62 * 8 + (sum(tags) + 1) * 8,
        "text": 62 * 8,
    }[column]
    found = stage["mb_per_s"] * 1e6 / stage["rows_per_s"] * 61
    if column == "boxes":
        assert found == pytest.approx(expected)
    else:
        assert expected < found < expected + 61 * 80


def test_batches_larger_than_their_slot_are_read(tmp_path: Path) -> None:
    # One row in 500 is large, so the room that is reckoned for most does not hold its batch.
    for number in range(500):
        (tmp_path / f"{number:03}").write_bytes(b"x" * (1 << 20 if number == 7 else 100))
    source = f"memory:rows=500,images={tmp_path}"
    report = bench(source, "--transform=null", "--seconds=0.3", "--batch-size=50")
    assert [stage["name"] for stage in report["stages"]] == ["read", "end to end"]
    assert report["slot_bytes"] < 1 << 20
    assert report["verdict"].startswith("read- or copy-bound")
    end_to_end = report["stages"][1]
    assert end_to_end["mb_per_s"] * 1e6 / end_to_end["rows_per_s"] > 100 + 8


def test_images_in_any_column_and_size(images: str) -> None:
    decode = json.dumps([{"name": "Decode"}])
    brief = ("--seconds=0.3", "--batch-size=8")
    report = bench(images, f"--transform={decode}", *brief)
    assert [stage["name"] for stage in report["stages"]] == ["read", "decode", "end to end"]
    end_to_end = report["stages"][-1]
    # 96 x 64 pixels, or up to a sixteenth less.
    found = end_to_end["mb_per_s"] * 1e6 / end_to_end["rows_per_s"]
    assert 96 * 60 * 3 < found < 96 * 64 * 3 + 12 + 16
    report = bench(images, "--column=path", f"--transform={CROP}", *brief)
    assert [stage["name"] for stage in report["stages"]] == ["end to end"]
    assert report["verdict"].startswith("load-bound")
    assert {"header", "decode", "resize"} < {part["name"] for part in report["spreads"]}


def test_a_slow_consumer_is_told_so() -> None:
    report = bench("memory:rows=1000,tensor=8:float32", "--seconds=1", "--consume-ms=20")
    assert report["verdict"].startswith("consumer-bound")
    assert "will do for a step of 20.0 ms" in report["advice"][0]
    gap = report["spreads"][-1]
    assert gap["name"] == "gap"
    assert gap["p50_us"] >= 20_000 * 0.97
    assert report["consumer_waited"] < 0.1


def test_a_sweep_and_its_picture(images: str, tmp_path: Path) -> None:
    picture = tmp_path / "bench.svg"
    report = bench(
        images,
        "--seconds=0.2",
        "--batch-size=8",
        f"--transform={CROP}",
        "--decode-threads=3",
        "--sweep",
        f"--plot={picture}",
    )
    assert [trial["threads"] for trial in report["sweep"]["threads"]] == [1, 2, 3]
    assert [trial["slots"] for trial in report["sweep"]["slots"]] == [2, 3, 4, 6, 8]
    for trial in report["sweep"]["threads"]:
        assert trial["rows_per_s"] > 0 and trial["decode_rows_per_s"] > 0
    for what in ("threads: ", "slots: "):
        assert any(line.startswith(what) for line in report["advice"]), report["advice"]
    root = ElementTree.parse(picture).getroot()
    assert {element.tag for element in root.iter()} == SHAPES
    words = [element.text or "" for element in root.iter() if element.text]
    for part in report["spreads"]:
        assert part["name"] in words
    assert report["verdict"] in " ".join(words)
    width = float(root.get("width", "0"))
    for line in root.iter("{http://www.w3.org/2000/svg}line"):
        assert all(0 <= float(line.get(name, "-1")) <= width for name in ("x1", "x2"))


def test_cold_without_files_says_so() -> None:
    report = bench("memory:rows=100,tensor=8:float32", "--seconds=0.2", "--cold")
    assert any(note.startswith("cold: not measured") for note in report["notes"])


def test_a_picture_that_cannot_be_written_fails_at_once(tmp_path: Path) -> None:
    picture = tmp_path / "gone" / "x.svg"
    assert "x.svg" in refused("bench", "memory:rows=100", "--seconds=60", f"--plot={picture}")


def test_a_bench_that_fails_leaves_files_as_they_were(tmp_path: Path) -> None:
    kept, new = tmp_path / "kept.svg", tmp_path / "new.svg"
    kept.write_text("an earlier picture")
    for picture in (kept, new):
        for wrong in ("--column=pictures", "--slots=0"):
            refused("bench", "memory:rows=100", wrong, f"--plot={picture}")
    assert kept.read_text() == "an earlier picture" and not new.exists()


def test_times_without_an_end_are_refused() -> None:
    for wrong in ("--seconds=inf", "--seconds=1e300", "--consume-ms=1e300", "--seconds=nan"):
        assert "for ever" in refused("bench", "memory:rows=100", wrong)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_bench_that_is_ended_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    picture = tmp_path / "new.svg"
    process = subprocess.Popen(
        [launch.find_binary(), "bench", "memory:rows=100", "--seconds=60", f"--plot={picture}"],
        env={**os.environ, "LOADERD_SOCKET": str(tmp_path / "sock")},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    # The step log is the last of what a daemon makes there.
    while len(list(tmp_path.glob("bench-*/steps.sqlite-*"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(20) == -number
    assert list(tmp_path.glob("bench-*")) == [] and not picture.exists()


def test_images_that_cannot_be_decoded_are_told(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"no image")
    report = bench(f"memory:rows=40,images={tmp_path}", "--seconds=0.1")
    (note,) = [note for note in report["notes"] if note.startswith("bad images: ")]
    rows = report["stages"][-1]["rows"]
    assert f"{rows} of {rows} rows" in note


def test_a_wrong_column_is_told_the_right_ones() -> None:
    words = refused("bench", "memory:rows=100", "--column=pictures")
    assert 'no column "pictures": its columns are ' in words
    assert "label" in words
