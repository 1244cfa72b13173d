"""What must be true after a schedule, whatever went wrong in it.

Enters: a :class:`~faults.world.World` whose clients have finished. Leaves: an error that says
what was wrong, or nothing.
"""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from faults.source import USERS_TAG, Lance, is_broken
from loaderd import launch

if TYPE_CHECKING:
    from faults.world import Client, World

#: How far a delivered colour may be from the drawn one: JPEG's doing.
COLOUR_ERROR = 6


def _by_run(world: World) -> Iterator[tuple[str, list[Client]]]:
    runs: dict[str, list[Client]] = defaultdict(list)
    for one in world.clients:
        runs[one.spec.arguments["run"]].append(one)
    yield from runs.items()


def rows(world: World) -> None:
    """Every valid row once an epoch, where all ranks of a run lived to the end."""
    for run, ranks in _by_run(world):
        steps = [(note["step"], n) for n, r in enumerate(ranks) for note in r.notes("batch")]
        assert len(steps) == len(set(steps)), f"{run}: a step came twice"
        if any(rank.is_lost for rank in ranks):
            continue
        arguments = ranks[0].spec.arguments
        decodes = any("transform" in rank.spec.arguments for rank in ranks)
        expected = [
            row
            for row in range(world.source.selected(arguments))
            if not (decodes and is_broken(row))
        ]
        for epoch in range(ranks[0].spec.epochs):
            seen = sorted(
                row
                for rank in ranks
                for note in rank.notes("batch")
                if note["epoch"] == epoch
                for row, valid in zip(note["rows"], note["valid"], strict=True)
                if valid
            )
            assert seen == expected, (
                f"{run}, epoch {epoch}: {len(seen)} rows of {len(expected)}, "
                f"{len(set(seen))} different"
            )

    for one in world.clients:
        for note in one.notes("batch"):
            _batch(world, one.spec.name, note)


def _batch(world: World, name: str, note: dict[str, Any]) -> None:
    """Pictures are those of their rows, and rows those of their version."""
    assert note["version"] == world.source.version, note
    looks = note["looks"] or [None] * len(note["rows"])
    for row, valid, look in zip(note["rows"], note["valid"], looks, strict=True):
        if isinstance(look, int):
            is_right = look == world.source.checksum(row)
        else:
            # Else a row that another rank has, where a step has fewer rows than ranks.
            is_zero = not valid and is_broken(row)
            wanted = [0, 0, 0] if is_zero else world.source.colour(row)
            is_right = look is None or all(
                abs(a - b) <= COLOUR_ERROR for a, b in zip(look, wanted, strict=True)
            )
        assert is_right, f"{name}, step {note['step']}: row {row} looks like {look}"


def engines(world: World) -> None:
    """The daemon read as its limits let it, and said so."""
    for one in world.clients:
        reads_files = world.source.is_lance and "image" in one.spec.arguments["columns"]
        for note in one.notes("notices") if reads_files else []:
            text = " ".join(note["texts"])
            if not world.limits.has_io_uring:
                assert "io_uring refused: EPERM" in text and "pread" in text, text
            elif world.limits.memlock_bytes is not None and "io_uring refused" not in text:
                assert "buffers not registered" in text and "memlock" in text, text


def files(world: World) -> None:
    """Nothing is left in the folders but what is meant to stay."""
    temporary = list(world.disks["tmp"].path.iterdir())
    assert not temporary, f"left in the temporary folder: {temporary}"
    cached = list(world.cache.iterdir()) if world.cache.exists() else []
    # A killed writer's file is swept by the next that opens the cache ten seconds later.
    left = [path for path in cached if path.suffix != ".map" and not world.kills]
    assert not left, f"left in the cache: {left}"


def tags(world: World) -> None:
    """The dataset has the tags it had, those that are to be kept, and a killed daemon's."""
    source = world.source
    if not isinstance(source, Lance):
        return
    ours = [name for name in source.tags() if name != USERS_TAG]
    held = [name for name in ours if not name.startswith("loaderd-keep-")]
    assert not world.tags_held(), f"left on the dataset: {world.tags_held()}"
    assert world.kills or not held, f"left on the dataset: {held}"
    kept = {run for run, ranks in _by_run(world) if ranks[0].spec.arguments["protect"] == "keep"}
    assert len(ours) - len(held) <= len(kept), f"kept for {len(kept)} runs: {sorted(ours)}"
    world.prune_tags()
    assert source.tags() == {USERS_TAG: 1}, source.tags()


def log(world: World) -> None:
    """The step log has what was handed out: no more, no less."""
    for run, ranks in _by_run(world):
        delivered: set[tuple[int, int]] = set()
        prepared: set[tuple[int, int]] = set()
        if any(rank.notes("batch") for rank in ranks):
            for row in _logged(world, run):
                step = (row["rank"], row["step"])
                prepared.add(step)
                if row["delivered_ms"] is not None:
                    delivered.add(step)
        had = {
            (rank.spec.arguments["rank"], note["step"])
            for rank in ranks
            for note in rank.notes("batch")
        }
        # A killed client may have been handed one batch that it could not note; a
        # killed daemon, marks that were on their way.
        lost = sum(rank.is_lost for rank in ranks)
        extra, missing = delivered - had, had - delivered
        assert len(extra) <= lost, f"{run}: in the log only: {sorted(extra)}"
        allowed = 8 * world.kills * len(ranks)
        assert len(missing) <= allowed, f"{run}: not in the log: {sorted(missing)}"
        assert had <= prepared, f"{run}: seen, never recorded: {sorted(had - prepared)}"


def _logged(world: World, run: str) -> list[dict[str, Any]]:
    command = [launch.find_binary(), "log", "--json", "--all", "--last=1000000"]
    done = subprocess.run(
        [*command, f"--run={run}", f"--state={world.state}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
