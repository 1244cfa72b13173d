"""``loaderd tile`` on real Lance datasets, and loaders that read the tiled column.

Needs the daemon's executable with lance in it (``LOADERD_BIN``, or beside Python), and
pylance, which writes the datasets and is the reference for what they hold.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from loaderd import Decode, RandomHorizontalFlip, RandomResizedCrop, errors, launch

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
lance = pytest.importorskip("lance")
pa = pytest.importorskip("pyarrow")
image_module = pytest.importorskip("PIL.Image")

from daemon_process import Daemon, loaderd  # noqa: E402
from loaderd.torch import LanceIterableDataset  # noqa: E402

CROP = {"image": [RandomResizedCrop(48), RandomHorizontalFlip()]}
BLOB = {b"lance-encoding:blob": b"true"}
#: File version and storage of the original column, and how the tiled one is stored.
LAYOUTS = [
    ("2.0", "binary", "blob"),
    ("2.0", "large_binary", "blob"),
    ("2.1", "blob", "blob"),
    ("2.2", "binary", "blob v2"),
    ("2.2", "blob v2", "blob v2"),
]


def picture(number: int, side: int = 200, kind: str = "JPEG", **options: Any) -> bytes:
    """A picture of soft shapes and some grain, which no other number has."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    image = image_module.fromarray(coarse).resize((side + number % 7, side - 40), 3)
    grain = random.normal(0, 6, (side - 40, side + number % 7, 3))
    pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    image_module.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def jpeg(number: int, side: int = 200) -> bytes:
    return picture(
        number, side, subsampling=number % 3, progressive=number % 4 == 3, quality=80 + number % 15
    )


def mixed(number: int) -> bytes | None:
    """JPEGs among which there are nulls, PNGs and files that are cut off."""
    match number % 12:
        case 5:
            return None
        case 7:
            return picture(number, kind="PNG")
        case 9:
            return jpeg(number)[:3000]
        case _:
            return jpeg(number)


def table(rows: dict[int, bytes | None], storage: str = "large_binary") -> Any:
    images = list(rows.values())
    if storage == "blob v2":
        column, field = lance.blob_array(images), lance.blob_field("image")
    else:
        kind = pa.binary() if storage == "binary" else pa.large_binary()
        column = pa.array(images, kind)
        field = pa.field("image", kind, metadata=BLOB if storage == "blob" else None)
    schema = pa.schema([field, pa.field("id", pa.int64())])
    return pa.Table.from_arrays([column, pa.array(list(rows), pa.int64())], schema=schema)


def write(path: Path, rows: dict[int, bytes | None], **options: Any) -> str:
    storage = options.pop("storage", "large_binary")
    options = {"data_storage_version": "2.1", "max_rows_per_file": 25, **options}
    lance.write_dataset(table(rows, storage), str(path), **options)
    return str(path)


def tile(uri: str, *arguments: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(loaderd("tile", uri, "--json", *arguments).stdout)
    return report


def delivered(daemon: Daemon, uri: str, **arguments: Any) -> list[tuple[list[int], str]]:
    """Row numbers and a digest of the pixels of each batch of an epoch."""
    # A tag that goes with the session may be gone in the middle of a clean-up.
    arguments = {"protect": "none", **arguments}
    arguments = {"columns": ["image", "id", "_valid"], "transform": CROP, **arguments}
    dataset = daemon.dataset(uri, shuffle=True, seed=3, on_bad_sample="zero", **arguments)
    batches = []
    for batch in dataset:
        values = (batch["image"], batch["_valid"])
        digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in values))
        batches.append((batch["id"].tolist(), digest.hexdigest()))
    dataset.close()
    return batches


def notices(daemon: Daemon, uri: str, **arguments: Any) -> list[str]:
    arguments = {"columns": ["image"], "transform": CROP, "protect": "none", **arguments}
    dataset = daemon.dataset(uri, **arguments)
    found = [notice for notice in dataset.notices if "tiled" in notice]
    dataset.close()
    return found


def stored(uri: str, column: str) -> dict[int, bytes | None]:
    """What Lance reads of a column, by id."""
    dataset = lance.dataset(uri)
    ids = dataset.to_table(columns=["id"])["id"].to_pylist()
    field = dataset.schema.field(column)
    if pa.types.is_binary(field.type) or (
        pa.types.is_large_binary(field.type) and not (field.metadata or {}).keys() & BLOB.keys()
    ):
        return dict(zip(ids, dataset.to_table(columns=[column])[column].to_pylist(), strict=True))
    blobs = dataset.read_blobs(column, indices=range(len(ids)))
    return dict(zip(ids, [blob[1] for blob in blobs], strict=True))


@pytest.mark.parametrize(("version", "storage", "into"), LAYOUTS)
def test_batches_are_the_same_before_and_after(
    daemon: Daemon, tmp_path: Path, version: str, storage: str, into: str
) -> None:
    uri = write(
        tmp_path / "a.lance",
        {number: mixed(number) for number in range(60)},
        storage=storage,
        data_storage_version=version,
    )
    before = delivered(daemon, uri)
    assert notices(daemon, uri) == []
    report = tile(uri)
    assert (report["version"], report["into"], report["stored"]) == (2, "image_tiled", into)
    assert report["tiled"] == 45 and report["nulls"] == 5 and report["already"] == 0
    assert report["kept"] == {"not a JPEG": 5, "cut short": 5}
    assert 0 < report["bytes_after"] < report["bytes_before"] * 1.1
    assert delivered(daemon, uri) == before
    assert delivered(daemon, uri, use_tiled=False) == before
    (notice,) = notices(daemon, uri)
    assert "45 of 60 rows" in notice and "image_tiled" in notice
    assert notices(daemon, uri, use_tiled=False) == []
    assert notices(daemon, uri, version=1) == []
    # Only rows that a filter selects are counted.
    (notice,) = notices(daemon, uri, filter="id < 12")
    assert "9 of 12 rows" in notice
    # The rows were not touched, and other readers see an ordinary column.
    dataset = lance.dataset(uri)
    assert dataset.count_rows() == 60
    assert dataset.schema.field("image_tiled").metadata[b"loaderd:tiled-of"] == b"image"
    again = tile(uri)
    assert again["version"] is None and again["tiled"] == 0
    assert lance.dataset(uri).version == 2


def test_bytes_are_delivered_untouched_and_sizes_kept(daemon: Daemon, tmp_path: Path) -> None:
    rows = {number: jpeg(number) for number in range(30)}
    uri = write(tmp_path / "a.lance", rows, storage="blob v2", data_storage_version="2.2")
    tile(uri)
    raw = daemon.dataset(uri, columns=["image", "id"])
    for batch in raw:
        for value, number in zip(batch["image"].tobytes(), batch["id"], strict=True):
            assert value == rows[int(number)]
    assert all("tiled" not in notice for notice in raw.notices)
    raw.close()
    whole: dict[str, Any] = {"columns": ["image"], "transform": {"image": [Decode()]}}
    for tiled, original in zip(
        daemon.dataset(uri, **whole), daemon.dataset(uri, use_tiled=False, **whole), strict=True
    ):
        assert torch.equal(tiled["image"].values, original["image"].values)


def test_the_log_says_what_was_read(daemon: Daemon, tmp_path: Path) -> None:
    uri = write(tmp_path / "a.lance", {number: mixed(number) for number in range(24)})
    tile(uri)
    delivered(daemon, uri, run="tiles")
    delivered(daemon, uri, run="originals", use_tiled=False)
    daemon.stop()
    lines = loaderd("log", "--json", "--run", "tiles").stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert {json.dumps(record["tiled"]) for record in records} == {
        '{"image": {"column": "image_tiled", "rows": 18}}'
    }
    assert "image was read tiled, from image_tiled, in 18 of 24 rows" in (
        loaderd("log", "--run", "tiles").stdout
    )
    assert "tiled" not in json.loads(
        loaderd("log", "--json", "--run", "originals").stdout.splitlines()[0]
    )


def test_appended_rows_are_read_and_tiled_later(daemon: Daemon, tmp_path: Path) -> None:
    """Also where compaction has put old and new rows into one fragment, after deletes."""
    uri = write(tmp_path / "a.lance", {number: jpeg(number) for number in range(30)})
    first = tile(uri)
    assert first["tiled"] == 30
    old = stored(uri, "image_tiled")
    more = table({number: mixed(number) for number in range(30, 60)})
    lance.write_dataset(more, uri, mode="append")
    lance.dataset(uri).delete("id = 3 OR id = 31")
    before = delivered(daemon, uri, use_tiled=False)
    assert delivered(daemon, uri) == before
    (notice,) = notices(daemon, uri)
    assert "29 of 58 rows" in notice
    lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=1000)
    assert len(lance.dataset(uri).get_fragments()) == 1
    before = delivered(daemon, uri, use_tiled=False)
    assert delivered(daemon, uri) == before
    second = tile(uri)
    assert second["tiled"] == 22 and second["fragments_written"] == 1
    assert delivered(daemon, uri) == before
    (notice,) = notices(daemon, uri)
    assert "51 of 58 rows" in notice
    # What was tiled before is taken over as it is.
    new = stored(uri, "image_tiled")
    assert {number: value for number, value in new.items() if number < 30} == {
        number: value for number, value in old.items() if number != 3
    }
    # A fragment of its own, with deleted rows, behind a column that exists.
    more = table({number: mixed(number) for number in range(60, 90)})
    lance.write_dataset(more, uri, mode="append")
    lance.dataset(uri).delete("id = 60 OR id = 89 OR id = 70")
    before = delivered(daemon, uri, use_tiled=False)
    third = tile(uri)
    assert third["tiled"] == 21 and third["fragments_written"] == 1
    assert delivered(daemon, uri) == before
    assert tile(uri)["version"] is None


def checkpoints() -> list[Path]:
    return list(Path(os.environ["LOADERD_STATE"], "tile").glob("*.tile"))


def checkpoint_lines() -> int:
    return sum(file.read_bytes().count(b"\n") for file in checkpoints())


def started(uri: str, lines: int) -> subprocess.Popen[str]:
    """``loaderd tile``, stopped in mid-work: ``lines`` fragments are written, or a few more."""
    process = subprocess.Popen(
        [launch.find_binary(), "tile", uri, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while checkpoint_lines() < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    return process


#: So large that fragments take a while.
LARGE = {number: jpeg(number, 900) for number in range(8)}


def large(path: Path) -> str:
    return write(path, {number: LARGE[number % 8] for number in range(96)}, max_rows_per_file=12)


def test_a_killed_run_is_gone_on_with(daemon: Daemon, tmp_path: Path) -> None:
    uri = large(tmp_path / "a.lance")
    before = delivered(daemon, uri)
    process = started(uri, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    written = checkpoint_lines()
    assert 2 <= written < 8
    assert lance.dataset(uri).version == 1
    assert delivered(daemon, uri) == before
    report = tile(uri)
    assert report["fragments_resumed"] == written
    assert report["fragments_written"] == 8 and report["tiled"] == 96
    assert lance.dataset(uri).version == report["version"] == 2
    assert delivered(daemon, uri) == before
    # One file a fragment, and at most the one that was begun when it was killed.
    data = {path.name for path in Path(uri, "data").glob("*.lance")}
    used = {
        os.path.basename(file.path)
        for fragment in lance.dataset(uri).get_fragments()
        for file in fragment.data_files()
    }
    assert used <= data and len(data - used) <= 1
    assert checkpoint_lines() == 0


def test_what_clean_up_took_is_written_again(tmp_path: Path) -> None:
    uri = large(tmp_path / "a.lance")
    process = started(uri, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    lance.dataset(uri).cleanup_old_versions(
        older_than=datetime.timedelta(0), delete_unverified=True
    )
    report = tile(uri)
    assert report["fragments_resumed"] == 0 and report["tiled"] == 96
    assert len(stored(uri, "image_tiled")) == 96


def test_an_append_meanwhile_stays(daemon: Daemon, tmp_path: Path) -> None:
    uri = large(tmp_path / "a.lance")
    process = started(uri, 1)
    more = table({number: jpeg(number) for number in range(100, 110)})
    lance.write_dataset(more, uri, mode="append")
    lance.dataset(uri).delete("id = 0")
    process.send_signal(signal.SIGCONT)
    output, trouble = process.communicate(timeout=120)
    assert process.returncode == 0, trouble
    report = json.loads(output)
    assert report["version"] == 4 and report["tiled"] == 96 and report["fragments_lost"] == 0
    assert lance.dataset(uri).count_rows() == 105
    (notice,) = notices(daemon, uri)
    assert "95 of 105 rows" in notice
    assert delivered(daemon, uri) == delivered(daemon, uri, use_tiled=False)
    assert tile(uri)["tiled"] == 10
    (notice,) = notices(daemon, uri)
    assert "105 of 105 rows" in notice


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    uri = large(tmp_path / "a.lance")
    process = started(uri, 1)
    other = loaderd("tile", uri, check=False)
    process.send_signal(signal.SIGCONT)
    assert other.returncode == 1 and "another loaderd is at it" in other.stderr
    process.communicate(timeout=120)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("version", "storage"), [("2.0", "binary"), ("2.1", "blob"), ("2.2", "blob v2")]
)
def test_originals_are_dropped(daemon: Daemon, tmp_path: Path, version: str, storage: str) -> None:
    """The columns beside them stay, and their space comes free."""
    uri = str(tmp_path / "a.lance")

    def put(rows: dict[int, bytes | None], storage: str) -> None:
        meta = [{"name": f"row {number}", "sizes": [number] * (number % 3)} for number in rows]
        beside = table(rows, storage).append_column("meta", pa.array(meta))
        options = {"max_rows_per_file": 25, "data_storage_version": version, "mode": "append"}
        lance.write_dataset(beside, uri, **options)

    put({number: None if number == 4 else jpeg(number) for number in range(40)}, storage)
    lance.dataset(uri).delete("id = 7 OR id = 39")
    meta = lance.dataset(uri).to_table(columns=["meta", "id"])
    before = delivered(daemon, uri)
    report = tile(uri, "--drop-original")
    assert report["tiled"] == 37
    dataset = lance.dataset(uri)
    assert report["dropped"] == dataset.version
    assert sorted(dataset.schema.names) == ["id", "image", "meta"]
    assert dataset.to_table(columns=["meta", "id"]) == meta
    assert b"loaderd:tiled-of" not in (dataset.schema.field("image").metadata or {})
    assert delivered(daemon, uri) == before
    assert notices(daemon, uri) == []
    # The space of the originals is free once older versions are.
    dataset.cleanup_old_versions(older_than=datetime.timedelta(0), delete_unverified=True)
    assert delivered(daemon, uri) == before
    files = [path for path in Path(uri, "data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < report["bytes_after"] * 1.1 + 40_000
    # The dataset can be appended to, and tiled again.
    more = {number: jpeg(number) for number in range(100, 110)}
    put(more, "blob v2" if version == "2.2" else "blob")
    assert tile(uri)["tiled"] == 10


@pytest.mark.parametrize(
    ("version", "storage"), [("2.0", "binary"), ("2.1", "blob"), ("2.2", "blob v2")]
)
def test_originals_are_dropped_after_a_compaction(
    daemon: Daemon, tmp_path: Path, version: str, storage: str
) -> None:
    rows = {number: None if number == 4 else jpeg(number) for number in range(40)}
    uri = write(tmp_path / "a.lance", rows, storage=storage, data_storage_version=version)
    before = delivered(daemon, uri)
    tile(uri)
    tiles = stored(uri, "image_tiled")
    lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=1000)
    lance.dataset(uri).delete("id = 39")
    report = tile(uri, "--drop-original")
    assert report["dropped"] == lance.dataset(uri).version
    assert lance.dataset(uri).schema.names == ["id", "image"]
    assert stored(uri, "image") == {row: tiles[row] for row in range(39)}
    lance.dataset(uri).cleanup_old_versions(
        older_than=datetime.timedelta(0), delete_unverified=True
    )
    files = [path for path in Path(uri, "data").rglob("*") if path.is_file()]
    assert (
        sum(path.stat().st_size for path in files)
        < len(b"".join(filter(None, tiles.values()))) * 1.1 + 40_000
    )
    lance.write_dataset(
        table({39: jpeg(39)}, "blob v2" if version == "2.2" else "blob"), uri, mode="append"
    )
    assert delivered(daemon, uri) == before


def test_a_drop_that_was_killed_halfway_is_finished(daemon: Daemon, tmp_path: Path) -> None:
    """Between its two versions, where the originals are gone and nothing has their name."""
    uri = write(tmp_path / "a.lance", {number: jpeg(number) for number in range(8)})
    before = delivered(daemon, uri)
    tile(uri)
    lance.dataset(uri).update_field_metadata({"image_tiled": {"loaderd:takes-name": "image"}})
    lance.dataset(uri).drop_columns(["image"])
    report = tile(uri, "--drop-original")
    assert report["dropped"] == lance.dataset(uri).version
    assert lance.dataset(uri).schema.names == ["id", "image"]
    assert delivered(daemon, uri) == before


def test_originals_that_have_no_tiled_form_are_not_dropped(daemon: Daemon, tmp_path: Path) -> None:
    rows = {number: mixed(number) for number in range(24)}
    uri = write(tmp_path / "a.lance", rows)
    refused = loaderd("tile", uri, "--drop-original", check=False)
    assert refused.returncode == 1
    assert "4 of its images have no tiled form (2 cut short, 2 not a JPEG)" in refused.stderr
    # What was tiled stays.
    assert lance.dataset(uri).version == 2
    assert stored(uri, "image") == rows
    lance.dataset(uri).delete("id % 12 = 7 OR id % 12 = 9")
    before = delivered(daemon, uri)
    assert tile(uri, "--drop-original")["version"] is None
    assert lance.dataset(uri).schema.names == ["id", "image"]
    assert delivered(daemon, uri) == before


def test_ingested_images_are_tiled(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "one"
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"{number:02}.jpg").write_bytes(jpeg(number))
    (folder / "99.png").write_bytes(picture(99, kind="PNG"))
    tiled, plain = str(tmp_path / "tiled.lance"), str(tmp_path / "plain.lance")
    report = json.loads(loaderd("ingest", folder.parent, tiled, "--json").stdout)
    assert report["tiles"]["tiled"] == 20 and report["tiles"]["kept"] == {"not a JPEG": 1}
    loaderd("ingest", folder.parent, plain, "--no-tile")
    columns: dict[str, Any] = {"columns": ["image", "label", "_valid"]}

    def images(uri: str, **arguments: Any) -> list[bytes]:
        dataset = daemon.dataset(uri, **columns, **arguments)
        return [value for batch in dataset for value in batch["image"].tobytes()]

    files = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert images(plain) == files
    rewritten = images(tiled)
    assert rewritten[20] == files[20]
    for value, original in zip(rewritten[:20], files, strict=False):
        assert value != original
        with (
            image_module.open(io.BytesIO(value)) as one,
            image_module.open(io.BytesIO(original)) as two,
        ):
            assert one.tobytes() == two.tobytes()
    cropped: dict[str, Any] = {"columns": ["image"], "transform": CROP, "shuffle": True}
    for one, two in zip(
        daemon.dataset(tiled, **cropped), daemon.dataset(plain, **cropped), strict=True
    ):
        assert torch.equal(one["image"], two["image"])
    # There is nothing left to do, and no column is made for it.
    nothing = loaderd("tile", tiled)
    assert "nothing to tile" in nothing.stdout and "20 tiled before" in nothing.stdout
    assert lance.dataset(tiled).schema.names == ["image", "label"]
    assert tile(plain)["tiled"] == 20


def test_doctor_and_bench_say_what_could_be_tiled(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.lance", {number: jpeg(number) for number in range(24)})

    def advice() -> tuple[list[str], dict[str, Any]]:
        bench = loaderd("bench", uri, "--seconds", "0.1", "--batch-size", "8", "--json")
        doctor = loaderd("doctor", uri, "--json", check=False)
        checks = {check["name"]: check for check in json.loads(doctor.stdout)["checks"]}
        found = json.loads(bench.stdout)["advice"]
        return [line for line in found if "tiling" in line], checks["tiles"]

    (line,), check = advice()
    command = f"`loaderd tile {uri} --column image`"
    assert command in line and "images looked at are JPEGs without tiles" in line
    assert (check["verdict"], check["mend"]) == ("slow", command)
    assert 'column "image": ' in check["found"]
    tile(uri)
    lines, check = advice()
    assert lines == [] and check["verdict"] == "ok"
    lance.write_dataset(table({100: jpeg(100)}), uri, mode="append")
    _, check = advice()
    assert check["found"] == 'column "image": 1 of 1 images looked at are JPEGs without tiles'


def test_trouble_is_named(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.lance", {number: jpeg(number) for number in range(3)})

    def trouble(*arguments: str) -> str:
        failed = loaderd("tile", uri, *arguments, check=False)
        assert failed.returncode == 1, failed
        return failed.stderr

    assert 'column "id" is int64' in trouble("--column", "id")
    assert "no column" in trouble("--column", "picture")
    assert "give another name with --into" in trouble("--into", "id")
    for name in ("", "a.b"):
        assert f'"{name}" is no name for a column' in trouble("--into", name)
    assert checkpoints() == []
    tile(uri, "--into", "pixels")
    assert 'its tiled form is the column "pixels"' in trouble("--into", "other")
    assert "it is the tiled form of" in trouble("--column", "pixels")
    with pytest.raises(errors.RequestError, match="use_tiled must be True or False"):
        LanceIterableDataset(uri, columns=["image"], batch_size=1, use_tiled=1)  # type: ignore[arg-type]
