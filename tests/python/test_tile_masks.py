"""``loaderd tile`` on columns of masks in real Lance datasets, and loaders that read the runs.

Needs what ``test_tile.py`` needs, and torchvision, which reads the tiled masks as Pillow does.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from loaderd import CenterCrop, Mask, RandomHorizontalFlip, RandomResizedCrop

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
lance = pytest.importorskip("lance")
pa = pytest.importorskip("pyarrow")
image_module = pytest.importorskip("PIL.Image")
draw_module = pytest.importorskip("PIL.ImageDraw")
torchvision_io = pytest.importorskip("torchvision.io")

from daemon_process import Daemon, loaderd  # noqa: E402
from test_tile import jpeg, stored, tile  # noqa: E402

ROWS = 50
#: File versions, how both columns are stored there.
LAYOUTS = [("2.1", "large_binary"), ("2.2", "blob v2")]
CROP = {"image": [RandomResizedCrop(48), RandomHorizontalFlip()], "mask": Mask("image")}


def mask(number: int, seed: int = 0) -> bytes:
    """Things before a background, as large as ``jpeg(number)``; every third with a palette.

    Some have one or two bits a pixel, as Pillow writes pictures of few values.
    """
    random = np.random.default_rng([number, seed])
    image = image_module.new("L", (200 + number % 7, 160), 0)
    canvas = draw_module.Draw(image)
    for _ in range(12):
        x, y, radius = random.integers(0, 200), random.integers(0, 160), random.integers(3, 30)
        classes = 2 if number % 5 == 0 else 4 if number % 5 == 1 else 200
        box = [x - radius, y - radius // 2, x + radius, y + radius // 2]
        canvas.ellipse([int(at) for at in box], fill=int(random.integers(0, classes)))
    options: dict[str, Any] = {}
    if number % 3 == 0:
        image = image.convert("P") if number % 2 else image
        image.putpalette(list(random.integers(0, 255, 768)))
        options["bits"] = {0: 1, 1: 2}.get(number % 5, 8)
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def table(masks: dict[int, bytes], storage: str) -> Any:
    images = [jpeg(number) for number in masks]
    if storage == "blob v2":
        columns = [lance.blob_array(images), lance.blob_array(list(masks.values()))]
        fields = [lance.blob_field("image"), lance.blob_field("mask")]
    else:
        columns = [pa.array(it, pa.large_binary()) for it in (images, list(masks.values()))]
        fields = [pa.field(name, pa.large_binary()) for name in ("image", "mask")]
    schema = pa.schema([*fields, pa.field("id", pa.int64())])
    return pa.Table.from_arrays([*columns, pa.array(list(masks), pa.int64())], schema=schema)


def write(path: Path, version: str, storage: str) -> str:
    """Fifty rows in two fragments."""
    rows = {number: mask(number) for number in range(ROWS)}
    options = {"data_storage_version": version, "max_rows_per_file": 25}
    lance.write_dataset(table(rows, storage), str(path), **options)
    return str(path)


def delivered(daemon: Daemon, uri: str, **arguments: Any) -> dict[int, tuple[Any, Any]]:
    """The image and the mask of each row of an epoch."""
    arguments = {"transform": CROP, "shuffle": True, "seed": 3, "protect": "none", **arguments}
    dataset = daemon.dataset(uri, columns=["image", "mask", "id"], **arguments)
    found = {}
    for batch in dataset:
        rows = (batch["id"].tolist(), batch["image"].numpy(), batch["mask"].numpy())
        for number, image, values in zip(*rows, strict=True):
            found[number] = (image.copy(), values.copy())
    dataset.close()
    return found


def same(one: dict[int, tuple[Any, Any]], other: dict[int, tuple[Any, Any]]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(a, b) for row in one for a, b in zip(one[row], other[row], strict=True)
    )


def notices(daemon: Daemon, uri: str) -> list[str]:
    dataset = daemon.dataset(uri, columns=["image", "mask"], transform=CROP, protect="none")
    found = [notice for notice in dataset.notices if 'column "mask"' in notice]
    dataset.close()
    return found


@pytest.mark.parametrize(("version", "storage"), LAYOUTS)
def test_masks_are_the_same_before_and_after(
    daemon: Daemon, tmp_path: Path, version: str, storage: str
) -> None:
    uri = write(tmp_path / "a.lance", version, storage)
    before = delivered(daemon, uri)
    report = tile(uri, "--column", "mask")
    assert (report["into"], report["tiled"], report["kept"]) == ("mask_tiled", ROWS, {})
    assert same(delivered(daemon, uri), before)
    assert tile(uri)["tiled"] == ROWS
    assert same(delivered(daemon, uri, run="both"), before)
    assert same(delivered(daemon, uri, use_tiled=False), before)
    (notice,) = notices(daemon, uri)
    assert "50 of 50 rows are read tiled" in notice and "mask_tiled" in notice
    assert tile(uri, "--column", "mask")["version"] is None
    # Untransformed, a mask is the file that was written.
    raw = daemon.dataset(uri, columns=["mask", "id"])
    for batch in raw:
        for value, number in zip(batch["mask"].tobytes(), batch["id"].tolist(), strict=True):
            assert value == mask(number)
    raw.close()
    daemon.stop()
    line = loaderd("log", "--json", "--run", "both").stdout.splitlines()[0]
    assert json.loads(line)["tiled"] == {
        "image": {"column": "image_tiled", "rows": ROWS},
        "mask": {"column": "mask_tiled", "rows": ROWS},
    }


def test_the_runs_are_what_is_read(daemon: Daemon, tmp_path: Path) -> None:
    """A tiled file whose runs are damaged is a bad sample, though its image data are whole."""
    uri = write(tmp_path / "a.lance", "2.1", "large_binary")
    tile(uri, "--column", "mask")
    for file in (tmp_path / "a.lance").rglob("*.lance"):
        data = bytearray(file.read_bytes())
        at = data.find(b"ldRN")
        while at >= 0:
            data[at + 9] ^= 1
            at = data.find(b"ldRN", at + 1)
        file.write_bytes(data)
    before = delivered(daemon, uri, use_tiled=False)
    dataset = daemon.dataset(
        uri, columns=["image", "mask"], transform=CROP, protect="none", on_bad_sample="raise"
    )
    with pytest.raises(Exception, match="checksum of a chunk ldRN is wrong"):
        next(iter(dataset))
    dataset.close()
    assert len(before) == ROWS


@pytest.mark.parametrize(("version", "storage"), LAYOUTS)
def test_replaced_masks_are_read_from_the_originals(
    daemon: Daemon, tmp_path: Path, version: str, storage: str
) -> None:
    uri = write(tmp_path / "a.lance", version, storage)
    tile(uri, "--column", "mask")
    # These are 200 pixels wide.
    new = {7: mask(7, seed=1), 28: mask(28, seed=1)}
    lance.dataset(uri).merge_insert("id").when_matched_update_all().execute(table(new, storage))
    whole = {"image": [CenterCrop((160, 200))], "mask": Mask("image")}
    found = delivered(daemon, uri, transform=whole)
    assert same(found, delivered(daemon, uri, transform=whole, use_tiled=False))
    for number, encoded in new.items():
        with image_module.open(io.BytesIO(encoded)) as file:
            expected = np.asarray(file)
        assert np.array_equal(found[number][1], expected.astype(np.uint8))
    assert any("left alone" in notice for notice in notices(daemon, uri))
    tile(uri, "--column", "mask")
    (notice,) = notices(daemon, uri)
    assert "50 of 50 rows are read tiled" in notice
    assert same(delivered(daemon, uri, transform=whole), found)


def test_other_readers_see_the_same_picture(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.lance", "2.2", "blob v2")
    tile(uri, "--column", "mask")
    for number, tiled in stored(uri, "mask_tiled").items():
        original = mask(number)
        assert tiled is not None and b"ldRN" in tiled and b"ldRN" not in original
        with (
            image_module.open(io.BytesIO(tiled)) as one,
            image_module.open(io.BytesIO(original)) as other,
        ):
            assert (one.mode, one.getpalette()) == (other.mode, other.getpalette())
            assert np.array_equal(np.asarray(one), np.asarray(other))
        one, other = (
            # As they are, it leaves a part of palettes with few bits to chance.
            torchvision_io.decode_image(
                torch.frombuffer(bytearray(file), dtype=torch.uint8),
                torchvision_io.ImageReadMode.RGB,
            )
            for file in (tiled, original)
        )
        assert torch.equal(one, other)
        # Who writes the picture anew drops the chunk.
        file = io.BytesIO()
        with image_module.open(io.BytesIO(tiled)) as image:
            image.save(file, "PNG")
        assert b"ldRN" not in file.getvalue()


def test_originals_can_be_dropped(daemon: Daemon, tmp_path: Path) -> None:
    uri = write(tmp_path / "a.lance", "2.1", "large_binary")
    before = delivered(daemon, uri)
    report = tile(uri, "--column", "mask", "--drop-original")
    assert report["dropped"] is not None
    assert lance.dataset(uri).schema.names == ["image", "id", "mask"]
    assert same(delivered(daemon, uri), before)
    assert tile(uri, "--column", "mask")["already"] == ROWS


def test_doctor_names_masks(tmp_path: Path) -> None:
    uri = write(tmp_path / "a.lance", "2.1", "large_binary")

    def line() -> str:
        found = loaderd("doctor", uri, check=False).stdout.splitlines()
        (line,) = [line for line in found if "tiles" in line.split(":")[0]]
        return str(line)

    assert (
        'column "mask": 16 of 16 images looked at are PNGs that could be tiled if they are masks'
        in line()
    )
    tile(uri, "--column", "mask")
    assert 'column "mask"' not in line()


def grey_only(path: Path, name: str, values: list[bytes]) -> str:
    """A dataset with one column of pictures."""
    schema = pa.schema([pa.field(name, pa.large_binary())])
    lance.write_dataset(pa.table([pa.array(values, pa.large_binary())], schema=schema), str(path))
    return str(path)


def test_grey_images_are_no_masks(tmp_path: Path) -> None:
    """Nothing but their looks: `tile` asks for the column, `doctor` for an image beside it."""
    uri = grey_only(tmp_path / "grey.lance", "image", [mask(number) for number in range(20)])
    said = loaderd("tile", uri).stdout
    assert "nothing to tile" in said and "20 not a JPEG" in said
    assert "if they are masks, say --column image" in said
    found = loaderd("doctor", uri, check=False).stdout.splitlines()
    (line,) = [line for line in found if line.startswith("tiles")]
    assert "no image that should be tiled" in line
    assert tile(uri, "--column", "image")["tiled"] == 20


def test_grey_images_among_jpegs_are_no_masks(tmp_path: Path) -> None:
    images = [mask(number) if number % 2 else jpeg(number) for number in range(20)]
    uri = grey_only(tmp_path / "mixed.lance", "image", images)
    report = tile(uri, "--column", "image")
    assert (report["tiled"], report["kept"]) == (10, {"not a JPEG": 10})
    # Nor does it say so when only they are left.
    assert tile(uri, "--column", "image")["version"] is None


def test_drawn_masks_are_tiled(daemon: Daemon, tmp_path: Path) -> None:
    tiled, plain = (str(tmp_path / f"{name}.lance") for name in ("tiled", "plain"))
    loaderd("ingest", "--synthetic", "4", "--mask", tiled)
    loaderd("ingest", "--synthetic", "4", "--mask", "--no-tile", plain)
    masks = stored_masks(tiled), stored_masks(plain)
    assert all(b"ldRN" in mask for mask in masks[0])
    assert not any(b"ldRN" in mask for mask in masks[1])
    batches = []
    for uri in (tiled, plain):
        dataset = daemon.dataset(
            uri, columns=["image", "mask"], transform=CROP, batch_size=4, shuffle=False, seed=1
        )
        batches.append([batch.clone() for batch in dataset])
        dataset.close()
    (one,), (other,) = batches
    assert torch.equal(one["mask"], other["mask"]) and one["mask"].max() > 0


def stored_masks(uri: str) -> list[bytes]:
    dataset = lance.dataset(uri)
    return [blob[1] for blob in dataset.read_blobs("mask", indices=range(dataset.count_rows()))]
