"""Pinned slots, with a stand-in for the CUDA driver and a real daemon.

Nothing here runs on a GPU: ``test_pinning_gpu.py`` does, where there is one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from daemon_process import Daemon
from loaderd import errors
from loaderd.torch import LanceIterableDataset

HERE = Path(__file__).parent

#: Stories of ``pinning_process.py``, and how the stand-in is built for each.
STORIES: dict[str, list[str]] = {
    "a_process_without_cuda_stays_one": [],
    "slots_are_pinned_once_a_context_is_active": [],
    "a_slot_goes_back_when_the_gpu_has_read_it": [],
    "every_device_is_waited_for": [],
    "a_capture_is_never_disturbed": [],
    "pinning_waits_for_the_end_of_a_capture": [],
    "a_capture_that_ends_wakes_who_waits": [],
    "a_tensor_that_dies_wakes_who_waits": [],
    "a_tensor_may_die_while_slots_are_pinned": [],
    "a_capture_that_nobody_told_of_is_named": [],
    "a_broken_context_hangs_nobody": [],
    "events_that_can_not_be_recorded_leave_slots_unpinned": [],
    "a_context_without_events_is_waited_for": [],
    "a_framework_that_uses_no_cuda_costs_nothing": [],
    "a_session_ends_whatever_the_framework_says": [],
    "an_older_driver_leaves_slots_unpinned": ["OLD"],
    "what_can_not_be_pinned_is_said_once": ["REGISTER=2"],
    "pinning_can_be_insisted_on": [],
    "pinning_can_be_declined": [],
    "coherent_memory_is_watched_unpinned": ["COHERENT"],
    "a_fork_leaves_cuda_alone": [],
    "memory_outlives_its_session_until_it_was_read": [],
    "tensors_may_die_in_any_order_at_exit": [],
    "a_gpu_that_hangs_is_named": [],
}


def build(folder: Path, defines: list[str]) -> Path:
    """The stand-in, by the C compiler that the daemon's build needs as well."""
    library = folder / "libstandin.so"
    flags = ["-std=gnu11", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread"]
    compiler = os.environ.get("CC", "cc")
    macros = [f"-D{define}" for define in defines]
    source = HERE / "standin" / "cuda.c"
    subprocess.run([compiler, *flags, *macros, "-o", library, source], check=True)
    return library


@pytest.mark.parametrize("story", STORIES)
def test_around_a_stand_in(story: str, daemon: Daemon, tmp_path: Path) -> None:
    library = build(tmp_path, STORIES[story])
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            HERE / "pinning_process.py",
            story,
            str(library),
            daemon.socket,
        ],
        env={**os.environ, "LOADERD_LIBCUDA": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_pin_memory_is_checked(daemon: Daemon) -> None:
    with pytest.raises(errors.RequestError, match="or False, not 'yes'"):
        daemon.dataset(pin_memory="yes")
    dataset: LanceIterableDataset = daemon.dataset(pin_memory=True)
    with pytest.raises(errors.RequestError, match="no GPU is in use here yet"):
        next(iter(dataset))
