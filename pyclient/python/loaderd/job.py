"""What a user asks for, checked and put into the daemon's words.

Enters: the arguments of a loader. Leaves: the ``open`` request as a dict. Nothing is
looked up here: whether a dataset, column or filter exists is the daemon's to say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from loaderd._arguments import is_sequence, whole_number
from loaderd.errors import RequestError
from loaderd.ranks import Ranks, find_ranks, is_half_told, launcher_id
from loaderd.transforms import Transform, to_request

Protect = Literal["run", "keep", "none"]
OnBadSample = Literal["raise", "replace", "zero"]
OnLogError = Literal["stop", "continue"]
Decode = Literal["auto", "cpu", "gpu"]

#: The batch in hand, and the one on its way.
SLOTS_MIN = 2
#: What the daemon gives one rank.
SLOTS_MAX = 1024


@dataclass(frozen=True)
class Job:
    """One rank's part of a job; see :class:`loaderd.torch.LanceIterableDataset`."""

    uri: str
    columns: tuple[str, ...]
    filter: str | None
    version: int | str | None
    transform: dict[str, list[dict[str, Any]]]
    batch_size: int
    #: What ``batch_size`` follows from, if the user gave this.
    global_batch_size: int | None
    shuffle: bool
    seed: int
    drop_last: bool
    ranks: Ranks
    #: Whether the user gave the ranks; others may still change, see :meth:`among`.
    are_ranks_given: bool
    run: str | None
    protect: Protect
    on_bad_sample: OnBadSample
    on_log_error: OnLogError
    fast_dct: bool
    exif_orientation: bool
    use_tiled: bool
    decode: Decode
    slots: int | None
    variable_bytes: int | None

    @classmethod
    def make(
        cls,
        uri: str | os.PathLike[str],
        *,
        columns: Sequence[str],
        filter: str | None = None,
        version: int | str | None = None,
        transform: Mapping[str, Transform | Sequence[Transform]] | None = None,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        run: str | None = None,
        protect: Protect = "run",
        on_bad_sample: OnBadSample = "raise",
        on_log_error: OnLogError = "stop",
        fast_dct: bool = False,
        exif_orientation: bool = True,
        use_tiled: bool = True,
        decode: Decode = "auto",
        slots: int | None = None,
        variable_bytes: int | None = None,
        processes: tuple[int, int] | None = None,
    ) -> Job:
        """Checks all that can be checked without the dataset; ``processes`` as in ``among``."""
        are_ranks_given = rank is not None or world_size is not None
        if not are_ranks_given and processes is None and is_half_told():
            # The rest is told by the time the job is opened, or that is an error then.
            ranks = Ranks(0, 1)
        else:
            ranks = find_ranks(rank, world_size, processes=processes)
        names = _columns(columns)
        if version is not None and not isinstance(version, str):
            if whole_number(version) is None:
                raise RequestError(
                    "version must be a number, a tag's name or None for the latest, not "
                    f"{version!r}"
                )
            version = _bound("version", version, 0, 2**64 - 1)
        _optional_text("filter", filter)
        _optional_text("run", run)
        for name, value in (
            ("shuffle", shuffle),
            ("drop_last", drop_last),
            ("fast_dct", fast_dct),
            ("exif_orientation", exif_orientation),
            ("use_tiled", use_tiled),
        ):
            if not isinstance(value, bool):
                raise RequestError(f"{name} must be True or False, not {value!r}")
        seed = _bound("seed", seed, 0, 2**64 - 1)
        if slots is not None:
            slots = _bound("slots", slots, SLOTS_MIN, SLOTS_MAX)
        if variable_bytes is not None:
            variable_bytes = _bound("variable_bytes", variable_bytes, 0, 1 << 40)
        _choice("protect", protect, ("run", "keep", "none"))
        _choice("on_bad_sample", on_bad_sample, ("raise", "replace", "zero"))
        _choice("on_log_error", on_log_error, ("stop", "continue"))
        _choice("decode", decode, ("auto", "cpu", "gpu"))
        return cls(
            uri=_absolute(uri),
            columns=names,
            filter=filter,
            version=version,
            transform=to_request(transform, names),
            batch_size=_batch_size(batch_size, global_batch_size, ranks.world_size),
            global_batch_size=global_batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            ranks=ranks,
            are_ranks_given=are_ranks_given,
            run=run,
            protect=protect,
            on_bad_sample=on_bad_sample,
            on_log_error=on_log_error,
            fast_dct=fast_dct,
            exif_orientation=exif_orientation,
            use_tiled=use_tiled,
            decode=decode,
            slots=slots,
            variable_bytes=variable_bytes,
        )

    def among(self, processes: tuple[int, int] | None) -> Job:
        """The job with the ranks that there are by now, unless the user gave them.

        Launchers may begin after the constructor, and a pickled job lands in another process.
        ``processes`` are this process's number and how many there are, where a framework knows.
        """
        if self.are_ranks_given:
            return self
        ranks = find_ranks(None, None, processes=processes)
        batch_size = self.batch_size
        if self.global_batch_size is not None:
            batch_size = _batch_size(None, self.global_batch_size, ranks.world_size)
        return replace(self, ranks=ranks, batch_size=batch_size)

    def request(
        self, resume: Mapping[str, Any] | None = None, allow_changed: bool = False
    ) -> dict[str, Any]:
        """The ``open`` request; with a cursor, the job goes on as its run."""
        run = self.run
        if run is None:
            run = (
                launcher_id(world_size=self.ranks.world_size)
                if resume is None
                else resume.get("run")
            )
        return {
            "uri": self.uri,
            "version": self.version,
            "filter": self.filter,
            "columns": list(self.columns),
            "transform": self.transform,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "rank": self.ranks.rank,
            "world_size": self.ranks.world_size,
            "local_world_size": self.ranks.local_world_size,
            "run": run,
            "protect": self.protect,
            "on_bad_sample": self.on_bad_sample,
            "on_log_error": self.on_log_error,
            "fast_dct": self.fast_dct,
            "exif_orientation": self.exif_orientation,
            "use_tiled": self.use_tiled,
            "decode": self.decode,
            "slots": self.slots,
            "variable_bytes": self.variable_bytes,
            "resume": None if resume is None else dict(resume),
            "allow_changed": allow_changed,
        }


def _absolute(uri: str | os.PathLike[str]) -> str:
    """The daemon has another working folder and no home, so relative paths end here."""
    try:
        path = os.fsdecode(uri)
    except TypeError:
        raise RequestError(
            f"uri must be a path or a file:// URI, such as a Lance dataset's own uri, not {uri!r}"
        ) from None
    if not path:
        raise RequestError("uri is empty: name the dataset's folder")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise RequestError(f"uri must be UTF-8, not {os.fsencode(path)!r}: rename it") from None
    # A scheme as in RFC 3986, section 3.1; `memory:` has no slashes, `file:` may have one, and a
    # path may have a colon.
    if re.match(r"memory:|file:/|[A-Za-z][A-Za-z0-9+.-]*://", path):
        return path
    return os.path.abspath(os.path.expanduser(path))


def _columns(columns: Sequence[str]) -> tuple[str, ...]:
    # A set has no order, and the order is part of the checkpoint.
    if not is_sequence(columns) or not all(isinstance(name, str) for name in columns):
        raise RequestError(
            f'columns must be a list of names such as ["image", "label"], not {columns!r}'
        )
    if not columns:
        raise RequestError('columns is empty: name what to deliver, such as ["image", "label"]')
    twice = [name for name in columns if list(columns).count(name) > 1]
    if twice:
        raise RequestError(f"columns has {twice[0]!r} more than once")
    return tuple(columns)


def _batch_size(batch_size: int | None, global_batch_size: int | None, world_size: int) -> int:
    if batch_size is not None and global_batch_size is not None:
        raise RequestError("give batch_size (per rank) or global_batch_size, not both")
    if batch_size is not None:
        return _bound("batch_size", batch_size, 1, 2**32 - 1)
    if global_batch_size is None:
        raise RequestError("give batch_size (rows per rank and step) or global_batch_size")
    global_batch_size = _bound("global_batch_size", global_batch_size, 1, 2**63 - 1)
    each, rest = divmod(global_batch_size, world_size)
    if rest:
        raise RequestError(
            f"global_batch_size={global_batch_size} can't be shared out evenly among "
            f"{world_size} ranks: take a multiple, such as {(each + 1) * world_size}"
        )
    return _bound("global_batch_size / world_size", each, 1, 2**32 - 1)


def _bound(name: str, value: object, low: int, high: int) -> int:
    number = whole_number(value)
    if number is None or not low <= number <= high:
        raise RequestError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    return number


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RequestError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _optional_text(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise RequestError(f"{name} must be a text that is not empty, or None, not {value!r}")
