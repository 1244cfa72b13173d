"""Reads of tiled images that bring only what their crops take, once the images are known.

Needs the daemon's executable with lance in it (``LOADERD_BIN``, or beside Python), and
pylance, which writes the datasets.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from loaderd import RandomHorizontalFlip, RandomResizedCrop, errors

np = pytest.importorskip("numpy")
pytest.importorskip("torch")
pytest.importorskip("lance")
pytest.importorskip("PIL.Image")

from daemon_process import Daemon, loaderd  # noqa: E402
from test_tile import mixed, picture, tile, write  # noqa: E402

SMALL = {"image": [RandomResizedCrop(48, scale=(0.05, 0.3)), RandomHorizontalFlip()]}
ENTRY_BYTES = 64


def photos(path: Path, count: int = 60, side: int = 480) -> str:
    rows = {n: picture(n, side, quality=92, subsampling=n % 3) for n in range(count)}
    return write(path, rows)


def epoch(dataset: Any, number: int) -> str:
    """A digest of an epoch's rows and pixels."""
    dataset.set_epoch(number)
    digest = hashlib.sha256()
    for batch in dataset:
        for name in ("id", "image", "_valid"):
            digest.update(batch[name].numpy().tobytes())
    return digest.hexdigest()


def open_dataset(daemon: Daemon, uri: str, **arguments: Any) -> Any:
    arguments = {"columns": ["image", "id", "_valid"], "transform": SMALL, **arguments}
    return daemon.dataset(
        uri, shuffle=True, seed=5, on_bad_sample="zero", protect="none", **arguments
    )


def read_bytes(daemon: Daemon) -> int:
    status = json.loads(loaderd("status", "--json", f"--socket={daemon.socket}").stdout)
    [session] = status["sessions"]
    count: int = session["read_bytes"]
    return count


def cuts() -> list[Path]:
    return list(Path(os.environ["LOADERD_CACHE"]).glob("*.cuts"))


def forget() -> None:
    for path in cuts():
        path.unlink()


def epochs(daemon: Daemon, uri: str, count: int, **arguments: Any) -> tuple[list[str], list[int]]:
    """Digests of the first epochs, and how many bytes each read."""
    dataset = open_dataset(daemon, uri, **arguments)
    digests, bytes_read = [], [0]
    for number in range(count):
        digests.append(epoch(dataset, number))
        bytes_read.append(read_bytes(daemon))
    dataset.close()
    return digests, [after - before for before, after in itertools.pairwise(bytes_read)]


def alone(daemon: Daemon, uri: str, number: int, **arguments: Any) -> str:
    """The digest of one epoch, read without knowing the images."""
    forget()
    dataset = open_dataset(daemon, uri, **arguments)
    digest = epoch(dataset, number)
    dataset.close()
    return digest


def test_later_epochs_read_less_and_give_the_same_pixels(daemon: Daemon, tmp_path: Path) -> None:
    uri = photos(tmp_path / "photos")
    tile(uri, "--column", "image")
    digests, bytes_read = epochs(daemon, uri, 4)
    whole, later = bytes_read[0], bytes_read[1:]
    assert max(later) < 0.7 * whole, bytes_read
    [file] = cuts()
    assert file.stat().st_size == 60 * ENTRY_BYTES
    # Another session knows the images from its first epoch on, and so does another daemon.
    assert epochs(daemon, uri, 2)[1][0] < 0.7 * whole
    (tmp_path / "other").mkdir()
    with Daemon(tmp_path / "other") as other:
        found, bytes_read = epochs(other, uri, 2)
        assert (found, max(bytes_read) < 0.7 * whole) == (digests[:2], True)
    assert [alone(daemon, uri, number) for number in range(4)] == digests


@pytest.mark.parametrize("read", ["direct", "buffered", "pread"])
def test_every_way_of_reading(tmp_path: Path, read: str) -> None:
    uri = photos(tmp_path / "photos", 40)
    tile(uri, "--column", "image")
    with Daemon(tmp_path, f"--read-mode={read}") as daemon:
        digests, bytes_read = epochs(daemon, uri, 2)
        assert bytes_read[1] < 0.7 * bytes_read[0]
        assert alone(daemon, uri, 1) == digests[1]


def test_mixed_images_nulls_and_bad_ones(daemon: Daemon, tmp_path: Path) -> None:
    """Only some rows can be cut; damaged ones stay the rows that they were."""
    uri = write(tmp_path / "mixed", {n: mixed(n) for n in range(80)})
    tile(uri, "--column", "image")
    digests, _ = epochs(daemon, uri, 3)
    assert [alone(daemon, uri, number) for number in range(3)] == digests


def test_large_images_are_read_in_two_pieces(daemon: Daemon, tmp_path: Path) -> None:
    rows = {n: picture(n, 1400, quality=95, subsampling=n % 3) for n in range(8)}
    uri = write(tmp_path / "large", rows)
    tile(uri, "--column", "image")
    digests, bytes_read = epochs(daemon, uri, 3)
    assert max(bytes_read[1:]) < 0.65 * bytes_read[0], bytes_read
    assert [alone(daemon, uri, number) for number in range(3)] == digests


def test_what_is_damaged_later_is_found_out(daemon: Daemon, tmp_path: Path) -> None:
    """Indices that are noise, torn or gone cost a whole read, and nothing else."""
    uri = photos(tmp_path / "photos", 40)
    tile(uri, "--column", "image")
    digests, bytes_read = epochs(daemon, uri, 2)
    [file] = cuts()
    content = bytearray(file.read_bytes())
    for row in range(0, 40, 2):
        content[row * ENTRY_BYTES + 5 + row % 50] ^= 0xFF
    file.write_bytes(content[: 30 * ENTRY_BYTES + 7])
    found, again = epochs(daemon, uri, 2)
    assert found == digests
    assert bytes_read[1] < again[0] <= bytes_read[0]
    # And they were learned anew.
    assert epochs(daemon, uri, 2)[1] < [0.7 * bytes_read[0]] * 2


def test_a_crop_of_an_image_that_was_damaged_meanwhile(daemon: Daemon, tmp_path: Path) -> None:
    """The file changes behind Lance's back: the policy for bad samples decides, as ever."""
    uri = photos(tmp_path / "photos", 40)
    tile(uri, "--column", "image")
    epochs(daemon, uri, 1)
    for path in Path(uri).rglob("*"):
        if path.suffix in {".lance", ".blob"} and path.stat().st_size > 1 << 20:
            content = bytearray(path.read_bytes())
            # Not the columns' descriptions, which lie at the end.
            for at in range(2000, len(content) - (64 << 10), 3001):
                content[at : at + 8] = b"\xff\xd9\xff\xd8\x00\x00\xff\xc0"
            path.write_bytes(content)
    dataset = open_dataset(daemon, uri)
    bad, rows = 0, set()
    for batch in dataset:
        bad += batch.bad_rows
        rows.update(batch["id"].tolist())
        for image, valid in zip(batch["image"], batch["_valid"], strict=True):
            assert valid or not image.any()
    dataset.close()
    assert (rows, bad > 20) == (set(range(40)), True)
    dataset = daemon.dataset(
        uri, columns=["image"], transform=SMALL, on_bad_sample="raise", protect="none"
    )
    with pytest.raises(errors.BadSample, match="row address"):
        for _ in dataset:
            pass
    dataset.close()


def test_untiled_images_leave_nothing_behind(daemon: Daemon, tmp_path: Path) -> None:
    uri = photos(tmp_path / "photos", 20)
    _, bytes_read = epochs(daemon, uri, 2)
    assert bytes_read[0] == bytes_read[1]
    assert cuts() == []


def test_where_indices_can_t_be_kept_it_is_said_once(daemon: Daemon, tmp_path: Path) -> None:
    uri = photos(tmp_path / "photos", 20)
    tile(uri, "--column", "image")
    digests, bytes_read = epochs(daemon, uri, 2)
    [file] = cuts()
    file.unlink()
    file.mkdir()
    assert epochs(daemon, uri, 2) == (digests, bytes_read[:1] * 2)
    [line] = [line for line in daemon.log.read_text().splitlines() if str(file) in line]
    assert "read whole; free some space, or give another folder with LOADERD_CACHE" in line
