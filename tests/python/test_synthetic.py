"""``loaderd ingest --synthetic``: what others read in the datasets that it writes.

Needs the daemon's executable with lance in it (``LOADERD_BIN``, or beside Python), pylance and
Pillow.
"""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loaderd import CenterCrop, Resize, launch

pytest.importorskip("torch")
lance = pytest.importorskip("lance")
image_module = pytest.importorskip("PIL.Image")

from daemon_process import Daemon  # noqa: E402

FRAMES = 10
CATEGORIES = [
    "car",
    "truck",
    "bus",
    "person",
    "rider",
    "bike",
    "motor",
    "traffic light",
    "traffic sign",
    "train",
]  # BDD100K
WEATHERS = ["clear", "overcast", "rainy", "snowy", "foggy", "partly cloudy"]


def ingest(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [launch.find_binary(), "ingest", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def blobs(dataset: Any, column: str) -> list[bytes]:
    rows = list(range(dataset.count_rows()))
    return [blob.read() for blob in dataset.take_blobs(column, indices=rows)]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("drawn") / "frames.lance"
    done = ingest("--synthetic", str(FRAMES), "--seed", "5", "--mask", "--json", path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rows"], report["version"], report["created"]) == (FRAMES, 1, True)
    return str(path)


def test_columns_are_those_of_the_help(uri: str) -> None:
    dataset = lance.dataset(uri)
    kinds = {field.name: str(field.type) for field in dataset.schema if field.name != "image"}
    kinds.pop("mask")
    assert kinds == {
        "name": "string",
        "weather": "string",
        "timeofday": "string",
        "scene": "string",
        "label": "int64",
        "split": "string",
        "categories": "list<item: int64>",
        "category_names": "list<item: string>",
        "boxes": "list<item: fixed_size_list<item: float>[4]>",
        "occluded": "list<item: bool>",
        "truncated": "list<item: bool>",
    }
    metadata = {key.decode(): json.loads(value) for key, value in dataset.schema.metadata.items()}
    assert metadata == {
        "loaderd.classes.label": WEATHERS,
        "loaderd.classes.categories": CATEGORIES,
    }
    help_text = ingest("--help").stdout
    for name in [*kinds, "image", "mask", *CATEGORIES, *WEATHERS]:
        assert name in help_text


def test_rows_hold_together(uri: str) -> None:
    dataset = lance.dataset(uri)
    columns = [field.name for field in dataset.schema if field.name not in ("image", "mask")]
    rows = dataset.to_table(columns=columns).to_pylist()
    images, masks = blobs(dataset, "image"), blobs(dataset, "mask")
    labelled = 0
    for number, (row, image, mask) in enumerate(zip(rows, images, masks, strict=True)):
        assert row["name"] == f"synthetic-5-{number:08}"
        assert WEATHERS[row["label"]] == row["weather"]
        assert row["timeofday"] in ("daytime", "night", "dawn/dusk")
        assert row["split"] in ("train", "val", "test")
        assert [CATEGORIES[category] for category in row["categories"]] == row["category_names"]
        lists = [row[name] for name in ("categories", "boxes", "occluded", "truncated")]
        assert len({len(values) for values in lists}) == 1
        for left, top, right, bottom in row["boxes"]:
            assert 0 <= left < right <= 1280
            assert 0 <= top < bottom <= 720
        labelled += len(row["boxes"])
        picture = image_module.open(io.BytesIO(image))
        picture.load()
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (1280, 720), "RGB")
        ground = image_module.open(io.BytesIO(mask))
        ground.load()
        assert (ground.format, ground.size, ground.mode) == ("PNG", (1280, 720), "L")
        shares = {level: count for count, level in ground.getcolors()}
        assert set(shares) <= {0, 1, 2}
        # The sky can't be driven on; our own lane is somewhere below.
        assert ground.crop((0, 0, 1280, 200)).getextrema() == (0, 0)
        assert shares[1] > 20_000
    assert labelled > 3 * FRAMES


def test_the_same_seed_gives_the_same_bytes_and_appending_goes_on(uri: str, tmp_path: Path) -> None:
    again = tmp_path / "again.lance"
    for count in ("4", "6"):
        done = ingest("--synthetic", count, "--seed", "5", "--mask", again)
        assert done.returncode == 0, done.stderr
    first, second = lance.dataset(uri), lance.dataset(str(again))
    assert second.version == 2
    for column in ("image", "mask"):
        assert blobs(first, column) == blobs(second, column)
    columns = ["name", "boxes", "category_names", "occluded", "split"]
    assert first.to_table(columns=columns).to_pylist() == second.to_table(columns).to_pylist()
    other = tmp_path / "other.lance"
    done = ingest("--synthetic", "1", "--seed", "6", other)
    assert done.returncode == 0, done.stderr
    assert blobs(lance.dataset(str(other)), "image")[0] != blobs(first, "image")[0]


def test_what_does_not_fit_is_refused(uri: str, tmp_path: Path) -> None:
    def refused(*arguments: str | Path) -> str:
        done = ingest(*arguments)
        assert done.returncode != 0
        return done.stderr

    assert "leave out" in refused("--synthetic", "3", tmp_path, tmp_path / "x.lance")
    assert "--synthetic" in refused(tmp_path)
    assert "--synthetic" in refused("--seed", "1", tmp_path, tmp_path / "x.lance")
    # Without a mask, to a dataset that has one; and a folder of images likewise.
    assert '"mask"' in refused("--synthetic", "1", uri)
    assert lance.dataset(uri).version == 1


def test_frames_train(daemon: Daemon, uri: str) -> None:
    dataset = daemon.dataset(
        uri,
        columns=["image", "label"],
        transform={"image": [Resize(72), CenterCrop(64)]},
        batch_size=5,
    )
    assert dataset.classes["label"] == WEATHERS
    labels = lance.dataset(uri).to_table(columns=["label"]).column("label").to_pylist()
    found = []
    for batch in dataset:
        assert tuple(batch["image"].shape) == (5, 3, 64, 64)
        found += batch["label"].tolist()
    assert found == labels
