"""How fast this machine decodes, without a loader around it.

Enters: data sets that loaderd wrote, and the pictures as files. Leaves: rates of the `decode`
stage of `loaderd bench` (crop, decode, resize, normalise, from memory into one buffer), and of
libjpeg-turbo decoding whole pictures, where the example that times it has been built.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness


def ceilings(
    forms: dict[str, Path], distinct: Path, threads: int, seconds: float, example: Path | None
) -> tuple[dict[str, str], dict[str, Callable[[], dict[str, Any]]]]:
    """Titles, and what measures each."""
    titles, ways = {}, {}
    for form in ("tiled", "untiled"):
        if form not in forms:
            continue
        verb = "cut, decode and resize" if form == "tiled" else "decode and resize the crop"
        for count in dict.fromkeys((1, threads)):
            name = f"decode_{form}_{count}"
            titles[name] = f"{verb}, {count} thread{'s' if count > 1 else ''}"
            ways[name] = lambda form=form, count=count: stage(forms[form], count, seconds)
    if example is not None:
        titles["whole"] = "libjpeg-turbo, whole pictures, 1 thread"
        ways["whole"] = lambda: whole(example, distinct)
    return titles, ways


def stage(uri: Path, threads: int, seconds: float) -> dict[str, Any]:
    report = json.loads(
        harness.run_loaderd(
            "bench", uri, f"--decode-threads={threads}", f"--seconds={seconds}", "--json"
        )
    )
    (found,) = (stage for stage in report["stages"] if stage["name"] == "decode")
    return {
        "images_per_s": found["rows_per_s"],
        "cpu_ms_per_image": found["cpu_us_per_row"] / 1e3,
    }


def whole(example: Path, distinct: Path) -> dict[str, Any]:
    done = subprocess.run([example, distinct, "2"], capture_output=True, text=True)
    found = re.search(r"^whole image to RGB.*mean of all rounds +([0-9.]+)", done.stdout, re.M)
    if done.returncode != 0 or found is None:
        raise SystemExit(f"{example} failed:\n{done.stdout}{done.stderr}")
    # One thread that never waits: on a quiet machine its time is its CPU time.
    ms = float(found[1]) / 1e3
    return {"images_per_s": 1e3 / ms, "cpu_ms_per_image": ms}
