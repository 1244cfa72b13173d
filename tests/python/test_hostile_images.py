"""Files that are made to cost much, or to mislead, through the daemon and each of its policies."""

from __future__ import annotations

import io
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")

from PIL import Image

from daemon_process import Daemon
from loaderd import CenterCrop, errors
from loaderd.torch import LanceIterableDataset

#: By how much a daemon may grow over one of them: the scratch that one decoder may use.
GROWTH_KB = 300 << 10
#: Over an epoch of a few of them, in seconds.
SOON_S = 60.0
ROWS = 24
GREY = 120


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (160, 120), (GREY,) * 3).save(file, "JPEG", **options)
    return file.getvalue()


def _sized(data: bytes, marker: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff" + marker) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _many_scans() -> bytes:
    """The same scan of one component again and again, each time with all bits, as it may come."""
    data = jpeg(progressive=True)
    scan = data.index(b"\xff\xda\x00\x08\x01")
    end = data.index(b"\xff\xc4", scan)
    whole = data[scan : scan + 9] + b"\0" + data[scan + 10 : end]
    return data[:scan] + whole * 10_000 + b"\xff\xd9"


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", data),
            chunk(b"IEND", b""),
        ]
    )


def _in_scan(data: bytes) -> bytes:
    """A JPEG with this in place of its scan's data."""
    whole = jpeg()
    scan = whole.rindex(b"\xff\xda")
    start = scan + 2 + int.from_bytes(whole[scan + 2 : scan + 4], "big")
    return whole[:start] + data + b"\xff\xd9"


#: Each with words of why it is refused.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a JPEG's header of 65,500 pixels": (
        lambda: _sized(jpeg(), b"\xc0", 65500, 65500),
        r"65500 ?[×x] ?65500",
    ),
    "coefficients beyond the scratch": (
        lambda: _sized(jpeg(progressive=True), b"\xc2", 13000, 13000),
        "bytes",
    ),
    "10,000 scans": (_many_scans, "scans"),
    "a PNG's header of 65,500 pixels": (
        lambda: _png(65500, 65500, zlib.compress(b"")),
        r"65500 ?[×x] ?65500",
    ),
    "a PNG of fewer data than it says": (
        lambda: _png(8000, 8000, zlib.compress(bytes(1000))),
        "PNG",
    ),
    "all 0xFF": (lambda: b"\xff\xd8" + b"\xff" * 100_000, "ends early"),
    "a scan of 0xFF": (lambda: _in_scan(b"\xff" * 100_000), "ends early"),
    "all restart markers": (lambda: _in_scan(b"\xff\xd0\xff\xd1" * 50_000), "JPEG"),
    "nothing": (lambda: b"", "no bytes"),
}


def peak_kb(daemon: Daemon) -> int:
    """The most memory that the daemon has had."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(re.findall(r"^VmHWM:\s*(\d+)", status, re.M)[0])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_costs_little(daemon: Daemon, tmp_path: Path, name: str) -> None:
    make, words = REFUSED[name]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg() if number != 1 else make())

    def load(policy: str) -> LanceIterableDataset:
        return daemon.dataset(
            f"memory:rows={ROWS},images={folder}",
            columns=["image", "label", "_valid"],
            transform={"image": [CenterCrop(8)]},
            on_bad_sample=policy,
            batch_size=ROWS,
        )

    began, before_kb = time.monotonic(), peak_kb(daemon)
    with pytest.raises(errors.BadSample, match=words) as caught:
        next(iter(load("raise")))
    assert re.search(r"row address \d*[147]\b", str(caught.value)), caught.value

    (batch,) = load("zero")
    valid = [row % 3 != 1 for row in range(ROWS)]
    assert batch["_valid"].tolist() == valid and batch["label"].tolist() == list(range(ROWS))
    means = batch["image"].float().mean(dim=(1, 2, 3)).tolist()
    assert means == pytest.approx([GREY * is_valid for is_valid in valid], abs=2)
    del batch

    (batch,) = load("replace")
    assert batch["_valid"].all() and batch.bad_rows == ROWS // 3
    assert {row % 3 for row in batch["label"].tolist()} == {0, 2}
    assert (batch["image"].float() - GREY).abs().max() <= 2
    assert time.monotonic() - began < SOON_S
    assert peak_kb(daemon) - before_kb < GROWTH_KB


def test_a_bomb_that_may_be_decoded_is_decoded_in_pieces(daemon: Daemon, tmp_path: Path) -> None:
    """144 million grey pixels in as many kilobytes: more than the daemon may have at once."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(12_001)) for _ in range(12_000)) + packer.flush()
    (folder / "0.png").write_bytes(_png(12_000, 12_000, rows))
    began, before_kb = time.monotonic(), peak_kb(daemon)
    (batch,) = daemon.dataset(
        f"memory:rows=2,images={folder}",
        columns=["image", "_valid"],
        transform={"image": [CenterCrop(8)]},
    )
    assert batch["_valid"].all() and not batch["image"].any()
    assert time.monotonic() - began < SOON_S
    assert peak_kb(daemon) - before_kb < 100 << 10


def test_a_run_of_bad_pictures_ends(daemon: Daemon, tmp_path: Path) -> None:
    """Where nothing can be decoded, no replacement can be found."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(b"\xff\xd8 no picture")
    dataset = daemon.dataset(
        f"memory:rows={ROWS},images={folder}",
        columns=["image"],
        transform={"image": [CenterCrop(8)]},
        on_bad_sample="replace",
    )
    with pytest.raises(errors.BadSample, match=r"32 replacements in a row.*is this an image"):
        next(iter(dataset))
