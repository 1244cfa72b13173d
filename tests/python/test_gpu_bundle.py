"""The bundle of the GPU check: what it carries, and how it starts where nothing is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from gpu import bundle
from gpu_bundles import BENCHES, a_bundle, a_program


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


def test_a_bundle_that_can_not_be_made_leaves_nothing_but_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    out = tmp_path / "work" / "gpu-bundle"
    out.parent.mkdir()
    programs = tmp_path / "programs"
    a_program(programs / "loaderd", 'mkdir "$2" && touch "$2/0.jpg"')
    command = ["bundle", f"--programs={programs}", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", command)
    # The second time, over what the first has left.
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError, match="strip"):
            bundle.main()
        assert [file.name for file in out.parent.iterdir()] == ["gpu-bundle"]
        assert not list(temporary.iterdir())
    a_program(programs / "loaderd", 'mkdir "$2"; exit 3')
    with pytest.raises(subprocess.CalledProcessError, match="sample"):
        bundle.main()
    assert [file.name for file in out.parent.iterdir()] == ["gpu-bundle"]
    assert not list(temporary.iterdir())


#: Of `loaderd doctor`, on a machine without a GPU.
REPORT = {
    "checks": [{"name": "gpu_driver", "verdict": "warning", "found": "no driver"}],
    "versions": {},
}


def test_a_bundle_starts_from_files_that_are_no_programs(tmp_path: Path) -> None:
    root = a_bundle(tmp_path, f"echo '{json.dumps(REPORT)}'")
    (root / "tests").mkdir()
    a_program(root / "tests" / "unit", "exit 0")
    shutil.copyfile(BENCHES / "gpu" / "start.py", root / "check")
    (root / "lib").symlink_to(BENCHES)
    programs = [root / "bin" / "loaderd", root / "tests" / "unit"]
    for program in programs:
        program.chmod(0o644)
    command = [sys.executable, str(root / "check"), "--only", "machine", "--json"]
    done = subprocess.run([*command, str(tmp_path / "a.json")], capture_output=True, text=True)
    answer = json.loads((tmp_path / "a.json").read_text())
    assert answer["parts"]["machine"]["status"] == "ok", done.stdout + done.stderr
    assert all(os.access(program, os.X_OK) for program in programs)
