"""Other GPU decoders on the same photos: torchvision's, nvImageCodec, DALI's pipeline.

Enters: photos in memory. Leaves: images/s and CPU time an image of the best of a few settings.
torchvision and nvImageCodec only decode, which is less than loaderd does; DALI crops, resizes and
normalises as well. What is not installed says so.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
from gpu.bundle import Bundle, Failed, Skipped, keep
from gpu.driver import Driver
from gpu.streams import SIZE

_SECONDS = 2.5
_SETTINGS = ((64, 1), (256, 1), (64, 4))


def torchvision(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """``torchvision.io.decode_jpeg`` onto the device, in batches."""
    _need("torchvision", "torch")
    import torch
    import torchvision as package

    _need_device(torch)
    photos = _photos(bundle)
    encoded = [torch.frombuffer(bytearray(photo), dtype=torch.uint8) for photo in photos]

    def ready() -> Callable[[int, int], None]:
        def decode(start: int, count: int) -> None:
            chosen = [encoded[(start + n) % len(encoded)] for n in range(count)]
            images = package.io.decode_jpeg(
                chosen, mode=package.io.ImageReadMode.RGB, device="cuda"
            )
            torch.cuda.current_stream().synchronize()
            if len(images) != count:
                raise Failed(f"{len(images)} images of {count}")

        return decode

    return {"version": package.__version__, **_best(ready, brief)}


def nvimagecodec(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """nvImageCodec's decoder on the GPU: all that it has there, sharing its work out in two ways,
    and the JPEG engines alone. By default it has a decoder on CPU cores as well, which would pass
    for the GPU's."""
    if not harness.installed("nvidia.nvimgcodec"):
        site = tempfile.mkdtemp(prefix="gpu-check-")
        for wheel in ("nvidia-nvimgcodec-cu13", "nvidia-nvjpeg"):
            bundle.unpack(wheel, Path(site))
        sys.path.insert(0, site)
        # Namespace packages that are there already look at new folders only when told.
        for name in [name for name in sys.modules if name.partition(".")[0] == "nvidia"]:
            del sys.modules[name]
    from nvidia import nvimgcodec

    photos, driver = _photos(bundle), Driver()

    def with_backends(backends: Any) -> Callable[[], Callable[[int, int], None]]:
        def ready() -> Callable[[int, int], None]:
            decoder, stream = nvimgcodec.Decoder(device_id=0, backends=backends), driver.stream()

            def decode(start: int, count: int) -> None:
                chosen = [photos[(start + n) % len(photos)] for n in range(count)]
                files = [nvimgcodec.CodeStream(photo) for photo in chosen]
                images = decoder.decode(files, cuda_stream=stream.value)
                # It returns while the device is still at work.
                driver("cuStreamSynchronize", stream)
                if any(image is None for image in images):
                    raise Failed("some of the photos were not decoded")

            return decode

        return ready

    kinds, backend = nvimgcodec.BackendKind, nvimgcodec.Backend
    adaptive = nvimgcodec.LoadHintPolicy.ADAPTIVE_MINIMIZE_IDLE_TIME
    cores = [backend(kinds.GPU_ONLY), backend(kinds.HYBRID_CPU_GPU)]
    ways = {
        "engines, then CUDA cores": [backend(kinds.HW_GPU_ONLY), *cores],
        "engines and CUDA cores": [
            backend(kinds.HW_GPU_ONLY, load_hint_policy=adaptive),
            *cores,
        ],
        "engines alone": [backend(kinds.HW_GPU_ONLY)],
    }
    answer: dict[str, Any] = {"version": nvimgcodec.__version__, "ways": [], "why_not": {}}
    for name, backends in ways.items():
        try:
            way = {"backends": name, **_best(with_backends(backends), brief)}
        except Exception as error:  # Whatever it raises where there are no engines.
            answer["why_not"][name] = f"{type(error).__name__}: {error}"
            continue
        answer["ways"].append(way)
        answer |= max(answer["ways"], key=lambda one: float(one["images_per_s"]))
        keep(answer)
    if not answer["ways"]:
        raise Failed(next(iter(answer["why_not"].values())))
    return answer


def dali(bundle: Bundle, brief: bool) -> dict[str, Any]:
    """DALI's training input: crop at random, resize, flip, normalise, all on the device."""
    _need("nvidia.dali")
    from nvidia import dali as package
    from nvidia.dali import fn, types

    found: dict[str, Any] = {"version": package.__version__, "settings": []}
    for batch, load in ((256, 0.65), (256, 0.9)):

        @package.pipeline_def(
            batch_size=32 if brief else batch,
            num_threads=len(os.sched_getaffinity(0)),
            device_id=0,
            prefetch_queue_depth=2,
        )
        def pipeline(load: float = load) -> Any:
            files, _ = fn.readers.file(
                file_root=str(bundle.photos.parent), dir_filters=["photos"], random_shuffle=True
            )
            images = fn.decoders.image_random_crop(
                files, device="mixed", output_type=types.RGB, hw_decoder_load=load
            )
            images = fn.resize(images, device="gpu", size=(SIZE, SIZE))
            return fn.crop_mirror_normalize(
                images,
                device="gpu",
                dtype=types.FLOAT16,
                mean=[0.485 * 255, 0.456 * 255, 0.406 * 255],
                std=[0.229 * 255, 0.224 * 255, 0.225 * 255],
                mirror=fn.random.coin_flip(),
            )

        running = pipeline()
        running.build()

        def ready(running: Any = running) -> Callable[[int, int], None]:
            # The pipeline has photos of its own.
            return lambda start, count: running.run() and None

        setting = _rate(ready, 32 if brief else batch, 1, brief)
        found["settings"].append({"hw_decoder_load": load, **setting})
    best = max(found["settings"], key=lambda one: float(one["images_per_s"]))
    return {**found, **best}


def _need(*modules: str) -> None:
    for module in modules:
        if not harness.installed(module):
            raise Skipped(f"{module} is not installed")


def _need_device(torch: Any) -> None:
    if not torch.cuda.is_available():
        raise Failed(f"PyTorch {torch.__version__} sees no GPU")


def _photos(bundle: Bundle) -> list[bytes]:
    return [file.read_bytes() for file in sorted(bundle.photos.glob("*.jpg"))]


def _best(ready: Callable[[], Callable[[int, int], None]], brief: bool) -> dict[str, Any]:
    """The fastest of a few settings, and all of them."""
    settings = [_rate(ready, 8 if brief else batch, threads, brief) for batch, threads in _SETTINGS]
    best = max(settings, key=lambda one: float(one["images_per_s"]))
    return {**best, "settings": settings}


def _rate(
    ready: Callable[[], Callable[[int, int], None]], batch: int, threads: int, brief: bool
) -> dict[str, Any]:
    """Images a second of some threads, each with a decoder of its own."""
    counts = [0] * threads
    failed: list[BaseException] = []
    begin, end = threading.Barrier(threads + 1), threading.Event()

    def run(number: int) -> None:
        try:
            decode = ready()
            for warm in range(3):
                decode(warm * batch, batch)
            begin.wait()
            start = number * 17
            while not end.is_set():
                decode(start, batch)
                start += batch
                counts[number] += batch
        except BaseException as error:
            failed.append(error)
            begin.abort()

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        begin.wait()
    except threading.BrokenBarrierError:
        end.set()
    began, cpu = time.perf_counter(), _cpu_s()
    end.wait(0.2 if brief else _SECONDS)
    end.set()
    for thread in running:
        thread.join()
    taken, cpu = time.perf_counter() - began, _cpu_s() - cpu
    if failed:
        raise failed[0]
    images = sum(counts)
    return {
        "batch": batch,
        "threads": threads,
        "images_per_s": images / taken,
        "cpu_us_per_image": cpu * 1e6 / max(1, images),
    }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
