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
    ``is_in_use`` says whether the framework has begun to use CUDA here; it is asked for every
    batch, and costs next to nothing.
    """

    def __init__(
        self,
        wanted: Any,
        streams: Callable[[], Sequence[int]],
        is_in_use: Callable[[], bool],
    ) -> None:
        if not isinstance(wanted, bool) and wanted != "auto":
            raise RequestError(f'pin_memory must be "auto", True or False, not {wanted!r}')
        self._wanted: PinMemory = wanted
        self._streams = streams
        self._is_in_use = is_in_use
        #: What the user was told, which is a few sentences at most.
        self._said: set[str] = set()

    def look(self, native: _native.Session) -> None:
        """Called before each wait for a batch, by the thread that waits.

        Raises ``RequestError`` where ``True`` was asked for and can't be done.
        """
        why = None
        if self._is_in_use():
            why = native.pin(self._wanted is not False, self._streams)
        if self._wanted is True and not native.is_pinned:
            why = why or (
                "slots stay unpinned: no GPU is in use here yet, or a CUDA graph is being captured"
            )
            raise RequestError(
                f"pin_memory=True: {why}; put the model onto the GPU before the first batch, or "
                'take pin_memory="auto", which pins as soon as that can be done'
            )
        self._say(why)
        self.fence()

    def fence(self) -> None:
        """Has slots whose tensors are gone wait for the GPU's work by now, and no longer."""
        # Asked first, because asking a framework for its streams may set up a device.
        if _native.unfenced() == 0:
            return
        self._say(_native.fence(self._streams()))

    def _say(self, text: str | None) -> None:
        """A warning, the first time."""
        if text is not None and text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)
