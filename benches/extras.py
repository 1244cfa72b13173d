"""What columns beside the image, and augmentations, cost: the same frames with and without.

Enters: nothing; ``loaderd ingest --synthetic`` draws street frames with boxes, categories and
text. Leaves: images/s and CPU time per image of each case, and its rate as a part of the plain
case's, beside the targets. One daemon serves all; rounds are interleaved, each in another order,
warm-up is excluded, and ratios are taken within a round.

    python benches/extras.py --json extras.json
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import harness
from harness import BATCH_SIZE, Daemon, Target
from loaderd import (
    ColorJitter,
    Normalize,
    Ragged,
    RandAugment,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
)
from loaderd.torch import LanceIterableDataset
from loaderd.transforms import Transform

SIZE = 224
#: Of the plain case's images/s, with ragged columns beside the image.
RAGGED_RATIO_MIN = 0.95
#: More than there are slots, so that none starts with a full larder.
WARM_UP_BATCHES = 6

CROP: list[Transform] = [RandomResizedCrop(SIZE), RandomHorizontalFlip()]
FINISH: list[Transform] = [Normalize.imagenet("float32")]


@dataclass(frozen=True)
class Case:
    """What is asked for beside the image, and done to it between flip and normalise."""

    columns: tuple[str, ...] = ()
    augment: tuple[Transform, ...] = ()
    finish: tuple[Transform, ...] = ()
    target: float | None = None


LISTS = ("boxes", "categories", "occluded", "truncated")
TEXT = ("name", "weather", "category_names")
PLAIN = "plain"
CASES = {
    PLAIN: Case(),
    "with lists": Case(LISTS, target=RAGGED_RATIO_MIN),
    "with lists and text": Case(LISTS + TEXT, target=RAGGED_RATIO_MIN),
    "with ColorJitter": Case(augment=(ColorJitter(0.4, 0.4, 0.4, 0.1),)),
    "with RandAugment": Case(augment=(RandAugment(),)),
    "with RandomErasing": Case(finish=(RandomErasing(p=0.5),)),
}


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument(
        "--rows",
        type=harness.positive(int),
        default=2048,
        help="frames to draw (default: %(default)s)",
    )
    given = parser.parse_args()
    if given.brief:
        given.rounds, given.seconds, given.rows = 1, 0.5, min(given.rows, BATCH_SIZE)
    facts = harness.machine()
    with harness.scratch(given.scratch) as folder:
        uri = folder / "frames.lance"
        harness.progress(f"drawing {given.rows} frames")
        harness.run_loaderd("ingest", "--synthetic", str(given.rows), uri)
        with Daemon(folder) as daemon:
            rounds = harness.rounds(
                given.rounds,
                CASES,
                lambda name: stream(daemon, os.fspath(uri), CASES[name], given.seconds),
            )
    ratios = {name: harness.ratios(rounds, name, PLAIN, "images_per_s") for name in CASES}
    table = []
    for name, ratio in ratios.items():
        rate, cpu, size = harness.spreads(
            rounds, name, ("images_per_s", "cpu_us_per_image", "ragged_bytes_per_row")
        )
        table.append([name, rate.text(), cpu.text(), size.text(), ratio.text(3)])
    header = ["", "images/s", "CPU us/image", "ragged B/row", f"/ {PLAIN}"]
    harness.show(header, table)
    targets = [
        Target(f"{name} / {PLAIN}", ratios[name], case.target, digits=3)
        for name, case in CASES.items()
        if case.target is not None
    ]
    harness.finish("extras", given, facts, rounds, targets, rows=given.rows, batch_size=BATCH_SIZE)


def stream(daemon: Daemon, uri: str, case: Case, seconds: float) -> dict[str, float]:
    """Batches as fast as they come, over as many epochs as it takes."""
    dataset = LanceIterableDataset(
        uri,
        columns=["image", "label", *case.columns],
        transform={"image": [*CROP, *case.augment, *FINISH, *case.finish]},
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        protect="none",
        socket=daemon.socket,
        autostart=False,
    )
    stream = harness.endless(dataset)
    for _ in range(WARM_UP_BATCHES):
        batch = next(stream)
    ragged = sum(bytes_of(batch[name]) for name in case.columns) / len(batch["label"])
    # What is held is a slot that can't be filled.
    del batch
    images = 0
    cpu_s, began = harness.tree_cpu_s(os.getpid()), time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        images += len(next(stream)["label"])
    cpu_s = harness.tree_cpu_s(os.getpid()) - cpu_s
    stream.close()
    dataset.close()
    return {
        "images_per_s": images / taken,
        "cpu_us_per_image": cpu_s / images * 1e6,
        "ragged_bytes_per_row": ragged,
    }


def bytes_of(array: Any) -> int:
    """Of a tensor, or of a ragged column with its offsets, those of inner lists included."""
    if isinstance(array, Ragged):
        return bytes_of(array.values) + bytes_of(array.offsets)
    size: int = array.nbytes
    return size


if __name__ == "__main__":
    main()
