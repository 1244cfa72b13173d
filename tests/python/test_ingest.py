"""``loaderd ingest`` of folders as they come: with stray files, odd names, and what is no file.

Needs the daemon's executable with lance in it (``LOADERD_BIN``, or beside Python), and pylance.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

lance = pytest.importorskip("lance")

from daemon_process import loaderd  # noqa: E402
from loaderd import launch  # noqa: E402


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small pictures, one of a class."""
    folder = tmp_path_factory.mktemp("drawn") / "classes"
    loaderd("sample", folder, "--count=6", "--width=64", "--height=48")
    return folder


def written(uri: Path) -> tuple[list[str], list[int]]:
    """Class names, and the rows' numbers."""
    dataset = lance.dataset(str(uri))
    names: Any = json.loads(dataset.schema.metadata[b"loaderd.classes.label"])
    return names, dataset.to_table(columns=["label"])["label"].to_pylist()


def test_what_is_no_image_names_no_class(drawn: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for picture in drawn.rglob("*.jpg"):
        shutil.copy(picture, flat)
    names = sorted(path.name for path in drawn.iterdir())
    for name in (".DS_Store", "README.md", "labels.csv", "snow_notes.txt"):
        (flat / name).write_text("no image")
    (flat / "Thumbs.db").write_bytes(b"")
    done = loaderd("ingest", flat, tmp_path / "a.lance", "--label-from=name")
    assert written(tmp_path / "a.lance") == (names, list(range(6)))
    assert "5 files are not images" in done.stderr and "Thumbs.db" in done.stderr


def test_a_class_folder_without_an_image_is_told(drawn: Path, tmp_path: Path) -> None:
    """It is a class, as in ImageFolder, and shifts the others' numbers."""
    folder = shutil.copytree(drawn, tmp_path / "photos")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "index.txt").write_text("no image")
    done = loaderd("ingest", folder, tmp_path / "a.lance")
    names, labels = written(tmp_path / "a.lance")
    assert names[0] == ".cache" and labels == list(range(1, 7))
    assert "class folders without an image are numbered as well: .cache\n" in done.stderr
    assert "numbered" not in loaderd("ingest", drawn, tmp_path / "b.lance").stderr


@pytest.mark.parametrize("by_name", [False, True])
def test_classes_whose_names_are_no_text_are_not_mixed_up(
    by_name: bool, drawn: Path, tmp_path: Path
) -> None:
    (first, second, *_) = drawn.rglob("*.jpg")
    folder = os.fsencode(tmp_path / "photos")
    for name, picture in ((b"caf\xe9", first), (b"caf\xe8", second)):
        path = folder + (b"/" + name + b"_1.jpg" if by_name else b"/" + name + b"/1.jpg")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copy(picture, path)
    arguments = ["--label-from=name"] if by_name else []
    done = loaderd("ingest", tmp_path / "photos", tmp_path / "a.lance", *arguments, check=False)
    assert done.returncode == 1 and "is not UTF-8: rename it" in done.stderr
    assert not (tmp_path / "a.lance").exists()


def test_what_is_no_file_is_left_out(drawn: Path, tmp_path: Path) -> None:
    """Whoever opens a pipe waits, and whoever reads a device may never be done."""
    folder = shutil.copytree(drawn, tmp_path / "photos")
    os.mkfifo(folder / "sea" / "pipe.jpg")
    (folder / "sea" / "zero.jpg").symlink_to("/dev/zero")
    done = loaderd("ingest", folder, tmp_path / "a.lance")
    assert "6 images, 6 classes, 2 files left out" in done.stdout
    assert done.stderr.count("no regular file") == 2


def test_what_nobody_reads_any_more_stops_nothing(drawn: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(drawn, tmp_path / "photos")
    (folder / "stray.txt").write_text("no image")
    (folder / "sea" / "notes.txt").write_text("no image")
    reading, writing = os.pipe()
    os.close(reading)
    command = [launch.find_binary(), "ingest", str(folder), str(tmp_path / "a.lance")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    assert done.returncode == 0 and b"6 images, 6 classes, 1 files left out" in done.stdout


def test_lances_words_come_without_lines_of_its_source(drawn: Path, tmp_path: Path) -> None:
    failed = loaderd("ingest", drawn, tmp_path / "two\nlines.lance", check=False)
    assert failed.returncode == 1 and "lance failed to " in failed.stderr
    assert ".rs:" not in failed.stderr
