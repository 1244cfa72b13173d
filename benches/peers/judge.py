"""What the rounds amount to: rates and ratios with their spread, and targets.

Enters: what each contestant's processes found. Leaves: rows of a table and of the JSON file.
Ratios are taken within a round, and shown as median, least and most.
"""

from __future__ import annotations

from typing import Any

from harness import Spread, Target

#: What one measurement found, by contestant.
Round = dict[str, dict[str, Any]]

#: Of loaderd against another, by set of pictures: (ours, theirs, at least).
TARGETS = {
    "photos": (
        ("loaderd_tiled", "dali", 2.5),
        ("loaderd_tiled", "torchvision", 3.0),
        ("loaderd_tiled", "lancedb", 4.0),
        ("loaderd", "dali", 1.9),
        ("loaderd_uint8_tiled", "ffcv_uint8", 1.5),
        ("loaderd_jax", "loaderd_tiled", 0.95),
    ),
    "frames": (
        ("loaderd_tiled", "dali", 2.3),
        ("loaderd_fast_dct", "dali", 3.0),
    ),
}
#: Of (cores / time for one picture on one thread: cut, decode, resize).
CEILING_SHARE_MIN = 0.9
#: What the ceiling of a loader is called.
CEILINGS = {"loaderd_tiled": "decode_tiled_1", "loaderd": "decode_untiled_1"}


def rates(rounds: list[Round], name: str) -> Spread:
    return Spread.of([found[name]["images_per_s"] for found in rounds])


def cpu_ms(rounds: list[Round], name: str) -> Spread:
    return Spread.of([found[name]["cpu_ms_per_image"] for found in rounds])


def ratios(rounds: list[Round], name: str, other: str, times: int = 1) -> Spread:
    """Images/s over those of another, in the same round."""
    return Spread.of(
        [found[name]["images_per_s"] / (times * found[other]["images_per_s"]) for found in rounds]
    )


def targets(pictures: str, rounds: list[Round], titles: dict[str, str], cores: int) -> list[Target]:
    """Those whose both sides were measured."""
    found = [
        Target(f"{titles[ours]} / {titles[other]}", ratios(rounds, ours, other), bound)
        for ours, other, bound in TARGETS[pictures]
        if ours in rounds[0] and other in rounds[0]
    ]
    ours = "loaderd_tiled" if "loaderd_tiled" in rounds[0] else "loaderd"
    ceiling = CEILINGS[ours]
    if ours in rounds[0] and ceiling in rounds[0]:
        share = ratios(rounds, ours, ceiling, cores)
        name = f"{titles[ours]} / ({cores} x {titles[ceiling]})"
        found.append(Target(name, share, CEILING_SHARE_MIN))
    return found


def summary(rounds: list[Round], name: str, best: str) -> dict[str, Any]:
    """One row of the JSON file."""

    def spread(value: Spread) -> dict[str, float]:
        return {"median": value.median, "low": value.low, "high": value.high}

    row = {
        "images_per_s": spread(rates(rounds, name)),
        "cpu_ms_per_image": spread(cpu_ms(rounds, name)),
        "rounds": [found[name] for found in rounds],
    }
    if best in rounds[0]:
        row["loaderd_is_times"] = spread(ratios(rounds, best, name))
    return row
