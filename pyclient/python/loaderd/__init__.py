"""Shuffled, exact, fast training batches from Lance datasets.

Start at :class:`loaderd.torch.LanceIterableDataset`. This module has what does not
depend on a framework: the transforms, the batch, and the errors.
"""

from __future__ import annotations

from loaderd import errors
from loaderd._native import __version__
from loaderd.batch import Batch
from loaderd.errors import (
    BadSample,
    DaemonDied,
    DaemonUnavailable,
    DatasetError,
    ForkedProcess,
    InternalError,
    LimitExceeded,
    LoaderdError,
    ProtocolMismatch,
    RankConflict,
    ReadError,
    RequestError,
    ResumeRefused,
    SlotsExhausted,
    StepLogError,
    TransformError,
    WorkerProcessError,
)
from loaderd.ragged import Ragged
from loaderd.transforms import (
    CenterCrop,
    Decode,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToDtype,
    Transform,
)

__all__ = [
    "BadSample",
    "Batch",
    "CenterCrop",
    "DaemonDied",
    "DaemonUnavailable",
    "DatasetError",
    "Decode",
    "ForkedProcess",
    "InternalError",
    "LimitExceeded",
    "LoaderdError",
    "Normalize",
    "ProtocolMismatch",
    "Ragged",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RankConflict",
    "ReadError",
    "RequestError",
    "Resize",
    "ResumeRefused",
    "SlotsExhausted",
    "StepLogError",
    "ToDtype",
    "Transform",
    "TransformError",
    "WorkerProcessError",
    "__version__",
    "errors",
]
