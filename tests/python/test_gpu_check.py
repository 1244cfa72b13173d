"""The check of a GPU: without one it says so part by part, and a part that fails costs itself."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import harness
from gpu import __main__ as check
from gpu import (
    bundle,
    correct,
    machine,
    neighbour,
    others,
    rates,
    report,
    streams,
    targets,
)
from gpu_bundles import BENCHES, a_bundle, a_program


def python_path() -> str:
    return os.pathsep.join(filter(None, [str(BENCHES), os.environ.get("PYTHONPATH")]))


def run(root: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    answer = root.parent / "answer.json"
    command = [sys.executable, "-m", "gpu", str(root), "--brief", f"--json={answer}", *options]
    environment = {**os.environ, "PYTHONPATH": python_path()}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    return done, json.loads(answer.read_text())


def test_without_a_gpu_every_part_says_why_it_is_skipped(tmp_path: Path) -> None:
    done, answer = run(a_bundle(tmp_path))
    parts = answer["parts"]
    assert parts["machine"]["status"] == "ok", done.stdout + done.stderr
    why = machine.why_no_gpu(parts["machine"]["found"])
    if why is None:
        pytest.skip("there is a GPU: make gpu-check looks at it")
    assert done.returncode == 0
    assert list(parts) == list(check.PARTS)
    for name, part in parts.items():
        if name != "machine":
            assert (part["status"], part["why"]) == ("skipped", why)
            assert f"{check.PARTS[name].title:<36} skipped" in done.stdout
    assert all(line["verdict"] == "not measured" for line in answer["targets"])
    assert len(answer["targets"]) == len(targets.TARGETS)
    # Results are published; where things lie is nobody's business.
    assert str(tmp_path) not in json.dumps(answer)


def test_a_part_that_crashes_or_hangs_costs_itself(tmp_path: Path) -> None:
    done, answer = run(a_bundle(tmp_path / "crash", "kill -SEGV $$"), "--only", "copies")
    part = answer["parts"]["machine"]
    assert (done.returncode, part["status"]) == (1, "failed")
    assert "ended by signal 11" in part["why"] and "2.34" in part["why"]
    assert "could not be found out" in answer["parts"]["copies"]["why"]
    sleeper = a_bundle(tmp_path / "hang", "exec sleep 100")
    done, answer = run(sleeper, "--only", "copies", "--minutes", "0.05")
    assert (done.returncode, answer["parts"]["machine"]["status"]) == (1, "hung")
    assert answer["parts"]["copies"]["status"] == "skipped"
    assert "failed: machine" in done.stdout


#: A part that measures some ways, the second of which does not end.
HANGS_LATER = """case "$1 $6" in
"engines "*) echo '{"hardware": {"engines": 7, "cores_each": 1}}' ;;
"ceiling 7") echo '{"images_per_s": 7, "unwritten_in_last_batches": 0}' ;;
*) echo asked >&2; exec sleep 100 ;;
esac"""


def test_what_a_part_had_found_before_it_hung_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = a_bundle(tmp_path)
    a_program(root / "bin" / "gpucheck", HANGS_LATER)
    monkeypatch.setenv("PYTHONPATH", python_path())
    given = argparse.Namespace(bundle=root, brief=True)
    hasty = dataclasses.replace(check.PARTS["ceilings"], seconds_max=5)
    answer = check.run("ceilings", hasty, given, time.monotonic() + 60)
    assert answer["status"] == "hung"
    (way,) = answer["found"]["ways"]
    assert (way["lane"], way["batch"], way["images_per_s"]) == ("hardware", 7, 7)
    found = check.found({"ceilings": answer})
    report.show(found)
    assert "nvJPEG, hardware, batches of 7" in capsys.readouterr().out
    judged = {one["title"]: one["verdict"] for one in targets.judge(found, False)}
    assert judged["unit, untiled / nvJPEG's best"] == "not measured"


#: What `loaderd doctor` says of a machine with a GPU.
A_GPU = """echo '{"checks": [{"name": "nvjpeg", "verdict": "ok", "found": "x"}], "versions": {}}'"""


def test_where_the_gpu_answers_no_more_the_rest_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())
    for hangs in ("order", "strict"):
        hasty = dataclasses.replace(check.PARTS[hangs], seconds_max=4)
        monkeypatch.setitem(check.PARTS, hangs, hasty)
    monkeypatch.setattr(check, "_ANSWER_S_MAX", 1.0)

    def parts(name: str, doctor: str, engines: str) -> dict[str, Any]:
        root = a_bundle(tmp_path / name, doctor)
        script = f"[ $1 = engines ] && {{ {engines}; exit; }}; exec sleep 100"
        a_program(root / "bin" / "gpucheck", script)
        answer = tmp_path / f"{name}.json"
        only = ["machine", "order", "strict"]
        given = argparse.Namespace(bundle=root, only=only, brief=True, minutes=0.5, json=answer)
        check.check(bundle.Bundle(root), given, tmp_path)
        found: dict[str, Any] = json.loads(answer.read_text())["parts"]
        return found

    wedged = parts("wedged", A_GPU, "sleep 100")
    assert [one["status"] for one in wedged.values()] == ["ok", "hung", "skipped"]
    why = "since the part order, the GPU does not answer: gpucheck engines: no end after 1 s"
    assert wedged["strict"]["why"] == why
    # A part that hangs by itself costs no other; nor does a machine that can't be described.
    for name, doctor, first in (("alive", A_GPU, "ok"), ("odd", "kill -SEGV $$", "failed")):
        alive = parts(name, doctor, "echo '{}'")
        assert [one["status"] for one in alive.values()] == [first, "hung", "hung"]


def a_run(**changed: Any) -> targets.Found:
    """Findings that meet all targets."""
    way = {"images_per_s": 9.0, "cpu_us_per_image": 9.0, "gap_ms_p99": 2.0, "gap_ms_median": 1.5}
    way["gpu_share"] = 1.0
    forms, on_gpu = ("untiled", "tiled"), {"gpu_share": 1.0}
    found: targets.Found = {
        "kinds": {
            "kinds": [{"difference": 0.4}],
            "gpu": {"decoded": 20, "refused": 0},
            "for_engines": 20,
        },
        "unit-kinds": {"difference_max": 0.4, "offered": 9, "finished": 9},
        "pinned": {"passed": ["test_slots"], "failed": [], "skipped": []},
        "damaged": {
            "good_difference_max": 0.2,
            "otherwise_valid": [],
            "good_rows": 68,
            "gpu": {"decoded": 70, "refused": 2, "found": "decoding on NVIDIA's"},
        },
        "tests": {"passed": ["unit::real_gpu"], "failed": [], "skipped": []},
        "ceilings": {"best": {"images_per_s": 6.0}},
        "unit": {form: way for form in forms},
        "daemon": {"ways": [{"decode": "gpu", "form": form, **way} for form in forms]},
        "torchvision": {"images_per_s": 8.0},
        "nvimagecodec": {"images_per_s": 8.0},
        "neighbour": {
            "ways": [
                {"decode": "gpu", "form": form, "slowed_by": 0.01, "images_per_s": 5000.0, **on_gpu}
                for form in forms
            ]
        },
    }
    return {**found, **changed}


def test_misses_are_called_missed_and_what_is_not_there_is_not_judged() -> None:
    def verdicts(found: targets.Found, is_brief: bool = False) -> list[str]:
        return [line["verdict"] for line in targets.judge(found, is_brief)]

    assert set(verdicts(a_run())) == {"met"}
    slow = verdicts(a_run(ceilings={"best": {"images_per_s": 60.0}}))
    assert slow.count("MISSED") == 4
    ways = [{**way, "images_per_s": 900.0} for way in a_run()["neighbour"]["ways"]]
    assert verdicts(a_run(neighbour={"ways": ways})).count("not measured") == 2
    wrong = verdicts(a_run(kinds={**a_run()["kinds"], "kinds": [{"difference": 1.2}]}))
    assert wrong.count("MISSED") == 1
    # A daemon that decodes on the CPU is not to pass for one that has a GPU.
    idle = {**a_run()["kinds"], "gpu": {"decoded": 0, "refused": 0}}
    assert verdicts(a_run(kinds=idle)).count("MISSED") == 1
    dead = {"decoded": 12, "found": "the GPU has failed: an illegal address"}
    assert verdicts(a_run(damaged={**a_run()["damaged"], "gpu": dead})).count("MISSED") == 2
    failing = {"passed": [], "failed": ["unit::real_gpu: panicked"], "skipped": []}
    assert verdicts(a_run(tests=failing)).count("MISSED") == 1
    skipped = {"passed": [], "failed": [], "skipped": ["unit::real_gpu: skipped: no nvJPEG"]}
    assert verdicts(a_run(tests=skipped)).count("not measured") == 1
    without = a_run()
    del without["ceilings"]
    assert verdicts(without).count("not measured") == 4
    assert set(verdicts(a_run(), is_brief=True)) == {"not judged in a brief run"}


@pytest.mark.parametrize(
    ("part", "count"),
    # Ratios of rates, four of them, CPU times and gaps of two forms; steps beside two.
    [("daemon", 8), ("neighbour", 2)],
)
def test_what_cpu_cores_decode_is_not_the_gpus(part: str, count: int) -> None:
    for share in (0.9, None):
        ways = [{**way, "gpu_share": share} for way in a_run()[part]["ways"]]
        verdicts = [one["verdict"] for one in targets.judge(a_run(**{part: {"ways": ways}}), False)]
        assert verdicts.count("not measured") == count
        assert set(verdicts) == {"met", "not measured"}


#: Answers as ``gpucheck``: kinds, of which one was taken and none finished.
NONE_FINISHED = """echo '{"kinds": [
 {"name": "a", "alone": {"route": "engine", "outcome": "device failed"},
  "together": {"route": "CPU", "outcome": "for the CPU"}}
]}' | tr -d '\n'"""


def test_where_nothing_is_finished_no_difference_was_measured(tmp_path: Path) -> None:
    root = a_bundle(tmp_path)
    a_program(root / "bin" / "gpucheck", NONE_FINISHED)
    of = bundle.Bundle(root)
    found = correct.finished(of, of.kinds)
    assert (found["offered"], found["finished"], found["difference_max"]) == (1, 0, None)
    verdicts = {
        one["title"]: one["verdict"]
        for one in targets.judge(a_run(**{"unit-kinds": found}), False)
        if one["title"].startswith("unit")
    }
    assert verdicts["unit's pixels, worst kind: grey levels from the CPU's"] == "not measured"
    assert verdicts["unit: images finished / offered, every kind"] == "MISSED"
    for part in ("unit-kinds", "unit-damaged"):
        report.show(check.found({part: {"status": "ok", "found": found}}))


#: Answers as ``gpucheck``: the first of two calls, and never the other.
ONE_HANGS = """[ "$5" = --plain ] && exec sleep 100; echo '{"kinds": []}'"""


def test_a_call_that_hangs_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = a_bundle(tmp_path)
    a_program(root / "bin" / "gpucheck", ONE_HANGS)
    of = bundle.Bundle(root)
    answers = of.answers
    monkeypatch.setattr(bundle.Bundle, "answers", lambda _, calls, __: answers(calls, 0.5))
    with pytest.raises(bundle.Failed, match="plain: gpucheck pixels: no end after") as failed:
        correct.pixels(of, "hardware")
    assert failed.value.found == {"interpolating": {"kinds": []}}


def test_what_libraries_print_is_no_answer_and_a_panic_says_what_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = a_bundle(tmp_path)
    of = bundle.Bundle(root)
    a_program(root / "bin" / "gpucheck", "echo a library is here; echo '{\"a\": 1}'")
    assert of.gpucheck("engines") == {"a": 1}
    a_program(root / "bin" / "gpucheck", "echo not what was asked for")
    with pytest.raises(bundle.Failed, match="gpucheck engines: this is no answer: 'not what"):
        of.gpucheck("engines")
    words = "thread 'main' (7) panicked at order.rs:9:8:\nno place\nnote: run with RUST_BACKTRACE=1"
    a_program(root / "bin" / "gpucheck", f"echo early; echo {words!r} >&2; exit 101")
    with pytest.raises(bundle.Failed, match=r"engines: thread 'main' .* panicked at .*: no place$"):
        of.gpucheck("engines")
    assert "note: run with RUST_BACKTRACE" in capfd.readouterr().err


#: A daemon that serves, or seems to, and ends with a crash when it is told to end.
CRASHES_LATE = """echo 'what it says in its log'
trap 'kill -SEGV $$' TERM
touch "${2#--socket=}"
while :; do sleep 0.05; done"""


def test_a_daemon_that_crashes_at_its_end_costs_nothing_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = a_bundle(tmp_path, CRASHES_LATE)
    alone = f"""
import sys
from pathlib import Path
from gpu import __main__ as check, streams
def measure(bundle, brief):
    with streams.daemon(bundle):
        found = {{"images_per_s": 7}}
    return found
check.PARTS = {{"copies": check.Part("", 9, measure)}}
check.alone("copies", check.Bundle(Path({str(root)!r})), True)
"""
    environment = {**os.environ, "PYTHONPATH": python_path()}
    done = subprocess.run(
        [sys.executable, "-c", alone], capture_output=True, text=True, env=environment, timeout=60
    )
    answer = json.loads(done.stdout)
    assert answer["found"] == {"images_per_s": 7}
    assert answer["status"] == "failed"
    assert answer["why"].startswith("the daemon ended with status -11")
    assert "what it says in its log" in done.stderr


def test_a_part_that_fails_leaves_all_that_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = a_bundle(tmp_path, "echo first words >&2; exit 3")
    monkeypatch.setenv("PYTHONPATH", python_path())
    given = argparse.Namespace(bundle=root, brief=True)
    answer = check.run("machine", check.PARTS["machine"], given, time.monotonic() + 60)
    assert answer["status"] == "failed" and "first words" in answer["why"]
    assert "Traceback" in answer["log"] and answer["seconds"] > 0


def test_what_programs_note_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())
    root = a_bundle(tmp_path)
    a_program(root / "bin" / "gpucheck", "echo what is odd >&2; echo '{}'")
    given = argparse.Namespace(bundle=root, brief=True)
    answer = check.run("engines", check.PARTS["engines"], given, time.monotonic() + 60)
    assert (answer["status"], answer["log"]) == ("ok", "what is odd\n")


def test_gpus_are_kept_open_all_the_while(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    (tmp_path / "nvidia1").unlink()
    (tmp_path / "nvidia1").symlink_to(tmp_path / "nowhere")
    with machine.awake(tmp_path) as keeper:
        assert keeper.stdout is not None and keeper.stdout.readline() == "open\n"
        files = [file.resolve() for file in Path(f"/proc/{keeper.pid}/fd").iterdir()]
        assert tmp_path / "nvidia0" in files and tmp_path / "nvidiactl" not in files
    assert keeper.poll() is not None


def test_tests_of_pinned_slots_are_carried_whole(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    root = a_bundle(tmp_path)
    with pytest.raises(bundle.Skipped, match="carries no test"):
        correct.pinned(bundle.Bundle(root), True)
    bundle._carry_tests(root)
    found = correct.pinned(bundle.Bundle(root), True)
    assert not found["failed"] and (found["passed"] or found["skipped"])
    report.show({"pinned": found})
    tests = "def test_good(): pass\ndef test_bad(): raise ValueError('c10::why')\n"
    bundle.Bundle(root).pinning.write_text(tests)
    with pytest.raises(bundle.Failed, match="test_bad - ValueError: c10::why") as failed:
        correct.pinned(bundle.Bundle(root), True)
    passed_and_failed = {"passed": ["test_good"], "failed": ["test_bad - ValueError: c10::why"]}
    assert failed.value.found == {**passed_and_failed, "skipped": []}


def test_of_a_kind_that_hangs_no_more_is_asked(tmp_path: Path) -> None:
    root = a_bundle(tmp_path)
    a_program(root / "bin" / "gpucheck", "[ $2 = cuda ] && echo '{}' || exec sleep 100")
    ask = rates._Patient(bundle.Bundle(root), "ceiling", 0.3)
    said = [ask(kind, kind) for kind in ("hardware", "hardware", "cuda", "hardware")]
    hung = {"why_not": "gpucheck ceiling: no end after 0 s"}
    assert said == [hung, hung, {}, {"why_not": "not asked: hardware hung twice before"}]


#: Answers as ``gpucheck`` on a machine whose engines, if any, decode nothing.
CUDA_ALONE = """case "$1 $4" in
engines*) echo '{"hardware": HARDWARE}' ;;
"ceiling hardware") echo "no such backend" >&2; exit 1 ;;
*) echo '{"images_per_s": 7, "unwritten_in_last_batches": 0}' ;;
esac"""


def test_cuda_cores_are_no_best_where_there_are_engines(tmp_path: Path) -> None:
    for name, hardware, best in (
        ("none", '{"why_not": "no engines"}', 7),
        ("idle", '{"engines": 7, "cores_each": 1}', None),
    ):
        root = a_bundle(tmp_path / name)
        a_program(root / "bin" / "gpucheck", CUDA_ALONE.replace("HARDWARE", hardware))
        found = rates.ceilings(bundle.Bundle(root), True)
        assert found.get("best", {}).get("images_per_s") == best
        assert ("no_best" in found) is (best is None)
        report.show({"ceilings": found})
        judged = targets.judge(a_run(ceilings=found), False)
        missing = [one for one in judged if one["verdict"] == "not measured"]
        assert len(missing) == (4 if best is None else 0)


def test_a_test_that_fails_fails_the_check_and_what_it_said_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = a_bundle(tmp_path)
    script = """[ "$1" = --list ] && { echo 'a_real_gpu_works: test'; exit; }
head -c 9000 /dev/zero | tr '\\0' a; echo; echo "thread 'x' panicked at unit.rs:1" >&2; exit 101"""
    a_program(root / "tests" / "unit", script)
    with pytest.raises(
        bundle.Failed, match="unit::a_real_gpu_works: thread 'x' panicked"
    ) as failed:
        correct.tests(bundle.Bundle(root), True)
    found = failed.value.found
    assert found is not None and len(found["failed"]) == 1
    (said,) = found["said"].values()
    assert len(said) == 2_000 and said.startswith("aaa") and "panicked at unit.rs:1" in said
    results = {"tests": {"status": "failed", "found": found}}
    assert check.found(results) == {"tests": found}
    report.show(check.found(results))
    assert "test failed: unit::a_real_gpu_works" in capsys.readouterr().out
    # The same, in a process of its own: the part has failed, and what it found is there.
    monkeypatch.setenv("PYTHONPATH", python_path())
    given = argparse.Namespace(bundle=root, brief=True)
    answer = check.run("tests", check.PARTS["tests"], given, time.monotonic() + 60)
    assert (answer["status"], answer["found"]["failed"]) == ("failed", found["failed"])


def test_a_test_that_hangs_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correct, "_TEST_S_MAX", 0.3)
    root = a_bundle(tmp_path)
    listed = """[ "$1" = --list ] && { echo 'a_real_gpu_works: test'; exit; }\necho began\n"""
    a_program(root / "tests" / "driver", f"{listed}exec sleep 100")
    a_program(root / "tests" / "unit", listed)
    with pytest.raises(bundle.Failed, match="driver::a_real_gpu_works: no end") as failed:
        correct.tests(bundle.Bundle(root), True)
    found = failed.value.found
    assert found is not None and found["passed"] == ["unit::a_real_gpu_works"]
    assert found["said"] == {"driver::a_real_gpu_works": "began\n"}


def test_only_tests_that_look_for_a_gpu_have_the_name_of_one() -> None:
    tests = Path(__file__).parents[2] / "loaderd" / "gpu" / "tests"
    bodies = [
        body
        for file in tests.rglob("*.rs")
        for name, body in re.findall(r"^fn (\w+)\(\) \{\n(.*?)^\}", file.read_text(), re.M | re.S)
        if bundle.GPU_TESTS in name
    ]
    assert len(bodies) >= 3
    assert all("is_plugged_in" in body and "Standins" not in body for body in bodies)


def test_what_a_part_leaves_behind_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Killed, like a part that hangs.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", python_path())
    where = tmp_path / "where"
    root = a_bundle(tmp_path / "bundle", f"mktemp -d > {where}; kill -KILL $PPID")
    given = argparse.Namespace(bundle=root, brief=True)
    answer = check.run("machine", check.PARTS["machine"], given, time.monotonic() + 60)
    assert (answer["status"], answer["why"]) == ("failed", "ended by signal 9")
    assert where.read_text().startswith(str(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bundle", "where"]


class FakeDecoder:
    """nvImageCodec's, which notes what is asked of it; engines alone it refuses."""

    made: ClassVar[list[list[str]]] = []
    calls: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, device_id: int, backends: list[str]) -> None:
        self.made.append(backends)
        if backends == ["HW_GPU_ONLY"]:
            raise RuntimeError("no engines")

    def decode(self, files: list[bytes], cuda_stream: int) -> list[bytes]:
        self.calls.append(("decode", cuda_stream))
        return files


class FakeDriver:
    """libcuda, which notes what is waited for."""

    def stream(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(threading.get_ident())

    def __call__(self, name: str, stream: ctypes.c_void_p) -> None:
        FakeDecoder.calls.append((name, stream.value or 0))


def test_nvimagecodec_decodes_on_the_gpu_and_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = a_bundle(tmp_path)
    (root / "pictures" / "photos" / "0.jpg").write_bytes(b"photo")
    kinds = ("CPU_ONLY", "GPU_ONLY", "HYBRID_CPU_GPU", "HW_GPU_ONLY")
    fake = types.SimpleNamespace(
        __version__="1",
        Decoder=FakeDecoder,
        CodeStream=bytes,
        Backend=lambda kind, load_hint_policy=None: kind,
        BackendKind=types.SimpleNamespace(**{kind: kind for kind in kinds}),
        LoadHintPolicy=types.SimpleNamespace(ADAPTIVE_MINIMIZE_IDLE_TIME=3),
    )
    monkeypatch.setitem(sys.modules, "nvidia", types.SimpleNamespace(nvimgcodec=fake))
    monkeypatch.setattr(harness, "installed", lambda *_: True)
    monkeypatch.setattr(others, "Driver", FakeDriver)
    found = others.nvimagecodec(bundle.Bundle(root), True)
    assert found["images_per_s"] > 0 and len(found["ways"]) == 2
    assert found["why_not"] == {"engines alone": "RuntimeError: no engines"}
    assert FakeDecoder.made
    assert all(backends and "CPU_ONLY" not in backends for backends in FakeDecoder.made)
    for thread in {stream for _, stream in FakeDecoder.calls}:
        names = [name for name, stream in FakeDecoder.calls if stream == thread]
        assert names[::2] == ["decode"] * (len(names) // 2)
        assert names[1::2] == ["cuStreamSynchronize"] * (len(names) // 2)


def test_a_consumer_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loader:
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield {}
            raise ValueError("no second batch")

        def close(self) -> None: ...

    cuda = types.SimpleNamespace(Stream=object, stream=contextlib.nullcontext)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(streams, "tensors", lambda *_, **__: Loader())
    daemon: Any = types.SimpleNamespace(socket="")
    consumer = neighbour._Consumer(daemon, Path(), "gpu").__enter__()
    consumer.runs.set()
    consumer._thread.join(20)
    with pytest.raises(ValueError, match="no second batch"):
        consumer.__exit__(None)


def test_the_gpus_share_is_of_what_was_counted() -> None:
    before, after = {"decoded": 100, "refused": 0}, {"decoded": 400, "refused": 0}
    assert rates.share(before, after, 400) == 0.75
    assert rates.share(None, after, 400) is None
    assert rates.share(before, after, 0) is None


def test_results_keep_files_but_no_folders() -> None:
    words = {"a": ["by /usr/lib/x86_64/libnvjpeg.so.13, 3 images/s", 4], "b": "memory at 5/6"}
    assert check.without_paths(words) == {
        "a": ["by libnvjpeg.so.13, 3 images/s", 4],
        "b": "memory at 5/6",
    }


def test_a_line_names_what_failed() -> None:
    line = report.line("copies", {"status": "failed", "why": "no driver", "seconds": 1.0})
    assert line.endswith("failed      1.0 s: no driver")
