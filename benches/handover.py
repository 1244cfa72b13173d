"""Hand-over without decode: GB/s into PyTorch, and the delay from publish to ``next()``.

Enters: nothing; the daemon's in-memory source makes the rows. Leaves: rates and delays of
batches of float32 images and of small ones, beside the targets. A delay counts only where
the consumer was waiting in ``next()`` when the batch was published: the delay of a batch
that lay ready is the consumer's own.

    python benches/handover.py --json handover.json
"""

from __future__ import annotations

import time
from typing import Any

import harness
from harness import BATCH_SIZE, Daemon, Target
from loaderd.session import Session
from loaderd.torch import LanceIterableDataset

GB_PER_S_MIN = 5.0
DELAY_P50_US_MAX = 200.0

#: Name, shape of a float32 row, rows an epoch.
SIZES = (("large", "3x224x224", 1 << 16), ("small", "3x32x32", 1 << 20))
WARM_UP_BATCHES = 16


class Delays:
    """Stands before a session's ``next()`` and notes when batches were published."""

    def __init__(self, session: Session) -> None:
        self._next = session.next
        session.next = self  # type: ignore[method-assign]
        self.waits_ns: list[int] = []
        self._called_ns = 0
        self._published_ns = 0

    def __call__(self) -> Any:
        self._called_ns = time.monotonic_ns()
        received = self._next()
        if received is not None:
            # By CLOCK_MONOTONIC, which all processes of a machine share.
            self._published_ns = received[0]["published_ns"]
        return received

    def taken(self) -> None:
        """To be called when the batch is in the consumer's hands."""
        now = time.monotonic_ns()
        if self._published_ns > self._called_ns:
            self.waits_ns.append(now - self._published_ns)


def main() -> None:
    parser = harness.arguments(__doc__)
    given = parser.parse_args()
    if given.brief:
        given.rounds, given.seconds = 1, 1.0
    facts = harness.machine()
    uris = {name: f"memory:rows={rows},tensor={shape}:float32" for name, shape, rows in SIZES}
    with harness.scratch(given.scratch) as folder, Daemon(folder) as daemon:
        rounds = harness.rounds(
            given.rounds, uris, lambda name: stream(daemon, uris[name], given.seconds)
        )
    table = []
    for name, shape, _ in SIZES:
        columns = ("gb_per_s", "batches_per_s", "waited_share", "delay_us_p50", "delay_us_p99")
        spreads = harness.spreads(rounds, name, columns)
        texts = [
            spread.text(digits) for spread, digits in zip(spreads, (2, 0, 2, 0, 0), strict=True)
        ]
        table.append([f"{name}: [{BATCH_SIZE}, {shape.replace('x', ', ')}] float32", *texts])
    harness.show(["", "GB/s", "batches/s", "waited for", "p50 us", "p99 us"], table)
    targets = judge(rounds)
    harness.finish("handover", given, facts, rounds, targets, batch_size=BATCH_SIZE)


def stream(daemon: Daemon, uri: str, seconds: float) -> dict[str, float]:
    """Batches as fast as they come, over as many epochs as it takes."""
    dataset = LanceIterableDataset(
        uri,
        columns=["tensor"],
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        socket=daemon.socket,
        autostart=False,
    )
    stream = harness.endless(dataset)
    for _ in range(WARM_UP_BATCHES):
        size = next(stream)["tensor"].nbytes
    assert dataset._session is not None
    delays = Delays(dataset._session)
    count = 0
    began = time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        # Not kept: the slot goes back before the next batch is asked for.
        next(stream)
        delays.taken()
        count += 1
    stream.close()
    dataset.close()
    waits_ns = sorted(delays.waits_ns)
    if not waits_ns:
        raise SystemExit(f"the consumer of {uri} never waited, so there is no delay to measure")
    return {
        "gb_per_s": count * size / taken / 1e9,
        "batches_per_s": count / taken,
        "waited_share": len(waits_ns) / count,
        "delay_us_p50": waits_ns[len(waits_ns) // 2] / 1e3,
        "delay_us_p99": waits_ns[len(waits_ns) * 99 // 100] / 1e3,
    }


def judge(rounds: list[harness.Round]) -> list[Target]:
    (rate,) = harness.spreads(rounds, "large", ["gb_per_s"])
    targets = [Target("hand-over of large batches", rate, GB_PER_S_MIN, " GB/s")]
    for name, _, _ in SIZES:
        (delay,) = harness.spreads(rounds, name, ["delay_us_p50"])
        title = f"publish to next(), p50, {name} batches"
        targets.append(Target(title, delay, DELAY_P50_US_MAX, " us", at_most=True, digits=0))
    return targets


if __name__ == "__main__":
    main()
