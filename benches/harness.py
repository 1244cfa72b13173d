"""What the Python benches share: options, scratch folder, daemon, CPU clock, tables, JSON.

Enters: command lines and measurements. Leaves: text on standard output, a JSON file where
one is asked for. It measures nothing by itself, and nothing it makes outlives the bench.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Rows a batch, in every bench that does not say otherwise.
BATCH_SIZE = 128
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_VERSIONS_OF = ("loaderd", "torch", "jax", "torchvision", "pylance", "nvidia-dali-cuda130")


def arguments(text: str, rounds: bool = True) -> argparse.ArgumentParser:
    """Options of every bench; ``text`` is its documentation, and ``rounds`` that it has some."""
    parser = argparse.ArgumentParser(description=text.partition("\n")[0])
    parser.add_argument("--brief", action="store_true", help="only show that it works")
    if rounds:
        parser.add_argument("--rounds", type=positive(int), default=3, help="default: %(default)s")
        parser.add_argument(
            "--seconds",
            type=positive(float),
            default=10.0,
            help="of each measurement (default: %(default)s)",
        )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    parser.add_argument(
        "--scratch", type=Path, metavar="DIR", help="for data sets [default: the temporary folder]"
    )
    return parser


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    return parse


@contextlib.contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    """A folder that goes with the bench; loaderd keeps its socket, log and cache in it.

    A bench that is told to end (SIGTERM) takes its folder and its daemons along, as on Ctrl-C.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="loaderd-bench-", dir=parent) as name:
        folder = Path(name).resolve()
        for variable, part in (("SOCKET", "socket"), ("STATE", "state"), ("CACHE", "cache")):
            os.environ[f"LOADERD_{variable}"] = str(folder / part)
        yield folder


class Daemon:
    """``loaderd serve`` as a child process, for as long as the ``with`` block."""

    def __init__(self, folder: Path, *options: str, name: str = "daemon") -> None:
        # Not above: other loaders' environments, which have no loaderd, read the rest.
        from loaderd import launch

        self.socket = str(folder / f"{name}.sock")
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [launch.find_binary(), "serve", f"--socket={self.socket}", *options],
                stdout=output,
                stderr=output,
                env={**os.environ, "LOADERD_STATE": str(folder / f"{name}.state")},
            )
        self.pid = self._process.pid

    def __enter__(self) -> Daemon:
        deadline = time.monotonic() + 20
        try:
            while not os.path.exists(self.socket):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the daemon does not start:\n{self.log.read_text()}")
                time.sleep(0.01)
        except BaseException:
            # Nobody calls __exit__ where this one ends early.
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            status = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        if status != 0:
            raise SystemExit(f"the daemon ended with status {status}:\n{self.log.read_text()}")


def run_loaderd(*command: str | Path) -> str:
    """Standard output of a ``loaderd`` command; ends the bench where it fails."""
    from loaderd import launch

    done = subprocess.run([launch.find_binary(), *command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"loaderd {command[0]} failed:\n{done.stderr}")
    return done.stdout


def tree_cpu_s(root: int) -> float:
    """CPU seconds of a process and all processes below it, those that have ended included.

    From ``/proc/PID/stat`` (proc_pid_stat(5)), in ticks of 10 ms.
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The name in parentheses may hold spaces; behind it come state, parent, ...
        fields = stat.rpartition(")")[2].split()
        parents[int(entry)] = int(fields[1])
        # utime, stime, and both of the children that were waited for.
        ticks[int(entry)] = sum(int(field) for field in fields[11:15])

    def belongs(pid: int) -> bool:
        while pid != root and pid in parents:
            pid = parents[pid]
        return pid == root

    return sum(spent for pid, spent in ticks.items() if belongs(pid)) / _TICKS_PER_S


#: What was measured of each case.
Round = dict[str, dict[str, float]]


def rounds(
    count: int, names: Iterable[str], measure: Callable[[str], dict[str, float]]
) -> list[Round]:
    """Measures each case once a round, in each round in another order."""
    measured = []
    for number in range(count):
        order = list(names)
        random.Random(number).shuffle(order)
        found = {}
        for name in order:
            progress(f"round {number + 1}: {name}")
            found[name] = measure(name)
        measured.append(found)
    progress("")
    return measured


def spreads(rounds: Sequence[Round], name: str, quantities: Sequence[str]) -> list[Spread]:
    """What was measured of a case, over the rounds."""
    return [Spread.of([found[name][what] for found in rounds]) for what in quantities]


def ratios(rounds: Sequence[Round], name: str, to: str, quantity: str) -> Spread:
    """What was measured of a case over the same of another, in the same round."""
    return Spread.of([found[name][quantity] / found[to][quantity] for found in rounds])


def endless(dataset: Iterable[Any]) -> Generator[Any, None, None]:
    """Batches of epoch after epoch. It holds none."""
    while True:
        yield from dataset


def installed(*modules: str) -> bool:
    """Whether all of these can be imported, judged without importing them."""
    for module in modules:
        try:
            if importlib.util.find_spec(module) is None:
                return False
        except ModuleNotFoundError:
            return False
    return True


@dataclass(frozen=True)
class Spread:
    """The same quantity over several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 0) -> str:
        """``median (low-high)``; the median alone where there is one round."""
        middle = f"{self.median:,.{digits}f}"
        if self.low == self.high:
            return middle
        return f"{middle} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


@dataclass(frozen=True)
class Target:
    """What a bench must reach; judged by the median of its rounds."""

    name: str
    value: Spread
    bound: float
    unit: str = ""
    #: Whether the value must stay below the bound, instead of reaching it.
    at_most: bool = False
    digits: int = 2

    @property
    def is_met(self) -> bool:
        median = self.value.median
        return median <= self.bound if self.at_most else median >= self.bound

    def row(self, is_brief: bool) -> list[str]:
        sign = "<=" if self.at_most else ">="
        verdict = "met"
        if is_brief:
            verdict = "not judged in a brief run"
        elif not self.is_met:
            verdict = f"MISSED by {abs(self.value.median - self.bound):.{self.digits}f}{self.unit}"
        value = f"{self.value.text(self.digits)}{self.unit}"
        return [self.name, value, f"{sign} {self.bound:g}{self.unit}", verdict]

    def to_json(self, is_brief: bool) -> dict[str, Any]:
        return {**asdict(self), "is_met": None if is_brief else self.is_met}


def show_targets(targets: Sequence[Target], is_brief: bool) -> None:
    """Prints results beside targets; a miss is called one."""
    show(["", "measured", "target", ""], [target.row(is_brief) for target in targets])


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
    print()


def progress(text: str) -> None:
    """Shows what is being measured, where a person is looking."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on, for the JSON file."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    versions = {}
    for package in _VERSIONS_OF:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": versions,
    }


def finish(
    bench: str,
    given: argparse.Namespace,
    facts: dict[str, Any],
    rounds: Sequence[Round],
    targets: Sequence[Target],
    **more: Any,
) -> None:
    """Prints what was to be reached, and writes everything where a file is asked for."""
    show_targets(targets, given.brief)
    report = {
        "bench": bench,
        "machine": facts,
        **more,
        "seconds": given.seconds,
        "is_brief": given.brief,
        "rounds": rounds,
        "targets": [target.to_json(given.brief) for target in targets],
    }
    write_json(given.json, report)


def write_json(file: Path | None, report: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(report, indent=2) + "\n")
        print(f"written to {file}")
