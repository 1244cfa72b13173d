"""Arguments, environment and errors: all that needs no daemon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from loaderd import errors
from loaderd.job import Job
from loaderd.ranks import Ranks, find_ranks, launcher_id

NEEDED: dict[str, Any] = {"columns": ["image", "label"], "batch_size": 8}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ((None, None), {}, Ranks(0, 1)),
        ((None, None), {"RANK": "3", "WORLD_SIZE": "8"}, Ranks(3, 8)),
        (
            (None, None),
            {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"},
            Ranks(3, 8, 4),
        ),
        ((1, 2), {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, Ranks(1, 2)),
        ((None, None), {"RANK": "", "WORLD_SIZE": ""}, Ranks(0, 1)),
    ],
)
def test_ranks(arguments: Any, environment: dict[str, str], expected: Ranks) -> None:
    assert find_ranks(*arguments, environment) == expected


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ((1, None), {}, "give both"),
        ((None, None), {"RANK": "1"}, "set both or neither"),
        ((None, None), {"RANK": "one", "WORLD_SIZE": "2"}, "RANK='one'"),
        ((2, 2), {}, "rank 2 of world_size 2"),
        ((-1, 2), {}, "rank -1"),
        ((0, 0), {}, "world_size 0"),
        ((0.0, 1), {}, "whole number"),
    ],
)
def test_ranks_refused(arguments: Any, environment: dict[str, str], message: str) -> None:
    with pytest.raises(errors.RequestError, match=message):
        find_ranks(*arguments, environment)


def test_launcher_ids() -> None:
    assert launcher_id({}, 1) is None
    assert launcher_id({"TORCHELASTIC_RUN_ID": "abc"}, 1) == "abc"
    slurm = {"SLURM_JOB_ID": "9", "SLURM_PROCID": "0", "SLURM_STEP_ID": "2"}
    assert launcher_id(slurm, 2) == "slurm-9-2"
    assert launcher_id(slurm, 1) is None
    # torchrun's "none" is no id: ranks share their parent and the rendezvous instead.
    one = launcher_id({"TORCHELASTIC_RUN_ID": "none", "MASTER_PORT": "29500"}, 2)
    assert one == launcher_id({"MASTER_PORT": "29500"}, 2)
    assert one != launcher_id({"MASTER_PORT": "29501"}, 2)
    assert one is not None
    assert str(os.getppid()) in one


def test_request_has_what_the_daemon_wants() -> None:
    request = Job.make("data/x.lance", filter="label > 3", version="v1", **NEEDED).request()
    assert request == {
        "uri": os.path.abspath("data/x.lance"),
        "version": "v1",
        "filter": "label > 3",
        "columns": ["image", "label"],
        "transform": {},
        "batch_size": 8,
        "shuffle": False,
        "seed": 0,
        "drop_last": False,
        "rank": 0,
        "world_size": 1,
        "local_world_size": None,
        "run": None,
        "protect": "run",
        "on_bad_sample": "raise",
        "on_log_error": "stop",
        "fast_dct": False,
        "exif_orientation": True,
        "use_tiled": True,
        "decode": "auto",
        "slots": None,
        "variable_bytes": None,
        "resume": None,
        "allow_changed": False,
    }


@pytest.mark.parametrize("uri", ["memory:images=10", "file:///x", "file:/x", "s3://bucket/x"])
def test_uris_with_a_scheme_stay(uri: str) -> None:
    assert Job.make(uri, **NEEDED).uri == uri


def test_paths_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path / "x")
    assert {Job.make(uri, **NEEDED).uri for uri in ("x", "~/x", Path("x"), b"x")} == {here}
    assert Job.make("run:3.lance", **NEEDED).uri == str(tmp_path / "run:3.lance")
    for wrong, message in ((None, "uri must be a path"), (3, "not 3"), ("", "uri is empty")):
        with pytest.raises(errors.RequestError, match=message):
            Job.make(wrong, **NEEDED)


def test_whole_numbers_of_numpy_become_pythons() -> None:
    np = pytest.importorskip("numpy")
    job = Job.make(
        "x",
        columns=["a"],
        version=np.uint64(3),
        global_batch_size=np.int64(8),
        seed=np.int32(5),
        slots=np.int8(3),
        rank=np.int64(0),
        world_size=np.int64(2),
    )
    numbers = (job.version, job.batch_size, job.seed, job.slots, job.ranks.world_size)
    assert numbers == (3, 4, 5, 3, 2)
    # As JSON takes them.
    assert {type(number) for number in numbers} == {int}
    with pytest.raises(errors.RequestError, match="seed must be a whole number"):
        Job.make("x", **NEEDED, seed=np.array([1, 2]))


def test_run_ids_of_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "launch")
    train = Job.make("x", **NEEDED).request()["run"]
    assert train == "launch"
    # Every rank comes to the same id, and so does another loader of the launch: the step
    # log tells them apart by their plans.
    ranks = [Job.make("x", rank=rank, world_size=2, **NEEDED).request()["run"] for rank in (0, 1)]
    assert ranks == [train, train]
    assert Job.make("x", filter="a", **NEEDED).request()["run"] == train
    # What the user or a cursor says comes first.
    assert Job.make("x", run="mine", **NEEDED).request()["run"] == "mine"
    assert Job.make("x", **NEEDED).request(resume={"run": "before"})["run"] == "before"
    assert Job.make("x", run="mine", **NEEDED).request(resume={"run": "b"})["run"] == "mine"


def test_global_batch_size() -> None:
    def each(global_batch_size: int, world_size: int) -> int:
        return Job.make(
            "x",
            columns=["a"],
            global_batch_size=global_batch_size,
            rank=0,
            world_size=world_size,
        ).batch_size

    assert each(256, 8) == 32
    with pytest.raises(errors.RequestError, match="such as 12"):
        each(10, 4)
    with pytest.raises(errors.RequestError, match="such as 4"):
        each(3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": "image"}, "list of names"),
        ({"columns": None}, "list of names"),
        ({"columns": {"image", "label"}}, "list of names"),
        ({"columns": []}, "columns is empty"),
        ({"columns": ["a", "b", "a"]}, "'a' more than once"),
        ({"batch_size": 0}, "from 1 to"),
        ({"batch_size": None}, "give batch_size"),
        ({"global_batch_size": 8}, "not both"),
        ({"version": 1.5}, "version must be"),
        ({"version": -1}, "version must be"),
        ({"filter": " "}, "filter must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**64}, "seed must be"),
        ({"slots": 1}, "slots must be a whole number from 2 to 1024"),
        ({"slots": 1025}, "slots must be a whole number from 2 to 1024"),
        ({"shuffle": 1}, "shuffle must be True or False"),
        ({"protect": "always"}, "run, keep, none, not 'always'"),
        ({"on_bad_sample": "skip"}, "raise, replace, zero"),
        ({"on_log_error": "ignore"}, "stop, continue"),
        ({"run": ""}, "run must be"),
        ({"uri": os.fsdecode(b"/a/\xff.lance")}, r"must be UTF-8, not b'/a/\\xff.lance'"),
    ],
)
def test_arguments_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.RequestError, match=message):
        Job.make(**{"uri": "x", **NEEDED, **arguments})


def test_every_failure_has_a_class() -> None:
    # The kinds of `FailureKind` in loaderd/wire/src/message.rs.
    kinds = ["protocol", "request", "dataset", "transform", "resume", "rank", "bad_sample", "io"]
    kinds += ["step_log", "limit", "gpu", "stopping"]
    assert list(errors.FAILURES) == kinds
    for kind, expected in errors.FAILURES.items():
        error = errors.from_failure({"kind": kind, "message": "words"})
        assert type(error) is expected
        assert str(error) == "words"
    assert issubclass(errors.RequestError, ValueError)
    assert type(errors.from_failure({"kind": "new", "message": ""})) is errors.LoaderdError
