"""Requests that no client of ours sends: the daemon refuses them in words, and serves on."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytest.importorskip("torch")

from daemon_process import NUMBERS, ROWS, Daemon
from faults import wire
from loaderd import errors

GOOD: dict[str, Any] = {
    "uri": NUMBERS,
    "columns": ["label"],
    "batch_size": 4,
    "rank": 0,
    "world_size": 1,
}
SHORT = {"name": "CenterCrop", "size": [8, 8]}


def ask(daemon: Daemon, *messages: dict[str, Any]) -> dict[str, Any]:
    """The answer to the last of the messages, each of which has one."""
    connection, answer = wire.hello(daemon.socket)
    with connection:
        for message in messages:
            connection.sendall(wire.frame(message))
            answer = wire.receive(connection)
        if answer["type"] == "failed" and answer["stream"] is None:
            with pytest.raises(wire.Closed):
                wire.receive(connection)
    return answer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, ["batch_size is 0", "at least 1"]),
        ({"rank": 2, "world_size": 2}, ["rank 2", "world_size 2", "count from 0"]),
        ({"world_size": 0}, ["world_size 0"]),
        ({"columns": []}, ["columns is empty", "at least one"]),
        ({"columns": ["label", "label"]}, ["'label'", "twice"]),
        ({"transform": {"image": [SHORT]}}, ["'image'", "not among columns"]),
        ({"world_size": 4, "local_world_size": 2}, ["several nodes", "version="]),
        ({"slots": 0}, ["slots is 0", "give 1 to"]),
        ({"slots": 1 << 20}, [f"slots is {1 << 20}", "give 1 to"]),
        ({"batch_size": (1 << 32) - 1, "columns": ["tensor"]}, ["--slot-memory"]),
        ({"columns": ["no such"]}, ["no such"]),
    ],
)
def test_what_cannot_be_is_refused(daemon: Daemon, change: dict[str, Any], words: Any) -> None:
    answer = ask(daemon, {"type": "open", **GOOD, **change})
    assert answer["type"] == "failed", answer
    for word in words:
        assert word in answer["message"].replace('"', "'"), answer["message"]
    served = [row for batch in daemon.dataset() for row in batch["label"].tolist()]
    assert served == list(range(ROWS))


OPEN = {"type": "open", **GOOD}
START = {"type": "start", "stream": 1, "epoch": 0, "step": 0}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([START], "`open` comes first"),
        ([OPEN, OPEN], "has a job already"),
        (
            [{"type": "hello", "protocol": 0, "version": "1", "binary": "b"}],
            "`hello` comes once",
        ),
        ([OPEN, {**START, "step": 26}], "step 26 is outside an epoch of 25 steps"),
        ([OPEN, {**START, "epoch": 1 << 60}], f"epoch {1 << 60} of 25 steps is too far"),
        ([OPEN, {**START, "epoch": (1 << 64) - 1}], "is too far"),
        ([OPEN, {**START, "stream": 0}], "stream 0 is not larger"),
        ([OPEN, {"type": "delivered", "lease": 9}], "lease 9"),
    ],
)
def test_messages_out_of_turn_end_the_session(
    daemon: Daemon, messages: list[dict[str, Any]], words: str
) -> None:
    answer = ask(daemon, *messages)
    assert answer["type"] == "failed" and words in answer["message"], answer
    # The session's memory is given back behind its last word.
    deadline = time.monotonic() + 20
    while wire.status(daemon.socket)["slot_bytes"][0] > 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"filter": "label in (" + "1, " * 1_400_000 + "2)"}, "over the bound"),
        ({"columns": ["label\udcff"]}, "can't be asked"),
        ({"rank": 0, "world_size": 1 << 32}, "expected u32"),
    ],
)
def test_what_cannot_be_said_is_a_wrong_request(
    daemon: Daemon, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(errors.RequestError, match=words):
        len(daemon.dataset(**arguments))
