"""Automatic start, with a script in the daemon's place."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_daemon import FakeDaemon
from loaderd import errors, launch
from loaderd.job import Job
from loaderd.session import Session

#: Notes how it was started, then listens where it was told to.
SERVE = f"""#!{sys.executable}
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
print("starting", flush=True)
note = open(os.environ["NOTE"], "a")
fds = [fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and int(fd) != note.fileno()]
print(os.getpid(), os.getsid(0), os.getcwd(), len(fds), *sys.argv[1:], file=note, flush=True)
{{before}}
from fake_daemon import FakeDaemon
daemon = FakeDaemon(sys.argv[-1].removeprefix("--socket="))
time.sleep(60)
"""


class Starter:
    """A folder with a script for a daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.note = folder / "note"
        self.socket = str(folder / "sock")

    def script(self, before: str = "") -> str:
        path = self.folder / "loaderd"
        path.write_text(SERVE.format(before=before))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def starts(self) -> list[list[str]]:
        return [line.split() for line in self.note.read_text().splitlines()]

    def open(self) -> Session:
        return Session.open(Job.make("memory:", columns=["x"], batch_size=4), socket=self.socket)


@pytest.fixture
def starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    monkeypatch.setenv("NOTE", str(starter.note))
    monkeypatch.setenv("LOADERD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("LOADERD_BIN", starter.script())
    yield starter
    if starter.note.exists():
        for pid, *_ in starter.starts():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue


def test_starts_a_daemon_of_its_own(starter: Starter) -> None:
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    session = starter.open()
    os.close(inherited)
    ((pid, sid, folder, fds, *arguments),) = starter.starts()
    assert int(pid) == session.daemon_pid
    assert sid == pid
    # One descriptor is that of the listing itself.
    assert (folder, fds) == ("/", "1")
    log = starter.folder / "state" / "daemon.log"
    assert arguments == [
        "serve",
        "--idle-exit=60",
        f"--log-file={log}",
        f"--socket={starter.socket}",
    ]
    assert log.read_text() == "starting\n"
    assert not os.path.exists(f"{starter.socket}.start")
    # It is there for the next one, too.
    assert starter.open().daemon_pid == session.daemon_pid
    assert len(starter.starts()) == 1


def test_folders_are_those_of_the_client(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon works elsewhere, where relative paths would lead to other folders."""
    monkeypatch.chdir(starter.folder)
    folders = {"LOADERD_STATE": "state", "LOADERD_CACHE": "cache"}
    for name, folder in folders.items():
        monkeypatch.setenv(name, folder)
    says = f"print(*(os.environ[name] for name in {list(folders)}), sep='\\n', flush=True)"
    monkeypatch.setenv("LOADERD_BIN", starter.script(before=says))
    starter.open()
    said = (starter.folder / "state" / "daemon.log").read_text().splitlines()
    assert said == ["starting", *(str(starter.folder / folder) for folder in folders.values())]


def test_ranks_that_race_start_one(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADERD_BIN", starter.script(before="time.sleep(0.3)"))
    pids = []
    threads = [
        threading.Thread(target=lambda: pids.append(starter.open().daemon_pid)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 6
    assert len(set(pids)) == 1
    assert len(starter.starts()) == 1


def play(session: Session) -> None:
    session.start(0, 0)
    while session.next() is not None:
        continue


def test_replaces_the_socket_of_a_killed_daemon(starter: Starter) -> None:
    first = starter.open()
    os.kill(first.daemon_pid, signal.SIGKILL)
    with pytest.raises(errors.DaemonDied, match=f"process {first.daemon_pid}"):
        play(first)
    assert starter.open().daemon_pid != first.daemon_pid


def test_a_daemon_that_ends_shows_its_log(
    starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    (starter.folder / "state").mkdir()
    (starter.folder / "state" / "daemon.log").write_text("yesterday\n")
    monkeypatch.setenv("LOADERD_BIN", starter.script(before="sys.exit('no memory')"))
    with pytest.raises(errors.DaemonUnavailable, match="status 1") as caught:
        starter.open()
    assert str(caught.value).endswith("starting\nno memory")
    assert "yesterday" not in str(caught.value)


def test_a_daemon_that_never_answers_is_given_up(
    starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as Python may take to begin.
    monkeypatch.setattr(launch, "START_TIMEOUT_S", 3.0)
    monkeypatch.setenv("LOADERD_BIN", starter.script(before="time.sleep(60)"))
    started = time.monotonic()
    with pytest.raises(errors.DaemonUnavailable, match=r"within 3 s; its log .*\nstarting"):
        starter.open()
    assert time.monotonic() - started < 30


def test_no_daemon_is_started_without_autostart(starter: Starter) -> None:
    job = Job.make("memory:", columns=["x"], batch_size=4)
    with pytest.raises(errors.DaemonUnavailable, match="loaderd serve"):
        Session.open(job, socket=starter.socket, autostart=False)
    assert not starter.note.exists()


def test_a_binary_that_is_nowhere_is_named(
    starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADERD_BIN", "/nowhere/loaderd")
    with pytest.raises(errors.DaemonUnavailable, match="LOADERD_BIN=/nowhere/loaderd") as found:
        starter.open()
    # That nobody answered before is no cause.
    assert found.value.__context__ is None
    monkeypatch.setenv("LOADERD_BIN", str(starter.folder))
    with pytest.raises(errors.DaemonUnavailable, match="no executable file"):
        starter.open()
    monkeypatch.delenv("LOADERD_BIN")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(launch.sys, "executable", str(starter.folder / "bin" / "python"))
    monkeypatch.setattr(launch.sysconfig, "get_path", lambda name: "/nowhere/scripts")
    with pytest.raises(errors.DaemonUnavailable) as caught:
        starter.open()
    for part in (str(starter.folder / "bin"), "/nowhere/scripts", "PATH", "LOADERD_BIN"):
        assert part in str(caught.value)


def test_a_binary_is_found_beside_python_or_on_the_path(
    starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_the_path = os.environ["LOADERD_BIN"]
    monkeypatch.delenv("LOADERD_BIN")
    monkeypatch.setattr(launch.sys, "executable", str(starter.folder / "bin" / "python"))
    monkeypatch.setattr(launch.sysconfig, "get_path", lambda name: "/nowhere/scripts")
    monkeypatch.setenv("PATH", str(starter.folder))
    assert launch.find_binary() == on_the_path
    beside = starter.folder / "bin" / "loaderd"
    beside.mkdir(parents=True)
    # A folder of that name is none.
    assert launch.find_binary() == on_the_path
    beside.rmdir()
    beside.touch(mode=0o755)
    assert launch.find_binary() == str(beside)


def test_a_binary_that_is_no_program_is_named(
    starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = starter.folder / "no-program"
    binary.write_bytes(b"\0no program")
    binary.chmod(0o755)
    monkeypatch.setenv("LOADERD_BIN", str(binary))
    with pytest.raises(errors.DaemonUnavailable, match=f"cannot start {binary}.*Exec format"):
        starter.open()


def test_a_socket_that_cannot_be_made_is_named(starter: Starter) -> None:
    starter.socket = str(starter.folder / "missing" / "sock")
    with pytest.raises(errors.DaemonUnavailable, match=f"{starter.socket}.*No such file"):
        starter.open()
    starter.socket = f"/tmp/{'x' * 120}"
    with pytest.raises(errors.DaemonUnavailable, match="125 bytes, the kernel takes at most 107"):
        starter.open()


def test_a_leaving_daemon_is_followed_by_a_new_one(
    starter: Starter, fake_daemon: FakeDaemon
) -> None:
    starter.socket = fake_daemon.path
    fake_daemon.welcome = {"type": "failed", "kind": "stopping", "message": "leaving"}

    def leave() -> None:
        fake_daemon.wait_for("hello", 1)
        # In this order: once nobody listens, the next one may have its socket there.
        os.unlink(fake_daemon.path)
        fake_daemon.stop()

    thread = threading.Thread(target=leave)
    thread.start()
    session = starter.open()
    thread.join()
    assert session.daemon_pid == int(starter.starts()[0][0])
