"""A training process: takes batches, notes each, and goes on after an error as users do.

Enters: what to read, and commands. Leaves: a file of JSON lines, written after each batch,
so that it outlives a kill, and before its job ends. What it can't deal with it notes as a crash.
"""

from __future__ import annotations

import json
import os
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from loaderd import Ragged, errors
from loaderd.session import Session
from loaderd.torch import LanceIterableDataset

#: How long it tries to get its job back after an error, in seconds.
RECOVER_S = 60.0


@dataclass(frozen=True)
class Spec:
    """What a client is to do."""

    name: str
    socket: str
    #: Its notes. While there is a file of that name ending in ``.hold``, it keeps
    #: every batch; it removes the file once it was told that they are all.
    notes: str
    arguments: dict[str, Any]
    epochs: int
    step_s: float
    environment: dict[str, str] = field(default_factory=dict)
    autostart: bool = False

    @property
    def hold(self) -> str:
        return self.notes + ".hold"


def main(spec: Spec) -> None:
    os.environ.update(spec.environment)
    Session.exhausted_after_s = 0.5
    Session.asked_after_s = 0.5
    Session.silent_after_s = 5.0
    warnings.simplefilter("ignore")
    with open(spec.notes, "a", buffering=1) as notes:
        try:
            _train(spec, notes)
        except BaseException:
            _note(notes, "crash", message=traceback.format_exc())


def _note(notes: IO[str], kind: str, **facts: Any) -> None:
    notes.write(json.dumps({"kind": kind, **facts}) + "\n")


def _train(spec: Spec, notes: IO[str]) -> None:
    dataset = LanceIterableDataset(socket=spec.socket, autostart=spec.autostart, **spec.arguments)
    state: dict[str, Any] | None = None
    failing_since: float | None = None
    while True:
        try:
            if failing_since is not None and state is not None:
                dataset.load_state_dict(state)
            for state in _epoch(dataset, spec, notes):
                failing_since = None
                if state is None:
                    _note(notes, "done")
                    return
        except errors.LoaderdError as error:
            now = time.monotonic()
            failing_since = failing_since or now
            _note(notes, "error", name=type(error).__name__, message=str(error))
            if now - failing_since > RECOVER_S:
                raise
            time.sleep(0.1)


def _epoch(
    dataset: LanceIterableDataset, spec: Spec, notes: IO[str]
) -> Iterator[dict[str, Any] | None]:
    """Where the job stands after each batch; ``None`` after the last of all."""
    batches = iter(dataset)
    _note(notes, "notices", texts=dataset.notices)
    kept: list[Any] = []
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except errors.SlotsExhausted as error:
            # Ours if we hold them all, else a fault.
            assert len(kept) == dataset._connected().slot_count, len(kept)
            _note(notes, "exhausted", message=str(error))
            kept.clear()
            os.unlink(spec.hold)
            continue
        rows, valid = batch["label"].tolist(), batch["_valid"].tolist()
        _note(
            notes,
            "batch",
            epoch=batch.epoch,
            step=batch.step,
            version=batch.version,
            rows=rows,
            valid=valid,
            looks=_looks(batch),
        )
        is_last = batch.epoch + 1 == spec.epochs and batch.epoch_step + 1 == len(dataset)
        yield None if is_last else dataset.state_dict()
        if os.path.exists(spec.hold):
            kept.append(batch)
        del batch
        time.sleep(spec.step_s)


def _looks(batch: Any) -> list[Any] | None:
    """How each image looks: the colour in its middle, or a checksum of its bytes."""
    image = batch.get("image")
    if image is None:
        return None
    if isinstance(image, Ragged):
        return [zlib.crc32(data) for data in image.tobytes()]
    _, _, height, width = image.shape
    looks: list[Any] = image[:, :, height // 2, width // 2].tolist()
    return looks
