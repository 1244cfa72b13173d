"""Writes the seeds of every fuzz target: a few small files, from which libFuzzer goes on.

Enters: nothing. Leaves: ``fuzz/corpus/TARGET/seed-N``. It needs no library, so that fuzzing
works before anything is installed.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).resolve().parent / "corpus"

OPEN = {
    "type": "open",
    "uri": "memory:rows=10",
    "version": 3,
    "filter": "label < 5",
    "columns": ["image", "label", "_valid"],
    "transform": {"image": [{"name": "CenterCrop", "size": [8, 8]}]},
    "batch_size": 4,
    "rank": 0,
    "world_size": 2,
    "run": "r",
    "protect": "keep",
    "on_bad_sample": "zero",
    "resume": {"format": 1},
}
LAYOUT = {
    "tensors": [
        {"name": "image", "dtype": "float16", "shape": [3, 8, 8], "offset": 0},
        {"name": "label", "dtype": "int64", "shape": [], "offset": 1536},
        {
            "name": "boxes",
            "dtype": "float32",
            "shape": [4],
            "offset": 0,
            "ragged": {"levels": 1, "text": False, "images": False},
        },
    ],
    "batch_size": 4,
    "dense_bytes": 1600,
    "slot_bytes": 4096,
}
FINGERPRINT = {
    "dataset": "ab",
    "uri": "/a.lance",
    "version": 1,
    "rows": 100,
    "selection": "cd",
    "filter": None,
    "columns": ["image"],
    "transform": "{}",
    "shuffle": True,
    "drop_last": False,
}
CURSOR = {
    "format": 1,
    "fingerprint": FINGERPRINT,
    "run": "r",
    "seed": 7,
    "global_batch_size": 8,
    "epoch": 2,
    "position": 16,
}
MESSAGES = [
    {"type": "hello", "protocol": 6, "version": "0.1.0", "binary": "/b"},
    OPEN,
    {"type": "start", "stream": 1, "epoch": 0, "step": 3},
    {"type": "release", "lease": 5},
    {"type": "status"},
    {"type": "failed", "kind": "io", "message": "two\nlines", "stream": 4},
    {"type": "waiting", "message": "preparing 8 GiB of slots"},
    {"type": "end_of_epoch", "stream": 1, "epoch": 0},
    {"type": "welcome", "protocol": 6, "version": "0.1.0", "binary": "/b", "pid": 9},
]
TRANSFORMS = [
    [{"name": "RandomResizedCrop", "size": [8, 8], "scale": [0.1, 1], "ratio": [0.5, 2]}],
    [{"name": "Resize", "size": 20, "max_size": 40}, {"name": "CenterCrop", "size": [16, 16]}],
    [
        {"name": "Resize", "size": [9, 7], "interpolation": "bilinear"},
        {"name": "RandomHorizontalFlip", "p": 0.25},
        {"name": "Normalize", "mean": [0.5], "std": [0.2, 0.3, 0.4], "dtype": "float16"},
    ],
    [{"name": "CenterCrop", "size": [4, 4]}, {"name": "ToDtype", "dtype": "float32"}],
]


def frame(message: Any) -> bytes:
    """A message as it goes over the socket."""
    body = json.dumps(message).encode()
    return b"LDR1" + struct.pack("<I", len(body)) + body


def page_map(rows: int = 3) -> bytes:
    """A page map's sections and description; the target adds header and checksums."""
    body = b""
    chunks = 0

    def section(data: bytes) -> dict[str, int]:
        nonlocal body, chunks
        found = {"offset": 64 + len(body), "bytes": len(data), "first_chunk": chunks}
        body += data
        chunks += 1
        return found

    # In the file, a null, and read by Lance; a value of 5 bytes, a null, and one that is not here.
    places = [(16, 100, 0), (0, 0, 0xFFFFFFFF), (0, 0, 0xFFFFFFFE)]
    entries = [0, 5 | 1 << 63, 5 | 1 << 62, 5]
    description = {
        "key": {
            "format": 3,
            "lance": "14.0.2",
            "identity": "ab",
            "version": 1,
            "filter": None,
            "columns": {
                "bytes": ["image"],
                "tiled": ["image_tiled"],
                "fixed": ["label"],
                "variable": ["text"],
            },
        },
        "rows": rows,
        "rows_in_version": rows,
        "selection_hash": "cd",
        "files": [{"path": "data/a.lance", "bytes_min": 116}],
        "lengths": [100, 100, 100],
        "extents": [section(b"".join(struct.pack("<QII", *place) for place in places))],
        "tiled_rows": [1],
        "fixed": [section(bytes(range(8 * rows)))],
        "nulls": [{"rows": 1, "bits": section(b"\2")}],
        "values": [{"entries": section(struct.pack("<4Q", *entries)), "bytes": section(b"value")}],
        "value_lengths": [[5]],
        "addresses": {"runs": section(struct.pack("<4Q", 0, 7, 2, 1 << 32))},
        "ids": {"raw": section(struct.pack("<3Q", 3, 2, 1))},
    }
    head = bytes([chunks]) + struct.pack("<H", len(body))
    return head + body + json.dumps(description).encode()


def jpeg(
    components: int = 3,
    marker: int = 0xC0,
    size: tuple[int, int] = (16, 16),
    interval: int = 0,
) -> bytes:
    """A file of one colour: every coefficient is 0, so every block has two codes of one bit.

    With an interval, so many MCUs stand between two restart markers.
    """

    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data

    ids = range(1, components + 1)
    frame_header = struct.pack(">BHHB", 8, size[1], size[0], components)
    frame_header += b"".join(bytes([n, 0x11, 0]) for n in ids)
    # One code of one bit each: difference 0, and end of block.
    tables = b"".join(bytes([kind, 1, *([0] * 15), 0]) for kind in (0x00, 0x10))
    scan = bytes([components]) + b"".join(bytes([n, 0]) for n in ids) + bytes([0, 63, 0])
    mcus = (-(-size[0] // 8)) * (-(-size[1] // 8))
    parts = []
    for first in range(0, mcus, interval or mcus):
        bits = "00" * components * min(interval or mcus, mcus - first)
        bits += "1" * (-len(bits) % 8)
        parts.append(int(bits, 2).to_bytes(len(bits) // 8, "big"))
    data = b"".join(
        part + struct.pack("BB", 0xFF, 0xD0 + number % 8) for number, part in enumerate(parts)
    )[:-2]
    return (
        b"\xff\xd8"
        + segment(0xFE, b"seed")
        + segment(0xDB, bytes(1) + bytes([16] * 64))
        + segment(marker, frame_header)
        + segment(0xC4, tables)
        + segment(0xDD, struct.pack(">H", interval))
        + segment(0xDA, scan)
        + data
        + b"\xff\xd9"
    )


def png(
    colour: int,
    depth: int,
    bytes_a_row: int,
    size: tuple[int, int] = (5, 4),
    runs: bytes | None = None,
) -> bytes:
    """A file of zeros, with a palette of two where it wants one.

    With ``runs``, a mask's values follow once more: how many runs each row has, and the runs.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = name + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    rows = zlib.compress((b"\1" + bytes(bytes_a_row)) * size[1])
    first, data = chunk(b"IHDR", header), chunk(b"IDAT", rows)
    again = b""
    if runs is not None:
        picture = zlib.crc32(first[-4:] + data[-4:])
        again = chunk(b"ldRN", b"\1" + struct.pack(">I", picture) + runs)
    return (
        b"\x89PNG\r\n\x1a\n"
        + first
        + (chunk(b"PLTE", bytes(range(6))) if colour == 3 else b"")
        + again
        + data
        + chunk(b"IEND", b"")
    )


def gif() -> bytes:
    """A picture of 2 x 2 pixels of the first of two colours."""
    screen = struct.pack("<6sHHBBB", b"GIF89a", 2, 2, 0x80, 0, 0) + bytes(range(6))
    image = b"," + struct.pack("<HHHHB", 0, 0, 2, 2, 0)
    # LZW in codes of 3 bits: clear, four times colour 0, end; two of the codes have 4 bits.
    return screen + image + b"\2\4" + bytes([0x04, 0x00, 0x50, 0x00]) + b"\0;"


def webp(groups: int = 0) -> bytes:
    """A lossless picture of 2 x 2 pixels of one colour, with this many groups of codes."""

    def number(value: int, bits: int) -> str:
        """The lowest bit first, as everything here."""
        return format(value, f"0{bits}b")[::-1]

    # Codes of one symbol each take no bits in the picture.
    codes = [number(0b101 | symbol << 3, 11) for symbol in (90, 60, 30, 255, 0)]
    # No transforms; no cache of colours; one group, or an image of the numbers of groups.
    bits = number(0x2F, 8) + number(1 | 1 << 14, 32) + "00"
    if groups:
        last = [number(0b101 | symbol << 3, 11) for symbol in (groups - 1, 0, 0, 0, 0)]
        bits += "1000" + "0" + "".join(last)
    else:
        bits += "0"
    bits += "".join(codes) * max(groups, 1)
    bits += "0" * (-len(bits) % 16)
    body = int(bits[::-1], 2).to_bytes(len(bits) // 8, "little")
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def main() -> None:
    """Writes all of them."""
    pictures = [jpeg(), jpeg(1), jpeg(4), jpeg(1, size=(70, 9)), jpeg()[:-8], jpeg(3, 0xC2)]
    pictures += [png(2, 8, 15), png(0, 1, 1), png(3, 4, 3), png(6, 16, 40), gif()]
    pictures += [webp(), webp(groups=3)]
    masks = [png(0, 8, 5), png(3, 1, 1)]
    # Five pixels in one run, then in two, then as above; and a row that is too long.
    one, two = struct.pack(">4H", 1, 2, 0, 0), bytes([0, 4]) + bytes([7, 1, 9, 2])
    masks += [png(0, 8, 5, runs=one + two), png(3, 1, 1, runs=one + bytes([0, 5, 1, 1, 0, 2]))]
    tiles = [jpeg(size=(70, 30), interval=n) for n in (1, 3, 9, 18)] + [jpeg(1, interval=1)]
    case = {"cursor": CURSOR, "now": FINGERPRINT, "seed": 7, "batch_size": 4, "world_size": 2}
    seeds = {
        "frames": [bytes([9]) + b"".join(map(frame, MESSAGES)), b"\0LDR1\xff\xff\xff\xff"],
        "messages": [json.dumps(message).encode() for message in MESSAGES],
        "layout": [json.dumps(LAYOUT).encode()],
        "header": pictures,
        "decode": [bytes([n, n]) + picture for n, picture in enumerate(pictures + tiles)]
        + [bytes([0x40 + n, n]) + mask for n in range(5) for mask in masks]
        + [bytes([0x60 + n, n]) + one + two for n in range(6)],
        "cut": [bytes([60, 40, 90, 99]) + picture for picture in tiles],
        "tile": [*pictures[:6], *tiles, *masks],
        "transforms": [json.dumps(list_).encode() for list_ in TRANSFORMS],
        "pagemap": [page_map(), b"\0LDPGMAP\0" + bytes(64)],
        "cursor": [
            json.dumps({**case, "allow_changed": changed}).encode() for changed in (True, False)
        ],
    }
    for target, files in seeds.items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(files):
            (folder / f"seed-{number}").write_bytes(data)


if __name__ == "__main__":
    main()
