"""The check of a GPU: without one it says so part by part, and a part that fails costs itself."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

BENCHES = Path(__file__).parents[2] / "benches"
sys.path.insert(0, str(BENCHES))

from gpu import __main__ as check  # noqa: E402
from gpu import bundle, machine, rates, report, targets  # noqa: E402
from loaderd import launch  # noqa: E402


def a_bundle(tmp_path: Path, daemon: str | None = None) -> Path:
    """A bundle with a daemon alone: this installation's, or a shell script."""
    root = tmp_path / "bundle"
    (root / "bin").mkdir(parents=True)
    (root / "pictures" / "photos").mkdir(parents=True)
    program = root / "bin" / "loaderd"
    if daemon is None:
        program.symlink_to(launch.find_binary())
    else:
        program.write_text(f"#!/bin/sh\n{daemon}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    about = {"pictures": {"kinds": {}}, "commit": "none", "needs": {"GLIBC": "2.34"}}
    (root / "about.json").write_text(json.dumps(about))
    return root


def run(root: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    answer = root.parent / "answer.json"
    command = [sys.executable, "-m", "gpu", str(root), "--brief", f"--json={answer}", *options]
    path = os.pathsep.join(filter(None, [str(BENCHES), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
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


def a_run(**changed: Any) -> targets.Found:
    """Findings that meet all targets."""
    way = {"images_per_s": 9.0, "cpu_us_per_image": 9.0, "gap_ms_p99": 2.0, "gap_ms_median": 1.5}
    forms = ("untiled", "tiled")
    found: targets.Found = {
        "kinds": {
            "kinds": [{"difference": 0.4}],
            "gpu": {"decoded": 20, "refused": 0},
            "for_engines": 20,
        },
        "unit-kinds": {"difference_max": 0.4, "offered": 9, "finished": 9},
        "damaged": {"good_difference_max": 0.2, "otherwise_valid": []},
        "ceilings": {"best": {"images_per_s": 6.0}},
        "unit": {form: way for form in forms},
        "daemon": {"ways": [{"decode": "gpu", "form": form, **way} for form in forms]},
        "torchvision": {"images_per_s": 8.0},
        "nvimagecodec": {"images_per_s": 8.0},
        "neighbour": {
            "ways": [
                {"decode": "gpu", "form": form, "slowed_by": 0.01, "images_per_s": 5000.0}
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
    without = a_run()
    del without["ceilings"]
    assert verdicts(without).count("not measured") == 4
    assert set(verdicts(a_run(), is_brief=True)) == {"not judged in a brief run"}


def test_the_gpus_share_is_of_what_was_counted() -> None:
    before, after = {"decoded": 100, "refused": 0}, {"decoded": 400, "refused": 0}
    assert rates.share(before, after, 400) == 0.75
    assert rates.share(None, after, 400) is None


def test_results_keep_files_but_no_folders() -> None:
    words = {"a": ["by /usr/lib/x86_64/libnvjpeg.so.13, 3 images/s", 4], "b": "memory at 5/6"}
    assert check.without_paths(words) == {
        "a": ["by libnvjpeg.so.13, 3 images/s", 4],
        "b": "memory at 5/6",
    }


def test_a_line_names_what_failed() -> None:
    line = report.line("copies", {"status": "failed", "why": "no driver", "seconds": 1.0})
    assert line.endswith("failed      1.0 s: no driver")


def a_wheel(folder: Path, name: str, size: int) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as files:
        files.writestr("nvidia/cu13/lib/libnvjpeg.so.13", os.urandom(size))
        files.writestr("nvidia/cu13/include/nvjpeg.h", os.urandom(size))


def test_wheels_are_carried_thinned_and_where_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "BYTES_MAX", 3_000)
    a_wheel(tmp_path / "wheels", "nvidia_nvjpeg", 2_000)
    out = tmp_path / "out"
    out.mkdir()
    assert bundle._carry(tmp_path / "wheels", out) == ["nvidia-nvimgcodec-cu13: no wheel"]
    site = tmp_path / "site"
    bundle.Bundle(out).unpack("nvidia-nvjpeg", site)
    assert [file.name for file in site.rglob("*") if file.is_file()] == ["libnvjpeg.so.13"]
    with pytest.raises(bundle.Skipped, match="neither installed nor in the bundle"):
        bundle.Bundle(out).unpack("nvidia-nvimgcodec-cu13", site)
    a_wheel(tmp_path / "wheels", "nvidia_nvimgcodec_cu13", 2_000)
    other = tmp_path / "other"
    other.mkdir()
    (left_out,) = bundle._carry(tmp_path / "wheels", other)
    assert left_out.startswith("nvidia-nvimgcodec-cu13: its ") and left_out.endswith("don't fit")


def test_programs_that_a_test_build_names_are_found() -> None:
    said = [
        {"reason": "compiler-artifact", "profile": {"test": True}, "executable": "/t/nvjpeg-1a"},
        {"reason": "compiler-artifact", "profile": {"test": False}, "executable": "/t/loaderd"},
        {"reason": "compiler-artifact", "profile": {"test": True}, "executable": None},
        {"reason": "build-finished", "success": True},
    ]
    lines = "\n".join(["warning: text", *map(json.dumps, said)])
    assert bundle.test_programs(lines) == [Path("/t/nvjpeg-1a")]


def test_a_program_says_which_libraries_it_needs(tmp_path: Path) -> None:
    for folder in ("bin", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin" / "a").write_bytes(b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBCXX_3.4.30\0")
    assert bundle.needs(tmp_path) == {"GLIBC": "2.34", "GLIBCXX": "3.4.30"}
