"""End to end: loaderd into PyTorch and JAX, DALI, DataLoader + torchvision, the same pictures.

Enters: a folder of JPEGs, or drawn ones. Leaves: images/s, CPU time per image, and the
ratios with their spread beside the targets. Everything is warm in the page cache, rounds
are interleaved, warm-up is excluded, and ratios are taken within a round.

    python benches/end_to_end.py --images DIR --json end_to_end.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pictures
from harness import Spread, Target

#: Of (cores / single-thread crop-decode-resize time), and against the peers.
CEILING_SHARE_MIN = 0.85
DALI_RATIO_MIN = 1.8
TORCHVISION_RATIO_MIN = 2.2
#: Of loaderd into JAX against loaderd into PyTorch.
JAX_RATIO_MIN = 0.95

#: What a contestant is called, and what must be there to run it.
PEERS = {
    "loaderd_jax": ("loaderd into JAX", ("jax",)),
    "dali": ("DALI, CPU pipeline", ("nvidia.dali",)),
    "torchvision": ("DataLoader + torchvision", ("lance", "torchvision")),
}
#: First batches of two loaders differ in mean by less than that if both normalise alike.
MEAN_DIFFERENCE_MAX = 0.5

#: What one contestant's measurement found.
Found = dict[str, Any]
#: By contestant.
Round = dict[str, Found]


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--images", type=Path, metavar="DIR", help="JPEGs [default: drawn ones]")
    parser.add_argument(
        "--rows",
        type=harness.positive(int),
        default=8192,
        help="the pictures repeated (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=harness.positive(int),
        default=len(os.sched_getaffinity(0)),
        help="and worker processes (default: the cores, %(default)s)",
    )
    given = parser.parse_args()
    if given.brief:
        given.rounds, given.seconds, given.rows = 1, 1.0, min(given.rows, 512)
    facts = harness.machine()
    with harness.scratch(given.scratch) as folder:
        rows = pictures.prepare(folder, given.images, given.rows)
        print(f"{rows.words()}; {given.threads} threads, rounds: {given.rounds} of", end=" ")
        print(f"{given.seconds:g} s each, batches of {harness.BATCH_SIZE}, page cache warm\n")
        contestants, missing = enter(rows, folder, given)
        rounds = [
            run_round(contestants, number)
            for number in range(given.rounds)  # Each in another order.
        ]
    check_alike(rounds)
    targets = judge(rounds, given.threads)
    show(rounds, missing, given.threads)
    harness.show_targets(targets, given.brief)
    for name in missing:
        print(f"no ratio against {PEERS[name][0]}: {not_installed(name)}")
    report = {
        "bench": "end_to_end",
        "machine": facts,
        "pictures": rows.words(),
        "rows": rows.rows,
        "threads": given.threads,
        "seconds": given.seconds,
        "is_brief": given.brief,
        "not_installed": missing,
        "rounds": rounds,
        "targets": [target.to_json(given.brief) for target in targets],
    }
    harness.write_json(given.json, report)


def enter(
    rows: pictures.Pictures, folder: Path, given: Any
) -> tuple[dict[str, Callable[[], Found]], list[str]]:
    """What there is to measure, and the names of peers that are not installed."""

    def contestant(name: str, data: Path) -> Callable[[], Found]:
        return lambda: run_contestant(name, data, given.threads, given.seconds, given.brief)

    def decode(threads: int) -> Callable[[], Found]:
        return lambda: run_decode(rows, threads, given.seconds)

    ingested = pictures.ingest(rows, folder / "ingested.lance")
    contestants = {
        "one thread": decode(1),
        "all threads": decode(given.threads),
        "loaderd": contestant("loaderd", ingested),
    }
    missing = [name for name, (_, modules) in PEERS.items() if not harness.installed(*modules)]
    if "loaderd_jax" not in missing:
        contestants["loaderd_jax"] = contestant("loaderd_jax", ingested)
    if "dali" not in missing:
        contestants["dali"] = contestant("dali", rows.tree)
    if "torchvision" not in missing:
        large_binary = pictures.write_large_binary(rows, folder / "large_binary.lance")
        contestants["torchvision"] = contestant("torchvision", large_binary)
    return contestants, missing


def run_round(contestants: dict[str, Callable[[], Found]], number: int) -> Round:
    """Measures each once, starting with another one in each round."""
    names = list(contestants)
    first = number % len(names)
    results: Round = {}
    for name in names[first:] + names[:first]:
        harness.progress(f"round {number + 1}: {name}")
        results[name] = contestants[name]()
    harness.progress("")
    return results


def run_contestant(name: str, data: Path, threads: int, seconds: float, is_brief: bool) -> Found:
    command = [sys.executable, str(Path(__file__).with_name("contestants.py")), name]
    command += [f"--data={data}", f"--threads={threads}", f"--seconds={seconds}"]
    command += [f"--warm-up={0.2 if is_brief else 3.0}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed with status {done.returncode}:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        "images_per_s": found["images"] / found["seconds"],
        "cpu_us_per_image": found["cpu_s"] / found["images"] * 1e6,
        **found,
        # Such as which read engine the daemon took.
        "said": done.stderr.strip(),
    }


def run_decode(rows: pictures.Pictures, threads: int, seconds: float) -> Found:
    """Crop, decode, resize and normalise from memory into one buffer, and nothing else."""
    report = json.loads(
        harness.run_loaderd(
            "bench",
            f"memory:rows={rows.rows},images={rows.distinct}",
            f"--decode-threads={threads}",
            f"--seconds={seconds}",
            "--json",
        )
    )
    (stage,) = (stage for stage in report["stages"] if stage["name"] == "decode")
    return {
        "images_per_s": stage["rows_per_s"],
        "cpu_us_per_image": stage["cpu_us_per_row"],
    }


def check_alike(rounds: list[Round]) -> None:
    """Loaders that don't do the same work must not be compared."""
    means = [
        (results["first_mean"], name)
        for round_ in rounds
        for name, results in round_.items()
        if "first_mean" in results
    ]
    (low, low_name), (high, high_name) = min(means), max(means)
    if high - low > MEAN_DIFFERENCE_MAX:
        raise SystemExit(
            f"the mean of a batch is {low:.2f} from {low_name} and {high:.2f} from {high_name}: "
            "they don't deliver the same pictures"
        )


def ratios(rounds: list[Round], of: Callable[[Round], float]) -> Spread:
    """loaderd's images/s over another rate of the same round."""
    return Spread.of([round_["loaderd"]["images_per_s"] / of(round_) for round_ in rounds])


def judge(rounds: list[Round], threads: int) -> list[Target]:
    share = ratios(rounds, lambda found: threads * found["one thread"]["images_per_s"])
    targets = [
        Target(f"loaderd / ({threads} x one thread decoding)", share, CEILING_SHARE_MIN),
    ]
    for name, bound in (("dali", DALI_RATIO_MIN), ("torchvision", TORCHVISION_RATIO_MIN)):
        if name in rounds[0]:
            ratio = ratios(rounds, lambda found, name=name: found[name]["images_per_s"])
            targets.append(Target(f"loaderd / {PEERS[name][0]}", ratio, bound))
    if "loaderd_jax" in rounds[0]:
        rates = [
            round_["loaderd_jax"]["images_per_s"] / round_["loaderd"]["images_per_s"]
            for round_ in rounds
        ]
        targets.append(Target("loaderd into JAX / into PyTorch", Spread.of(rates), JAX_RATIO_MIN))
    return targets


def show(rounds: list[Round], missing: list[str], threads: int) -> None:
    titles = {
        "one thread": "decode alone, 1 thread",
        "all threads": f"decode alone, {threads} threads",
        "loaderd": "loaderd, end to end",
        **{name: title for name, (title, _) in PEERS.items()},
    }
    table = []
    for name, title in titles.items():
        if name in missing:
            table.append([title, not_installed(name), ""])
            continue
        rate = Spread.of([round_[name]["images_per_s"] for round_ in rounds])
        cpu = Spread.of([round_[name]["cpu_us_per_image"] for round_ in rounds])
        table.append([title, rate.text(), cpu.text()])
    harness.show(["", "images/s", "CPU us/image"], table)


def not_installed(name: str) -> str:
    lacking = [module for module in PEERS[name][1] if not harness.installed(module)]
    return f"not installed ({', '.join(lacking)})"


if __name__ == "__main__":
    main()
