"""The compiled kernels in the tree are what their sources give, and what may not be is refused."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "kernels"

spec = importlib.util.spec_from_file_location("compile_kernels", KERNELS / "compile.py")
assert spec is not None and spec.loader is not None
compile_kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compile_kernels)

LOG = """ptxas info    : Compiling entry function 'loaderd_one' for 'sm_90'
ptxas info    : Function properties for loaderd_one
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16488 bytes smem
ptxas info    : Compiling entry function 'loaderd_two' for 'sm_90'
ptxas info    : Function properties for loaderd_two
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 22 registers, used 0 barriers
"""


@pytest.fixture(scope="module")
def packages() -> Path:
    """Where NVRTC is; `make check` puts it there."""
    folder = Path(sys.prefix) / "nvrtc"
    if not folder.exists():
        pytest.skip(f"no NVRTC in {folder}: `make check` installs it")
    return folder


def compile_with(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_resources_are_read() -> None:
    taken = compile_kernels.resources(LOG)
    assert taken["loaderd_one"] == {
        "registers": 40,
        "shared_bytes": 16488,
        "stack_bytes": 8,
        "spill_store_bytes": 4,
        "spill_load_bytes": 12,
    }
    assert list(taken["loaderd_two"].values()) == [22, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("loaderd_finish", {"registers": 41}, "takes 41 registers, at most 40 are allowed"),
        ("loaderd_finish", {"registers": 0}, "takes 0 registers"),
        ("loaderd_weigh", {"spill_store_bytes": 4}, "has 4 spill_store_bytes, wanted none"),
        ("loaderd_verify", {"stack_bytes": 8}, "has 8 stack_bytes, wanted none"),
    ],
)
def test_what_takes_too_much_is_refused(name: str, change: dict[str, int], message: str) -> None:
    none = dict.fromkeys(["stack_bytes", "spill_store_bytes", "spill_load_bytes"], 0)
    kernels = {kernel: {"registers": 30, **none} for kernel in compile_kernels.LIMITS}
    compile_kernels.check_resources("sm_90", kernels)
    kernels[name] |= change
    with pytest.raises(compile_kernels.Trouble, match=message):
        compile_kernels.check_resources("sm_90", kernels)


def test_a_kernel_that_is_missing_is_named() -> None:
    with pytest.raises(compile_kernels.Trouble, match=r"wanted .*loaderd_finish"):
        compile_kernels.check_resources("sm_90", {})


def test_another_compiler_is_refused(tmp_path: Path) -> None:
    result = compile_with(KERNELS / "compile.py", "--check", "--packages", tmp_path)
    assert result.returncode == 1
    assert "nvidia-cuda-nvrtc 13.0.88 is needed, found none in" in result.stderr


def test_the_sources_give_what_is_embedded(packages: Path) -> None:
    result = compile_with(KERNELS / "compile.py", "--check", "--packages", packages)
    assert result.returncode == 0, result.stderr
    assert "5 files are what the sources give" in result.stdout


def test_a_changed_source_is_noticed(packages: Path, tmp_path: Path) -> None:
    copy = tmp_path / "kernels"
    shutil.copytree(KERNELS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    header = copy / "src" / "cuda" / "poison.h"
    text = header.read_text()
    header.write_text(text.replace("0x85ebca6bu", "0x85ebca6du"))
    result = compile_with(copy / "compile.py", "--check", "--packages", packages)
    assert result.returncode == 1
    assert (
        "kernels/embedded is not what the sources give (compute_80.ptx, manifest" in result.stderr
    )

    header.write_text(text + "\nBOTH u32 broken(void) { return missing; }\n")
    result = compile_with(copy / "compile.py", "--check", "--packages", packages)
    assert result.returncode == 1
    assert 'identifier "missing" is undefined' in result.stderr
