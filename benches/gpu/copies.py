"""Copies between a device and shared memory that is registered with it, as slots are.

Enters: the driver's library. Leaves: GB/s each way, by the size of a copy, and what registering
cost. It calls the driver by itself, so that it needs no framework; memory is a memfd's.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from typing import Any

from gpu.bundle import Bundle
from gpu.driver import Driver

_SLOTS_BYTES = 1 << 30
#: A slot of 128 float16 images is 38.5 MB; one image 301 KB.
_SIZES = (301_056, 4 << 20, 38_535_168, 256 << 20)
#: ``CU_MEMHOSTREGISTER_PORTABLE`` and ``CU_MEMHOSTREGISTER_DEVICEMAP``, as slots are registered.
_FLAGS = 1 | 2


def measure(bundle: Bundle, brief: bool) -> dict[str, Any]:
    driver = Driver()
    stream, memory = driver.stream(), ctypes.c_uint64()
    size = max(_SIZES)
    driver("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
    descriptor = os.memfd_create("gpu-check")
    os.ftruncate(descriptor, _SLOTS_BYTES)
    slots = mmap.mmap(descriptor, _SLOTS_BYTES)
    view = ctypes.c_char.from_buffer(slots)
    address = ctypes.addressof(view)
    began = time.perf_counter()
    driver(
        "cuMemHostRegister_v2",
        ctypes.c_void_p(address),
        ctypes.c_size_t(_SLOTS_BYTES),
        ctypes.c_uint(_FLAGS),
    )
    registered_s = time.perf_counter() - began
    found: dict[str, Any] = {"register_s_per_gib": registered_s, "copies": []}
    seconds = 0.1 if brief else 0.5
    for number in _SIZES:
        line: dict[str, float] = {"bytes": number}
        for name in ("to_device", "to_host"):

            def copy(place: int, name: str = name, number: int = number) -> None:
                host, bytes_ = ctypes.c_void_p(place), ctypes.c_size_t(number)
                if name == "to_device":
                    driver("cuMemcpyHtoDAsync_v2", memory, host, bytes_, stream)
                else:
                    driver("cuMemcpyDtoHAsync_v2", host, memory, bytes_, stream)

            line[f"{name}_gb_per_s"] = _rate(driver, stream, copy, address, number, seconds)
        found["copies"].append(line)
    driver("cuMemHostUnregister", ctypes.c_void_p(address))
    driver("cuMemFree_v2", memory)
    driver("cuStreamDestroy_v2", stream)
    driver.close()
    # The mapping can't be closed while something points into it.
    del view
    slots.close()
    os.close(descriptor)
    return found


def _rate(
    driver: Driver, stream: ctypes.c_void_p, copy: Any, address: int, number: int, seconds: float
) -> float:
    """GB/s of copies from place to place of the slots, a few of them queued at a time."""
    places = [address + at for at in range(0, _SLOTS_BYTES - number + 1, number)][:64]
    queued = 0
    # The first pass touches each page, and is not timed.
    for place in places:
        copy(place)
    driver("cuStreamSynchronize", stream)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for place in places[: max(1, (256 << 20) // number)]:
            copy(place)
            queued += 1
        driver("cuStreamSynchronize", stream)
    return queued * number / (time.perf_counter() - began) / 1e9
