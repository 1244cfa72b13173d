"""Shuffled, exact, fast training batches from Lance datasets.

Start at :class:`loaderd.torch.LanceIterableDataset` or :class:`loaderd.jax.LanceLoader`.
This module has what does not depend on a framework: the transforms, the batch, and the
errors.
"""

from __future__ import annotations

from loaderd import errors
from loaderd._native import __version__
from loaderd.augmentations import ColorJitter, RandAugment, RandomErasing, RandomGrayscale
from loaderd.batch import Batch
from loaderd.errors import (
    BadSample,
    DaemonDied,
    DaemonUnavailable,
    DatasetError,
    ForkedProcess,
    GpuUnavailable,
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
from loaderd.followers import BoundingBoxes, Mask
from loaderd.ragged import Ragged
from loaderd.transforms import (
    CenterCrop,
    Decode,
    Normalize,
    Pad,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomVerticalFlip,
    Resize,
    ToDtype,
    ToLayout,
    Transform,
)

__all__ = [
    "BadSample",
    "Batch",
    "BoundingBoxes",
    "CenterCrop",
    "ColorJitter",
    "DaemonDied",
    "DaemonUnavailable",
    "DatasetError",
    "Decode",
    "ForkedProcess",
    "GpuUnavailable",
    "InternalError",
    "LimitExceeded",
    "LoaderdError",
    "Mask",
    "Normalize",
    "Pad",
    "ProtocolMismatch",
    "Ragged",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomVerticalFlip",
    "RankConflict",
    "ReadError",
    "RequestError",
    "Resize",
    "ResumeRefused",
    "SlotsExhausted",
    "StepLogError",
    "ToDtype",
    "ToLayout",
    "Transform",
    "TransformError",
    "WorkerProcessError",
    "__version__",
    "errors",
]
