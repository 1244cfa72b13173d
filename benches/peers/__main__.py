"""The same pictures through every loader, interleaved over rounds, one process at a time.

Enters: a folder of JPEGs, or drawn ones. Leaves: images/s and CPU time an image of loaderd and
of each peer that is installed, ratios with their spread beside the targets, JSON and a picture.
Everything is warm in the page cache, warm-up is excluded, and every loader's crops are checked
beforehand. It installs nothing: that is `peers.install`.

    PYTHONPATH=benches python -m peers --images DIR --json peers.json --plot peers.svg
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pictures
from peers import calibration, install, judge, plot
from peers.ceilings import ceilings
from peers.roster import BATCH_SIZE, CONTESTANTS, FORMS

#: First batches of two loaders differ in mean by less than that if both deliver these pictures.
MEAN_DIFFERENCE_MAX = 0.5
#: A process that takes longer hangs.
PROCESS_SECONDS_MAX = 900
SETS = ("photos", "frames")
BRIEF_ROWS = 512
#: What needs nothing beside loaderd's own environment, once each.
BRIEF = ("loaderd_tiled", "loaderd", "loaderd_jax", "torchvision")


class Failed(Exception):
    """A contestant's process, in a line."""


def main() -> None:
    given = arguments()
    facts = harness.machine()
    report: dict[str, Any] = {"bench": "peers", "machine": facts, "is_brief": given.brief}
    report |= {"threads": given.threads, "seconds": given.seconds, "sets": {}}
    failed = False
    with harness.scratch(given.scratch) as folder:
        (folder / "drawn_crops").mkdir()
        calibration.draw(folder / "drawn_crops" / "files")
        absent, versions = probe(given.only)
        for name in given.sets:
            result = Bench(name, folder, absent, given).run()
            report["sets"][name] = result
            failed |= bool(result["failed"])
    report["versions"] = versions
    harness.write_json(given.json, report)
    if given.plot is not None:
        given.plot.write_text(plot.draw(report))
        print(f"drawn into {given.plot}")
    raise SystemExit(1 if failed else 0)


def arguments() -> argparse.Namespace:
    parser = harness.arguments(__doc__)
    positive = harness.positive
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--images", type=Path, metavar="DIR", help="JPEGs [default: drawn ones]")
    parser.add_argument("--rows", type=positive(int), default=8192, help="default: %(default)s")
    parser.add_argument("--threads", type=positive(int), default=cores, help="default: the cores")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="default: both")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, metavar="NAME", default=None)
    parser.add_argument("--example", type=Path, help="the built crop_decode_speed, for a ceiling")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw it, too")
    given = parser.parse_args()
    given.only = given.only or list(CONTESTANTS)
    if given.brief:
        given.rounds, given.seconds, given.rows = 1, 1.0, min(given.rows, BRIEF_ROWS)
        given.sets = SETS[:1]
        given.only = [name for name in given.only if name in BRIEF]
    return given


def probe(names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Why contestants can't be run here, and versions of the others."""
    absent, versions = {}, {}
    for name in names:
        harness.progress(f"looking for {CONTESTANTS[name].title}")
        group = CONTESTANTS[name].group
        if group is not None and not install.python(group).exists():
            absent[name] = f"not installed: {install.failure(group)}"
            continue
        try:
            versions[name] = run_child("probe", name, group)["version"]
        except Failed as why:
            absent[name] = f"not installed: {why}"
    return absent, versions


def run_child(task: str, name: str, group: str | None, *options: str) -> dict[str, Any]:
    """What a contestant's process found."""
    python = sys.executable if group is None else str(install.python(group))
    if not Path(python).exists():
        raise Failed(f"{group} is not installed: {install.failure(str(group))}")
    command = [python, "-m", "peers.contestant", task, name, *options]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.getenv("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=PROCESS_SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{task} took more than {PROCESS_SECONDS_MAX} s") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        if len(said) > 1:
            print(done.stderr, file=sys.stderr)
        raise Failed(said[-1] if said else f"status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Bench:
    """One set of pictures: prepared, checked, measured, shown."""

    def __init__(self, name: str, folder: Path, absent: dict[str, str], given: Any) -> None:
        self._name, self._given, self._folder = name, given, folder
        self._absent = dict(absent)
        self._names = [one for one in given.only if name in CONTESTANTS[one].sets]
        self._failed: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        given = self._given
        folder = self._folder / self._name
        folder.mkdir()
        images = given.images if self._name == "photos" else frames(folder, given.rows)
        rows = pictures.prepare(folder, images, given.rows)
        print(
            f"{self._name}: {rows.words()}; {given.threads} threads, rounds: {given.rounds}", end=""
        )
        print(f" of {given.seconds:g} s each, batches of {BATCH_SIZE}, page cache warm\n")
        forms = self._prepare(folder, rows.tree)
        checks = self._check()
        titles, ways = ceilings(forms, rows.distinct, given.threads, given.seconds, given.example)
        titles |= {name: CONTESTANTS[name].title for name in self._names}
        for name in self._running():
            ways[name] = lambda name=name: self._measure(name, forms[CONTESTANTS[name].form])
        rounds = [self._round(ways, number) for number in range(given.rounds)]
        self._compare(rounds)
        # A ratio needs every round.
        for name in self._failed:
            for found in rounds:
                found.pop(name, None)
        return self._report(rows, titles, rounds, checks)

    def _running(self) -> list[str]:
        return [one for one in self._names if one not in self._absent and one not in self._failed]

    def _prepare(self, folder: Path, tree: Path) -> dict[str, Path]:
        """Writes each data set that someone reads, of these pictures and of the drawn crops."""
        forms = {"files": tree}
        drawn = self._folder / "drawn_crops"
        for name in self._running():
            form = CONTESTANTS[name].form
            try:
                for files, parent, known in (
                    (drawn / "files", drawn, {}),
                    (tree, folder, forms),
                ):
                    known[form] = self._write(form, files, parent)
            except Failed as why:
                self._absent[name] = f"not measured: {why}"
        return forms

    def _write(self, form: str, files: Path, parent: Path) -> Path:
        writer = FORMS[form]
        if writer.writer is None:
            return files
        source = files if writer.source is None else self._write(writer.source, files, parent)
        # The suffix is how LanceDB tells a table.
        target = parent / f"{form}.lance"
        if not target.exists():
            harness.progress(f"{self._name}: writing {form}")
            try:
                run_child("prepare", form, writer.group, f"--data={source}", f"--into={target}")
            except Failed:
                # Half of it must not be taken for the whole by who else reads this form.
                if target.is_dir():
                    shutil.rmtree(target)
                else:
                    target.unlink(missing_ok=True)
                raise
        return target

    def _check(self) -> dict[str, Any]:
        """Which crops each takes; those that take others are not compared."""
        checks = {}
        for name in self._running():
            harness.progress(f"{self._name}: checking the crops of {name}")
            form = CONTESTANTS[name].form
            drawn = self._folder / "drawn_crops"
            data = drawn / ("files" if FORMS[form].writer is None else f"{form}.lance")
            try:
                checks[name] = self._child("check", name, data)
            except Failed as why:
                self._failed[name] = str(why)
                continue
            if checks[name]["trouble"]:
                self._failed[name] = checks[name]["trouble"]
        return checks

    def _child(self, task: str, name: str, data: Path, *options: str) -> dict[str, Any]:
        options = (f"--data={data}", f"--threads={self._given.threads}", *options)
        return run_child(task, name, CONTESTANTS[name].group, *options)

    def _measure(self, name: str, data: Path) -> dict[str, Any]:
        warm_up = 0.2 if self._given.brief else 3.0
        options = (f"--seconds={self._given.seconds}", f"--warm-up={warm_up}")
        found = self._child("measure", name, data, *options)
        return {
            "images_per_s": found["images"] / found["seconds"],
            "cpu_ms_per_image": found["cpu_s"] / found["images"] * 1e3,
            **found,
        }

    def _round(self, ways: dict[str, Callable[[], dict[str, Any]]], number: int) -> judge.Round:
        """Measures each once, starting with another one in each round."""
        names = list(ways)
        first = number * len(names) // max(self._given.rounds, 1)
        results: judge.Round = {}
        for name in names[first:] + names[:first]:
            if name in self._failed:
                continue
            harness.progress(f"{self._name}, round {number + 1}: {name}")
            try:
                results[name] = ways[name]()
            except Failed as why:
                self._failed[name] = str(why)
        harness.progress("")
        return results

    def _compare(self, rounds: list[judge.Round]) -> None:
        """Loaders that don't deliver the same pictures must not be compared."""
        for found in rounds:
            ours = found.get("loaderd", {}).get("first_mean")
            for name, result in found.items():
                mean = result.get("first_mean")
                if None not in (ours, mean) and abs(mean - ours) > MEAN_DIFFERENCE_MAX:
                    self._failed[name] = f"the mean of a batch is {mean:.2f}, loaderd's {ours:.2f}"

    def _report(
        self, rows: pictures.Pictures, titles: dict[str, str], rounds: list[Any], checks: Any
    ) -> dict[str, Any]:
        table, contestants = [], {}
        for name, title in titles.items():
            entrant = CONTESTANTS.get(name)
            why = self._absent.get(name) or self._failed.get(name)
            facts: dict[str, Any] = {"title": title, "why_not": why}
            if entrant is not None:
                facts |= {"note": entrant.note, "dtype": entrant.dtype, "crops": checks.get(name)}
            if why is None:
                best = "loaderd_uint8" if entrant and entrant.dtype == "uint8" else "loaderd"
                best += "_tiled" if f"{best}_tiled" in rounds[0] else ""
                facts |= judge.summary(rounds, name, best)
                times = (
                    ""
                    if None in (entrant, rounds[0].get(best))
                    else judge.ratios(rounds, best, name).text(2)
                )
                rates = judge.rates(rounds, name).text()
                table.append([title, rates, judge.cpu_ms(rounds, name).text(3), times])
            else:
                print(f"{title}: {why}")
            contestants[name] = facts
        table.sort(key=lambda row: -float(row[1].split()[0].replace(",", "")))
        harness.show(["", "images/s", "CPU ms/image", "loaderd is times"], table)
        threads = self._given.threads
        targets = judge.targets(self._name, rounds, titles, threads)
        harness.show_targets(targets, self._given.brief)
        return {
            "pictures": rows.words(),
            "facts": {**dataclasses.asdict(rows), "distinct": None, "tree": None},
            "contestants": contestants,
            "failed": self._failed,
            "targets": [target.to_json(self._given.brief) for target in targets],
        }


def frames(folder: Path, rows: int) -> Path:
    """Drawn street frames, 1280x720, as files."""
    count = min(rows, pictures.DRAWN)
    drawn, files = folder / "drawn.lance", folder / "drawn_files"
    harness.progress(f"drawing {count} frames")
    harness.run_loaderd("ingest", "--synthetic", str(count), drawn)
    pictures.write_blobs(drawn, files)
    return files


if __name__ == "__main__":
    main()
