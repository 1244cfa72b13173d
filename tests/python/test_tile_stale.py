"""Tiled images whose originals were written anew: every way in which pylance does that.

The pixels are those of ``use_tiled=False`` whatever happened, and ``loaderd tile`` makes good what
was left alone. Needs what ``test_tile.py`` needs.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
lance = pytest.importorskip("lance")
pa = pytest.importorskip("pyarrow")
pytest.importorskip("PIL.Image")

from daemon_process import Daemon  # noqa: E402
from test_tile import (  # noqa: E402
    CROP,
    delivered,
    jpeg,
    loaderd,
    notices,
    picture,
    stored,
    table,
    tile,
    write,
)

#: File versions and storage of the original column; both layouts of the tiled one.
LAYOUTS = [("2.1", "large_binary"), ("2.2", "blob v2")]
ROWS = 50
#: Rows of the first fragment and of the second that get other pictures.
NEW = {3: jpeg(503), 30: jpeg(530)}


def dataset_of(path: Path, version: str = "2.1", storage: str = "large_binary") -> str:
    """Fifty JPEGs in two fragments, with a label beside them, tiled."""
    rows = {number: jpeg(number) for number in range(ROWS)}
    uri = write(path, rows, storage=storage, data_storage_version=version)
    assert tile(uri)["tiled"] == ROWS
    return uri


def tiled_rows(daemon: Daemon, uri: str) -> int:
    """In how many rows the tiled form is read, by what the loader says."""
    found = [notice for notice in notices(daemon, uri) if "are read tiled" in notice]
    return int(found[0].split(": ")[1].split(" of ")[0]) if found else 0


def left_alone(daemon: Daemon, uri: str) -> str | None:
    found = [notice for notice in notices(daemon, uri) if "left alone" in notice]
    return found[0].split("tiled images of ")[1].split(" are left")[0] if found else None


def check(daemon: Daemon, uri: str) -> None:
    """What is read from tiled images is what is read from the originals."""
    assert delivered(daemon, uri) == delivered(daemon, uri, use_tiled=False)


def merge_insert(uri: str) -> None:
    source = table(NEW, "large_binary")
    lance.dataset(uri).merge_insert("id").when_matched_update_all().execute(source)


def merge_insert_blobs(uri: str) -> None:
    source = table(NEW, "blob v2")
    lance.dataset(uri).merge_insert("id").when_matched_update_all().execute(source)


def upsert(uri: str) -> None:
    source = table({**NEW, 100: jpeg(100)}, "large_binary")
    insert = lance.dataset(uri).merge_insert("id").when_matched_update_all()
    insert.when_not_matched_insert_all().execute(source)


def update(uri: str) -> None:
    for number, image in NEW.items():
        lance.dataset(uri).update({"image": f"X'{image.hex()}'"}, where=f"id = {number}")


def anew(uri: str) -> Any:
    rows = {number: NEW.get(number, jpeg(number)) for number in range(ROWS)}
    return table(rows, "large_binary")


def drop_and_add(uri: str) -> None:
    dataset = lance.dataset(uri)
    dataset.drop_columns(["image"])
    dataset.add_columns(anew(uri).select(["image"]).to_reader(25))


def drop_and_merge(uri: str) -> None:
    dataset = lance.dataset(uri)
    dataset.drop_columns(["image"])
    dataset.merge(anew(uri), "id")


def update_columns(uri: str) -> None:
    dataset = lance.dataset(uri)
    fragment, fields = dataset.get_fragment(0).update_columns(
        table({3: NEW[3]}), left_on="id", right_on="id"
    )
    operation = lance.LanceOperation.Update(
        updated_fragments=[fragment], fields_modified=fields, update_mode="rewrite_columns"
    )
    lance.LanceDataset.commit(uri, operation, read_version=dataset.version)


def replace_file(uri: str) -> None:
    """The file that holds images and ids, by another with the same columns."""
    dataset = lance.dataset(uri)
    rows = {number: NEW.get(number, jpeg(number)) for number in range(25)}
    other = lance.write_dataset(table(rows), uri + "-other", data_storage_version="2.1")
    (file,) = other.get_fragments()[0].metadata.files
    Path(uri + "-other", "data", file.path).rename(Path(uri, "data", file.path))
    replacement = lance.LanceOperation.DataReplacementGroup(0, file)
    operation = lance.LanceOperation.DataReplacement([replacement])
    lance.LanceDataset.commit(uri, operation, read_version=dataset.version)


def rename_another(uri: str) -> None:
    dataset = lance.dataset(uri)
    dataset.add_columns(anew(uri).select(["image"]).rename_columns(["new"]).to_reader(25))
    dataset.alter_columns({"path": "image", "name": "old"})
    dataset.alter_columns({"path": "new", "name": "image"})


@pytest.mark.parametrize(
    ("change", "version", "storage"),
    [
        (merge_insert, "2.1", "large_binary"),
        (merge_insert_blobs, "2.2", "blob v2"),
        (upsert, "2.1", "large_binary"),
        (update, "2.1", "large_binary"),
        (drop_and_add, "2.1", "large_binary"),
        (drop_and_merge, "2.1", "large_binary"),
        (update_columns, "2.1", "large_binary"),
        (replace_file, "2.1", "large_binary"),
        (rename_another, "2.1", "large_binary"),
    ],
)
@pytest.mark.parametrize("compacted", [False, True])
def test_replaced_images_are_read(
    daemon: Daemon,
    tmp_path: Path,
    change: Callable[[str], None],
    version: str,
    storage: str,
    compacted: bool,
) -> None:
    """Also where a compaction has put images and the tiles of others into one file."""
    uri = dataset_of(tmp_path / "a.lance", version, storage)
    assert tiled_rows(daemon, uri) == ROWS and left_alone(daemon, uri) is None
    before = delivered(daemon, uri)
    change(uri)
    assert stored(uri, "image")[3] == NEW[3]
    if compacted:
        lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=1000)
    check(daemon, uri)
    assert delivered(daemon, uri) != before
    assert left_alone(daemon, uri) is not None
    report = tile(uri)
    assert report["fragments_anew"] > 0 and report["tiled"] >= 1
    check(daemon, uri)
    assert tiled_rows(daemon, uri) == lance.dataset(uri).count_rows()
    assert left_alone(daemon, uri) is None
    assert tile(uri)["version"] is None


@pytest.mark.parametrize(("version", "storage"), LAYOUTS)
def test_only_fragments_that_were_written_are_left_alone(
    daemon: Daemon, tmp_path: Path, version: str, storage: str
) -> None:
    """Rows that move for another column's sake go with their images and tiles, and back."""
    uri = dataset_of(tmp_path / "a.lance", version, storage)
    tiles = stored(uri, "image_tiled")
    lance.dataset(uri).update({"id": "id + 1000"}, where="id < 2")
    check(daemon, uri)
    assert tiled_rows(daemon, uri) == ROWS - 2
    assert left_alone(daemon, uri) == "1 of 3 fragments"
    lines = loaderd("tile", uri).stdout
    assert "2 images tiled" in lines and "in 1 fragments rows or images" in lines
    assert tiled_rows(daemon, uri) == ROWS
    assert stored(uri, "image_tiled")[1001] == tiles[1]


@pytest.mark.parametrize(("version", "storage"), LAYOUTS)
def test_compacted_tiles_are_kept(
    daemon: Daemon, tmp_path: Path, version: str, storage: str
) -> None:
    """By the versions in between, and, once ``loaderd tile`` has seen it, without them."""
    uri = dataset_of(tmp_path / "a.lance", version, storage)
    tiles = stored(uri, "image_tiled")

    def compact() -> None:
        lance.dataset(uri).delete("id = 7 OR id = 40")
        lance.write_dataset(table({100: jpeg(100)}, storage), uri, mode="append")
        lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=1000)
        assert len(lance.dataset(uri).get_fragments()) == 1

    def clean_up() -> None:
        lance.dataset(uri).cleanup_old_versions(
            older_than=datetime.timedelta(0), delete_unverified=True
        )

    compact()
    lance.dataset(uri).delete("id = 8")
    compact()
    check(daemon, uri)
    assert tiled_rows(daemon, uri) == ROWS - 3
    report = tile(uri)
    assert report["fragments_compacted"] == 1 and report["fragments_anew"] == 0
    assert report["tiled"] == 2
    assert {row: value for row, value in stored(uri, "image_tiled").items() if row < ROWS} == {
        row: value for row, value in tiles.items() if row not in (7, 8, 40)
    }
    clean_up()
    check(daemon, uri)
    assert tiled_rows(daemon, uri) == ROWS - 1
    # Nothing is missing: only that it was compacted is written down.
    lance.write_dataset(table({101: None}, storage), uri, mode="append")
    lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=1000)
    words = loaderd("tile", uri).stdout
    assert "1 fragments had been compacted" in words
    clean_up()
    assert tiled_rows(daemon, uri) == ROWS - 1
    assert "nothing to do" in loaderd("tile", uri).stdout or tile(uri)["version"] is None
    # Where nobody has seen it in time, nothing can be known.
    lance.write_dataset(table({102: jpeg(102)}, storage), uri, mode="append")
    lance.dataset(uri).optimize.compact_files(target_rows_per_fragment=1000)
    lance.dataset(uri).delete("id = 9")
    clean_up()
    assert tiled_rows(daemon, uri) == 0
    assert left_alone(daemon, uri) == "1 of 1 fragments"
    check(daemon, uri)
    assert tile(uri)["fragments_anew"] == 1
    assert tiled_rows(daemon, uri) == ROWS - 1
    check(daemon, uri)


def test_what_is_not_known_is_not_read(daemon: Daemon, tmp_path: Path) -> None:
    """A column of another type has another number, and older tiles say nothing of their images."""
    uri = dataset_of(tmp_path / "a.lance")
    lance.dataset(uri).alter_columns({"path": "image", "data_type": pa.binary()})
    assert left_alone(daemon, uri) == "2 of 2 fragments"
    assert tile(uri)["fragments_anew"] == 2
    assert tiled_rows(daemon, uri) == ROWS
    lance.dataset(uri).update_field_metadata({"image_tiled": {"loaderd:tiled-from": None}})
    assert left_alone(daemon, uri) == "2 of 2 fragments"
    check(daemon, uri)
    assert tile(uri)["fragments_anew"] == 2
    assert tiled_rows(daemon, uri) == ROWS


def test_tiles_of_what_is_no_jpeg_now_go(daemon: Daemon, tmp_path: Path) -> None:
    uri = dataset_of(tmp_path / "a.lance")
    dataset = lance.dataset(uri)
    pictures = {number: picture(number, kind="PNG") for number in range(ROWS)}
    dataset.merge_insert("id").when_matched_update_all().execute(table(pictures))
    check(daemon, uri)
    report = tile(uri)
    assert (report["tiled"], report["kept"]) == (0, {"not a JPEG": ROWS})
    assert left_alone(daemon, uri) is None
    assert not any(stored(uri, "image_tiled").values())
    check(daemon, uri)


def test_a_copy_of_the_rows_is_tiled_again(daemon: Daemon, tmp_path: Path) -> None:
    """Nobody knows what a writer of whole rows did to them in between."""
    first = dataset_of(tmp_path / "a.lance")
    rows = lance.dataset(first).to_table(columns=["image", "id"])
    other = {number: jpeg(700 + number) for number in range(ROWS)}
    tiles = pa.array(list(stored(first, "image_tiled").values()), pa.large_binary())
    field = lance.dataset(first).schema.field("image_tiled")
    copied = table(other).append_column(
        pa.field(
            "image_tiled",
            pa.large_binary(),
            metadata={key: value for key, value in field.metadata.items()}
            | {b"lance-encoding:blob": b"true"},
        ),
        tiles,
    )
    uri = str(tmp_path / "b.lance")
    lance.write_dataset(copied, uri, data_storage_version="2.1")
    assert rows.num_rows == ROWS
    check(daemon, uri)
    assert tiled_rows(daemon, uri) == 0
    assert tile(uri)["tiled"] == ROWS
    check(daemon, uri)


def test_tiles_of_another_column_survive_a_drop(daemon: Daemon, tmp_path: Path) -> None:
    """Although its images are copied to other files."""
    rows = table({number: jpeg(number) for number in range(20)})
    uri = str(tmp_path / "a.lance")
    second = pa.array([jpeg(number + 20) for number in range(20)], pa.large_binary())
    lance.write_dataset(rows.append_column("second", second), uri, data_storage_version="2.1")
    tile(uri)
    assert tile(uri, "--column", "second")["tiled"] == 20
    tile(uri, "--drop-original")
    assert lance.dataset(uri).schema.names == ["id", "second", "image", "second_tiled"]
    second_only = {"columns": ["second"], "transform": {"second": CROP["image"]}}
    (notice,) = notices(daemon, uri, **second_only)
    assert "20 of 20 rows are read tiled" in notice
    assert tile(uri, "--column", "second")["version"] is None


def test_originals_are_dropped_after_images_were_replaced(daemon: Daemon, tmp_path: Path) -> None:
    uri = dataset_of(tmp_path / "a.lance")
    merge_insert(uri)
    before = delivered(daemon, uri, use_tiled=False)
    report = tile(uri, "--drop-original")
    assert report["fragments_anew"] == 1
    assert lance.dataset(uri).schema.names == ["id", "image"]
    assert not any(
        key.startswith(b"loaderd:")
        for key in (lance.dataset(uri).schema.field("image").metadata or {})
    )
    assert delivered(daemon, uri, transform=CROP) == before
