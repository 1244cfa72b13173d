"""The daemon's memory, descriptors and threads, over epochs on end.

Enters: pictures, drawn ones by default. Two daemons serve them at the same time, one from
a Lance dataset and one from memory, each to a consumer that opens a new session every few
epochs. Leaves: samples from ``/proc``, their summary, and the verdict: memory beside slots
and page map, and how much more there was of anything towards the end.

    python benches/memory.py --minutes 60 --json memory.json
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path

import harness
import pictures
from harness import BATCH_SIZE, Daemon, Spread, Target
from loaderd import Normalize, RandomHorizontalFlip, RandomResizedCrop
from loaderd.torch import LanceIterableDataset

OWN_MB_MAX = 300.0
#: What still counts as no growth: allocators come back to the same state only so exactly.
GROWTH_MB_MAX = 8.0
EPOCHS_A_SESSION = 20
#: Over the whole time, and never more than 4 a second.
SAMPLES = 720


@dataclass(frozen=True)
class Sample:
    """What ``/proc`` says of a daemon at one moment. MB are 10^6 bytes, resident or swapped."""

    at_s: float
    #: Everything but slots and page map: heap, stacks, read buffers, the program itself.
    own_mb: float
    slots_mb: float
    page_map_mb: float
    descriptors: int
    threads: int


@dataclass
class Watched:
    """A daemon under watch, and what its consumer has had from it."""

    name: str
    uri: str
    daemon: Daemon
    samples: list[Sample] = field(default_factory=list)
    steps: int = 0
    epochs: int = 0
    sessions: int = 0

    def sample(self, at_s: float, cache: str) -> None:
        pid = self.daemon.pid
        own, slots, page_map = resident_mb(pid, cache)
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        threads = len(os.listdir(f"/proc/{pid}/task"))
        self.samples.append(Sample(at_s, own, slots, page_map, descriptors, threads))

    def median(self, quarter: int, name: str) -> float:
        """Of a quarter of the samples, the first being number 0."""
        count = len(self.samples)
        part = self.samples[count * quarter // 4 : count * (quarter + 1) // 4]
        return statistics.median(getattr(sample, name) for sample in part)

    def growth(self, name: str) -> Spread:
        """From the second quarter to the last; the first is for warming up."""
        return Spread.of([self.median(3, name) - self.median(1, name)])

    def row(self) -> list[str]:
        own = f"{self.median(1, 'own_mb'):.0f} / {self.median(3, 'own_mb'):.0f}"
        most = max(sample.own_mb for sample in self.samples)
        rest = [
            f"{self.median(3, name):.0f}"
            for name in ("slots_mb", "page_map_mb", "descriptors", "threads")
        ]
        return [self.name, f"{self.epochs} / {self.sessions}", own, f"{most:.0f}", *rest]

    def targets(self) -> list[Target]:
        own = Spread.of([max(sample.own_mb for sample in self.samples)])
        descriptors, threads = self.growth("descriptors"), self.growth("threads")
        return [
            Target(f"{self.name}: most beside slots and page map", own, OWN_MB_MAX, " MB", True, 0),
            Target(f"{self.name}: growth", self.growth("own_mb"), GROWTH_MB_MAX, " MB", True, 1),
            Target(f"{self.name}: growth in descriptors", descriptors, 0, "", True, 0),
            Target(f"{self.name}: growth in threads", threads, 0, "", True, 0),
        ]


def main() -> None:
    parser = harness.arguments(__doc__, rounds=False)
    parser.add_argument("--images", type=Path, metavar="DIR", help="JPEGs [default: drawn ones]")
    parser.add_argument(
        "--rows", type=harness.positive(int), default=2048, help="an epoch (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=harness.positive(float), default=60.0, help="default: %(default)s"
    )
    given = parser.parse_args()
    if given.brief:
        given.minutes, given.rows = 0.2, min(given.rows, 256)
    facts = harness.machine()
    with harness.scratch(given.scratch) as folder, contextlib.ExitStack() as stack:
        rows = pictures.prepare(folder, given.images, given.rows)
        print(f"{rows.words()}; two daemons at once for {given.minutes:g} min\n")
        uris = {
            "lance": str(pictures.ingest(rows, folder / "pictures.lance")),
            "memory": f"memory:rows={given.rows},images={rows.distinct}",
        }
        watched = [
            Watched(name, uri, stack.enter_context(Daemon(folder, name=name)))
            for name, uri in uris.items()
        ]
        watch(watched, given.minutes * 60, os.environ["LOADERD_CACHE"])
    harness.show(
        ["", "epochs/sessions", "MB early/late", "most", "slots MB", "map MB", "files", "threads"],
        [one.row() for one in watched],
    )
    targets = [target for one in watched for target in one.targets()]
    harness.show_targets(targets, given.brief)
    report = {
        "bench": "memory",
        "machine": facts,
        "pictures": rows.words(),
        "minutes": given.minutes,
        "is_brief": given.brief,
        "daemons": {
            one.name: {
                "steps": one.steps,
                "epochs": one.epochs,
                "sessions": one.sessions,
                "samples": [asdict(sample) for sample in one.samples],
            }
            for one in watched
        },
        "targets": [target.to_json(given.brief) for target in targets],
    }
    harness.write_json(given.json, report)


def watch(watched: list[Watched], seconds: float, cache: str) -> None:
    """Keeps all daemons busy that long, and takes samples."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(watched)) as pool:
        consumers = [pool.submit(consume, one, stop) for one in watched]
        began = time.monotonic()
        try:
            while (at_s := time.monotonic() - began) < seconds:
                for one in watched:
                    one.sample(at_s, cache)
                harness.progress(f"{at_s / 60:.1f} of {seconds / 60:g} min")
                # A consumer that fails ends the bench at once.
                failed, _ = wait(consumers, max(0.25, seconds / SAMPLES), FIRST_EXCEPTION)
                for consumer in failed:
                    consumer.result()
        finally:
            stop.set()
        harness.progress("")
        for consumer in consumers:
            consumer.result()


def consume(watched: Watched, stop: threading.Event) -> None:
    """Epochs on end, a new session every few."""
    transforms = [RandomResizedCrop(224), RandomHorizontalFlip(), Normalize.imagenet("float32")]
    while not stop.is_set():
        dataset = LanceIterableDataset(
            watched.uri,
            columns=["image", "label"],
            transform={"image": transforms},
            batch_size=BATCH_SIZE,
            shuffle=True,
            socket=watched.daemon.socket,
            autostart=False,
        )
        watched.sessions += 1
        for _ in range(EPOCHS_A_SESSION):
            for _ in dataset:
                watched.steps += 1
                if stop.is_set():
                    break
            else:
                watched.epochs += 1
                continue
            break
        dataset.close()


def resident_mb(pid: int, cache: str) -> tuple[float, float, float]:
    """A process's memory: its own, slots, and page maps (files of the cache folder).

    From ``/proc/PID/smaps`` (proc_pid_smaps(5)), by the file that each mapping is of.
    """
    kib = {"own": 0, "slots": 0, "page map": 0}
    kind = "own"
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, _, rest = line.partition(" ")
        if not key.endswith(":"):
            # A mapping: addresses, rights, offset, device, inode, and the file if any.
            parts = line.split(maxsplit=5)
            file = parts[5] if len(parts) == 6 else ""
            kind = "own"
            if file.startswith("/memfd:loaderd-slots"):
                kind = "slots"
            elif file.startswith(cache):
                kind = "page map"
        elif key in ("Rss:", "Swap:"):
            kib[kind] += int(rest.split()[0])
    own, slots, page_map = (value * 1024 / 1e6 for value in kib.values())
    return own, slots, page_map


if __name__ == "__main__":
    main()
