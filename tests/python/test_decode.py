"""Where images are decoded: what is chosen where there is no GPU, and who says so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("torch")

from daemon_process import Daemon, loaderd, logged
from loaderd import RandomResizedCrop, errors, launch
from loaderd.torch import LanceIterableDataset

DRIVER = "/nowhere/libcuda.so.1"


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Daemon]]:
    """A place for daemons, which find no driver, whatever the machine has."""
    monkeypatch.setenv("LOADERD_LIBCUDA", DRIVER)
    monkeypatch.delenv("LOADERD_DECODE")
    daemons: list[Daemon] = []
    yield daemons
    for daemon in daemons:
        daemon.__exit__()


def begin(started: list[Daemon], folder: Path, *arguments: str) -> Daemon:
    started.append(Daemon(folder, *arguments))
    return started[-1]


def images(daemon: Daemon, photos: Path, decode: str) -> LanceIterableDataset:
    return daemon.dataset(
        f"memory:rows=8,images={photos}",
        columns=["image"],
        transform={"image": [RandomResizedCrop(16)]},
        decode=decode,
    )


def epoch(daemon: Daemon, photos: Path, decode: str) -> tuple[bytes, str, list[str]]:
    with closing(images(daemon, photos, decode)) as dataset:
        pixels = b"".join(batch["image"].numpy().tobytes() for batch in dataset)
        return pixels, dataset.decoder, dataset.notices


def refused(daemon: Daemon, photos: Path, decode: str) -> str:
    with (
        pytest.raises(errors.RequestError) as caught,
        closing(images(daemon, photos, decode)) as dataset,
    ):
        list(dataset)
    return str(caught.value)


def test_without_a_gpu_auto_is_the_cpu_and_says_so(
    started: list[Daemon], tmp_path: Path, photos: Path
) -> None:
    daemon = begin(started, tmp_path)
    expected, decoder, notices = epoch(daemon, photos, "cpu")
    assert decoder.startswith("libjpeg-turbo ")
    assert not any("decoding" in notice for notice in notices)
    for _ in range(2):
        pixels, chosen, notices = epoch(daemon, photos, "auto")
        assert (pixels, chosen) == (expected, decoder)
        (notice,) = [notice for notice in notices if "decoding" in notice]
        assert notice.startswith(f"decoding on CPU cores: {DRIVER} can't be opened: ")
        assert "install NVIDIA's driver" in notice
    # Once for both.
    assert daemon.log.read_text().count(f"loaderd: {notice}\n") == 1
    status = loaderd("status", f"--socket={daemon.socket}").stdout
    assert notice in status.splitlines()
    line = f"decoded with {decoder}\n"
    assert logged(line, f"--socket={daemon.socket}", times=3).count(line) == 3


def test_without_a_gpu_gpu_is_refused_with_the_mend(
    started: list[Daemon], tmp_path: Path, photos: Path
) -> None:
    daemon = begin(started, tmp_path)
    text = refused(daemon, photos, "gpu")
    for part in (
        f'decode="gpu": {DRIVER} can\'t be opened: ',
        "install NVIDIA's driver",
        'decode="auto" decodes on CPU cores',
        "`loaderd doctor`",
    ):
        assert part in text
    # The daemon is as well as before.
    assert epoch(daemon, photos, "auto")[0] == epoch(daemon, photos, "cpu")[0]


def test_jobs_without_work_for_a_gpu_need_none(started: list[Daemon], tmp_path: Path) -> None:
    daemon = begin(started, tmp_path)
    with closing(daemon.dataset(columns=["label"], decode="gpu")) as dataset:
        assert sum(len(batch["label"]) for batch in dataset) == dataset.rows
        assert any("no column here is for a GPU" in notice for notice in dataset.notices)
    assert "libcuda" not in daemon.log.read_text()


def test_the_daemon_decides_for_jobs_that_say_auto(
    started: list[Daemon],
    tmp_path: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder in "abc":
        (tmp_path / folder).mkdir()
    cpu = begin(started, tmp_path / "a", "--decode=cpu")
    assert not any("decoding" in notice for notice in epoch(cpu, photos, "auto")[2])
    assert "started with --decode cpu" in refused(cpu, photos, "gpu")
    monkeypatch.setenv("LOADERD_DECODE", "gpu")
    gpu = begin(started, tmp_path / "b")
    assert DRIVER in refused(gpu, photos, "auto")
    assert epoch(gpu, photos, "cpu")[0] == epoch(cpu, photos, "cpu")[0]
    # What is said by hand counts more than the environment.
    auto = begin(started, tmp_path / "c", "--decode=auto")
    assert epoch(auto, photos, "auto")[0] == epoch(cpu, photos, "cpu")[0]


def test_what_is_none_of_the_choices_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.RequestError, match="decode must be one of auto, cpu, gpu"):
        LanceIterableDataset("x", columns=["image"], batch_size=1, decode="tpu")  # type: ignore[arg-type]
    serve = [launch.find_binary(), "serve", f"--socket={tmp_path / 'sock'}"]

    def words(*arguments: str) -> str:
        process = subprocess.run([*serve, *arguments], capture_output=True, text=True, timeout=60)
        assert process.returncode != 0
        return process.stderr

    assert "`tpu` is none of auto, cpu, gpu" in words("--decode=tpu")
    monkeypatch.setenv("LOADERD_DECODE", "tpu")
    assert "LOADERD_DECODE: `tpu` is none of auto, cpu, gpu" in words()
    monkeypatch.setenv("LOADERD_DECODE", "cpu")
    monkeypatch.setenv("LOADERD_GPU_MEMORY", "much")
    assert "LOADERD_GPU_MEMORY: `much` is no unit of size" in words()
