"""``loaderd status``, ``stop`` and ``log``: what they show, and what they say where nothing is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from itertools import chain, repeat
from pathlib import Path

import pytest

pytest.importorskip("torch")

from daemon_process import NUMBERS, ROWS, Daemon, loaderd, logged
from faults.machine import Disk
from loaderd import CenterCrop, errors, launch


def test_status_shows_who_is_served(daemon: Daemon) -> None:
    def status() -> str:
        return loaderd("status", f"--socket={daemon.socket}").stdout

    nobody = status()
    assert f"(pid {daemon.process.pid})" in nobody and "decode threads" in nobody
    assert "no sessions" in nobody
    dataset = daemon.dataset(run="shown", slots=3)
    batches = iter(dataset)
    kept = [next(batches), next(batches)]
    lines = status().splitlines()
    header = next(at for at, line in enumerate(lines) if line.split()[0] == "run")
    # A size is two words.
    names, values = (re.split(r"\s{2,}", line.strip()) for line in lines[header : header + 2])
    shown = dict(zip(names, values, strict=True))
    assert shown["run"] == "shown" and shown["rank"] == "0/1" and shown["dataset"] == NUMBERS
    assert int(shown["client"]) == os.getpid()
    assert (int(shown["delivered"]), int(shown["leased"])) == (2, 2)
    assert shown["read"] == "0 B"
    del kept
    dataset.close()


def test_output_that_cannot_be_written_is_no_success(daemon: Daemon) -> None:
    command = [launch.find_binary(), "status", f"--socket={daemon.socket}"]
    with open("/dev/full", "w") as full:
        failed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert failed.returncode == 1 and "No space left on device" in failed.stderr


#: A daemon of another protocol: it refuses everybody, and ends at SIGTERM.
STRANGER = """
import socket, sys
from faults import wire
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
while True:
    with listener.accept()[0] as connection:
        wire.receive(connection)
        refusal = {"type": "failed", "kind": "protocol", "message": "we speak protocol 99"}
        connection.sendall(wire.frame(refusal))
"""


def test_stop_ends_a_daemon_of_another_protocol(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    stranger = subprocess.Popen(
        [sys.executable, "-c", STRANGER, path],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert stranger.stdout is not None and stranger.stdout.readline() == b"ready\n"
        refused = loaderd("status", f"--socket={path}", check=False)
        assert refused.returncode == 1 and "we speak protocol 99" in refused.stderr
        assert stranger.poll() is None
        done = loaderd("stop", f"--socket={path}")
        assert done.stdout == f"loaderd (pid {stranger.pid}) has stopped\n"
        assert stranger.wait(5) == -signal.SIGTERM
    finally:
        stranger.kill()
        stranger.communicate()


def test_stop_ends_the_daemon(daemon: Daemon) -> None:
    batches = iter(daemon.dataset(batch_size=1))
    next(batches)
    done = loaderd("stop", f"--socket={daemon.socket}")
    assert done.stdout == f"loaderd (pid {daemon.process.pid}) has stopped\n"
    # It said so when nothing of it was left.
    assert daemon.process.wait(1) == 0 and not Path(daemon.socket).exists()
    with pytest.raises(errors.DaemonDied, match="asked to stop"):
        for _ in batches:
            pass
    for command in ("stop", "status"):
        again = loaderd(command, f"--socket={daemon.socket}", check=False)
        assert again.returncode == 1
        assert "no daemon answers" in again.stderr and "loaderd serve" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_daemon_that_is_asked_to_leave_tells_a_busy_client(
    daemon: Daemon, number: signal.Signals
) -> None:
    dataset = daemon.dataset(batch_size=1)
    run, taken = dataset.run, []
    asking = threading.Timer(0.3, daemon.process.send_signal, [number])
    asking.start()
    with pytest.raises(errors.DaemonDied, match="asked to stop"):
        taken.extend(batch.step for batch in chain.from_iterable(repeat(dataset)))
    asking.join()
    # It lets a client finish what it says, and does not wait for one that has more to say.
    assert daemon.process.wait(1) == 0
    logged = loaderd("log", "--json", f"--run={run}", "--last=1000000").stdout.splitlines()
    # Batches that were on their way meanwhile are in as many slots at most.
    assert len(taken) - 4 <= len(logged) <= len(taken)
    # In a file, lines have times.
    last = daemon.log.read_text().splitlines()[-1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d loaderd: stopped", last)


def test_a_daemon_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    socket = f"--socket={tmp_path / 'sock'}"
    process = subprocess.Popen(
        ["nohup", launch.find_binary(), "serve", socket],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while loaderd("status", socket, check=False).returncode != 0:
            assert time.monotonic() < deadline and process.poll() is None
        process.send_signal(signal.SIGHUP)
        # A daemon that leaves has left by then.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()


def test_a_log_says_what_it_has(daemon: Daemon, photos: Path, tmp_path: Path) -> None:
    nothing = loaderd("log", f"--state={tmp_path / 'nowhere'}", check=False)
    assert nothing.returncode == 1
    assert "there is no step log at" in nothing.stderr and "--state" in nothing.stderr

    (photos / "6.jpg").write_bytes(b"\xff\xd8 no picture")
    for run, policy in (("first", "replace"), ("second", "zero")):
        dataset = daemon.dataset(
            f"memory:rows=8,images={photos}",
            columns=["image", "label"],
            transform={"image": [CenterCrop(8)]},
            on_bad_sample=policy,
            run=run,
        )
        (batch,) = dataset
        rows = batch["label"].tolist()
        del batch
        dataset.close()
        became = f"replaced by {rows[6]}" if policy == "replace" else "zeroed"
        text = logged(f"row address 6 {became}", f"--run={run}")
        assert re.search(rf"^step 0 rank 0: row address 6 {became}: .*JPEG", text, re.M), text
        # A step that held the row twice, for itself and for another, is one.
        seen = loaderd("log", "--json", f"--run={run}", f"--row={rows[6]}").stdout
        assert seen.count("\n") == (policy == "replace")
    assert rows == list(range(8))

    assert loaderd("log", "--run=first", "--step=7").stdout == "no records\n"
    unknown = loaderd("log", "--run=third", check=False)
    assert unknown.returncode == 1
    assert 'no run "third"' in unknown.stderr and "newest are second, first" in unknown.stderr


def test_every_step_that_saw_a_row_is_shown(daemon: Daemon) -> None:
    dataset = daemon.dataset("memory:rows=4", run="long", batch_size=1, shuffle=True)
    for _ in range(60):
        for _ in dataset:
            pass
    dataset.close()
    daemon.stop()

    def epochs(*arguments: str) -> list[int]:
        lines = loaderd("log", "--json", "--run=long", *arguments).stdout.splitlines()
        return [json.loads(line)["epoch"] for line in lines]

    assert epochs("--row=2") == list(range(60))
    assert epochs("--row=2", "--last=3") == [57, 58, 59]
    assert len(epochs()) == 50


@pytest.mark.parametrize("disk", ["mounted"], indirect=True)
def test_a_log_that_nobody_can_write_to_is_shown(daemon: Daemon, disk: Disk) -> None:
    for _ in daemon.dataset("memory:rows=8", run="kept"):
        pass
    daemon.stop()
    kept = disk.path / "of 100%?"
    shutil.copytree(os.environ["LOADERD_STATE"], kept)
    subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True)
    assert loaderd("log", f"--state={kept}").stdout.count("kept") == 1


def test_a_log_is_followed_as_text(daemon: Daemon) -> None:
    following = subprocess.Popen(
        [launch.find_binary(), "log", "--follow", "--run=mine", f"--socket={daemon.socket}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert following.stdout is not None and following.stderr is not None
        assert "following" in following.stderr.readline()
        output, lines = following.stdout, []
        reader = threading.Thread(target=lambda: lines.extend(line.split() for line in output))
        reader.start()
        # Who follows hears of what comes from the moment on when the daemon knows of them.
        deadline = time.monotonic() + 60
        while len(lines) < 2:
            assert time.monotonic() < deadline
            for run in ("other", "mine"):
                assert len(list(daemon.dataset(run=run, batch_size=ROWS))) == 1
    finally:
        following.kill()
        following.wait()
    reader.join()
    following.stdout.close()
    following.stderr.close()
    assert lines[0][:4] == ["run", "rank", "step", "epoch"]
    assert NUMBERS in lines[1] and {line[0] for line in lines[1:]} == {"mine"}
