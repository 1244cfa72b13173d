"""What goes wrong with a Lance dataset, in its files or in what is made of them.

Enters: a :class:`~faults.world.World` whose clients read a dataset of its own, and dice.
Leaves: the same dataset as jobs see it, in which everybody can finish.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults import wire
from faults.faults import SOON_S, Fault, nap, says
from faults.machine import Skip
from faults.source import LANCE_ROWS, USERS_TAG, VERSION
from faults.world import World

DATASET_FAULTS: dict[str, Fault] = {}
#: A file is cut at a multiple of this: within a page, the kernel clears what readers may
#: still be copying.
_PAGE_BYTES = 4096


def dataset_fault(function: Fault) -> Fault:
    DATASET_FAULTS[function.__name__] = function
    return function


def _open(world: World, dice: random.Random) -> dict[str, Any]:
    """The daemon's answer to a job over all rows that nobody has opened before."""
    connection, _ = wire.hello(world.socket)
    with connection:
        request = {
            "uri": world.lance.uri,
            "version": VERSION,
            "filter": f"label < {LANCE_ROWS + dice.randrange(1 << 40)}",
            "columns": ["image", "label"],
            "batch_size": 1,
            "slots": 2,
            "rank": 0,
            "world_size": 1,
        }
        connection.sendall(wire.frame({"type": "open", **request}))
        answer = wire.receive(connection)
    is_short = world.limits.descriptors and "open files" in answer.get("message", "")
    if answer["type"] == "failed" and (answer["kind"] == "limit" or is_short):
        raise Skip("the daemon has no room for another job")
    return answer


def _opens_again(world: World, dice: random.Random) -> None:
    answer = _open(world, dice)
    assert answer["type"] == "opened", answer


@dataset_fault
def the_cache_is_full_as_a_map_is_built(world: World, dice: random.Random) -> None:
    disk = world.disks["cache"]
    world.lance  # noqa: B018
    try:
        disk.fill(world.pid)
        answer = _open(world, dice)
        assert answer["type"] == "failed", answer
        says(answer["message"], disk.words, str(world.cache))
        says(answer["message"], "another cache folder" if disk.is_own else "where loaderd starts")
    finally:
        disk.free()
    _opens_again(world, dice)


@contextlib.contextmanager
def _absent(path: Path, aside: Path) -> Iterator[None]:
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@dataset_fault
def a_data_file_vanishes(world: World, dice: random.Random) -> None:
    """Those who have it open go on; who comes is told its name."""
    path = dice.choice(world.lance.data_files)
    with _absent(path, world.folder / "vanished"):
        answer = _open(world, dice)
        assert answer["type"] == "failed", answer
        says(answer["message"], path.name)
        nap(dice, 0.0, 1.0)
    _opens_again(world, dice)


@dataset_fault
def a_data_file_is_cut_short(world: World, dice: random.Random) -> None:
    """Those who read it are told its name; whole again, it is read on."""
    path = dice.choice([path for path in world.lance.data_files if path.suffix == ".blob"])
    whole = path.read_bytes()
    cut = dice.randrange(0, len(whole), _PAGE_BYTES)
    readers = [one for one in world.running if "image" in one.spec.arguments["columns"]]
    before = {one.spec.name: len(one.notes("error")) for one in readers}
    os.truncate(path, cut)
    try:
        answer = _open(world, dice)
        assert answer["type"] == "failed", answer
        says(answer["message"], str(path), f"{cut} bytes", "incomplete")
        for one in readers:
            world.wait_until(
                f"{one.spec.name} is told of the file",
                SOON_S,
                lambda one=one: (
                    not one.is_running  # type: ignore[misc]
                    or any(
                        str(path) in note["message"]
                        for note in one.notes("error")[before[one.spec.name] :]
                    )
                ),
            )
    finally:
        # From the cut on, so that nobody reads zeros in between.
        with path.open("r+b", buffering=0) as file:
            file.seek(cut)
            file.write(whole[cut:])
    _opens_again(world, dice)


@dataset_fault
def the_version_is_cleaned_up(world: World, dice: random.Random) -> None:
    """Everything is overwritten and cleaned up, but what a tag holds."""

    def runs() -> set[str]:
        # A process may be there for long after its job has ended.
        return {one.spec.arguments["run"] for one in world.running if not one.notes("done")}

    def is_held() -> bool:
        tags = [name for name, version in world.lance.tags().items() if version == VERSION]
        return all(any(f"-{run}" in tag for tag in tags) for run in runs())

    world.wait_until("every run holds its version", SOON_S, is_held)
    world.lance.overwrite_and_clean_up()
    # A run that has ended meanwhile needs them no more.
    gone = [path for path in world.lance.data_files if not path.exists()]
    assert not gone or not runs(), f"cleaned up under {runs()}: {gone}"
    assert world.lance.tags()[USERS_TAG] == 1


@dataset_fault
def tags_are_pruned(world: World, dice: random.Random) -> None:
    """A killed daemon's go; those that a living one holds for its runs stay."""
    held = set(world.tags_held())
    world.prune_tags()
    left = set(world.lance.tags())
    assert held & left >= held & set(world.tags_held()), f"pruned: {sorted(held - left)}"
    assert USERS_TAG in left
