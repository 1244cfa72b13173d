"""Checks loaderd on this machine's GPU, part by part, and prints what was found.

Enters: a bundle, and the machine. Leaves: a table, targets beside what was measured, and JSON.
Each part is a process of its own with a time limit: one that crashes or hangs costs itself, and
says so by name. Nothing is installed, and no setting of the device is changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from gpu import copies, correct, machine, neighbour, others, rates, report, streams, targets
from gpu.bundle import SO_FAR, Bundle, Failed, Skipped, ended, last_line, write_whole


@dataclass(frozen=True)
class Part:
    """A part of the check."""

    title: str
    #: Longer than that, and it hangs.
    seconds_max: float
    run: Callable[[Bundle, bool], dict[str, Any]]


PARTS = {
    "machine": Part("what the machine is", 60, machine.doctor),
    "engines": Part("nvJPEG and the JPEG engines", 30, machine.engines),
    "order": Part("does a decode wait for its stream?", 60, machine.order),
    "unit-kinds": Part(
        "every kind of JPEG, by the unit",
        60,
        lambda bundle, _: correct.finished(bundle, bundle.kinds),
    ),
    "kinds": Part("every kind of JPEG, by the daemon", 90, correct.kinds),
    "tests": Part("loaderd's tests on a real GPU", 120, correct.tests),
    "pinned": Part("loaderd's tests of pinned slots", 80, correct.pinned),
    "ceilings": Part("nvJPEG decoding whole photos", 120, rates.ceilings),
    "unit": Part("loaderd's decode unit", 120, rates.unit),
    "daemon": Part("batches of a training input", 120, rates.through_daemon),
    "neighbour": Part("a training step beside it", 120, neighbour.cost),
    "torchvision": Part("torchvision's CUDA decode", 60, others.torchvision),
    "nvimagecodec": Part("nvImageCodec", 75, others.nvimagecodec),
    "dali": Part("DALI's pipeline on the GPU", 60, others.dali),
    "copies": Part("copies of registered memory", 40, copies.measure),
    "pixels-hardware": Part(
        "nvJPEG's pixels, engines", 60, lambda bundle, _: correct.pixels(bundle, "hardware")
    ),
    "pixels-phases": Part(
        "nvJPEG's pixels, CUDA cores", 60, lambda bundle, _: correct.pixels(bundle, "phases")
    ),
    # What gives the device damaged files comes last: it may take the device along.
    "damaged": Part("damaged JPEGs, by the daemon", 90, correct.damaged),
    "unit-damaged": Part(
        "damaged JPEGs, by the unit",
        60,
        lambda bundle, _: correct.finished(bundle, bundle.damaged),
    ),
    "strict": Part("what a strict nvJPEG refuses", 60, machine.strict),
    "skips-hardware": Part(
        "damaged JPEGs, engines", 60, lambda bundle, _: machine.skips(bundle, "hardware")
    ),
    "skips-cuda": Part(
        "damaged JPEGs, CUDA cores", 60, lambda bundle, _: machine.skips(bundle, "cuda")
    ),
}
#: Longer than that to make a context, and the GPU is taken for one that does not answer.
_ANSWER_S_MAX = 20.0
#: What says something without a GPU.
WITHOUT_GPU = ("machine",)


def main() -> None:
    given = arguments()
    bundle = Bundle(given.bundle.resolve())
    if given.part is not None:
        alone(given.part, bundle, given.brief)
        return
    # Where loaderd looks for NVIDIA's wheels: it is not installed in this environment.
    os.environ.setdefault("VIRTUAL_ENV", sys.prefix)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as site, machine.awake():
        broken = check(bundle, given, Path(site))
    if broken:
        print(f"failed: {', '.join(broken)}")
    raise SystemExit(1 if broken else 0)


def check(bundle: Bundle, given: argparse.Namespace, site: Path) -> list[str]:
    """All parts, one after the other; returns the names of those that failed."""
    about = json.loads((bundle.root / "about.json").read_text())
    facts = {"date": time.strftime("%Y-%m-%d"), "commit": about["commit"], **harness.machine()}
    end = time.monotonic() + given.minutes * 60
    results: dict[str, dict[str, Any]] = {}
    why_not: str | None = None
    for name in given.only:
        part = PARTS[name]
        if why_not is not None and name not in WITHOUT_GPU:
            results[name] = {"status": "skipped", "why": why_not, "seconds": 0.0}
        else:
            results[name] = run(name, part, given, end)
        print(report.line(part.title, results[name]), flush=True)
        if name == "machine":
            if carried_nvjpeg(bundle, results[name], site):
                results[name] = run(name, part, given, end)
                print("nvJPEG: this machine has none, the bundle's is taken")
            why_not = no_gpu(bundle, results[name])
        elif results[name]["status"] == "hung" and end - time.monotonic() > _ANSWER_S_MAX:
            # Each of the others would wait as long.
            silent = does_not_answer(bundle)
            why_not = silent and f"since the part {name}, the GPU does not answer: {silent}"
        verdicts = targets.judge(found(results), given.brief)
        written = {"bench": "gpu", "machine": facts, "pictures": about["pictures"]}
        written |= {"is_brief": given.brief, "parts": results, "targets": verdicts}
        if given.json is not None:
            # After each part: what comes later may take the machine along.
            write_whole(given.json, json.dumps(without_paths(written), indent=2) + "\n")
    print()
    report.show(found(results))
    report.show_targets(verdicts)
    if given.json is not None:
        print(f"written to {given.json}")
    return [name for name, one in results.items() if one["status"] in ("failed", "hung")]


def carried_nvjpeg(bundle: Bundle, result: dict[str, Any], site: Path) -> bool:
    """Takes the bundle's nvJPEG where the machine has a GPU and none, or does not say; whether the
    machine is to be looked at anew for that."""
    is_known = result["status"] == "ok"
    if is_known and not machine.lacks_nvjpeg(result["found"]):
        return False
    try:
        bundle.unpack("nvidia-nvjpeg", site)
    except Skipped:
        return False
    os.environ["LOADERD_NVJPEG"] = str(next(site.rglob("libnvjpeg.so.*")))
    return is_known


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="check", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--brief", action="store_true", help="only show that it works")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all there, too")
    parser.add_argument(
        "--minutes",
        type=harness.positive(float),
        default=9.5,
        help="parts that would begin later are skipped (default: %(default)s)",
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    # In their order, and always with what tells whether there is a GPU.
    wanted = set(given.only or PARTS) | {"machine"}
    given.only = [name for name in PARTS if name in wanted]
    return given


def run(name: str, part: Part, given: argparse.Namespace, end: float) -> dict[str, Any]:
    """What a part found, in a process of its own."""
    left = end - time.monotonic()
    if left <= 1:
        return {"status": "skipped", "why": "no time was left", "seconds": 0.0}
    command = [sys.executable, "-m", "gpu", str(given.bundle), "--part", name]
    command += ["--brief"] if given.brief else []
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as errors,
        # Folders that a part has no time to remove go with this one.
        tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder,
    ):
        # A session of its own, so that all that it started can be ended with it.
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": folder, SO_FAR: f"{folder}/so-far.json"},
        )
        try:
            said, _ = process.communicate(timeout=min(part.seconds_max, left))
            status = process.returncode
        except subprocess.TimeoutExpired:
            said, status = "", None
        finally:
            end_all(process)
        seconds = time.monotonic() - began
        errors.seek(0)
        log = errors.read()
        so_far = Path(folder) / "so-far.json"
        kept = {"found": json.loads(so_far.read_text())} if so_far.exists() else {}
    said_last = {"log": log[-4000:], "seconds": seconds}
    if status is None:
        return {"status": "hung", "why": f"no end after {seconds:.0f} s", **said_last, **kept}
    try:
        answer: dict[str, Any] = json.loads(last_line(said))
    except json.JSONDecodeError:
        return {"status": "failed", "why": last_line(log) or ended(status), **said_last, **kept}
    # What daemons noted, too: why a decoder was given up, say, is nowhere else.
    return {**said_last, **(kept if answer["status"] == "failed" else {}), **answer}


def end_all(process: subprocess.Popen[str]) -> None:
    """Ends the part's process and whatever it left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A wedged driver keeps what it holds, dead or alive.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


def alone(name: str, bundle: Bundle, brief: bool) -> None:
    """Runs one part here, and prints its answer as JSON."""
    # Whatever libraries print goes elsewhere.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer: dict[str, Any]
    try:
        answer = {"status": "ok", "found": PARTS[name].run(bundle, brief)}
        if streams.ended_badly:
            # What they delivered before counts all the same.
            answer |= {"status": "failed", "why": streams.ended_badly[0]}
    except Skipped as why:
        answer = {"status": "skipped", "why": str(why)}
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        kind = "" if isinstance(error, SystemExit) else f"{type(error).__name__}: "
        answer = {"status": "failed", "why": kind + last_line(str(error))}
        if isinstance(error, Failed) and error.found is not None:
            answer["found"] = error.found
    print(json.dumps(answer), file=answers, flush=True)
    # A driver's exit handlers have been known to hang, or crash, when all is done.
    os._exit(0)


def no_gpu(bundle: Bundle, result: dict[str, Any]) -> str | None:
    """Why the other parts have nothing to do."""
    if result["status"] == "ok":
        return machine.why_no_gpu(result["found"])
    # What else is wrong with the machine keeps no GPU from being looked at.
    why = does_not_answer(bundle)
    return why and f"what the machine is could not be found out: {result['why']}; {why}"


def does_not_answer(bundle: Bundle) -> str | None:
    """Why the GPU can't be used; ``None`` where a context and nvJPEG's handles can be made."""
    try:
        bundle.gpucheck("engines", seconds_max=_ANSWER_S_MAX)
    except (Failed, OSError, ValueError) as why:
        return str(why)
    return None


def found(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What parts found, by name."""
    return {name: one["found"] for name, one in results.items() if "found" in one}


def without_paths(value: Any) -> Any:
    """The same without folders: files by their names."""
    if isinstance(value, str):
        return re.sub(r"(?<![\w/])/(?:[\w.+@-]+/)+", "", value)
    if isinstance(value, dict):
        return {key: without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_paths(one) for one in value]
    return value


if __name__ == "__main__":
    main()
