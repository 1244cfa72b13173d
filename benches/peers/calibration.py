"""Which crops a loader takes, read off its batches: each picture is a map of itself.

Red grows from left to right and green from top to bottom, so a crop's borders can be read off
its pixels, and a flip from the direction in which red grows; blue is the same everywhere, which
shows how values are normalised. So every loader is checked from outside, by the same code.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.roster import MEAN, RATIO, SCALE, SIZE, STD

if TYPE_CHECKING:
    import numpy as np

WIDTH, HEIGHT, BLUE = 500, 375, 96
#: Enough rows that FFCV and others split them as they please.
ROWS = 512
BATCHES = 4
#: From what torchvision's rule gives, over 512 crops: four standard errors or so.
AREA_DIFFERENCE_MAX = 0.05
FLIPPED_DIFFERENCE_MAX = 0.1
#: In grey levels; JPEG and rounding.
BLUE_DIFFERENCE_MAX = 2.0
#: Of the output left out at each border, where a resize clamps.
_MARGIN = 12


@dataclass(frozen=True)
class Crops:
    """What many batches show."""

    #: Share of the picture's area, on average, and its standard deviation.
    area: float
    area_deviation: float
    flipped: float
    #: Grey level.
    blue: float

    def trouble(self) -> str | None:
        """What is not as it should be."""
        area = expected_area()
        if abs(self.area - area) > AREA_DIFFERENCE_MAX:
            return f"crops are {self.area:.3f} of a picture on average, not {area:.3f}"
        if self.area_deviation < 0.1:
            return f"crops are all alike (deviation of their area: {self.area_deviation:.3f})"
        if abs(self.flipped - 0.5) > FLIPPED_DIFFERENCE_MAX:
            return f"{self.flipped:.2f} of all pictures are flipped, not half"
        if abs(self.blue - BLUE) > BLUE_DIFFERENCE_MAX:
            return f"blue is {self.blue:.1f}, not {BLUE}: normalised otherwise, or not RGB"
        return None


def draw(tree: Path) -> None:
    """Writes such pictures into class folders."""
    import numpy as np
    from PIL import Image

    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, WIDTH).round()
    pixels[..., 1] = np.linspace(0, 255, HEIGHT).round()[:, None]
    pixels[..., 2] = BLUE
    first = tree / "0" / "000000.jpg"
    for row in range(ROWS):
        file = tree / str(row % 8) / f"{row:06}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        if row == 0:
            Image.fromarray(pixels).save(first, quality=95, subsampling=0)
        else:
            file.hardlink_to(first)


def read(batches: list[Any]) -> Crops:
    """From batches ``[rows, 3, 224, 224]``, finished or uint8."""
    import numpy as np

    pixels = np.concatenate([grey_levels(np.asarray(batch)) for batch in batches])
    width = slope(pixels[:, 0].mean(axis=1))
    height = slope(pixels[:, 1].mean(axis=2))
    area = np.abs(width * height)
    return Crops(
        area=float(area.mean()),
        area_deviation=float(area.std()),
        flipped=float((width < 0).mean()),
        blue=float(pixels[:, 2].mean()),
    )


def slope(profiles: np.ndarray) -> np.ndarray:
    """Share of a side that each crop spans, negative where it runs backwards."""
    inner = profiles[:, _MARGIN : SIZE - _MARGIN]
    return (inner[:, -1] - inner[:, 0]) / (inner.shape[1] - 1) * SIZE / 255


def grey_levels(pixels: np.ndarray) -> np.ndarray:
    """Back from normalised values."""
    import numpy as np

    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32)
    mean, std = (np.float32(value).reshape(1, 3, 1, 1) for value in (MEAN, STD))
    return (pixels * std + mean) * 255


def expected_area(draws: int = 20_000) -> float:
    """Mean share of the area that torchvision's rule gives for these pictures."""
    generator = random.Random(0)
    total = 0.0
    for _ in range(draws):
        for _ in range(10):
            area = WIDTH * HEIGHT * generator.uniform(*SCALE)
            ratio = math.exp(generator.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= WIDTH and 0 < height <= HEIGHT:
                total += width * height / (WIDTH * HEIGHT)
                break
        else:
            # The whole of a picture whose own ratio is allowed.
            total += 1.0
    return total / draws
