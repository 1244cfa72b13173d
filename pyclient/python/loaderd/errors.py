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
    """No daemon answers, and none could be started: see the daemon's log, or start one by hand."""


class DaemonDied(LoaderdError):
    """The daemon died during the job: load the last checkpoint's state and iterate again."""


class ProtocolMismatch(LoaderdError):
    """Daemon and client have incompatible versions: stop the daemon, or update one of them."""


class RequestError(LoaderdError, ValueError):
    """An argument is invalid, whatever the dataset."""


class DatasetError(LoaderdError):
    """The dataset, version, tag or column does not exist, or the filter does not fit it."""


class TransformError(LoaderdError, ValueError):
    """A transform, one of its arguments, or the order of the transforms is not supported."""


class ResumeRefused(LoaderdError):
    """The state belongs to another dataset version, filter, columns, transform or seed.

    The message lists the differences. Load it with ``allow_changed=True`` to continue anyway.
    """


class RankConflict(LoaderdError):
    """The rank is already in use, or the ranks of the run requested different things."""


class BadSample(LoaderdError):
    """A row can't be decoded: repair it, or use ``on_bad_sample="replace"`` or ``"zero"``."""


class ReadError(LoaderdError, OSError):
    """Reading the dataset's files failed, after retries."""


class StepLogError(LoaderdError):
    """The step log can't be written: free disk space, or use ``on_log_error="continue"``."""


class LimitExceeded(LoaderdError):
    """A limit of the daemon (such as slot memory) or of this process: request less, or raise it."""


class GpuUnavailable(LoaderdError):
    """The GPU stopped answering: load the last checkpoint's state, iterate again on CPU cores."""


class InternalError(LoaderdError):
    """A bug in loaderd. The daemon's log has the details; please report it."""


class SlotsExhausted(LoaderdError):
    """Live tensors hold every slot: clone the batches that you keep, or use more ``slots``."""


class WorkerProcessError(LoaderdError):
    """The dataset is used in a DataLoader worker: use ``num_workers=0``."""


class ForkedProcess(LoaderdError):
    """The dataset had connected before this process was forked: create one in the child."""


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
    "gpu": GpuUnavailable,
    "stopping": DaemonDied,
}


def from_failure(failure: Mapping[str, Any]) -> LoaderdError:
    """The exception for a ``failed`` message of the daemon."""
    return FAILURES.get(failure["kind"], LoaderdError)(failure["message"])
