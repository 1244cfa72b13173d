"""Every kind of column through a real Lance dataset and a real daemon.

Needs the daemon's executable with lance in it (``LOADERD_BIN``, or beside Python), and
pylance, which writes the datasets and is the reference for what they hold.
"""

from __future__ import annotations

import io
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loaderd import Decode, errors, launch

torch = pytest.importorskip("torch")
lance = pytest.importorskip("lance")
pa = pytest.importorskip("pyarrow")

from daemon_process import Daemon  # noqa: E402

ROWS = 120


def row(i: int) -> dict[str, Any]:
    return {
        "id": i,
        "text": None if i % 7 == 3 else "ü" * (i % 5) + str(i),
        "letter": "x" * 70_000 + str(i),
        "categories": None if i % 11 == 5 else list(range(i % 4)),
        "boxes": [[float(i), k + 0.5, 3.0, 4.0] for k in range(i % 3)],
        "tags": [f"tag {k}" * k for k in range(i % 4)],
        "meta": {"weather": ["rain", "sun"][i % 2], "inner": {"n": i * 2}},
        "objects": [{"x": i / 2, "name": f"n{k}"} for k in range(i % 3)],
        "sound": None if i % 13 == 1 else bytes([i]) * (i * 50),
        "score": None if i % 6 == 5 else i / 4,
        "count": None if i % 10 == 9 else i,
        "embedding": [float(i + k) for k in range(8)],
    }


SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("letter", pa.large_string()),
        pa.field("categories", pa.list_(pa.int64())),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        pa.field("tags", pa.list_(pa.string())),
        pa.field(
            "meta",
            pa.struct([("weather", pa.string()), ("inner", pa.struct([("n", pa.int32())]))]),
        ),
        pa.field("objects", pa.list_(pa.struct([("x", pa.float64()), ("name", pa.string())]))),
        pa.field("sound", pa.large_binary()),
        pa.field("score", pa.float32()),
        pa.field("count", pa.int32()),
        pa.field("embedding", pa.list_(pa.float32(), 8)),
    ]
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Several fragments, with rows deleted from the middle of one."""
    path = str(tmp_path_factory.mktemp("columns") / "all.lance")
    table = pa.Table.from_pylist([row(i) for i in range(ROWS)], schema=SCHEMA)
    dataset = lance.write_dataset(table, path, max_rows_per_file=37)
    dataset.delete("id >= 40 AND id < 44")
    return path


#: What each column asked for must hold in a row.
EXPECTED: dict[str, Any] = {
    "text": lambda r: r["text"] or "",
    "letter": lambda r: r["letter"],
    "categories": lambda r: r["categories"] or [],
    "boxes": lambda r: r["boxes"],
    "tags": lambda r: r["tags"],
    "meta.weather": lambda r: r["meta"]["weather"],
    "meta.inner.n": lambda r: r["meta"]["inner"]["n"],
    "objects.x": lambda r: [one["x"] for one in r["objects"]],
    "objects.name": lambda r: [one["name"] for one in r["objects"]],
    "score": lambda r: math.nan if r["score"] is None else r["score"],
    "count": lambda r: r["count"] or 0,
    "count._valid": lambda r: r["count"] is not None,
    "text._valid": lambda r: r["text"] is not None,
    "categories._valid": lambda r: r["categories"] is not None,
    "sound._valid": lambda r: r["sound"] is not None,
    "embedding": lambda r: r["embedding"],
}


def test_every_kind_of_column_row_by_row(daemon: Daemon, uri: str) -> None:
    dataset = daemon.dataset(
        uri, columns=["id", "sound", *EXPECTED], batch_size=16, shuffle=True, seed=4
    )
    seen = []
    for batch in dataset:
        columns = {name: batch[name].tolist() for name in EXPECTED}
        sounds = batch["sound"].tobytes()
        for at, number in enumerate(batch["id"].tolist()):
            expected = row(number)
            seen.append(number)
            assert sounds[at] == (expected["sound"] or b""), number
            for name, take in EXPECTED.items():
                found, wanted = columns[name][at], take(expected)
                same = found == wanted or (found != found and wanted != wanted)
                assert same, f"{name} of row {number}: {found!r:.99}, not {wanted!r:.99}"
    assert sorted(seen) == [i for i in range(ROWS) if not 40 <= i < 44]


def test_a_second_opening_finds_the_map(daemon: Daemon, uri: str) -> None:
    """Lists come out of the mapped file then, and are the same."""

    def rows() -> list[Any]:
        dataset = daemon.dataset(uri, columns=["tags", "boxes"], batch_size=16)
        return [(b["tags"].tolist(), b["boxes"].tolist()) for b in dataset]

    assert rows() == rows()


def test_numbers_with_nulls_want_their_mask(daemon: Daemon, uri: str) -> None:
    with pytest.raises(errors.DatasetError, match=r"count.*null in 1\d of 116.*count\._valid"):
        len(daemon.dataset(uri, columns=["count"]))
    whole = daemon.dataset(uri, columns=["count"], filter="count IS NOT NULL")
    assert 0 not in [n for batch in whole for n in batch["count"].tolist()][1:]


def test_images_as_they_are_and_in_their_own_size(daemon: Daemon, tmp_path: Path) -> None:
    """Blobs that the ring reads: the files' bytes, and their pixels."""
    image_module = pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    binary = launch.find_binary()
    for name, width in (("small", 60), ("wide", 131)):
        command = [binary, "sample", tmp_path / name, "--count", "9"]
        subprocess.run([*command, "--width", str(width), "--height", "50"], check=True)
    for folder in ("small", "wide"):
        ingest = [binary, "ingest", "--no-tile", tmp_path / folder, tmp_path / "photos.lance"]
        subprocess.run(ingest, check=True, capture_output=True)
    files = [path for f in ("small", "wide") for path in sorted(tmp_path.glob(f"{f}/*/*.jpg"))]
    uri = str(tmp_path / "photos.lance")
    raw = daemon.dataset(uri, columns=["image"], batch_size=5)
    assert [b for batch in raw for b in batch["image"].tobytes()] == [f.read_bytes() for f in files]
    decoded = daemon.dataset(uri, columns=["image"], transform={"image": Decode()}, batch_size=5)
    images = [image.clone() for batch in decoded for image in batch["image"]]
    for image, path in zip(images, files, strict=True):
        picture = image_module.open(io.BytesIO(path.read_bytes())).convert("RGB")
        expected = torch.from_numpy(numpy.array(picture))
        assert image.shape == expected.shape
        assert (image.int() - expected.int()).abs().float().mean() < 1
