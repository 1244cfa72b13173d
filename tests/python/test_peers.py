"""The bench of peers: crops are read off batches rightly, and its picture stands on its own."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")


from peers import calibration, plot, roster  # noqa: E402
from peers.loaders import common  # noqa: E402


def drawn(tmp_path: Path) -> torch.Tensor:
    calibration.draw(tmp_path)
    return common.decode((tmp_path / "0" / "000000.jpg").read_bytes())


def test_torchvision_passes_the_check(tmp_path: Path) -> None:
    torch.manual_seed(1)
    picture, transform = drawn(tmp_path), common.transform()
    crops = calibration.read([torch.stack([transform(picture) for _ in range(400)])])
    assert crops.trouble() is None


@pytest.mark.parametrize(
    ("scale", "flip", "channels", "trouble"),
    [
        ((0.3, 1.0), 0.5, [0, 1, 2], "of a picture on average"),
        ((0.42, 0.44), 0.5, [0, 1, 2], "all alike"),
        ((0.08, 1.0), 0.0, [0, 1, 2], "flipped"),
        ((0.08, 1.0), 0.5, [0, 2, 1], "of a picture on average|blue"),
    ],
)
def test_other_work_is_told_apart(
    tmp_path: Path, scale: tuple[float, float], flip: float, channels: list[int], trouble: str
) -> None:
    torch.manual_seed(2)
    v2 = torchvision.transforms.v2
    transform = v2.Compose(
        [v2.RandomResizedCrop(roster.SIZE, scale=scale), v2.RandomHorizontalFlip(flip)]
    )
    picture = drawn(tmp_path)[channels]
    found = calibration.read([torch.stack([transform(picture) for _ in range(400)])]).trouble()
    assert found is not None
    assert any(part in found for part in trouble.split("|")), found


def test_a_known_crop_is_measured(tmp_path: Path) -> None:
    cut = drawn(tmp_path)[:, 100:250, 50:350]
    size = [roster.SIZE, roster.SIZE]
    batch = torchvision.transforms.v2.functional.resize(cut, size, antialias=True)[None]
    crops = calibration.read([batch])
    assert crops.area == pytest.approx(0.6 * 0.4, abs=0.005)
    assert crops.flipped == 0
    assert calibration.read([batch.flip(3)]).flipped == 1
    finished = (batch.numpy() / 255 - np.reshape(roster.MEAN, (1, 3, 1, 1))) / np.reshape(
        roster.STD, (1, 3, 1, 1)
    )
    assert calibration.read([finished.astype("float32")]).area == pytest.approx(
        crops.area, abs=1e-4
    )


def test_every_contestant_reads_a_known_form() -> None:
    groups = {file.stem for file in (Path(plot.__file__).parent / "requirements").glob("*.txt")}
    for contestant in roster.CONTESTANTS.values():
        assert contestant.form in roster.FORMS
        assert contestant.group is None or contestant.group in groups


def test_the_picture_shows_figures_and_what_is_missing() -> None:
    spread = {"median": 1944.0, "low": 1859.0, "high": 1946.0}
    rates = {"images_per_s": spread, "cpu_ms_per_image": {**spread, "median": 1.02}}
    report = {
        "threads": 2,
        "machine": {"cpu": "a <cpu>"},
        "sets": {
            "photos": {
                "pictures": "256 pictures",
                "contestants": {
                    "loaderd": {"title": "loaderd", "why_not": None, "dtype": "float32", **rates},
                    "ffcv": {"title": "FFCV", "why_not": "not installed: no compiler"},
                },
            }
        },
    }
    page = xml.etree.ElementTree.fromstring(plot.draw(report))
    words = " ".join(page.itertext())
    assert "1,944" in words
    assert "not installed: no compiler" in words
    assert "a <cpu>" in words
