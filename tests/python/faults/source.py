"""What a schedule's jobs read, and what must come of it.

Enters: numbers of pictures. Leaves: a source in memory over a folder of them, or a Lance
dataset made of them by ``loaderd ingest``, each with some that can't be decoded. A picture
has one colour, told by its number, so that pixels show which row they are of.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import random
import shutil
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loaderd import launch

#: Different pictures in a memory source; row i has picture i modulo their number.
PICTURES = 8
#: Pictures whose number is one of these, modulo ``PICTURES``, can't be decoded.
BROKEN = {0, 4}
#: Rows of the Lance dataset, each with a picture of its own.
LANCE_ROWS = 480
#: Version of the Lance dataset that jobs read. Version 1 has half of its rows.
VERSION = 2
#: Tag of a user's own, which nothing of ours may touch.
USERS_TAG = "released"
_BROKEN_BYTES = 300


def colour(number: int) -> list[int]:
    return [30 * (number % 8), 30 * (number // 8 % 8), 30 * (number // 64 % 8)]


def draw(number: int) -> bytes:
    """A small JPEG; a comment makes its length its own."""
    from PIL import Image

    file = io.BytesIO()
    picture = Image.new("RGB", (64, 48), tuple(colour(number)))
    picture.save(file, "JPEG", comment=b"%d " % number * (number * 37 % 500))
    return file.getvalue()


def is_broken(number: int) -> bool:
    return number % PICTURES in BROKEN


@dataclass
class Source:
    """One schedule's; rows are numbered by the column ``label``."""

    uri: str
    rows: int
    #: As stored, by number; row i has number i modulo their count.
    pictures: list[bytes]

    @property
    def is_lance(self) -> bool:
        return False

    @property
    def version(self) -> int:
        """That jobs read."""
        return 1

    def arguments(self, dice: random.Random) -> dict[str, Any]:
        """Of the loader: what is to be read."""
        return {"uri": self.uri}

    def selected(self, arguments: dict[str, Any]) -> int:
        """Rows that a job with these arguments reads, from the first on."""
        return self.rows

    def checksum(self, row: int) -> int:
        return zlib.crc32(self.pictures[row % len(self.pictures)])

    def colour(self, row: int) -> list[int]:
        return colour(row % len(self.pictures))


@dataclass
class Lance(Source):
    """A dataset of which a schedule may do what it likes."""

    #: Of the version that jobs read.
    data_files: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        files = (self.path / "data").rglob("*")
        self.data_files = sorted(path for path in files if path.is_file())

    @property
    def is_lance(self) -> bool:
        return True

    @property
    def version(self) -> int:
        return VERSION

    @property
    def path(self) -> Path:
        return Path(self.uri)

    def arguments(self, dice: random.Random) -> dict[str, Any]:
        few = f"label < {dice.randint(200, LANCE_ROWS)}"
        return {
            "uri": self.uri,
            "version": VERSION,
            "filter": dice.choice([None, few]),
            "protect": dice.choice(["run", "run", "keep"]),
        }

    def selected(self, arguments: dict[str, Any]) -> int:
        return int(arguments["filter"].split()[-1]) if arguments["filter"] else self.rows

    def overwrite_and_clean_up(self) -> None:
        """As a user may, who spares tagged versions."""
        _pylance(
            self.uri,
            "lance.write_dataset(pyarrow.table({'label': [0]}), uri, mode='overwrite');"
            "lance.dataset(uri).cleanup_old_versions(datetime.timedelta(0),"
            " delete_unverified=True, error_if_tagged_old_versions=False)",
        )

    def tags(self) -> dict[str, int]:
        """The version that each tag is on; runs that end take theirs off meanwhile."""
        found = {}
        for path in (self.path / "_refs" / "tags").glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                found[path.stem] = int(json.loads(path.read_text())["version"])
        return found


def _pylance(uri: Path | str, program: str) -> None:
    """Runs a program on ``uri`` in a process of its own: Lance's threads don't survive a fork."""
    program = f"import datetime, lance, pyarrow, sys; uri = sys.argv[1]; {program}"
    done = subprocess.run([sys.executable, "-c", program, str(uri)], capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"pylance failed: {done.stderr.strip()}")


def memory(pictures: Path, dice: random.Random) -> Source:
    rows = dice.randint(300, 800)
    stored = [path.read_bytes() for path in sorted(pictures.iterdir())]
    return Source(f"memory:rows={rows},images={pictures}", rows, stored)


def draw_pictures(folder: Path) -> None:
    """What a source in memory reads."""
    folder.mkdir()
    for number in range(PICTURES):
        data = draw(number)
        data = data[:_BROKEN_BYTES] if is_broken(number) else data
        (folder / f"{number}.jpg").write_bytes(data)


def ingest(folder: Path) -> Lance:
    """The dataset that each schedule gets a copy of, in two versions and several files.

    Raises ``OSError`` in words where daemon or Python have no Lance.
    """
    if importlib.util.find_spec("lance") is None:
        raise OSError("pylance is not installed")
    pictures = [draw(number) for number in range(LANCE_ROWS)]
    uri = folder / "pictures.lance"
    for part in (0, 1):
        drawn = folder / f"part-{part}"
        drawn.mkdir(parents=True)
        for number in range(part * LANCE_ROWS // 2, (part + 1) * LANCE_ROWS // 2):
            # The class is the name up to the first underscore, and its number the label.
            (drawn / f"{number:05}_.jpg").write_bytes(pictures[number])
        command = [launch.find_binary(), "ingest", drawn, uri, "--label-from=name", "--no-tile"]
        done = subprocess.run([*command, "--rows-per-fragment=100"], capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f"the daemon can't ingest: {done.stderr.strip()}")
    tag = f"lance.dataset(uri).tags.create({USERS_TAG!r}, 1)"
    _pylance(uri, f"assert lance.dataset(uri).version == {VERSION}; {tag}")
    made = Lance(str(uri), LANCE_ROWS, pictures)
    for number in filter(is_broken, range(LANCE_ROWS)):
        pictures[number] = _break(made, pictures[number])
    return made


def _break(source: Lance, picture: bytes) -> bytes:
    """Overwrites the beginning of a picture where it is stored; ``ingest`` takes no such one."""
    broken = bytes(_BROKEN_BYTES) + picture[_BROKEN_BYTES:]
    places = 0
    for path in source.data_files:
        data = path.read_bytes()
        places += data.count(picture)
        if picture in data:
            path.write_bytes(data.replace(picture, broken))
    assert places == 1, f"the picture is stored {places} times"
    return broken


def copy(made: Lance, folder: Path) -> Lance:
    shutil.copytree(made.uri, folder)
    return Lance(str(folder), made.rows, made.pictures)
