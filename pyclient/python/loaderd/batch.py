"""A batch: a dict of tensors that knows which step of which version it is.

Enters: tensors that own their slot, and the daemon's description of the batch. Leaves:
the same, through any wrapper that copies mappings. It knows no framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

#: Not given, as opposed to any value.
_MISSING: Any = object()

BatchT = TypeVar("BatchT", bound="Batch")

_ATTRIBUTES = ("version", "step", "epoch", "epoch_step", "rows", "bad_rows", "state")


class Batch(dict[str, Any]):
    """A dict from column name to tensor ``[rows, ...]``, in the order of ``columns``.

    Columns whose rows differ in length are :class:`~loaderd.ragged.Ragged`, which has
    ``clone`` and ``to`` like a tensor. The tensors share one slot of the loader, without a
    copy. The slot is reused once all of them, and all views of them, are gone; use
    :meth:`clone` for what you keep for long. Attributes survive ``copy.copy``, ``pickle`` and
    ``DataLoader``'s default conversion.
    """

    #: How a batch loses its attributes, and the way out.
    _LOST = "a wrapper rebuilt it as type(batch)(...) and lost it; read it before the wrapper does"

    version: int
    """The dataset version that the rows were read from."""
    step: int
    """The step within the run: ``epoch * len(loader) + epoch_step``."""
    epoch: int
    """The epoch, from 0."""
    epoch_step: int
    """The step within the epoch, from 0."""
    rows: int
    """Rows in this rank's batch; the last batch of an epoch may have fewer. Counts a row that only
    repeats another rank's (``_valid`` is false)."""
    bad_rows: int
    """Rows that were replaced or zeroed because of ``on_bad_sample``."""
    state: dict[str, Any]
    """The loader's state after this batch: what to checkpoint if a wrapper prefetches."""

    def __init__(
        self,
        tensors: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        *,
        version: int = _MISSING,
        step: int = _MISSING,
        epoch: int = _MISSING,
        epoch_step: int = _MISSING,
        rows: int = _MISSING,
        bad_rows: int = _MISSING,
        state: dict[str, Any] = _MISSING,
    ) -> None:
        super().__init__(tensors)
        given = (version, step, epoch, epoch_step, rows, bad_rows, state)
        attributes = zip(_ATTRIBUTES, given, strict=True)
        self.__dict__.update(pair for pair in attributes if pair[1] is not _MISSING)

    @classmethod
    def _made(
        cls: type[BatchT], tensors: Iterable[tuple[str, Any]], about: dict[str, Any]
    ) -> BatchT:
        """For loaders: with all attributes by name, and nothing to check."""
        batch = cls.__new__(cls)
        batch.update(tensors)
        batch.__dict__.update(about)
        return batch

    def __getattr__(self, name: str) -> Any:
        # Only reached where the attribute is not there.
        if name in _ATTRIBUTES:
            raise AttributeError(f"this batch has no {name!r}: {self._LOST}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def copy(self) -> Batch:
        """A shallow copy, with the attributes."""
        return self._with({name: self[name] for name in self})

    def clone(self) -> Batch:
        """A copy of the batch that does not occupy a slot."""
        return self._with({name: tensor.clone() for name, tensor in self.items()})

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """The batch with ``tensor.to(*args, **kwargs)`` of every tensor, e.g. ``to("cuda")``."""
        return self._with({name: tensor.to(*args, **kwargs) for name, tensor in self.items()})

    def _with(self, tensors: Mapping[str, Any]) -> Batch:
        batch = type(self)(tensors)
        batch.__dict__.update(self.__dict__)
        return batch
