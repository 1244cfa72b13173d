"""Fixtures of the Python tests.

A real daemon is used wherever that is possible (``test_e2e_*.py``). ``fake_daemon`` is
for what a real one never does: another protocol, broken messages, a slot at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fake_daemon import FakeDaemon

if TYPE_CHECKING:
    from daemon_process import Daemon
    from faults.machine import Disk
    from loaderd.torch import LanceIterableDataset


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run the same under a launcher as without one, and write to no one's home."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("LOADERD_STATE", "LOADERD_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    # The same pixels everywhere; tests of GPUs ask for one.
    monkeypatch.setenv("LOADERD_DECODE", "cpu")


@pytest.fixture
def fake_daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(str(tmp_path / "sock"))
    yield daemon
    daemon.stop()


@pytest.fixture
def dataset(fake_daemon: FakeDaemon) -> Iterator[LanceIterableDataset]:
    """Three batches an epoch, from the fake daemon."""
    from client_helpers import connect

    dataset = connect(fake_daemon)
    yield dataset
    dataset.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A real daemon, which must neither fail nor panic."""
    from daemon_process import Daemon

    with Daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture(params=["mounted", "limited"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Something that can be filled: a file system, and what serves where none can be mounted.

    ``"either"``: the second in place of the first.
    """
    from faults.machine import Disk

    disk = Disk(tmp_path / "disk", may_mount=request.param != "limited")
    try:
        if request.param == "mounted" and not disk.is_own:
            pytest.skip("a file system of our own can't be mounted here")
        yield disk
    finally:
        disk.free()
        disk.close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with eight pictures of one colour each."""
    from column_rows import picture

    folder = tmp_path / "my photos"
    folder.mkdir()
    for row in range(8):
        (folder / f"{row}.jpg").write_bytes(picture(row))
    return folder
