"""What the machine is, and the questions about nvJPEG that loaderd's code rests on.

Enters: a bundle. Leaves: facts. Nothing is judged, and no setting of a device is changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu.bundle import Bundle, Failed, ended, last_line, last_words

_ASKED = (
    "name,driver_version,pcie.link.gen.current,pcie.link.width.current,compute_mode,"
    "mig.mode.current,persistence_mode,clocks.sm,temperature.gpu"
)
#: Of `loaderd doctor`, what has to do with a GPU, or with the cost of a batch.
_CHECKS = ("kernel", "io_uring", "memlock", "cores", "memory", "jpeg")
#: Opens files, says so, and keeps them open until its input ends.
_KEEP_OPEN = """
import os, sys
for name in sys.argv[1:]:
    try:
        os.open(name, os.O_RDWR)
    except OSError as why:
        print(why, file=sys.stderr)
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def awake(devices: Path = Path("/dev")) -> Iterator[subprocess.Popen[str]]:
    """Keeps GPUs set up from part to part. Where no daemon does so, the driver lets go of a GPU
    with the last process that has it open, and the next one waits for seconds until it is set up
    again (NVIDIA, "Driver Persistence"); parts are many processes. In a process of its own, because
    a wedged driver may keep who opens a device, for ever; nobody waits for it."""
    files = sorted(map(str, devices.glob("nvidia[0-9]*")))
    keeper = subprocess.Popen(
        [sys.executable, "-c", _KEEP_OPEN, *files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield keeper
    finally:
        keeper.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(5)


def doctor(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """``loaderd doctor``, and what the driver's own tool says."""
    # The first process to touch a GPU may have to wait for it.
    command = [str(bundle.loaderd), "doctor", "--json", "--gpu-wait=40", str(bundle.photos)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.startswith("{"):
        wanted = json.loads((bundle.root / "about.json").read_text()).get("needs")
        raise Failed(
            f"loaderd doctor: {last_words(done.stderr) or ended(done.returncode)} (it needs "
            f"{wanted}, and this machine has {' '.join(platform.libc_ver())})"
        )
    report = json.loads(done.stdout)
    checks = {
        check["name"]: {"verdict": check["verdict"], "found": check["found"]}
        for check in report["checks"]
        if check["name"] in _CHECKS or check["name"].startswith(("gpu_", "nvjpeg", "mps"))
    }
    return {
        "checks": checks,
        "versions": report["versions"],
        "nvidia_smi": _nvidia_smi(),
        "nvcuvid": _nvcuvid(),
    }


def why_no_gpu(found: dict[str, Any]) -> str | None:
    """Why nothing can be decoded on a GPU here, by what :func:`doctor` found; else ``None``."""
    checks = found["checks"]
    # The last one of these that was reached says what is wrong, where the next is not there.
    reached = [name for name in ("gpu_driver", "gpu_devices", "nvjpeg") if name in checks]
    last = checks[reached[-1]]
    if reached[-1] != "nvjpeg" or last["verdict"] != "ok":
        return str(last["found"])
    return None


def lacks_nvjpeg(found: dict[str, Any]) -> bool:
    """Whether there is a GPU, and nothing is missing but nvJPEG."""
    check = found["checks"].get("nvjpeg")
    return check is not None and "no nvJPEG" in check["found"]


def _nvcuvid() -> str:
    """Whether the driver's video library is there, without which nvJPEG has no JPEG engines: a
    container has it with ``NVIDIA_DRIVER_CAPABILITIES=compute,utility,video`` alone."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError as error:
        return str(error)
    return "found"


def _nvidia_smi() -> str:
    command = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    except FileNotFoundError:
        return "not installed"
    except subprocess.TimeoutExpired:
        return "does not answer"
    return done.stdout.strip() or last_line(done.stderr)


def engines(bundle: Bundle, brief: bool) -> dict[str, Any]:
    found: dict[str, Any] = bundle.gpucheck("engines")
    return found


def order(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """Whether a decode waits for earlier work of its stream."""
    rounds = "2" if brief else "20"
    found: dict[str, Any] = bundle.gpucheck("order", bundle.root / "pictures", "--rounds", rounds)
    return found


def strict(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """What nvJPEG refuses when it is told to keep to JPEG's letter, lane by lane."""
    found: dict[str, Any] = bundle.gpucheck("strict", bundle.root / "pictures")
    return found


def skips(bundle: Bundle, lane: str) -> dict[str, Any]:
    """What becomes of damaged images in a batch of nvJPEG's own."""
    found: dict[str, Any] = bundle.gpucheck("skips", bundle.root / "pictures", "--lane", lane)
    damaged = found["damaged"]
    silent = [
        one["name"]
        for one in damaged
        if "found" in one and one["found"]["status"] is None and one["found"]["written"][1] == 0
    ]
    hurt = [
        one["name"]
        for one in damaged
        if "found" in one
        and one["found"]["status"] is None
        and min(one["found"]["written"][0], one["found"]["written"][2]) < 0.9
    ]
    lost = [one["name"] for one in damaged if "after" in one and min(one["after"]["written"]) < 0.9]
    fatal = [one["name"] for one in damaged if "device_failed" in one]
    return {
        **found,
        "success_but_nothing_written": silent,
        "success_but_neighbours_not_written": hurt,
        "next_batch_not_written": lost,
        "device_failed": fatal,
    }
