"""What boxes and masks that follow their image cost: images/s with them and without.

Enters: a folder of JPEGs, or drawn ones; their masks are drawn here, and the boxes are those
of the daemon's in-memory source. Leaves: images/s and CPU time an image for pictures alone,
with boxes, with a mask, and with both, beside the targets. One daemon serves all of them in
turn, rounds are interleaved, warm-up is excluded, and ratios are taken within a round.

A mask has its picture's size and is a grey PNG, as Pillow writes it, or that in its tiled form, as
`loaderd tile` writes it. It shows outlines such as annotators draw, one for each of 16 to 40 things
before four backgrounds; a harder one, the contour lines of the blurred picture, has far more edges.

    python benches/followers.py --images DIR --json followers.json
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

import harness
import pictures
from harness import BATCH_SIZE, Daemon, Spread, Target
from loaderd import BoundingBoxes, Mask, Normalize, RandomHorizontalFlip, RandomResizedCrop
from loaderd.torch import LanceIterableDataset

#: Of the images/s without boxes, and of those without a tiled mask.
BOXES_SHARE_MIN = 0.95
MASK_SHARE_MIN = 0.95
SIZE = 224
ROWS = 4096
#: Grey levels that become one class of a mask of contours: 20 classes, as of street scenes.
LEVELS_A_CLASS = 13
#: Classes of the things in a mask of outlines, after the background's four.
THING_CLASSES = range(4, 20)
WARM_UP_BATCHES = 8

BOXES = {"boxes": BoundingBoxes("image", with_columns=["categories"])}
MASK = {"mask": Mask("image")}
#: Name, columns beside the images, what is done with them, how the masks were drawn, and what is
#: held in its tiled form.
CONTESTANTS: dict[str, tuple[list[str], dict[str, Any], str, list[str]]] = {
    "images": ([], {}, "outlines", []),
    "boxes": (["boxes", "categories"], BOXES, "outlines", []),
    "mask": (["mask"], MASK, "outlines", []),
    "tiled mask": (["mask"], MASK, "outlines", ["mask"]),
    "boxes and tiled mask": (
        ["boxes", "categories", "mask"],
        {**BOXES, **MASK},
        "outlines",
        ["mask"],
    ),
    "mask of contours": (["mask"], MASK, "contours", []),
    "tiled mask of contours": (["mask"], MASK, "contours", ["mask"]),
    "tiled images": ([], {}, "outlines", ["image"]),
    "tiled images, tiled mask": (["mask"], MASK, "outlines", ["image", "mask"]),
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
        mask_bytes = {
            kind: draw_masks(rows.distinct, folder / kind, draw) for kind, draw in DRAWN_AS.items()
        }
        sizes = ", ".join(f"{kind} {size / 1e3:.1f} KB" for kind, size in mask_bytes.items())
        print(f"{rows.words()}; masks on average: {sizes}\n")
        source = f"memory:rows={ROWS},images={rows.distinct},masks={folder}"
        with Daemon(folder) as daemon:
            rounds = harness.rounds(
                given.rounds,
                CONTESTANTS,
                lambda name: stream(daemon, source, name, given.seconds),
            )
    table = []
    for name in CONTESTANTS:
        rate, cpu = harness.spreads(rounds, name, ("images_per_s", "cpu_us_per_image"))
        share = shares(rounds, name)
        table.append([name, rate.text(), cpu.text(), share.text(3)])
    harness.show(["", "images/s", "CPU us/image", "of such images alone"], table)
    targets = [
        Target("with boxes / without", shares(rounds, "boxes"), BOXES_SHARE_MIN, digits=3),
        Target(
            "with a tiled mask / without", shares(rounds, "tiled mask"), MASK_SHARE_MIN, digits=3
        ),
    ]
    about = {"pictures": rows.words(), "mask_bytes": mask_bytes}
    harness.finish("followers", given, facts, rounds, targets, **about)


def draw_masks(distinct: Path, folder: Path, draw: Callable[[Image.Image], Image.Image]) -> float:
    """A mask for each upright picture; returns their mean size in bytes."""
    folder.mkdir()
    sizes = []
    for file in sorted(distinct.iterdir()):
        with Image.open(file) as stored:
            picture = ImageOps.exif_transpose(stored)
        mask = folder / f"{file.stem}.png"
        draw(picture).save(mask)
        sizes.append(mask.stat().st_size)
    return sum(sizes) / len(sizes)


def draw_outlines(picture: Image.Image) -> Image.Image:
    """Sky, buildings, trees and a road, then things, the nearer the larger."""
    width, height = picture.size
    # Of the same pictures always the same masks.
    draws = random.Random(sum(picture.resize((8, 8)).tobytes()))
    mask = Image.new("L", picture.size, 0)
    canvas = ImageDraw.Draw(mask)
    horizon = height * draws.uniform(0.3, 0.6)
    for number, (share, step, jump) in enumerate([(0.6, 12, 10), (0.85, 8, 8), (1, 40, 4)]):
        line, x, y = [], 0.0, horizon * share
        while x < width + step * height / 300:
            line.append((x, y))
            x += draws.uniform(0.3, 1.7) * step * height / 375
            y += 0.3 * (horizon * share - y) + draws.uniform(-jump, jump) * height / 375
        canvas.polygon([*line, (width, height), (0, height)], fill=1 + number)
    for _ in range(draws.randint(16, 40)):
        depth = draws.random() ** 1.5
        middle = draws.uniform(0, width), horizon + depth * (height - horizon) * 0.7
        size = (4 + 45 * depth) * draws.uniform(0.6, 1.3) * height / 375
        wide = size * draws.uniform(0.3, 1.8)
        corners = draws.randint(10, 40)
        outline = []
        for corner in range(corners):
            angle, reach = math.tau * corner / corners, draws.uniform(0.8, 1.2)
            x = middle[0] + wide * reach * math.cos(angle)
            outline.append((x, middle[1] + size * reach * math.sin(angle)))
        canvas.polygon(outline, fill=draws.choice(THING_CLASSES))
    return mask


def draw_contours(picture: Image.Image) -> Image.Image:
    """Regions between the levels of the blurred picture."""
    grey = picture.convert("L")
    coarse = grey.resize((max(1, grey.width // 24), max(1, grey.height // 24)))
    smooth = coarse.resize(grey.size, Image.Resampling.BICUBIC)
    return smooth.point([level // LEVELS_A_CLASS for level in range(256)])


DRAWN_AS = {"outlines": draw_outlines, "contours": draw_contours}


def stream(daemon: Daemon, source: str, name: str, seconds: float) -> dict[str, float]:
    """Batches as fast as they come, over as many epochs as it takes."""
    columns, transforms, drawn_as, tiled = CONTESTANTS[name]
    steps = [RandomResizedCrop(SIZE), RandomHorizontalFlip(), Normalize.imagenet("float32")]
    dataset = LanceIterableDataset(
        ",".join([f"{source}/{drawn_as}", *(f"tiled={column}" for column in tiled)]),
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
    """Images/s over those of the same images alone, in the same round."""
    alone = "tiled images" if "image" in CONTESTANTS[name][3] else "images"
    return harness.ratios(rounds, name, alone, "images_per_s")


if __name__ == "__main__":
    main()
