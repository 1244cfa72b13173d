"""What happens to a dataset while it is opened, and between two uses of one loader.

Needs what ``test_e2e_lance_columns.py`` needs.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loaderd import errors

torch = pytest.importorskip("torch")
lance = pytest.importorskip("lance")
pa = pytest.importorskip("pyarrow")

from daemon_process import Daemon, logged  # noqa: E402


def numbers(first: int, last: int, **columns: Any) -> Any:
    """``id`` counts from ``first`` to before ``last``."""
    return pa.table({"id": pa.array(range(first, last), pa.int64()), **columns})


def ids(dataset: Any) -> list[int]:
    found = []
    for batch in dataset:
        found += batch["id"].tolist()
    return found


def test_a_tag_may_name_a_version_of_a_branch(daemon: Daemon, tmp_path: Path) -> None:
    """Its number is also one of the main branch's, which holds other rows."""
    uri = str(tmp_path / "branched.lance")
    main = lance.write_dataset(numbers(0, 30), uri)
    main.create_branch("trial").insert(numbers(100, 110))
    version = lance.dataset(uri).checkout_version(("trial", None)).version
    main.tags.create("candidate", ("trial", version))
    main.insert(numbers(500, 503))
    assert lance.dataset(uri).version == version
    expected = [*range(30), *range(100, 110)]
    loader = daemon.dataset(uri, columns=["id"], version="candidate", run="branched")
    assert ids(loader) == expected
    state = loader.state_dict()
    loader.close()
    assert ids(loader) == expected
    loader.load_state_dict(state)
    assert ids(loader) == expected
    assert loader.version == version
    loader.close()
    # The log says where it lies, and finds it.
    logged(f"{uri}/tree/trial", "--run", "branched", "--row", "3")
    other = daemon.dataset(uri, columns=["id"], version=version)
    assert ids(other) == [*range(30), *range(500, 503)]
    other.close()


def test_a_loader_goes_on_with_the_dataset_that_it_began_with(
    daemon: Daemon, tmp_path: Path
) -> None:
    """And not with another one at its place, whose versions have the same numbers."""
    uri = tmp_path / "replaced.lance"
    lance.write_dataset(numbers(0, 20), str(uri))
    loader = daemon.dataset(str(uri), columns=["id"])
    assert ids(loader) == [*range(20)]
    loader.close()
    uri.rename(tmp_path / "away")
    lance.write_dataset(numbers(50, 70), str(uri))
    for _ in range(2):
        with pytest.raises(errors.ResumeRefused, match=r"version 1 of .* replaced by another one"):
            ids(loader)
    shutil.rmtree(uri)
    (tmp_path / "away").rename(uri)
    assert ids(loader) == [*range(20)]
    loader.close()


#: Writes one version after the other, each with another type of its column.
WRITER = """
import sys
import lance
import pyarrow as pa
types = (pa.int32(), pa.float32(), pa.int64())
tables = [pa.table({"id": pa.array(range(20), it)}) for it in types]
for n in range(10_000):
    lance.write_dataset(tables[n % 3], sys.argv[1], mode="overwrite" if n else "create")
    print(n, flush=True)
"""


def test_columns_are_those_of_the_version_that_is_read(daemon: Daemon, tmp_path: Path) -> None:
    uri = str(tmp_path / "busy.lance")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, uri], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(60):
            loader = daemon.dataset(uri, columns=["id"], batch_size=20, protect="none")
            assert ids(loader) == [*range(20)]
            loader.close()
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()


def test_filters_with_an_index_in_files_of_the_legacy_format(
    daemon: Daemon, tmp_path: Path
) -> None:
    uri = str(tmp_path / "legacy.lance")
    labels = [n % 7 for n in range(1000)]
    table = numbers(0, 1000, label=labels)
    dataset = lance.write_dataset(table, uri, data_storage_version="legacy", max_rows_per_file=100)
    dataset.create_scalar_index("label", "BTREE")
    loader = daemon.dataset(uri, columns=["id"], filter="label < 3")
    assert ids(loader) == [n for n in range(1000) if n % 7 < 3]
    loader.close()


@pytest.mark.parametrize("seed", [35, 53])
def test_a_damaged_file_costs_nobody_else_the_daemon(tmp_path: Path, seed: int) -> None:
    """Lance panics over these; another session of the same daemon doesn't notice."""
    daemon = Daemon(tmp_path)
    whole = str(tmp_path / "whole.lance")
    lance.write_dataset(numbers(0, 64), whole)
    other = daemon.dataset(whole, columns=["id"])
    batches = iter(other)
    first = next(batches)["id"].tolist()
    uri = str(tmp_path / "damaged.lance")
    sounds = [bytes([n % 256]) * (n % 90) for n in range(300)]
    table = pa.table(
        {"text": ["x" * (n % 50) for n in range(300)], "sound": pa.array(sounds, pa.large_binary())}
    )
    lance.write_dataset(table, uri, data_storage_version="2.2")
    (file,) = Path(uri, "data").iterdir()
    content = bytearray(file.read_bytes())
    draw = random.Random(seed)
    for _ in range(200):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    loader = daemon.dataset(uri, columns=["text", "sound"])
    with pytest.raises((errors.DatasetError, errors.ReadError), match="lance"):
        loader.rows  # noqa: B018
    loader.close()
    for batch in batches:
        first += batch["id"].tolist()
    assert first == [*range(64)]
    other.close()
    daemon.stop()
    assert daemon.process.returncode == 0
    assert "lance panicked" in daemon.log.read_text()
