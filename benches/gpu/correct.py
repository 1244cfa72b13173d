"""Whether what the GPU delivers is what the CPU delivers.

Enters: JPEGs of every kind, and damaged ones. Leaves: the difference of each in grey levels, and
what became of the damaged. Both decoders see the same rows, crops and flips, in u8. Tests of
loaderd's own that need a GPU are run as well, those of pinned slots among them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
from gpu import streams
from gpu.bundle import Bundle, Failed, Hung, Skipped, ended, keep, last_line, run

#: Mean difference of an image at most, in grey levels.
DIFFERENCE_MAX = 1.0
_BATCH = 8
#: Of a test, and of all of them: less than the part has.
_TEST_S_MAX, _TESTS_S_MAX = 60.0, 105.0
#: Of the tests of pinned slots.
_PINNED_S_MAX = 70.0
#: Characters that are kept of what a failing test said.
_SAID_MAX = 2_000


def kinds(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """Every kind, cropped at random and resized."""
    files = sorted(bundle.kinds.glob("*.jpg"))
    with streams.daemon(bundle) as daemon:
        cpu, _ = _decoded(daemon, bundle.kinds, len(files), "cpu")
        gpu, said = _decoded(daemon, bundle.kinds, len(files), "gpu")
    routes = json.loads((bundle.root / "about.json").read_text())["pictures"]["kinds"]
    return {
        "kinds": _compared([file.stem for file in files], cpu, gpu),
        "gpu": said,
        "for_engines": sum(one["route"] == "engine" for one in routes.values()),
    }


def damaged(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """Each damaged file between two good ones, twice over, and good ones behind them."""
    good = sorted(bundle.photos.glob("*.jpg"))
    bad = sorted(bundle.damaged.glob("*.jpg"))
    names: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)

        def put(file: Path, title: str) -> None:
            shutil.copyfile(file, folder / f"{len(names):05}.jpg")
            names.append(title)

        for _ in range(1 if brief else 2):
            for number, file in enumerate(bad):
                put(good[number % len(good)], "good")
                put(file, file.stem)
        for number in range(4 * _BATCH):
            put(good[number % len(good)], "good")
        with streams.daemon(bundle) as daemon:
            cpu, _ = _decoded(daemon, folder, len(names), "cpu")
            gpu, said = _decoded(daemon, folder, len(names), "gpu")
    compared = _compared(names, cpu, gpu)
    beside = [one for one in compared if one["name"] == "good"]
    hurt = [one for one in compared if one["name"] != "good"]
    return {
        "good_rows": len(beside),
        "good_difference_max": max(one["difference"] for one in beside),
        "damaged_rows": len(hurt),
        "otherwise_valid": sorted({one["name"] for one in hurt if not one["same_validity"]}),
        "damaged": hurt,
        "gpu": said,
    }


def _decoded(
    daemon: harness.Daemon, folder: Path, rows: int, decode: str
) -> tuple[list[tuple[Any, bool]], dict[str, Any] | None]:
    """Pixels and validity of every row, in order."""
    from loaderd import RandomHorizontalFlip, RandomResizedCrop

    loader = streams.arrays(
        daemon.socket,
        folder,
        rows,
        [RandomResizedCrop(streams.SIZE), RandomHorizontalFlip()],
        columns=["image", "_valid"],
        batch_size=_BATCH,
        on_bad_sample="zero",
        decode=decode,
    )
    found = []
    for batch in loader:
        images, valid = batch["image"], batch["_valid"]
        found += [(images[row].copy(), bool(valid[row])) for row in range(len(images))]
    loader.close()
    return found, streams.gpu_of(daemon.socket)


def _compared(
    names: list[str], cpu: list[tuple[Any, bool]], gpu: list[tuple[Any, bool]]
) -> list[dict[str, Any]]:
    if not len(names) == len(cpu) == len(gpu):
        raise Failed(f"{len(names)} rows, but {len(cpu)} by the CPU and {len(gpu)} by the GPU")
    lines = []
    for name, (left, is_valid), (right, still_valid) in zip(names, cpu, gpu, strict=True):
        difference = abs(left.astype("int16") - right.astype("int16"))
        lines.append(
            {
                "name": name,
                "difference": float(difference.mean()),
                "most": int(difference.max()),
                "valid": is_valid,
                "same_validity": is_valid == still_valid,
            }
        )
    return lines


def finished(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """The decode unit's images of a folder without the daemon, one by one and all at once."""
    found: dict[str, Any] = bundle.gpucheck("finished", folder, "--progressive")
    taken = [
        one[way]
        for one in found["kinds"]
        for way in ("alone", "together")
        if one[way]["route"] != "CPU"
    ]
    done = [one for one in taken if one["outcome"] == "finished"]
    found["offered"], found["finished"] = len(taken), len(done)
    # Nothing finished is no difference of nothing.
    found["difference_max"] = max((one["mean"] for one in done), default=None)
    return found


def pixels(bundle: Bundle, lane: str) -> dict[str, Any]:
    """nvJPEG's own pixels beside the CPU decoder's, whole images: with chroma interpolated, as
    loaderd asks for, and repeated, as nvJPEG does by default."""
    options = (bundle.root / "pictures", "--lane", lane)
    calls: dict[str, tuple[str | Path, ...]] = {
        "interpolating": ("pixels", *options),
        "plain": ("pixels", *options, "--plain"),
    }
    found, failed = bundle.answers(calls, 25)
    if failed:
        raise Failed("; ".join(failed), found)
    return found


def tests(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """loaderd's own tests on a real GPU, out of their test programs; what failing ones said."""
    programs = bundle.tests()
    if not programs:
        raise Skipped("the bundle carries no test that needs a GPU")
    found: dict[str, Any] = {"passed": [], "failed": [], "skipped": [], "said": {}}
    end = time.monotonic() + _TESTS_S_MAX
    for program, test in programs:
        keep(found)
        title = f"{program.name}::{test}"
        command = [str(program), "--exact", test, "--nocapture", "--include-ignored"]
        try:
            left = end - time.monotonic()
            done = run(command, title, max(1.0, min(_TEST_S_MAX, left)))
        except Hung as hung:
            found["failed"].append(str(hung))
            found["said"][title] = hung.said[-_SAID_MAX:]
            continue
        said = done.stdout + done.stderr
        skipped = [line for line in said.splitlines() if line.startswith("skipped:")]
        if done.returncode != 0:
            panic = [line for line in said.splitlines() if "panicked at" in line]
            why = last_line("\n".join(panic)) or ended(done.returncode)
            found["failed"].append(f"{title}: {why}")
            found["said"][title] = said[-_SAID_MAX:]
        elif skipped:
            found["skipped"].append(f"{title}: {skipped[0]}")
        else:
            found["passed"].append(title)
    if found["failed"]:
        raise Failed("; ".join(found["failed"]), found)
    return found


def pinned(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """loaderd's tests of pinned slots on a real GPU, in PyTorch: whether copies run beside the
    program, and no slot is used again before the GPU has read it."""
    if not bundle.pinning.exists():
        raise Skipped("the bundle carries no test of pinned slots")
    if not harness.installed("torch", "pytest"):
        raise Skipped("PyTorch or pytest is not installed")
    # Plugins that are there, and settings above the bundle's folder, are none of its tests'.
    command = ["env", f"LOADERD_BIN={bundle.loaderd}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"]
    # Wide enough for what went wrong.
    command += ["COLUMNS=300"]
    command += [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-c", os.devnull]
    command += [f"--rootdir={bundle.pinning.parent}", str(bundle.pinning)]
    try:
        done = run(command, "pytest", _PINNED_S_MAX)
    except Hung as hung:
        print(hung.said, file=sys.stderr)
        raise
    print(done.stdout, done.stderr, file=sys.stderr)
    found: dict[str, Any] = {"passed": [], "failed": [], "skipped": []}
    for outcome, rest in re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) (.+)$", done.stdout, re.M):
        # Without the file; what is said of a test may hold "::", as C++'s names do.
        said = re.sub(r"^\S+?::", "", rest)
        found[{"ERROR": "failed"}.get(outcome, outcome.lower())].append(said)
    if done.returncode != 0 or found["failed"]:
        raise Failed("; ".join(found["failed"]) or last_line(done.stderr + done.stdout), found)
    return found
