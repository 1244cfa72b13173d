"""NVIDIA's driver, called without any framework.

Enters: names of libcuda's functions and their arguments. Leaves: their results; an error where one
fails. It uses the first device's primary context, which CUDA's runtime uses as well.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from gpu.bundle import Failed

#: ``CU_STREAM_NON_BLOCKING``.
_NON_BLOCKING = 1


class Driver:
    """libcuda, whose calls raise where they fail."""

    def __init__(self) -> None:
        name = os.environ.get("LOADERD_LIBCUDA") or "libcuda.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise Failed(str(error)) from None
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self("cuInit", ctypes.c_uint(0))
        self("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        self("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)

    def __call__(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise Failed(f"the driver lacks {name}") from None
        status = function(*arguments)
        if status != 0:
            raise Failed(f"{name}: error {status}")

    def stream(self) -> ctypes.c_void_p:
        """A stream for this thread, which then has the context, once."""
        stream = ctypes.c_void_p()
        self("cuCtxPushCurrent_v2", self._context)
        self("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        return stream

    def close(self) -> None:
        """Takes the context from this thread, and gives it back."""
        self("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        self("cuDevicePrimaryCtxRelease_v2", self._device)
