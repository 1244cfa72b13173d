"""Runs random schedules of faults against a daemon and its clients.

Enters: a seed. Leaves: what failed, by the number of its schedule, which repeats it. Each
schedule has one daemon, one to three clients and one to four faults; see ``faults`` for
what may happen, and ``world`` for what is checked after it.

    python tests/python/faults/run.py --schedules 200 --seed 1
    python tests/python/faults/run.py --seed 1 --only 17
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults import client
from faults.faults import FAULTS
from faults.world import FAKETIME, PICTURES, Disk, Limits, Skip, World, warm_up

#: Numbers of the pictures that can't be decoded.
BROKEN = {0, 4}
#: How long a client may take to its first batch, in seconds.
START_S = 30.0


@dataclass
class Result:
    """What came of the schedules."""

    failures: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def disks(folder: Path) -> Iterator[dict[str, Disk]]:
    made = {name: Disk(folder / name) for name in ("state", "cache", "tmp")}
    try:
        yield made
    finally:
        for disk in made.values():
            disk.close()


def draw_pictures(folder: Path) -> None:
    """Small JPEGs, some of them broken."""
    from PIL import Image

    folder.mkdir()
    for number in range(PICTURES):
        file = io.BytesIO()
        Image.new("RGB", (64, 48), (30 * number, 100, 50)).save(file, "JPEG")
        data = file.getvalue()
        (folder / f"{number}.jpg").write_bytes(data[:300] if number in BROKEN else data)


def draw_limits(dice: random.Random) -> Limits:
    kind = dice.choice(["none", "descriptors", "descriptors", "memlock", "ring", "clock"])
    return Limits(
        descriptors=dice.choice([40, 64]) if kind == "descriptors" else None,
        memlock_bytes=dice.choice([0, 64 << 10]) if kind == "memlock" else None,
        has_io_uring=kind != "ring",
        has_own_clock=kind == "clock" and FAKETIME.exists(),
    )


def draw_clients(world: World, dice: random.Random, number: int) -> None:
    """One to three: each with a job of its own, or ranks of one job."""
    count = dice.randint(1, 3)
    together = dice.random() < 0.5
    rows = dice.randint(300, 800)
    epochs = dice.randint(1, 2)
    for n in range(count):
        has_images = dice.random() < 0.5 if not together or n == 0 else has_images  # noqa: F821
        arguments: dict[str, Any] = {
            "uri": f"memory:rows={rows},images={world.images}",
            "columns": ["label", "_valid"],
            "batch_size": 8,
            "shuffle": True,
            "seed": number,
            "run": f"run-{number}" if together else f"run-{number}-{n}",
            "rank": n if together else 0,
            "world_size": count if together else 1,
            "on_bad_sample": "zero",
        }
        if has_images:
            from loaderd import RandomResizedCrop

            arguments["columns"] = ["image", "label", "_valid"]
            arguments["transform"] = {"image": [RandomResizedCrop(32)]}
            world.unseen[arguments["run"]] = BROKEN
        world.start_client(
            client.Spec(
                name=f"client {n}",
                socket=world.socket,
                notes=str(world.folder / f"notes-{n}"),
                arguments=arguments,
                epochs=epochs,
                step_s=dice.choice([0.0, 0.01, 0.03]),
                environment=world.environment(),
            )
        )


def everyone_works(world: World) -> None:
    world.wait_until(
        "every client has a batch", START_S, lambda: all(one.notes() for one in world.clients)
    )


def run(
    schedules: range,
    seed: int,
    deadline_s: float | None = None,
    say: Callable[[str], None] = lambda _: None,
    faults: Sequence[str] | None = None,
) -> Result:
    """Runs schedules until they are through, or the time is over.

    ``faults``: these and no others, one after the other, in each of them.
    """
    result = Result()
    with tempfile.TemporaryDirectory(prefix="loaderd-faults-") as name:
        folder = Path(name)
        draw_pictures(folder / "pictures")
        with disks(folder) as made:
            # The first client process takes long: it loads torch, from which others are forked.
            warm_up()
            began = time.monotonic()
            for number in schedules:
                if deadline_s is not None and time.monotonic() - began > deadline_s:
                    break
                _one(number, seed, folder, made, result, say, faults)
    return result


def _one(
    number: int,
    seed: int,
    folder: Path,
    made: dict[str, Disk],
    result: Result,
    say: Callable[[str], None],
    faults: Sequence[str] | None,
) -> None:
    dice = random.Random(f"{seed}-{number}")
    own = folder / f"schedule-{number}"
    own.mkdir()
    limits = draw_limits(dice)
    if faults is None:
        faults = dice.choices(sorted(FAULTS), k=dice.randint(1, 4))
    elif "descriptors_run_out" in faults:
        limits = Limits(descriptors=64)
    elif "the_clock_jumps" in faults:
        limits = Limits(has_own_clock=FAKETIME.exists())
    world = World(own, made, limits, folder / "pictures")
    done: list[str] = []
    began = time.monotonic()
    try:
        world.start_daemon()
        draw_clients(world, dice, number)
        if dice.random() < 0.7:
            # Else faults meet clients that are only just connecting.
            everyone_works(world)
        for fault in faults:
            time.sleep(dice.choice([0.0, 0.1, 0.4]))
            done.append(fault)
            try:
                FAULTS[fault](world, dice)
                result.faults[fault] += 1
            except Skip as why:
                result.skipped[f"{fault}: {why}"] += 1
        world.finish()
        outcome = "ok"
    except Exception as error:
        outcome = f"FAILED: {type(error).__name__}: {error}"
        errors = [note for one in world.clients for note in one.notes("error")][-3:]
        log = world.log.read_text()[-1500:] if world.log.exists() else ""
        text = (
            f"schedule {number} of seed {seed} ({', '.join(done)}; {world.limits}): {outcome}\n"
            f"clients said: {errors}\nthe daemon said:\n{log}"
        )
        result.failures.append(text)
        say(text)
    finally:
        world.close()
        for disk in made.values():
            disk.free()
            shutil.rmtree(disk.path / own.name, ignore_errors=True)
        shutil.rmtree(own, ignore_errors=True)
    text = f"{number}: {time.monotonic() - began:.1f} s, {', '.join(done)}: "
    say(text + outcome.splitlines()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--only", type=int, metavar="N", help="this schedule alone")
    parser.add_argument(
        "--fault", action="append", choices=sorted(FAULTS), help="these alone, in this order"
    )
    given = parser.parse_args()
    numbers = range(given.schedules) if given.only is None else range(given.only, given.only + 1)
    result = run(numbers, given.seed, say=lambda text: print(text, flush=True), faults=given.fault)
    for what, count in sorted(result.faults.items()):
        print(f"{count:5} × {what}")
    for what, count in sorted(result.skipped.items()):
        print(f"skipped {count} × {what}")
    print(f"\n{len(result.failures)} of {len(numbers)} schedules failed")
    sys.exit(bool(result.failures))


if __name__ == "__main__":
    main()
