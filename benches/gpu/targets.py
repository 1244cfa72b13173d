"""What the check must show, and whether it did.

Enters: what the parts found. Leaves: a line for each target: met, missed, or why it could not be
judged. Ratios are taken within one run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpu.correct import DIFFERENCE_MAX
from gpu.neighbour import IMAGES_PER_S

#: Of images that count as the GPU's, how many it must have decoded.
GPU_SHARE_MIN = 0.95

#: What parts found, by name; those that found nothing are left out.
Found = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Target:
    """A bound, and how its value is read."""

    title: str
    bound: float
    value: Callable[[Found], float]
    at_most: bool = False
    unit: str = ""

    def judge(self, found: Found, is_brief: bool) -> dict[str, Any]:
        line: dict[str, Any] = {"title": self.title, "bound": self.bound, "at_most": self.at_most}
        line["unit"] = self.unit
        try:
            value = self.value(found)
        except (KeyError, IndexError, TypeError, ZeroDivisionError):
            # A part that it needs has found nothing, and says why by itself.
            return {**line, "value": None, "verdict": "not measured"}
        if is_brief:
            return {**line, "value": value, "verdict": "not judged in a brief run"}
        is_met = value <= self.bound if self.at_most else value >= self.bound
        return {**line, "value": value, "verdict": "met" if is_met else "MISSED"}


def _way(found: Found, part: str, decode: str, form: str) -> dict[str, Any]:
    ways = [way for way in found[part]["ways"] if (way["decode"], way["form"]) == (decode, form)]
    if decode == "gpu" and ways[0]["gpu_share"] < GPU_SHARE_MIN:
        # CPU cores did the work: that says nothing of a GPU.
        raise KeyError("the GPU did not decode the images")
    return dict(ways[0])


def _daemon(found: Found, form: str, what: str, decode: str = "gpu") -> float:
    return float(_way(found, "daemon", decode, form)[what])


def _unit(found: Found, form: str) -> float:
    return float(found["unit"][form]["images_per_s"])


def _ceiling(found: Found) -> float:
    return float(found["ceilings"]["best"]["images_per_s"])


def _peer(found: Found, name: str) -> float:
    return float(found[name]["images_per_s"])


def _gap(found: Found, form: str) -> float:
    way = _way(found, "daemon", "gpu", form)
    return float(way["gap_ms_p99"]) / float(way["gap_ms_median"])


def _slowed(found: Found, form: str) -> float:
    way = _way(found, "neighbour", "gpu", form)
    if way["images_per_s"] < 0.95 * IMAGES_PER_S:
        # Fewer images cost less: that is no answer.
        raise KeyError("the images did not come at their pace")
    return float(way["slowed_by"])


def _difference(found: Found) -> float:
    return max(float(one["difference"]) for one in found["kinds"]["kinds"])


def _died(found: Found) -> float:
    # The words of `loaderd status` for a unit that is dead.
    return float("has failed" in found["damaged"]["gpu"]["found"])


def _failed_tests(found: Found, part: str) -> float:
    tests = found[part]
    if tests["skipped"] and not tests["failed"]:
        # Nothing can fail that does not run.
        raise KeyError("some tests were skipped")
    return float(len(tests["failed"]))


TARGETS = (
    Target(
        "loaderd's tests on a real GPU that failed",
        0,
        lambda found: _failed_tests(found, "tests"),
        True,
    ),
    Target(
        "loaderd's tests of pinned slots that failed",
        0,
        lambda found: _failed_tests(found, "pinned"),
        True,
    ),
    Target("pixels, worst kind: grey levels from the CPU's", DIFFERENCE_MAX, _difference, True),
    Target(
        "images decoded by the GPU / kinds that its engines take",
        1.0,
        lambda found: found["kinds"]["gpu"]["decoded"] / found["kinds"]["for_engines"],
    ),
    Target(
        "unit's pixels, worst kind: grey levels from the CPU's",
        DIFFERENCE_MAX,
        lambda found: float(found["unit-kinds"]["difference_max"]),
        True,
    ),
    Target(
        "unit: images finished / offered, every kind",
        1.0,
        lambda found: found["unit-kinds"]["finished"] / found["unit-kinds"]["offered"],
    ),
    Target(
        "pixels of good images between damaged ones",
        DIFFERENCE_MAX,
        lambda found: float(found["damaged"]["good_difference_max"]),
        True,
    ),
    Target(
        "images decoded by the GPU / good images between damaged ones",
        1.0,
        lambda found: found["damaged"]["gpu"]["decoded"] / found["damaged"]["good_rows"],
    ),
    Target("damaged images: decode units that died of them", 0, _died, True),
    Target(
        "damaged images that are valid by one decoder only",
        0,
        lambda found: float(len(found["damaged"]["otherwise_valid"])),
        True,
    ),
    Target(
        "unit, untiled / nvJPEG's best",
        0.95,
        lambda found: _unit(found, "untiled") / _ceiling(found),
    ),
    Target(
        "unit, tiled / nvJPEG's best", 1.5, lambda found: _unit(found, "tiled") / _ceiling(found)
    ),
    Target(
        "daemon, untiled / nvJPEG's best",
        0.95,
        lambda found: _daemon(found, "untiled", "images_per_s") / _ceiling(found),
    ),
    Target(
        "daemon, tiled / nvJPEG's best",
        1.5,
        lambda found: _daemon(found, "tiled", "images_per_s") / _ceiling(found),
    ),
    Target(
        "daemon, untiled / torchvision's CUDA decode",
        1.0,
        lambda found: _daemon(found, "untiled", "images_per_s") / _peer(found, "torchvision"),
    ),
    Target(
        "daemon, untiled / nvImageCodec",
        1.0,
        lambda found: _daemon(found, "untiled", "images_per_s") / _peer(found, "nvimagecodec"),
    ),
    *(
        Target(
            f"unit's CPU time an image, {form}",
            bound,
            lambda found, form=form: float(found["unit"][form]["cpu_us_per_image"]),  # type: ignore[misc]
            True,
            " us",
        )
        for form, bound in (("untiled", 10.0), ("tiled", 25.0))
    ),
    Target(
        "daemon's CPU time an image, untiled",
        10.0,
        lambda found: _daemon(found, "untiled", "cpu_us_per_image"),
        True,
        " us",
    ),
    Target(
        "daemon's CPU time an image, tiled",
        25.0,
        lambda found: _daemon(found, "tiled", "cpu_us_per_image"),
        True,
        " us",
    ),
    Target("batch gaps, untiled: p99 / median", 2.0, lambda found: _gap(found, "untiled"), True),
    Target("batch gaps, tiled: p99 / median", 2.0, lambda found: _gap(found, "tiled"), True),
    *(
        Target(
            f"steps beside 5,000 images/s, {form}: slowed by",
            0.05,
            lambda found, form=form: _slowed(found, form),  # type: ignore[misc]
            True,
        )
        for form in ("untiled", "tiled")
    ),
)


def judge(found: Found, is_brief: bool) -> list[dict[str, Any]]:
    """All targets, in order."""
    return [target.judge(found, is_brief) for target in TARGETS]
