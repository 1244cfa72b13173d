"""What goes wrong in a schedule, one function per fault.

Enters: a :class:`~faults.world.World` with clients at work, and dice. Leaves: the same world,
in which everybody who was not killed can finish. A fault checks what is to be seen at
once: that the daemon answers, in words that name the thing and the way out.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from faults import wire
from faults.machine import Skip
from faults.world import World
from loaderd import launch

Fault = Callable[[World, random.Random], None]
FAULTS: dict[str, Fault] = {}
#: A fault may take so long beside what it waits for on purpose, in seconds.
SOON_S = 20.0


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


def nap(dice: random.Random, least_s: float, most_s: float) -> None:
    time.sleep(dice.uniform(least_s, most_s))


def says(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, f"{part!r} is not in: {message}"


def _pick(world: World, dice: random.Random):  # type: ignore[no-untyped-def]
    if not world.running:
        raise Skip("all clients have finished")
    return dice.choice(world.running)


@fault
def a_client_is_killed(world: World, dice: random.Random) -> None:
    victim = _pick(world, dice)
    victim.is_lost = True
    victim.process.kill()
    victim.process.join()


@fault
def a_client_stops_reading(world: World, dice: random.Random) -> None:
    victim = _pick(world, dice)
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        others = {one.spec.name: len(one.notes("batch")) for one in world.running}
        nap(dice, 0.3, 1.0)
        for one in world.running:
            if one is not victim and one.notes("batch"):
                world.wait_until(
                    f"{one.spec.name} goes on while {victim.spec.name} is stopped",
                    SOON_S,
                    lambda one=one: (
                        not one.is_running  # type: ignore[misc]
                        or len(one.notes("batch")) > others[one.spec.name]
                    ),
                )
    finally:
        # It may have been at its end already.
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGCONT)


@fault
def a_client_stops_for_good(world: World, dice: random.Random) -> None:
    """Until the schedule's end, where it is killed."""
    victim = _pick(world, dice)
    victim.is_lost = True
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim.pid, signal.SIGSTOP)


@fault
def a_client_holds_all_batches(world: World, dice: random.Random) -> None:
    holder = _pick(world, dice)
    before = len(holder.notes("exhausted"))
    Path(holder.spec.hold).touch()
    world.wait_until(
        "the client is told that it holds all slots",
        SOON_S,
        lambda: len(holder.notes("exhausted")) > before or not holder.is_running,
    )
    for note in holder.notes("exhausted"):
        says(note["message"], "slots of this rank", "clone()", "slots=")


@fault
def garbage_is_sent(world: World, dice: random.Random) -> None:
    texts = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        dice.randbytes(dice.randint(8, 4000)),
        b"LDR1\xff\xff\xff\xff",
        wire.frame({"type": "no such thing"}),
        wire.frame({"type": "hello", "protocol": "one"}),
        wire.frame({"type": "release", "lease": 1}),
        b"LDR1\x02\0\0\0{]",
    ]
    with wire.connect(world.socket) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(dice.choice(texts))
        with contextlib.suppress(wire.Closed):
            answer = wire.receive(connection)
            assert (answer["type"], answer["kind"]) == ("failed", "protocol"), answer
            wire.receive(connection)
            raise AssertionError("the connection goes on after garbage")


@fault
def half_a_frame_and_silence(world: World, dice: random.Random) -> None:
    bytes_ = wire.frame({"type": "hello", "protocol": 6, "version": "1", "binary": "b"})
    connection = wire.connect(world.socket)
    world.held.append(connection)
    if dice.random() < 0.5:
        # After a whole hello it is a client like any other, which may take its time.
        connection.close()
        connection, _ = wire.hello(world.socket)
        world.held[-1] = connection
        bytes_ = wire.frame({"type": "status"})
    connection.sendall(bytes_[: dice.randint(1, len(bytes_) - 1)])


@fault
def another_user_connects(world: World, dice: random.Random) -> None:
    if os.geteuid() != 0:
        raise Skip("only root can be another user")
    is_let_in = dice.random() < 0.5
    folders = [world.folder, *world.folder.parents]
    modes = [(folder, folder.stat().st_mode & 0o7777) for folder in [Path(world.socket), *folders]]
    program = (
        "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect(sys.argv[1])\n"
        "except PermissionError: sys.exit('refused by the file system')\n"
        "s.settimeout(10); sys.stdout.buffer.write(s.recv(4096))\n"
    )
    try:
        if is_let_in:
            for path, mode in modes:
                if path.owner() == "root" and mode & 0o007 != 0o007 and path != Path("/"):
                    path.chmod(mode | (0o666 if path.is_socket() else 0o111))
        done = subprocess.run(
            [sys.executable, "-S", "-c", program, world.socket], capture_output=True, timeout=30
        )
    finally:
        for path, mode in modes:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mode & 0o7777 != mode:
                    path.chmod(mode)
    # An answer begins with its frame's header, which is no text.
    answer = (done.stdout + done.stderr).decode(errors="replace")
    if is_let_in:
        says(answer, "this loaderd serves user 0", "user 65534", "LOADERD_SOCKET")
    else:
        says(answer, "refused by the file system")


@fault
def a_message_for_anothers_lease(world: World, dice: random.Random) -> None:
    lease = dice.randint(1, 8)
    connection, _ = wire.hello(world.socket)
    with connection:
        request = {"uri": "memory:rows=4", "columns": ["label"], "batch_size": 4}
        connection.sendall(wire.frame({"type": "open", **request, "rank": 0, "world_size": 1}))
        answer = wire.receive(connection)
        if answer["type"] == "failed":
            says(answer["message"], "descriptor" if world.limits.descriptors else "slot")
            return
        connection.sendall(
            wire.frame({"type": dice.choice(["release", "delivered"]), "lease": lease})
        )
        answer = wire.receive(connection)
        assert answer["type"] == "failed" and answer["stream"] is None, answer
        says(answer["message"], f"lease {lease}", "not held by this session")
        with contextlib.suppress(wire.Closed):
            wire.receive(connection)
            raise AssertionError("the connection goes on after a foreign lease")


@fault
def a_client_of_another_protocol(world: World, dice: random.Random) -> None:
    connection, answer = wire.hello(world.socket, protocol=dice.choice([0, 99]))
    connection.close()
    assert (answer["type"], answer["kind"]) == ("failed", "protocol"), answer
    says(answer["message"], "/by/hand", "9.9", "loaderd", "loaderd stop")


@fault
def a_disk_is_full_for_a_while(world: World, dice: random.Random) -> None:
    disk = world.disks[dice.choice(sorted(world.disks))]
    try:
        disk.fill(world.pid)
        nap(dice, 0.3, 1.5)
    finally:
        disk.free()


@fault
def the_daemon_is_told_to_stop_on_a_full_disk(world: World, dice: random.Random) -> None:
    disk = world.disks["state"]
    try:
        disk.fill(world.pid)
        nap(dice, 0.0, 0.6)
        world.stop_daemon()
    finally:
        disk.free()
    # What was handed out on the full disk could not be marked any more.
    world.kills += 1
    world.start_daemon()


@fault
def descriptors_run_out(world: World, dice: random.Random) -> None:
    limit = world.limits.descriptors
    assert limit is not None
    open_: list[socket.socket] = []
    try:
        with contextlib.suppress(OSError):
            for _ in range(limit + 4):
                open_.append(wire.connect(world.socket, 0.2))
        refused = wire.connect(world.socket)
        open_.append(refused)
        answer = wire.receive(refused)
        assert (answer["type"], answer["kind"]) == ("failed", "limit"), answer
        says(answer["message"], "descriptors", f"{limit}", "ulimit -n")
        nap(dice, 0.0, 0.5)
    finally:
        for connection in open_:
            connection.close()
    world.wait_until("the daemon answers again", SOON_S, lambda: _answers(world))


def _answers(world: World) -> bool:
    try:
        return bool(wire.status(world.socket)["pid"])
    except (OSError, wire.Closed, AssertionError):
        return False


@fault
def daemons_race_to_start(world: World, dice: random.Random) -> None:
    """While ours serves; or, once it was killed, for its place."""
    is_free = dice.random() < 0.5
    if is_free:
        world.kill_daemon()
    racers = [world.spawn() for _ in range(dice.randint(2, 4))]
    try:
        deadline = time.monotonic() + SOON_S
        wanted = 1 if is_free else 0
        while sum(racer.poll() is None for racer in racers) > wanted:
            assert time.monotonic() < deadline, "more than one daemon lives"
            time.sleep(0.02)
        winners = [racer for racer in racers if racer.poll() is None]
        assert len(winners) == wanted, world.log.read_text()
        for racer in racers:
            assert racer.poll() in (None, 1), racer.poll()
        says(world.log.read_text(), "serves at", "already", "loaderd stop", "--socket")
        if is_free:
            world.adopt(winners[0])
            racers.remove(winners[0])
    finally:
        for racer in racers:
            if racer.poll() is None:
                racer.kill()
            racer.wait()


@fault
def there_is_no_runtime_folder(world: World, dice: random.Random) -> None:
    """A second daemon, of a user without one: its socket lies in the state folder."""
    if os.path.exists(f"/run/user/{os.geteuid()}"):
        raise Skip("there is a runtime folder, which a user can't remove")
    state = world.folder / "homeless"
    environment = {**os.environ, "LOADERD_STATE": str(state)}
    environment.pop("LOADERD_SOCKET", None)
    environment["XDG_RUNTIME_DIR"] = str(world.folder / "no such folder")
    path = state / "run" / "loaderd.sock"
    daemon = subprocess.Popen(
        [launch.find_binary(), "serve", "--decode-threads=1"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert daemon.stderr is not None
    try:
        line = daemon.stderr.readline()
        says(line, "serving at", str(path))
        assert wire.status(str(path))["pid"] == daemon.pid
        assert path.parent.stat().st_mode & 0o077 == 0
        daemon.terminate()
        assert daemon.wait(SOON_S) == 0
        assert not path.exists()
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stderr.close()


@fault
def the_clock_jumps(world: World, dice: random.Random) -> None:
    """The wall clock, which no wait and no order may depend on."""
    if not world.limits.has_own_clock:
        raise Skip("the daemon's clock can't be set: libfaketime is missing")
    for _ in range(dice.randint(1, 3)):
        world.clock.write_text(dice.choice(["-10y", "+10y", "-1h", "+3600", "-1", "+0"]))
        nap(dice, 0.0, 0.3)


@fault
def the_daemon_is_killed(world: World, dice: random.Random) -> None:
    world.kill_daemon()
    nap(dice, 0.0, 0.5)
    world.start_daemon()


@fault
def the_daemon_is_told_to_stop(world: World, dice: random.Random) -> None:
    world.stop_daemon()
    world.start_daemon()


@fault
def the_daemon_pauses(world: World, dice: random.Random) -> None:
    assert world.daemon is not None
    world.daemon.send_signal(signal.SIGSTOP)
    try:
        nap(dice, 0.2, 2.0)
    finally:
        world.daemon.send_signal(signal.SIGCONT)


@fault
def the_daemon_pauses_for_good(world: World, dice: random.Random) -> None:
    """Until its clients have said so, each within its bound; then it is replaced."""
    assert world.daemon is not None
    # Who is yet to say what another fault did to it says nothing of this one.
    had = {one.spec.name: len(one.notes("batch")) for one in world.running}
    for one in world.running:
        world.wait_until(
            f"{one.spec.name} goes on",
            30.0,
            lambda one=one: (
                not one.is_running  # type: ignore[misc]
                or len(one.notes("batch")) > had[one.spec.name]
            ),
        )
    before = {one.spec.name: len(one.notes("error")) for one in world.running}
    world.daemon.send_signal(signal.SIGSTOP)
    try:
        for one in world.running:
            world.wait_until(
                f"{one.spec.name} says that the daemon does not answer",
                30.0,
                lambda one=one: (
                    not one.is_running  # type: ignore[misc]
                    or len(one.notes("error")) > before[one.spec.name]
                ),
            )
            for note in one.notes("error")[before[one.spec.name] :]:
                says(note["message"], f"{world.daemon.pid}", "kill -CONT")
    finally:
        world.daemon.send_signal(signal.SIGCONT)
        world.kill_daemon()
    world.start_daemon()
