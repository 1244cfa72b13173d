"""Two jobs with eight ranks each, bad rows and slow consumers, for an hour.

Enters: drawn pictures, of which some are damaged at random. One daemon serves both jobs, one
that zeroes bad rows and one that replaces them; some ranks sleep at random, the others wait
for them at each epoch's end, as in training, and now and then all resume in mid-epoch.
Leaves: what must be exact (every row of every epoch once, and the step log as delivered),
which ends the bench where it is not; and what must be flat: memory, descriptors, threads,
step times.

    python benches/soak.py --minutes 60 --json soak.json
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import harness
import memory
import pictures
from harness import Daemon, Spread, Target
from loaderd import RandomHorizontalFlip, RandomResizedCrop, launch
from loaderd.batch import Batch
from loaderd.job import OnBadSample
from loaderd.torch import LanceIterableDataset

BATCH_SIZE = 16
SLOTS = 3
#: In one epoch of so many, all ranks of a job resume.
RESUMES_ONE_IN = 4
#: Few, because a source in memory is read anew for each job and attempt: many would show what
#: an allocator keeps of them, which is not asked here.
PICTURES = 32
#: One picture in so many is cut short.
BAD_ONE_IN = 8
#: The wait for a batch may grow by so much from the second quarter to the last.
STEP_GROWTH_PERCENT_MAX = 25.0


@dataclass
class Rank:
    """One consumer, and what it has had."""

    number: int
    #: Sleeps up to so long after each batch, in seconds.
    sleep_s: float
    steps: int = 0
    rows: int = 0
    bad_rows: int = 0
    attempts: int = 1
    #: How long ``next()`` took for each batch, in seconds.
    waits: list[float] = field(default_factory=list)


@dataclass
class Job:
    """One job of the daemon, as all of its ranks see it."""

    name: str
    uri: str
    policy: OnBadSample
    rows: int
    #: Row addresses that can't come, because their picture is damaged.
    bad: set[int]
    ranks: list[Rank]
    #: By epoch, how often each row came. An epoch is dropped once it is whole and right.
    seen: dict[int, bytearray] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    epochs: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    #: Where ranks wait for each other at an epoch's end.
    meeting: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.meeting = threading.Barrier(len(self.ranks))

    def resumes_after(self, epoch: int, steps: int) -> int:
        """The step of an epoch after which all ranks resume; beyond its end in most."""
        return random.Random(f"{self.name}-{epoch}").randrange(RESUMES_ONE_IN * steps)

    def note(self, epoch: int, rows: list[int]) -> None:
        with self.lock:
            seen = self.seen.setdefault(epoch, bytearray(self.rows))
            for row in rows:
                seen[row] += 1

    def end(self, epoch: int) -> None:
        """A rank has had its share of an epoch; with the last one, the epoch is judged."""
        with self.lock:
            self.ended[epoch] += 1
            if self.ended[epoch] < len(self.ranks):
                return
            seen = self.seen.pop(epoch)
            self.epochs += 1
        if self.policy == "replace":
            # What stands for a bad row comes more than once, and no row goes missing.
            wrong = [row for row in range(self.rows) if (seen[row] == 0) != (row in self.bad)]
        else:
            wrong = [row for row in range(self.rows) if seen[row] != (row not in self.bad)]
        if wrong:
            raise SystemExit(f"{self.name}, epoch {epoch}: not right for rows {wrong[:10]}")


def main() -> None:
    parser = harness.arguments(__doc__, rounds=False)
    parser.add_argument(
        "--rows", type=harness.positive(int), default=4096, help="an epoch (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=harness.positive(float), default=60.0, help="default: %(default)s"
    )
    parser.add_argument(
        "--ranks", type=harness.positive(int), default=8, help="a job (default: %(default)s)"
    )
    given = parser.parse_args()
    if given.brief:
        given.minutes, given.rows = 0.2, min(given.rows, 512)
    facts = harness.machine()
    with harness.scratch(given.scratch) as folder:
        rows = pictures.prepare(folder, None, PICTURES)
        dice = random.Random(0)
        files = sorted(rows.distinct.iterdir())
        damaged = set(dice.sample(range(len(files)), max(1, len(files) // BAD_ONE_IN)))
        for number in damaged:
            data = files[number].read_bytes()
            files[number].write_bytes(data[: dice.randrange(len(data))])
        uri = f"memory:rows={given.rows},images={rows.distinct}"
        bad = {row for row in range(given.rows) if row % len(files) in damaged}
        jobs = [
            Job(
                policy,
                uri,
                policy,
                given.rows,
                bad,
                [Rank(n, 0.05 if n % 4 == 3 else 0.0) for n in range(given.ranks)],
            )
            for policy in ("zero", "replace")
        ]
        print(
            f"{rows.words()}, {len(damaged)} damaged, in {given.rows} rows; {given.minutes:g} min\n"
        )
        with Daemon(folder) as daemon:
            watched = memory.Watched("daemon", uri, daemon)
            watch(jobs, watched, given.minutes * 60)
        for job in jobs:
            compare(job, folder / "daemon.state")
    harness.show(
        ["job", "ranks", "epochs", "steps", "rows", "bad rows", "attempts"],
        [
            [job.name, str(len(job.ranks)), str(job.epochs)]
            + [
                f"{sum(getattr(rank, name) for rank in job.ranks):,}"
                for name in ("steps", "rows", "bad_rows", "attempts")
            ]
            for job in jobs
        ],
    )
    print("every row of every whole epoch came once; the step log has what was delivered\n")
    targets = [*watched.targets(), *(step_growth(job) for job in jobs)]
    harness.show_targets(targets, given.brief)
    report = {
        "bench": "soak",
        "machine": facts,
        "minutes": given.minutes,
        "is_brief": given.brief,
        "jobs": {
            job.name: {
                "epochs": job.epochs,
                "ranks": [
                    {key: value for key, value in asdict(rank).items() if key != "waits"}
                    for rank in job.ranks
                ],
            }
            for job in jobs
        },
        "samples": [asdict(sample) for sample in watched.samples],
        "targets": [target.to_json(given.brief) for target in targets],
    }
    harness.write_json(given.json, report)


def watch(jobs: list[Job], watched: memory.Watched, seconds: float) -> None:
    """Keeps all ranks busy that long, and takes samples of the daemon."""
    stop = threading.Event()
    ranks = [(job, rank) for job in jobs for rank in job.ranks]
    with ThreadPoolExecutor(len(ranks)) as pool:
        began = time.monotonic()
        consumers = [
            pool.submit(consume, job, rank, watched.daemon.socket, stop) for job, rank in ranks
        ]
        try:
            while (at_s := time.monotonic() - began) < seconds:
                watched.sample(at_s, os.environ["LOADERD_CACHE"])
                harness.progress(f"{at_s / 60:.1f} of {seconds / 60:g} min")
                wait(consumers, max(0.25, seconds / memory.SAMPLES), FIRST_EXCEPTION)
                if any(consumer.done() for consumer in consumers):
                    break
        finally:
            stop.set()
            for job in jobs:
                job.meeting.abort()
        harness.progress("")
        for consumer in consumers:
            consumer.result()


def consume(job: Job, rank: Rank, socket: str, stop: threading.Event) -> None:
    """One rank, epoch after epoch; leaves and resumes at random."""
    dice = random.Random(f"{job.name}-{rank.number}")
    dataset = LanceIterableDataset(
        job.uri,
        columns=["image", "label", "_valid"],
        transform={"image": [RandomResizedCrop(96), RandomHorizontalFlip()]},
        batch_size=BATCH_SIZE,
        shuffle=True,
        rank=rank.number,
        world_size=len(job.ranks),
        run=job.name,
        on_bad_sample=job.policy,
        slots=SLOTS,
        socket=socket,
        autostart=False,
    )
    while not stop.is_set():
        for batch in timed(dataset, rank):
            if batch.step != rank.steps:
                raise SystemExit(f"{job.name}, rank {rank.number}: {batch.step} != {rank.steps}")
            rank.steps += 1
            rank.rows += batch.rows
            rank.bad_rows += batch.bad_rows
            valid = batch["_valid"].tolist()
            labels = batch["label"].tolist()
            job.note(batch.epoch, [row for row, ok in zip(labels, valid, strict=True) if ok])
            epoch, step, steps = batch.epoch, batch.epoch_step, len(dataset)
            del batch
            time.sleep(dice.uniform(0, rank.sleep_s))
            if step == job.resumes_after(epoch, steps):
                dataset.load_state_dict(dataset.state_dict())
                rank.attempts += 1
            if step + 1 == steps:
                job.end(epoch)
                with contextlib.suppress(threading.BrokenBarrierError):
                    job.meeting.wait()
                break
            if stop.is_set() or step == job.resumes_after(epoch, steps):
                break
    dataset.close()


def timed(dataset: LanceIterableDataset, rank: Rank) -> Iterator[Batch]:
    """The batches of an epoch, noting how long each was waited for."""
    batches = iter(dataset)
    while True:
        asked = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        rank.waits.append(time.monotonic() - asked)
        yield batch
        del batch


def compare(job: Job, state: Path) -> None:
    """The step log against what the ranks counted."""
    command = [launch.find_binary(), "log", "--json", "--last=4000000000", f"--run={job.name}"]
    steps: dict[int, set[int]] = defaultdict(set)
    rows: dict[int, int] = defaultdict(int)
    bad: dict[int, int] = defaultdict(int)
    with subprocess.Popen([*command, f"--state={state}"], stdout=subprocess.PIPE) as log:
        assert log.stdout is not None
        for line in log.stdout:
            record: dict[str, Any] = json.loads(line)
            rank, step = record["rank"], record["step"]
            if step in steps[rank]:
                raise SystemExit(f"{job.name}: step {step} of rank {rank} is in the log twice")
            steps[rank].add(step)
            rows[rank] += record["rows"]
            bad[rank] += len(record["bad"])
    for rank in job.ranks:
        number = rank.number
        found = (len(steps[number]), max(steps[number], default=-1) + 1, rows[number])
        if found != (rank.steps, rank.steps, rank.rows):
            raise SystemExit(
                f"{job.name}, rank {number}: the log has {found} steps, last step and rows; "
                f"delivered were {rank.steps} steps of {rank.rows} rows"
            )
        if bad[number] != rank.bad_rows:
            raise SystemExit(
                f"{job.name}, rank {number}: {bad[number]} bad rows in the log, "
                f"{rank.bad_rows} delivered"
            )


def step_growth(job: Job) -> Target:
    """How much longer ``next()`` takes in the last quarter than in the second, over the ranks
    that never sleep.
    """

    def growth(rank: Rank) -> float:
        quarter = len(rank.waits) // 4
        if quarter == 0:
            return 0.0
        early, late = (
            statistics.median(rank.waits[n * quarter : (n + 1) * quarter]) for n in (1, 3)
        )
        return (late / early - 1) * 100

    values = [growth(rank) for rank in job.ranks if rank.sleep_s == 0]
    name = f"{job.name}: growth of a step's wait"
    return Target(name, Spread.of(values), STEP_GROWTH_PERCENT_MAX, " %", True, 1)


if __name__ == "__main__":
    main()
