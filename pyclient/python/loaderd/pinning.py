"""Slots as pinned memory, in processes that use CUDA.

Enters: what the user wants, and a framework's word on its streams. Leaves: slots that CUDA
has registered, and what the user is told about it. It imports no framework, initialises no
CUDA, and makes no context: it waits until there is one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

from loaderd import _native
from loaderd.errors import RequestError

logger = logging.getLogger("loaderd")

PinMemory = bool | Literal["auto"]


class Pinning:
    """What ``pin_memory`` asks for; a loader's, for all its sessions.

    ``streams`` gives the CUDA streams on which the calling thread may be capturing a graph.
    """

    def __init__(self, wanted: Any, streams: Callable[[], Sequence[int]]) -> None:
        if not isinstance(wanted, bool) and wanted != "auto":
            raise RequestError(f'pin_memory must be "auto", True or False, not {wanted!r}')
        self._wanted: PinMemory = wanted
        self._streams = streams

    def look(self, native: _native.Session) -> None:
        """Called before each wait for a batch, by the thread that waits.

        Raises ``RequestError`` where ``True`` was asked for and can't be done.
        """
        why = native.pin(self._wanted is not False)
        if self._wanted is True and not native.is_pinned:
            raise RequestError(
                f"pin_memory=True: {why or 'slots stay unpinned: no GPU is in use here yet'}; put "
                'the model onto the GPU before the first batch, or take pin_memory="auto", which '
                "pins as soon as that can be done"
            )
        if why is not None:
            logger.warning("%s", why)
        self.fence()

    def fence(self) -> None:
        """Has slots whose tensors are gone wait for the GPU's work by now, and no longer."""
        # Asked first, because asking a framework for its streams may set up a device.
        if _native.unfenced() == 0:
            return
        said = _native.fence(self._streams())
        if said is not None:
            logger.warning("%s", said)
