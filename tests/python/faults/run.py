"""Runs random schedules of faults against a daemon and its clients.

Enters: a seed. Leaves: what failed, by the number of its schedule, which repeats it. Each
schedule has one daemon, one to three clients and one to four faults, and reads either from
memory or from a Lance dataset; see ``faults`` and ``dataset_faults`` for what may happen,
and ``checks`` for what must hold after it.

    python tests/python/faults/run.py --schedules 200 --seed 1
    python tests/python/faults/run.py --seed 1 --only 17
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults import client, source
from faults.dataset_faults import DATASET_FAULTS
from faults.faults import FAULTS
from faults.machine import FAKETIME, Disk, Limits, Skip
from faults.source import Lance, Source
from faults.world import World, warm_up

ALL_FAULTS = FAULTS | DATASET_FAULTS
KINDS = ("memory", "lance")
#: How long a client may take to its first batch, in seconds.
START_S = 30.0


@dataclass
class Result:
    """What came of the schedules."""

    failures: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def disks(folder: Path, may_mount: bool) -> Iterator[dict[str, Disk]]:
    made = {name: Disk(folder / name, may_mount) for name in ("state", "cache", "tmp")}
    try:
        yield made
    finally:
        for disk in made.values():
            disk.close()


def draw_limits(dice: random.Random, is_lance: bool) -> Limits:
    kind = dice.choice(["none", "descriptors", "memlock", "ring"])
    return Limits(
        # A dataset's data files are held open, twice.
        descriptors=dice.choice([96, 128] if is_lance else [40, 64])
        if kind == "descriptors"
        else None,
        memlock_bytes=dice.choice([0, 64 << 10]) if kind == "memlock" else None,
        has_io_uring=kind != "ring",
    )


def draw_clients(world: World, dice: random.Random, number: int) -> None:
    """One to three: each with a job of its own, or ranks of one job."""
    from loaderd import RandomResizedCrop

    count = dice.randint(1, 3)
    together = dice.random() < 0.5
    epochs = dice.randint(2, 4) if world.source.is_lance else dice.randint(1, 2)
    read: dict[str, Any] = {}
    for n in range(count):
        if not together or n == 0:
            # Ranks of a job read the same: nothing but labels, pictures, or their bytes.
            read = world.source.arguments(dice)
            kind = dice.choice(["labels", "pictures", "bytes"])
            read["columns"] = [*([] if kind == "labels" else ["image"]), "label", "_valid"]
            if kind == "pictures":
                read["transform"] = {"image": [RandomResizedCrop(32)]}
        arguments: dict[str, Any] = {
            **read,
            "batch_size": 8,
            "shuffle": True,
            "seed": number,
            "run": f"run-{number}" if together else f"run-{number}-{n}",
            "rank": n if together else 0,
            "world_size": count if together else 1,
            "on_bad_sample": "zero",
        }
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
    kinds: Sequence[str] = KINDS,
    may_mount: bool = True,
) -> Result:
    """Runs schedules until they are through, or the time is over.

    ``faults``: these and no others, one after the other, in each of them. ``kinds``: of
    the sources to choose from. ``may_mount``: disks that can be filled, where that is allowed;
    else they are full for those alone whose files may not grow.
    """
    result = Result()
    with tempfile.TemporaryDirectory(prefix="loaderd-faults-") as name:
        folder = Path(name)
        source.draw_pictures(folder / "pictures")
        made: Lance | None = None
        if "lance" in kinds:
            try:
                made = source.ingest(folder / "made")
            except OSError as why:
                result.skipped[f"lance: {why}"] += 1
                kinds = [kind for kind in kinds if kind != "lance"]
        with disks(folder, may_mount) as own_disks:
            # The first client process takes long: it loads torch, from which others are forked.
            warm_up()
            began = time.monotonic()
            for number in schedules if kinds else ():
                if deadline_s is not None and time.monotonic() - began > deadline_s:
                    break
                dice = random.Random(f"{seed}-{number}")
                own = folder / f"schedule-{number}"
                own.mkdir()
                reads: Source
                if dice.choice(kinds) == "lance":
                    assert made is not None
                    reads = source.copy(made, own / "pictures.lance")
                else:
                    reads = source.memory(folder / "pictures", dice)
                text = _one(number, seed, dice, own, own_disks, reads, result, faults)
                say(text)
    return result


def _one(
    number: int,
    seed: int,
    dice: random.Random,
    own: Path,
    made: dict[str, Disk],
    reads: Source,
    result: Result,
    faults: Sequence[str] | None,
) -> str:
    """One schedule; what came of it, in words."""
    limits = draw_limits(dice, reads.is_lance)
    if faults is None:
        possible = ALL_FAULTS if reads.is_lance else FAULTS
        faults = dice.choices(sorted(possible), k=dice.randint(1, 4))
    if "descriptors_run_out" in faults and limits.descriptors is None:
        limits = replace(limits, descriptors=96 if reads.is_lance else 64)
    if "the_clock_jumps" in faults:
        limits = replace(limits, has_own_clock=FAKETIME.exists())
    world = World(own, made, reads, limits)
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
                ALL_FAULTS[fault](world, dice)
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
            f"schedule {number} of seed {seed} ({', '.join(done)}; {limits}; {reads.uri}): "
            f"{outcome}\n"
            f"clients said: {errors}\nthe daemon said:\n{log}"
        )
        result.failures.append(text)
        outcome = text
    finally:
        world.close()
        for disk in made.values():
            disk.free()
            shutil.rmtree(disk.path / own.name, ignore_errors=True)
        shutil.rmtree(own, ignore_errors=True)
    kind = "lance" if reads.is_lance else "memory"
    return f"{number}: {kind}, {time.monotonic() - began:.1f} s, {', '.join(done)}: {outcome}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--only", type=int, metavar="N", help="this schedule alone")
    parser.add_argument(
        "--fault", action="append", choices=sorted(ALL_FAULTS), help="these alone, in this order"
    )
    parser.add_argument("--source", action="append", choices=KINDS, help="read this alone")
    parser.add_argument("--no-mount", action="store_true", help="as where mounting is refused")
    given = parser.parse_args()
    numbers = range(given.schedules) if given.only is None else range(given.only, given.only + 1)
    result = run(
        numbers,
        given.seed,
        say=lambda text: print(text, flush=True),
        faults=given.fault,
        kinds=given.source or KINDS,
        may_mount=not given.no_mount,
    )
    for what, count in sorted(result.faults.items()):
        print(f"{count:5} × {what}")
    for what, count in sorted(result.skipped.items()):
        print(f"skipped {count} × {what}")
    print(f"\n{len(result.failures)} of {len(numbers)} schedules failed")
    sys.exit(bool(result.failures))


if __name__ == "__main__":
    main()
