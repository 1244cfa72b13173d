"""What can go wrong, one class per thing that a user can do something about.

Enters: failures that the daemon names by kind. Leaves: exceptions with the daemon's
message. All derive from :class:`LoaderdError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class LoaderdError(Exception):
    """Base of all errors of this package."""


class DaemonUnavailable(LoaderdError):
    """No daemon answers, and none could be started: see the daemon's log, or start one."""


class DaemonDied(LoaderdError):
    """The daemon went away in mid-job: load the last checkpoint's state and go on."""


class ProtocolMismatch(LoaderdError):
    """Daemon and client are of different versions: stop the daemon, or update one."""


class RequestError(LoaderdError, ValueError):
    """An argument is wrong in itself."""


class DatasetError(LoaderdError):
    """The dataset, its version or tag, a column or the filter is not what was asked for."""


class TransformError(LoaderdError, ValueError):
    """A transform, or the order of transforms, can't be done."""


class ResumeRefused(LoaderdError):
    """The state belongs to another dataset version, filter, columns or transform.

    The message has the differences. Load it with ``allow_changed=True`` to go on anyway.
    """


class RankConflict(LoaderdError):
    """The rank is taken, or the ranks of the run ask for different things."""


class BadSample(LoaderdError):
    """A row can't be decoded: mend it, or take ``on_bad_sample="replace"`` or ``"zero"``."""


class ReadError(LoaderdError, OSError):
    """The storage failed, after retries."""


class StepLogError(LoaderdError):
    """The step log can't be written: free disk space, or take ``on_log_error="continue"``."""


class LimitExceeded(LoaderdError):
    """A limit of the daemon, such as its slot memory: ask for less, or raise the limit."""


class InternalError(LoaderdError):
    """A fault in loaderd itself. The daemon's log has more; please report it."""


class SlotsExhausted(LoaderdError):
    """Tensors that are still alive hold every slot: clone what you keep, or take more slots."""


class WorkerProcessError(LoaderdError):
    """The dataset is used in a DataLoader worker: take ``num_workers=0``."""


class ForkedProcess(LoaderdError):
    """The dataset was connected before this process was forked: make one in the child."""


#: Exception class by the ``FailureKind`` that the daemon sends.
FAILURES: Mapping[str, type[LoaderdError]] = {
    "protocol": ProtocolMismatch,
    "request": RequestError,
    "dataset": DatasetError,
    "transform": TransformError,
    "resume": ResumeRefused,
    "rank": RankConflict,
    "bad_sample": BadSample,
    "io": ReadError,
    "step_log": StepLogError,
    "limit": LimitExceeded,
    "stopping": DaemonDied,
    "internal": InternalError,
}


def from_failure(failure: Mapping[str, Any]) -> LoaderdError:
    """The exception for a ``failed`` message of the daemon."""
    return FAILURES.get(failure["kind"], LoaderdError)(failure["message"])
