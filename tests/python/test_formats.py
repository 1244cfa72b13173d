"""Every image format through a real daemon, against Pillow and torchvision.

Files are made here and all end in ``.jpg``: what they are is told by their bytes. The
step from file to pixels is compared, so crops have the images' own size.
"""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loaderd import CenterCrop, Resize, errors

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")
tv_io = pytest.importorskip("torchvision.io")

from daemon_process import Daemon  # noqa: E402

WIDTH, HEIGHT = 70, 50
ORIENTATION = 0x0112


def picture(width: int = WIDTH, height: int = HEIGHT, channels: int = 3) -> Any:
    """Slopes, an edge and a little noise, different in every channel."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * (2 + c) + y * (5 - c)) % 256 // 2 + 60 * ((x // 9 + y // 7 + c) % 2)
              for c in range(channels)]  # fmt: skip
    noise = np.random.default_rng(7).integers(0, 12, (height, width, channels))
    return np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)


def saved(image: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    array = picture(channels=channels)
    image = Image.fromarray(
        array[..., 0] if mode == "L" else array, mode if channels == 4 else None
    )
    return saved(image, "JPEG", **{"quality": 92, **options})


def ycck() -> bytes:
    """The same numbers, said to be YCCK: the last byte of the Adobe marker."""
    data = bytearray(jpeg("CMYK"))
    adobe = data.index(b"Adobe")
    assert data[adobe + 11] == 0
    data[adobe + 11] = 2
    return bytes(data)


def png(mode: str, **options: Any) -> bytes:
    image = Image.fromarray(picture())
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(picture()[..., 1]))
    return saved(image.convert(mode), "PNG", **options)


def png_of_16_bits(colour: int, channels: int) -> tuple[bytes, Any]:
    """Pillow writes no such file in colour, and reads it by cutting bits off."""
    samples = np.random.default_rng(1).integers(0, 1 << 16, (HEIGHT, WIDTH, channels))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, colour, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        file += struct.pack(">I", len(body)) + name + body
        file += struct.pack(">I", zlib.crc32(name + body))
    colours = samples[..., : 3 if channels > 2 else 1]
    levels = np.round(colours * 255 / 65535).astype(np.uint8)
    return file, np.broadcast_to(levels, (HEIGHT, WIDTH, 3))


def gif(frames: int = 1, **options: Any) -> bytes:
    images = [Image.fromarray(np.roll(picture(), 9 * i, 1)).quantize(40) for i in range(frames)]
    extra = {"save_all": True, "append_images": images[1:], "duration": 50} if frames > 1 else {}
    return saved(images[0], "GIF", **extra, **options)


def webp(mode: str = "RGB", frames: int = 1, **options: Any) -> bytes:
    images = [Image.fromarray(np.roll(picture(), 9 * i, 1)).convert(mode) for i in range(frames)]
    if mode == "RGBA":
        for image in images:
            image.putalpha(Image.fromarray(picture()[..., 2]))
    extra = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    return saved(images[0], "WEBP", **extra, **options)


def oriented(kind: str, value: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    sides = (HEIGHT, WIDTH) if value >= 5 else (WIDTH, HEIGHT)
    return saved(Image.fromarray(picture(*sides)), kind, exif=exif, **options)


def with_xmp(kind: str, text: str, exif: int | None = None) -> bytes:
    """A file whose XMP packet has this in it, and whose EXIF block, if any, this orientation."""
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a {text}</a></x:xmpmeta>'
    options: dict[str, Any] = {"xmp": packet.encode()}
    if kind == "PNG":
        info = pytest.importorskip("PIL.PngImagePlugin").PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet)
        options = {"pnginfo": info}
    block = Image.Exif()
    block[ORIENTATION if exif else 0x010F] = exif or "maker"
    sides = (HEIGHT, WIDTH) if (exif or 6) >= 5 else (WIDTH, HEIGHT)
    return saved(Image.fromarray(picture(*sides)), kind, exif=block, **options)


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": jpeg,
    "jpeg, grey": lambda: jpeg("L"),
    "jpeg, 4:4:4": lambda: jpeg(subsampling=0),
    "jpeg, 4:2:2": lambda: jpeg(subsampling=1),
    "jpeg, progressive": lambda: jpeg(progressive=True),
    "jpeg, rgb": lambda: jpeg(keep_rgb=True),
    "jpeg, cmyk": lambda: jpeg("CMYK"),
    "jpeg, cmyk, progressive": lambda: jpeg("CMYK", progressive=True),
    "jpeg, ycck": ycck,
    "jpeg, with a profile": lambda: jpeg(icc_profile=b"a profile that nobody looks at"),
    **{
        f"png, {mode}": lambda mode=mode: png(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")
    },
    "png, palette, transparent": lambda: png("P", transparency=3),
    "png, palette of 4": lambda: saved(Image.fromarray(picture()).quantize(4), "PNG", bits=2),
    "webp, lossy": lambda: webp(quality=80),
    "webp, poor": lambda: webp(quality=5),
    "webp, lossless": lambda: webp(lossless=True),
    "webp, lossy, alpha": lambda: webp("RGBA", quality=80),
    "webp, lossless, alpha": lambda: webp("RGBA", lossless=True),
    "webp, lossless, alpha, exact": lambda: webp("RGBA", lossless=True, exact=True),
    "webp, animated": lambda: webp(frames=3, quality=80),
    "webp, animated, alpha": lambda: webp("RGBA", frames=2, lossless=True),
    "gif": gif,
    "gif, interlaced": lambda: gif(interlace=1),
    "gif, transparent": lambda: gif(transparency=5),
    "gif, animated": lambda: gif(frames=3),
    "png, animated": lambda: saved(
        Image.fromarray(picture()),
        "PNG",
        save_all=True,
        append_images=[Image.fromarray(picture()[::-1])],
    ),
    **{
        f"{kind}, orientation {value}": lambda kind=kind, value=value: oriented(kind, value)
        for kind in ("JPEG", "PNG", "WEBP")
        for value in range(1, 9)
    },
    **{
        f"xmp, {kind}, {text}, {exif}": lambda k=kind, t=text, e=exif: with_xmp(k, t, e)
        for kind in ("JPEG", "PNG", "WEBP")
        for text, exif in (
            ('tiff:Orientation="6">', None),
            ("><tiff:Orientation>8</tiff:Orientation>", None),
            ("tiff:Orientation='3' tiff:Orientation=\"5\">", None),
            ('tiff:Orientation="6">', 3),
            ('tiff:Orientation="6">', 1),
        )
    },
}


def folder(tmp_path: Path, files: list[bytes]) -> str:
    images = tmp_path / "images"
    images.mkdir()
    for number, data in enumerate(files):
        (images / f"{number:03}.jpg").write_bytes(data)
    return f"memory:rows={len(files)},images={images}"


def delivered(daemon: Daemon, uri: str, *transforms: Any, **arguments: Any) -> Any:
    """All rows' images, `[rows, height, width, 3]`."""
    dataset = daemon.dataset(
        uri,
        columns=["image"],
        transform={"image": list(transforms) or [CenterCrop((HEIGHT, WIDTH))]},
        batch_size=int(uri.split("rows=")[1].split(",")[0]),
        **arguments,
    )
    images = next(iter(dataset))["image"].permute(0, 2, 3, 1).numpy().copy()
    dataset.close()
    return images


def reference(data: bytes) -> Any:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def difference(a: Any, b: Any) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def test_pixels_are_pillows(daemon: Daemon, tmp_path: Path) -> None:
    files = {name: make() for name, make in FILES.items()}
    images = delivered(daemon, folder(tmp_path, list(files.values())))
    wrong = {}
    for image, (name, data) in zip(images, files.items(), strict=True):
        expected = reference(data)
        # Lossless is exact.
        exact = name.startswith(("png", "PNG", "gif", "webp, lossless"))
        if difference(image, expected) > (0 if exact else 1):
            wrong[name] = difference(image, expected)
    assert not wrong


@pytest.mark.parametrize("method", [0, 4, 6])
def test_lossless_webps_with_many_codes(daemon: Daemon, tmp_path: Path, method: int) -> None:
    picture_of_parts = np.concatenate([picture(640, 120), picture(640, 360) // 16 * 16])
    picture_of_parts[200:300, 100:400] = np.random.default_rng(2).integers(0, 256, (100, 300, 3))
    data = saved(Image.fromarray(picture_of_parts), "WEBP", lossless=True, method=method)
    (image,) = delivered(daemon, folder(tmp_path, [data]), CenterCrop((480, 640)))
    assert difference(image, picture_of_parts) == 0


def test_pixels_are_torchvisions(daemon: Daemon, tmp_path: Path) -> None:
    names = [name for name in FILES if name.startswith(("jpeg", "JPEG", "png", "PNG"))]
    names = [name for name in names if "cmyk" not in name and "ycck" not in name]
    files = [FILES[name]() for name in names]
    images = delivered(daemon, folder(tmp_path, files))
    for image, data, name in zip(images, files, names, strict=True):
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        expected = tv_io.decode_image(buffer, mode="RGB", apply_exif_orientation=True)
        assert difference(image, expected.permute(1, 2, 0).numpy()) <= 1, name


def test_sixteen_bits_are_rounded(daemon: Daemon, tmp_path: Path) -> None:
    made = [png_of_16_bits(*kind) for kind in ((0, 1), (2, 3), (4, 2), (6, 4))]
    images = delivered(daemon, folder(tmp_path, [data for data, _ in made]))
    for image, (_, expected) in zip(images, made, strict=True):
        assert np.array_equal(image, expected)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("jpegtran", ["-arithmetic"]),
        ("jpegtran", ["-arithmetic", "-progressive"]),
        ("cjpeg", ["-sample", "4x1"]),
        ("cjpeg", ["-sample", "1x2"]),
        ("cjpeg", ["-sample", "4x2"]),
        ("cjpeg", ["-arithmetic"]),
    ],
)
def test_what_other_tools_write(
    daemon: Daemon, tmp_path: Path, tool: str, arguments: list[str]
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: libjpeg-turbo-progs)")
    data = jpeg() if tool == "jpegtran" else saved(Image.fromarray(picture()), "PPM")
    file = subprocess.run([tool, *arguments], input=data, capture_output=True, check=True).stdout
    (image,) = delivered(daemon, folder(tmp_path, [file]))
    assert difference(image, reference(file)) <= 1


def test_crops_are_drawn_on_the_upright_image(daemon: Daemon, tmp_path: Path) -> None:
    files = [oriented("PNG", value) for value in range(1, 9)]
    uri = folder(tmp_path, files)
    crops = delivered(daemon, uri, CenterCrop((20, 30)))
    small = delivered(daemon, uri, Resize((25, 35)))
    stored = delivered(daemon, uri, CenterCrop((40, 40)), exif_orientation=False)
    for crop, resized, plain, data in zip(crops, small, stored, files, strict=True):
        upright = reference(data)
        assert np.array_equal(crop, upright[15:35, 20:50])
        expected = Image.fromarray(upright).resize((35, 25), Image.Resampling.BILINEAR)
        assert difference(resized, np.asarray(expected)) <= 1
        raw = np.asarray(Image.open(io.BytesIO(data)))
        top, left = (raw.shape[0] - 40) // 2, (raw.shape[1] - 40) // 2
        assert np.array_equal(plain, raw[top : top + 40, left : left + 40])


def test_the_option_is_part_of_the_job(daemon: Daemon, tmp_path: Path) -> None:
    uri = folder(tmp_path, [jpeg()] * 4)
    arguments: dict[str, Any] = {
        "columns": ["image"],
        "transform": {"image": [CenterCrop((HEIGHT, WIDTH))]},
        "batch_size": 2,
    }
    dataset = daemon.dataset(uri, **arguments)
    next(iter(dataset))
    state = dataset.state_dict()
    dataset.close()
    other = daemon.dataset(uri, exif_orientation=False, **arguments)
    with pytest.raises(errors.ResumeRefused, match="exif_orientation"):
        other.load_state_dict(state)
    other.close()
    with pytest.raises(errors.RequestError, match="exif_orientation must be True or False"):
        daemon.dataset(uri, exif_orientation=1, **arguments)


def test_animations_are_said_once(daemon: Daemon, tmp_path: Path) -> None:
    uri = folder(tmp_path, [gif(frames=2), webp(frames=2), gif()] * 8)
    delivered(daemon, uri)
    assert daemon.log.read_text().count("has animated images") == 1
    delivered(daemon, uri)
    assert daemon.log.read_text().count("has animated images") == 2


def test_what_is_not_decoded_is_named(daemon: Daemon, tmp_path: Path) -> None:
    whole = Image.fromarray(picture())
    files = {
        "a TIFF": saved(whole, "TIFF"),
        "a BMP": saved(whole, "BMP"),
        "an HTML page": b"<!DOCTYPE html><html><body>404</body></html>",
        "no bytes": b"",
        "ends early": png("RGB")[:-40],
        "corrupt GIF: no image": b"GIF89a\1\0\1\0\0\0\0;",
    }
    for number, (words, data) in enumerate(files.items()):
        place = tmp_path / str(number)
        place.mkdir()
        uri = folder(place, [data])
        with pytest.raises(errors.BadSample, match=words):
            delivered(daemon, uri)
    assert not delivered(daemon, uri, on_bad_sample="zero").any()
