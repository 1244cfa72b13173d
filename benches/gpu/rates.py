"""How fast: nvJPEG by itself, loaderd's decode unit by itself, and the daemon's batches.

Enters: photos, untiled and tiled. Leaves: images/s, host CPU time an image, gaps between batches.
Photos lie in memory, so that no disk takes part. Nothing is judged here.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import harness
from gpu import streams
from gpu.bundle import Bundle, Failed, Hung, keep

BATCH_SIZE = 256
_ROWS = 1 << 17
_WARM_UP_S = 2.0
_SECONDS = 6.0

#: Lane, images of a batch, states; of phases, images on their way in each of so many threads.
#: nvJPEG repeats chroma, its default, except where it is to interpolate it as loaderd's unit does.
_CEILINGS: tuple[tuple[Any, ...], ...] = (
    ("hardware", 7, 1),
    ("hardware", 32, 2),
    ("hardware", 64, 1),
    ("hardware", 64, 2),
    ("hardware", 64, 4),
    ("hardware", 126, 2),
    ("hardware", 252, 2),
    ("hardware", 64, 4, "interpolating"),
    # What keeps the unit from these rates, if anything does: it has one handle, batches of changing
    # sizes, and its encoded images are not pinned.
    ("hardware", 64, 4, "one-handle"),
    ("hardware", 64, 4, "ragged"),
    ("hardware", 64, 4, "pinned"),
    ("cuda", 64, 1),
    ("cuda", 128, 2),
    ("cuda", 256, 2),
    ("cuda", 256, 2, "interpolating"),
    ("phases", 2, 4),
    ("phases", 2, 12),
)


def ceilings(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """nvJPEG's best on whole photos, over lanes, batch sizes and states. None is named where the
    engines are there, and decode no photos."""
    has_engines = "engines" in bundle.gpucheck("engines", seconds_max=20)["hardware"]
    ask = _Patient(bundle, "ceiling", 15)
    ways = []
    seconds = "0.2" if brief else "2.5"
    for lane, batch, states, *how in _CEILINGS[:: 4 if brief else 1]:
        options: tuple[str, ...] = ("--lane", lane, "--batch", str(batch), "--states", str(states))
        is_plain = "interpolating" not in how
        options += ("--plain",) if is_plain else ()
        options += tuple(f"--{word}" for word in how if word != "interpolating")
        about = {"lane": lane, "batch": batch, "states": states, "is_plain": is_plain, "how": how}
        found = ask(lane, bundle.root / "pictures", *options, "--seconds", seconds)
        ways.append({**about, **found})
        keep({"ways": ways})
    measured = [way for way in ways if "images_per_s" in way]
    if not measured:
        raise Failed(ways[0]["why_not"])
    whole = [way for way in measured if way["unwritten_in_last_batches"] == 0]
    if not whole:
        raise Failed("nvJPEG left out images in every way, and reported success")
    if has_engines and not any(way["lane"] == "hardware" for way in whole):
        # CUDA cores alone are less than the machine can do: what is compared with them passes.
        return {"ways": ways, "no_best": "there are engines, and no way through them is whole"}
    best = max(whole, key=lambda way: float(way["images_per_s"]))
    return {"ways": ways, "best": best}


class _Patient:
    """Asks ``gpucheck`` the same of several ways; of a kind that has hung twice, nothing more."""

    def __init__(self, bundle: Bundle, task: str, seconds_max: float) -> None:
        self._bundle, self._task, self._seconds_max = bundle, task, seconds_max
        self._hung: Counter[str] = Counter()

    def __call__(self, kind: str, *options: str | Path) -> dict[str, Any]:
        """What it says, or why it says nothing."""
        if self._hung[kind] == 2:
            return {"why_not": f"not asked: {kind} hung twice before"}
        try:
            found: dict[str, Any] = self._bundle.gpucheck(
                self._task, *options, seconds_max=self._seconds_max
            )
        except Failed as why:
            self._hung[kind] += isinstance(why, Hung)
            return {"why_not": str(why)}
        return found


#: Feeding threads, and settings of the unit.
_UNITS: tuple[tuple[str, ...], ...] = (
    ("--feeders", "2"),
    ("--feeders", "4"),
    ("--feeders", "4", "--engine-batches", "8", "--memory", str(4 << 30)),
    ("--feeders", "8", "--engine-batches", "8", "--engine-batch", "64", "--memory", str(8 << 30)),
)


def unit(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """loaderd's decode unit without the daemon: the best of a few settings, for each form."""
    found: dict[str, Any] = {"ways": []}
    seconds = "0.2" if brief else "2.5"
    ask = _Patient(bundle, "unit", 25)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        tiled = Path(name) / "tiled"
        bundle.gpucheck("tile", bundle.photos, tiled)
        for form, folder in (("untiled", bundle.photos), ("tiled", tiled)):
            for options in _UNITS[: 1 if brief else None]:
                about = {"form": form, "options": " ".join(options)}
                way = ask(form, folder, *options, "--seconds", seconds)
                found["ways"].append({**about, **way})
                keep(found)
            measured = [
                way for way in found["ways"] if way["form"] == form and "images_per_s" in way
            ]
            if measured:
                found[form] = max(measured, key=lambda way: float(way["images_per_s"]))
    if "untiled" not in found and "tiled" not in found:
        raise Failed(found["ways"][0]["why_not"])
    return found


def through_daemon(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """Batches of a training input, from the daemon into the process that trains."""
    found: dict[str, Any] = {"batch_size": BATCH_SIZE, "into": _into(), "ways": []}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        tiled = Path(name) / "tiled"
        found["tiled"] = bundle.gpucheck("tile", bundle.photos, tiled)
        for decode in ("gpu", "auto", "cpu"):
            for form, folder in (("untiled", bundle.photos), ("tiled", tiled)):
                # One each, so that counts and CPU time are this way's.
                with streams.daemon(bundle) as daemon:
                    way = stream(daemon, folder, decode, brief)
                found["ways"].append({"decode": decode, "form": form, **way})
                keep(found)
    return found


def _into() -> str:
    return "PyTorch" if harness.installed("torch") else "NumPy"


def stream(daemon: harness.Daemon, folder: Path, decode: str, brief: bool) -> dict[str, Any]:
    """Batches as fast as they come."""
    loader = streams.tensors(
        daemon.socket,
        folder,
        _ROWS,
        streams.training("float16"),
        columns=["image"],
        batch_size=32 if brief else BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        decode=decode,
    )
    batches = harness.endless(loader)
    warm = time.perf_counter()
    batch = next(batches)
    pinned = batch["image"].is_pinned() if hasattr(batch["image"], "is_pinned") else None
    del batch
    while time.perf_counter() - warm < (0.2 if brief else _WARM_UP_S):
        # Not kept: the slot goes back before the next batch is asked for.
        next(batches)
    gaps_ms: list[float] = []
    images = 0
    cpu_s, before = harness.tree_cpu_s(daemon.pid), streams.gpu_of(daemon.socket)
    began = last = time.perf_counter()
    while last - began < (0.5 if brief else _SECONDS):
        images += len(next(batches)["image"])
        now = time.perf_counter()
        gaps_ms.append((now - last) * 1e3)
        last = now
    taken = last - began
    cpu_s = harness.tree_cpu_s(daemon.pid) - cpu_s
    after = streams.gpu_of(daemon.socket)
    notices = loader.notices
    batches.close()
    loader.close()
    gaps_ms.sort()
    return {
        "images_per_s": images / taken,
        "cpu_us_per_image": cpu_s * 1e6 / images,
        "gap_ms_median": statistics.median(gaps_ms),
        "gap_ms_p99": gaps_ms[len(gaps_ms) * 99 // 100],
        "gap_ms_max": gaps_ms[-1],
        "batches": len(gaps_ms),
        "is_pinned": pinned,
        "gpu_share": share(before, after, images),
        "notices": notices,
    }


def share(before: dict[str, Any] | None, after: dict[str, Any] | None, images: int) -> float | None:
    """How many of the images the GPU decoded; a little more than all, as batches lie ready."""
    if before is None or after is None or images == 0:
        return None
    return (int(after["decoded"]) - int(before["decoded"])) / images
