"""What boxes and masks that follow their image cost: images/s with them and without.

Enters: a folder of JPEGs, or drawn ones; their masks are drawn here, and the boxes are those
of the daemon's in-memory source. Leaves: images/s and CPU time an image for pictures alone,
with boxes, and with boxes and a mask, beside the target. One daemon serves all three in
turn, rounds are interleaved, warm-up is excluded, and ratios are taken within a round.

    python benches/followers.py --images DIR --json followers.json
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

import harness
import pictures
from harness import BATCH_SIZE, Daemon, Spread, Target
from loaderd import BoundingBoxes, Mask, Normalize, RandomHorizontalFlip, RandomResizedCrop
from loaderd.torch import LanceIterableDataset

#: Of the images/s without boxes.
BOXES_SHARE_MIN = 0.95
SIZE = 224
ROWS = 4096
#: Grey levels that become one class of a mask: 20 classes, as of street scenes.
LEVELS_A_CLASS = 13
WARM_UP_BATCHES = 8

BOXES = {"boxes": BoundingBoxes("image", with_columns=["categories"])}
#: Name, columns beside the images, and what is done with them.
CONTESTANTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "images": ([], {}),
    "boxes": (["boxes", "categories"], BOXES),
    "mask": (["mask"], {"mask": Mask("image")}),
    "boxes and mask": (["boxes", "categories", "mask"], {**BOXES, "mask": Mask("image")}),
}


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--images", type=Path, metavar="DIR", help="JPEGs [default: drawn ones]")
    given = parser.parse_args()
    if given.brief:
        given.rounds, given.seconds = 1, 1.0
    facts = harness.machine()
    with harness.scratch(given.scratch) as folder:
        rows = pictures.prepare(folder, given.images, pictures.DRAWN)
        mask_bytes = draw_masks(rows.distinct, folder / "masks")
        print(f"{rows.words()}; masks of {mask_bytes / 1e3:.1f} KB on average\n")
        uri = f"memory:rows={ROWS},images={rows.distinct},masks={folder / 'masks'}"
        with Daemon(folder) as daemon:
            rounds = harness.rounds(
                given.rounds, CONTESTANTS, lambda name: stream(daemon, uri, name, given.seconds)
            )
    table = []
    for name in CONTESTANTS:
        rate, cpu = harness.spreads(rounds, name, ("images_per_s", "cpu_us_per_image"))
        share = shares(rounds, name)
        table.append([name, rate.text(), cpu.text(), share.text(3)])
    harness.show(["", "images/s", "CPU us/image", "of images alone"], table)
    target = Target("with boxes / without", shares(rounds, "boxes"), BOXES_SHARE_MIN, digits=3)
    about = {"pictures": rows.words(), "mask_bytes": mask_bytes}
    harness.finish("followers", given, facts, rounds, [target], **about)


def draw_masks(distinct: Path, folder: Path) -> float:
    """A mask for each picture, of soft-edged regions; returns their mean size in bytes."""
    folder.mkdir()
    sizes = []
    for file in sorted(distinct.iterdir()):
        with Image.open(file) as stored:
            grey = ImageOps.exif_transpose(stored).convert("L")
        coarse = grey.resize((max(1, grey.width // 24), max(1, grey.height // 24)))
        smooth = coarse.resize(grey.size, Image.Resampling.BICUBIC)
        mask = folder / f"{file.stem}.png"
        smooth.point([level // LEVELS_A_CLASS for level in range(256)]).save(mask)
        sizes.append(mask.stat().st_size)
    return sum(sizes) / len(sizes)


def stream(daemon: Daemon, uri: str, name: str, seconds: float) -> dict[str, float]:
    """Batches as fast as they come, over as many epochs as it takes."""
    columns, transforms = CONTESTANTS[name]
    steps = [RandomResizedCrop(SIZE), RandomHorizontalFlip(), Normalize.imagenet("float32")]
    dataset = LanceIterableDataset(
        uri,
        columns=["image", "label", *columns],
        transform={"image": steps, **transforms},
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        socket=daemon.socket,
        autostart=False,
    )
    stream = harness.endless(dataset)
    for _ in range(WARM_UP_BATCHES):
        next(stream)
    count = 0
    cpu_s, began = harness.tree_cpu_s(os.getpid()), time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        next(stream)
        count += BATCH_SIZE
    cpu_s = harness.tree_cpu_s(os.getpid()) - cpu_s
    stream.close()
    dataset.close()
    return {"images_per_s": count / taken, "cpu_us_per_image": cpu_s / count * 1e6}


def shares(rounds: list[harness.Round], name: str) -> Spread:
    """Images/s over those of images alone, in the same round."""
    return harness.ratios(rounds, name, "images", "images_per_s")


if __name__ == "__main__":
    main()
