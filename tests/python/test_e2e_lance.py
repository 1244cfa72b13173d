"""The main job on real Lance datasets: ingest, read, decode, deliver, log.

Needs the daemon's executable with lance in it (``LOADERD_BIN``, or beside Python). Datasets
of other layouts than ``loaderd ingest`` writes are made with pylance, where it is installed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from loaderd import (
    CenterCrop,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    errors,
    launch,
)

torch = pytest.importorskip("torch")

from daemon_process import Daemon, loaderd, logged  # noqa: E402

PICTURES = 60
CROP = {"image": [RandomResizedCrop(32), RandomHorizontalFlip()]}


def log(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in loaderd("log", "--json", *arguments).stdout.splitlines()]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "drawn"
    loaderd("sample", folder, "--count", str(PICTURES), "--width", "120", "--height", "90")
    return folder


@pytest.fixture
def photos(pictures: Path, tmp_path: Path) -> str:
    """A dataset of its own for each test, by ``loaderd ingest``."""
    uri = tmp_path / "photos.lance"
    loaderd("ingest", pictures, uri)
    return str(uri)


def delivered(batches: Any) -> list[tuple[int, list[int], str]]:
    """Step, row ids, and a digest of the pixels of each batch; keeps no batch."""
    return [
        (
            batch.step,
            batch["_rowid"].tolist(),
            hashlib.sha256(batch["image"].numpy().tobytes()).hexdigest(),
        )
        for batch in batches
    ]


def test_pixels_and_labels_are_those_of_the_files(
    daemon: Daemon, photos: str, pictures: Path
) -> None:
    """Against Pillow and torchvision's own transforms, on every picture."""
    image_module = pytest.importorskip("PIL.Image")
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    files = sorted(pictures.glob("*/*.jpg"))
    classes = sorted(path.name for path in pictures.iterdir())
    dataset = daemon.dataset(
        photos,
        columns=["image", "label"],
        transform={"image": [Resize(72), CenterCrop(64), Normalize.imagenet("float32")]},
    )
    assert dataset.rows == len(files) == PICTURES
    assert dataset.classes == {"label": classes}
    position = 0
    for batch in dataset:
        for image, label in zip(batch["image"], batch["label"], strict=True):
            path = files[position]
            position += 1
            assert classes[label] == path.parent.name
            picture = image_module.open(io.BytesIO(path.read_bytes())).convert("RGB")
            expected = functional.pil_to_tensor(
                functional.center_crop(functional.resize(picture, [72]), [64, 64])
            )
            mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
            std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
            grey = (image * std + mean) * 255
            assert (grey - expected).abs().mean() < 1
    assert position == PICTURES


def test_every_row_once_and_the_log_agrees(daemon: Daemon, photos: str) -> None:
    dataset = daemon.dataset(
        photos, columns=["image", "_rowid", "_rowaddr"], transform=CROP, shuffle=True, batch_size=7
    )
    seen: dict[int, tuple[list[int], bytes]] = {}
    for _ in range(2):
        epoch = []
        for batch in dataset:
            addresses = batch["_rowaddr"].numpy().astype("<u8").tobytes()
            seen[batch.step] = (batch["_rowid"].tolist(), addresses)
            epoch += batch["_rowid"].tolist()
        assert sorted(epoch) == list(range(PICTURES))
    run, version = dataset.run, dataset.version
    dataset.close()
    daemon.stop()
    records = log("--run", run)
    assert [record["step"] for record in records] == sorted(seen) == list(range(18))
    assert {record["version"] for record in records} == {version}
    for record in records:
        assert record["rows"] == len(seen[record["step"]][0])
    # Which steps saw a row, by the log's arithmetic and by what was delivered.
    for row in (0, 17, PICTURES - 1):
        steps = [record["step"] for record in log("--run", run, "--row", str(row))]
        assert steps == [step for step, (rows, _) in seen.items() if row in rows]
    assert len({record["digest"] for record in records}) == len(records)
    digests = {step: addresses for step, (_, addresses) in seen.items()}
    blake3 = pytest.importorskip("blake3")
    for record in records:
        assert record["digest"] == blake3.blake3(digests[record["step"]]).hexdigest()[:32]


def test_no_age_is_so_large_that_it_is_small(photos: str) -> None:
    tags = Path(photos, "_refs/tags")
    tags.mkdir(parents=True)
    tag = {"branch": None, "version": 1, "manifestSize": 100}
    tag |= dict.fromkeys(("createdAt", "updatedAt"), "2025-01-01T00:00:00Z")
    (tags / "loaderd-keep-host-00000000-run.json").write_text(json.dumps(tag))
    for hours, count in ((2**64 // 3600 + 1, 0), (2**64 - 1, 0), (1, 1)):
        done = loaderd("tags", "prune", photos, f"--older-than={hours}")
        assert done.stdout.endswith(f"{count} tags removed\n")


def test_resuming_gives_the_very_batches(daemon: Daemon, photos: str) -> None:
    arguments: dict[str, Any] = {
        "columns": ["image", "_rowid"],
        "transform": CROP,
        "shuffle": True,
        "batch_size": 16,
    }
    whole = delivered(daemon.dataset(photos, **arguments))
    for stop in range(len(whole) + 1):
        first = daemon.dataset(photos, **arguments)
        batches = iter(first)
        for _ in range(stop):
            next(batches)
        state = json.loads(json.dumps(first.state_dict()))
        first.close()
        second = daemon.dataset(photos, **arguments)
        second.load_state_dict(state)
        rest = delivered(second)
        if stop < len(whole):
            assert rest == whole[stop:]
        else:
            assert rest[0][0] == len(whole), "the next epoch begins"


def test_appending_makes_a_version_and_old_checkpoints_are_refused(
    daemon: Daemon, photos: str, pictures: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"columns": ["image", "label"], "transform": CROP}
    first = daemon.dataset(photos, **arguments)
    next(iter(first))
    state = first.state_dict()
    more = tmp_path / "more"
    shutil.copytree(pictures / "sea", more / "aurora")
    shutil.copytree(pictures / "sea", more / "sea")
    loaderd("ingest", more, photos)
    second = daemon.dataset(photos, **arguments)
    assert second.version == first.version + 1
    assert second.rows == PICTURES + 20
    assert second.classes["label"] == [*first.classes["label"], "aurora"]
    with pytest.raises(errors.ResumeRefused, match=r"version: \d+ then, \d+ now"):
        second.load_state_dict(state)
    pinned = daemon.dataset(photos, version=first.version, **arguments)
    pinned.load_state_dict(state)
    assert pinned.rows == PICTURES


def test_ranks_that_say_latest_at_different_times_read_one_version(
    daemon: Daemon, photos: str, pictures: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"columns": ["label"], "run": "a", "world_size": 2}
    first = daemon.dataset(photos, rank=0, **arguments)
    version, rows = first.version, first.rows
    shutil.copytree(pictures / "sea", tmp_path / "more" / "sea")
    loaderd("ingest", tmp_path / "more", photos)
    second = daemon.dataset(photos, rank=1, **arguments)
    assert (second.version, second.rows) == (version, rows)
    # One that comes back names the version that it had, and keeps the others company.
    first.close()
    next(iter(first))
    second.close()
    late = daemon.dataset(photos, rank=1, **arguments)
    assert (late.version, late.rows) == (version, rows)
    other_run = daemon.dataset(photos, rank=0, **{**arguments, "run": "b"})
    assert other_run.version == version + 1


def test_filters_select_by_any_column(daemon: Daemon, photos: str) -> None:
    dataset = daemon.dataset(photos, columns=["label"], filter="label = 2 OR label = 4")
    labels = [label for batch in dataset for label in batch["label"].tolist()]
    assert labels and set(labels) == {2, 4}
    assert dataset.rows == len(labels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filter": "label > 1000"}, "label > 1000"),
        ({"filter": "label >"}, "label >"),
        ({"filter": "weather = 'rain'"}, "weather"),
        ({"columns": ["imgae"], "transform": None}, "imgae.*image"),
        ({"version": 77}, "77"),
        ({"version": "released"}, "released"),
        ({"uri": "s3://bucket/photos.lance"}, "object store"),
        ({"uri": "/nowhere/photos.lance"}, "/nowhere/photos.lance"),
        ({"batch_size": 64, "drop_last": True}, "drop_last"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    daemon: Daemon, photos: str, change: dict[str, Any], words: str
) -> None:
    arguments = {"uri": photos, "columns": ["image"], "transform": CROP, **change}
    dataset = daemon.dataset(arguments.pop("uri"), **arguments)
    with pytest.raises(errors.LoaderdError, match=f"(?s){words}"):
        len(dataset)


@pytest.fixture(params=["empty", "cut", "garbage"])
def broken(request: pytest.FixtureRequest, pictures: Path) -> bytes:
    whole = next(pictures.glob("*/*.jpg")).read_bytes()
    kinds = {"empty": b"", "cut": whole[: len(whole) // 2], "garbage": b"\xff" * 3000}
    return kinds[request.param]


@pytest.fixture(params=["large_binary", "binary"])
def with_broken(
    request: pytest.FixtureRequest, tmp_path: Path, pictures: Path, broken: bytes
) -> tuple[str, int]:
    """Plain binary columns, as most datasets have, and a bad row among 30."""
    lance = pytest.importorskip("lance")
    pyarrow = pytest.importorskip("pyarrow")
    images = [path.read_bytes() for path in sorted(pictures.glob("*/*.jpg"))[:30]]
    images[11] = broken
    uri = str(tmp_path / "plain.lance")
    kind = getattr(pyarrow, request.param)()
    table = pyarrow.table(
        {"image": pyarrow.array(images, kind), "number": pyarrow.array(range(30), pyarrow.int32())}
    )
    lance.write_dataset(table, uri, enable_stable_row_ids=True)
    return uri, 11


def test_bad_samples_by_policy(daemon: Daemon, with_broken: tuple[str, int]) -> None:
    uri, bad = with_broken
    arguments: dict[str, Any] = {
        "columns": ["image", "number", "_valid", "_rowid"],
        "transform": CROP,
        "shuffle": True,
        "batch_size": 10,
    }
    with pytest.raises(errors.BadSample, match=f"row address {bad}"):
        for _ in daemon.dataset(uri, **arguments):
            pass
    zeroed = {}
    for batch in daemon.dataset(uri, on_bad_sample="zero", **arguments):
        for row, number in enumerate(batch["number"].tolist()):
            zeroed[number] = bool(batch["_valid"][row])
            assert bool((batch["image"][row] == 0).all()) == (number == bad)
    assert [number for number, valid in zeroed.items() if not valid] == [bad]
    replacing = daemon.dataset(uri, on_bad_sample="replace", **arguments)
    first = delivered(replacing)
    rows = [row for _, ids, _ in first for row in ids]
    assert len(rows) == 30 and bad not in rows
    assert delivered(daemon.dataset(uri, on_bad_sample="replace", **arguments)) == first
    text = logged('"step":', "--json", "--run", replacing.run, times=3)
    noted = [bad for line in text.splitlines() for bad in json.loads(line)["bad"]]
    assert [entry["row_address"] for entry in noted] == [bad]
    assert noted[0]["replaced_by"] in rows


def test_the_layouts_give_the_same_batches(
    daemon: Daemon, photos: str, pictures: Path, tmp_path: Path
) -> None:
    """The fast path and Lance's own `take` deliver the same bytes."""
    lance = pytest.importorskip("lance")
    pyarrow = pytest.importorskip("pyarrow")
    uri = str(tmp_path / "plain.lance")
    images = [path.read_bytes() for path in sorted(pictures.glob("*/*.jpg"))]
    table = pyarrow.table({"image": pyarrow.array(images, pyarrow.large_binary())})
    lance.write_dataset(table, uri, enable_stable_row_ids=True, max_rows_per_file=17)
    arguments: dict[str, Any] = {
        "columns": ["image", "_rowid"],
        "transform": CROP,
        "shuffle": True,
        "seed": 5,
    }
    fast = delivered(daemon.dataset(photos, **arguments))
    assert delivered(daemon.dataset(uri, **arguments)) == fast


def test_the_feed_tells_what_is_delivered(daemon: Daemon, photos: str) -> None:
    follower = subprocess.Popen(
        [launch.find_binary(), "log", "--follow", "--json", "--socket", daemon.socket],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None and follower.stderr is not None
    assert "following" in follower.stderr.readline()
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(follower.stdout or []))
    reader.start()
    dataset = daemon.dataset(photos, run="followed")
    deadline = time.monotonic() + 20
    # A subscription takes a moment to arrive, and a PUB socket drops what nobody wants yet.
    while not lines and time.monotonic() < deadline:
        for _ in dataset:
            pass
        time.sleep(0.05)
    follower.terminate()
    reader.join()
    follower.wait()
    follower.stderr.close()
    follower.stdout.close()
    record = json.loads(lines[0])
    assert (record["run"], record["version"]) == ("followed", dataset.version)


RANK = """
import sys, json
from loaderd import RandomResizedCrop
from loaderd.torch import LanceIterableDataset
dataset = LanceIterableDataset(sys.argv[1], columns=["image", "_rowid"], batch_size=8, shuffle=True,
    transform={"image": [RandomResizedCrop(32)]}, socket=sys.argv[2], autostart=False)
print(json.dumps([[batch.step, batch["_rowid"].tolist()] for batch in dataset]))
"""


def test_ranks_as_processes_share_a_run(daemon: Daemon, photos: str) -> None:
    """What `torchrun` does: a process a rank, told by the environment."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, photos, daemon.socket],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "3",
                "LOCAL_WORLD_SIZE": "3",
                "TORCHELASTIC_RUN_ID": "shared-run",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    traces = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert len({tuple(step for step, _ in trace) for trace in traces}) == 1
    rows = [row for trace in traces for _, ids in trace for row in ids]
    assert sorted(rows) == list(range(PICTURES))
    assert {record["run"] for record in log()} == {"shared-run"}


def test_a_cold_bench_reads_the_files_twice(photos: str) -> None:
    """Once from the disk, each row once, and then from memory, as its notes say."""
    run = loaderd("bench", photos, "--json", "--cold", "--seconds=1", "--batch-size=8")
    report = json.loads(run.stdout)
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert list(stages)[:3] == ["read, cold", "end to end, cold", "read"]
    assert stages["read, cold"]["rows"] == PICTURES < stages["read"]["rows"]
    assert stages["end to end, cold"]["rows"] == PICTURES < stages["end to end"]["rows"]
    assert stages["read, cold"]["rows_per_s"] < stages["read"]["rows_per_s"]
    assert "read alone, cold" in [part["name"] for part in report["spreads"]]
    cold, warm = report["notes"]
    # Where a file system lies in memory, there is nothing to drop, which is said.
    assert cold.startswith("cold: dropped from the page cache") or "file system" in cold
    assert warm.startswith("warm: ") and warm.endswith("read into the page cache")


def test_the_command_line_helps() -> None:
    assert "ingest" in loaderd("--help").stdout
    wrong = loaderd("ingets", check=False)
    assert wrong.returncode != 0
    assert "ingest" in wrong.stderr
    missing = loaderd("ingest", "/nowhere", "/tmp/x.lance", check=False)
    assert missing.returncode != 0
    assert "/nowhere" in missing.stderr


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"version": "gold"}, 'no tag "gold": it has '),
        ({"version": "1"}, 'no tag "1": .*; a version is asked for by its number, version=1'),
        ({"version": 9}, "no version 9: it has version 1"),
        # Not where in Lance's source, which lay on the machine that built it.
        ({"filter": "label = 'cat'"}, r"\"label = 'cat'\" is not valid here: (?!.*\.rs:)"),
        ({"filter": "lable = 1"}, r"no column \"lable\" \(did you mean \"label\"\?\)(?!.*\.rs:)"),
    ],
)
def test_what_a_dataset_does_not_have_is_said(
    daemon: Daemon, photos: str, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.DatasetError, match=words):
        len(daemon.dataset(photos, **wrong))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["empty", "x.lance"], "empty holds no files"),
        (["only"], "loaderd ingest SRC URI"),
        (["--synthetic=3"], "loaderd ingest --synthetic N URI"),
        (["flat", "x.lance"], "--label-from name"),
        (["flat", "flat"], "the dataset flat would lie within flat"),
        (["empty", "flat/../empty/x.lance"], "write it beside that folder"),
    ],
)
def test_what_cannot_be_ingested_is_said(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty/class").mkdir(parents=True)
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/picture.jpg").write_bytes(b"")
    refused = loaderd("ingest", *arguments, check=False)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert not list(tmp_path.rglob("*.lance")) and not (tmp_path / "flat/_versions").exists()
