"""One set of pictures in every form that the benches read.

Enters: a folder of JPEGs, or none and then drawn ones. Leaves, in the scratch folder: the
distinct pictures, the same repeated to some number of rows as files in class folders, and a
Lance dataset made by ``loaderd ingest``. All rows of all forms hold the same bytes, and all of
it was written just before, so it is in the page cache.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from harness import run_loaderd

#: Pictures that are drawn where the user has none.
DRAWN = 256
_CLASSES = 8


@dataclass(frozen=True)
class Pictures:
    """Where the forms lie."""

    #: Distinct pictures, in one flat folder.
    distinct: Path
    #: Files in class folders, ``rows`` of them.
    tree: Path
    rows: int
    distinct_count: int
    mean_bytes: float
    is_drawn: bool

    def words(self) -> str:
        kind = "drawn pictures (targets are for photos)" if self.is_drawn else "pictures"
        size = f"{self.mean_bytes / 1e3:.0f} KB on average"
        return f"{self.distinct_count} {kind} of {size}, {self.rows} rows"


def prepare(folder: Path, images: Path | None, rows: int) -> Pictures:
    """Collects or draws pictures, and repeats them to ``rows`` files (hard links)."""
    distinct, tree = folder / "distinct", folder / "tree"
    distinct.mkdir()
    if images is None:
        run_loaderd("sample", folder / "drawn", "--count", str(min(rows, DRAWN)))
    found = _jpegs(folder / "drawn" if images is None else images)
    if not found:
        raise SystemExit(f"{images} holds no JPEG in colour or grey")
    if len(found) > rows:
        found = random.Random(0).sample(found, rows)
    size = 0
    for number, file in enumerate(found):
        copy = distinct / f"{number:06}.jpg"
        shutil.copyfile(file, copy)
        size += copy.stat().st_size
    for row in range(rows):
        number = row % len(found)
        file = tree / str(number % _CLASSES) / f"{number:06}_{row:08}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.hardlink_to(distinct / f"{number:06}.jpg")
    return Pictures(distinct, tree, rows, len(found), size / len(found), images is None)


def ingest(pictures: Pictures, uri: Path) -> Path:
    """The dataset as loaderd writes it, with all rows or not at all."""
    report = json.loads(run_loaderd("ingest", pictures.tree, uri, "--no-tile", "--json"))
    if report["rows"] != pictures.rows:
        raise SystemExit(f"loaderd ingest left out {report['skipped']} of {pictures.rows} pictures")
    return uri


def write_blobs(uri: Path, folder: Path) -> None:
    """Writes the images of a dataset into files, as they are.

    By a process of its own: an interpreter with pylance and our extension in it has been seen
    to crash as it ended, once, for a reason not yet found.
    """
    command = [sys.executable, __file__, os.fspath(uri), os.fspath(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"pylance failed to read {uri}:\n{done.stderr}")


def _write_blobs(uri: Path, folder: Path) -> None:
    import lance

    dataset = lance.dataset(str(uri))
    folder.mkdir()
    rows = list(range(dataset.count_rows()))
    for row, blob in zip(rows, dataset.take_blobs("image", indices=rows), strict=True):
        (folder / f"{row:06}.jpg").write_bytes(blob.readall())


def _jpegs(folder: Path) -> list[Path]:
    """JPEGs that every contestant decodes: colour or grey, no CMYK."""
    found = []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in (".jpg", ".jpeg"):
            continue
        with Image.open(file) as image:
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                found.append(file)
    return found


if __name__ == "__main__":
    _write_blobs(Path(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)
