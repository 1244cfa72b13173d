"""Which rank of how many this process is, and what its job is called.

Enters: arguments, what a framework says of its processes, and the environment that launchers
set. Leaves: :class:`Ranks` and run ids. It never imports a distributed framework and never
talks to other ranks.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass

from loaderd._arguments import whole_number
from loaderd.errors import RequestError


@dataclass(frozen=True)
class Ranks:
    """This rank, the number of ranks on all nodes, and on this one where that is known."""

    rank: int
    world_size: int
    local_world_size: int | None = None


def find_ranks(
    rank: int | None,
    world_size: int | None,
    environment: Mapping[str, str] = os.environ,
    processes: tuple[int, int] | None = None,
) -> Ranks:
    """Arguments come first, then ``processes``, then ``RANK`` and ``WORLD_SIZE``, then 0 of 1.

    ``processes`` are this process's number and how many there are, where a framework knows.
    """
    if (rank is None) != (world_size is None):
        raise RequestError(
            f"rank={rank} and world_size={world_size}: give both, or neither to take RANK and "
            "WORLD_SIZE from the environment"
        )
    if rank is None and processes is not None:
        rank, world_size = processes
    if rank is None or world_size is None:
        rank_here = _number("RANK", environment)
        world_here = _number("WORLD_SIZE", environment)
        if rank_here is None and world_here is not None and environment.get("NODE_RANK") == "0":
            # Lightning's launcher gives each process its place on the node, which is the first.
            rank_here = _number("LOCAL_RANK", environment)
        if (rank_here is None) != (world_here is None):
            raise RequestError(
                f"RANK={environment.get('RANK')!r} and WORLD_SIZE="
                f"{environment.get('WORLD_SIZE')!r} in the environment: set both or neither, "
                "initialise torch.distributed first, or give rank= and world_size="
            )
        rank = 0 if rank_here is None else rank_here
        world_size = 1 if world_here is None else world_here
    rank, world_size = _whole("rank", rank), _whole("world_size", world_size)
    if world_size < 1 or not 0 <= rank < world_size:
        raise RequestError(
            f"rank {rank} of world_size {world_size}: ranks count from 0 to world_size - 1"
        )
    local = _number("LOCAL_WORLD_SIZE", environment)
    # A job of fewer ranks than the launcher has is none of the launcher's.
    if local is not None and not 1 <= local <= world_size:
        local = None
    return Ranks(rank, world_size, local)


def is_told(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether ``RANK`` or ``WORLD_SIZE`` says anything."""
    return bool(environment.get("RANK")) or bool(environment.get("WORLD_SIZE"))


def is_half_told(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether one of ``RANK`` and ``WORLD_SIZE`` is missing: Lightning's launcher leaves
    ``RANK`` to the process group.
    """
    return bool(environment.get("RANK")) != bool(environment.get("WORLD_SIZE"))


def launcher_id(environment: Mapping[str, str] = os.environ, world_size: int = 1) -> str | None:
    """What all ranks of this launch on this node have in common; ``None`` for one rank alone.

    torchrun's run id where it has one, else Slurm's job and step, else the port of the
    rendezvous and the process that started the ranks.
    """
    torchrun = environment.get("TORCHELASTIC_RUN_ID", "")
    # "none" is torchrun's default, which says nothing.
    if torchrun and torchrun != "none":
        return torchrun
    if world_size == 1:
        return None
    if "SLURM_JOB_ID" in environment and "SLURM_PROCID" in environment:
        return f"slurm-{environment['SLURM_JOB_ID']}-{environment.get('SLURM_STEP_ID', '0')}"
    parent = os.getpid() if _has_started_the_others(environment) else os.getppid()
    return f"{environment.get('MASTER_PORT', '0')}-{parent}-{_start_time(parent)}"


def _has_started_the_others(environment: Mapping[str, str]) -> bool:
    """Whether this is rank 0 and the others' parent, as with Lightning: it numbers itself when it
    starts them, so the number is not in the environment that it was itself started with.
    """
    if environment.get("RANK") or environment.get("LOCAL_RANK") != "0":
        return False
    if multiprocessing.parent_process() is not None:
        return False
    try:
        with open("/proc/self/environ", "rb") as file:
            return not any(line.startswith(b"LOCAL_RANK=") for line in file.read().split(b"\0"))
    except OSError:
        return False


def _start_time(pid: int) -> str:
    """When a process started, so that a number used again is another process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The command's name, in brackets, may contain anything; field 22 of proc(5).
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def _whole(name: str, value: object) -> int:
    number = whole_number(value)
    if number is None:
        raise RequestError(f"{name} must be a whole number, not {value!r}")
    return number


def _number(name: str, environment: Mapping[str, str]) -> int | None:
    text = environment.get(name)
    if text is None or text == "":
        return None
    try:
        return int(text)
    except ValueError:
        raise RequestError(f"{name}={text!r} in the environment is no whole number") from None
