"""The build backend of `pip install .`: builds the daemon, then lets maturin make the wheel.

A wheel holds the extension module `loaderd._native` and the binary `loaderd`. maturin builds
the first; the second is built here, beforehand, and placed in maturin's `data` folder, from
where it goes into the environment's `bin`. pip shows what this prints with `-v`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import maturin
from maturin import (
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "pyclient" / "data" / "scripts"
# Programs that the build needs, and the Debian package that brings each.
NEEDED = {
    "cargo": "the Rust toolchain (rustup)",
    "cc": "gcc",
    "c++": "g++",
    "cmake": "cmake",
    "nasm": "nasm",
    "protoc": "protobuf-compiler",
}


def _say(text: str) -> None:
    print(f"loaderd: {text}", file=sys.stderr, flush=True)


def _check_programs() -> None:
    missing = [f"{name} ({package})" for name, package in NEEDED.items() if not shutil.which(name)]
    if missing:
        raise SystemExit(
            "loaderd: building needs programs that are not on the PATH: "
            + ", ".join(missing)
            + "\n  on Debian or Ubuntu: apt-get install gcc g++ cmake nasm protobuf-compiler"
        )


def _target_dir() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def _build_daemon() -> None:
    _check_programs()
    _say(f"building the daemon into {_target_dir()} (Lance is large: 10 to 20 minutes on 2 cores,")
    _say("when built for the first time), then the Python extension")
    command = ["cargo", "build", "--release", "--locked", "--package", "loaderd"]
    # Standard output is the backend protocol's; cargo speaks on standard error.
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    target = SCRIPTS / "loaderd"
    target.unlink(missing_ok=True)
    shutil.copy2(_target_dir() / "release" / "loaderd", target)
    strip = shutil.which("strip")
    if strip:
        subprocess.run([strip, target], check=True, stdout=sys.stderr)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """PEP 517: daemon, extension, wheel."""
    _build_daemon()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """PEP 660: the same, with the Python sources left where they are."""
    _build_daemon()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory, config_settings=None):
    """PEP 517: the sources as they are; nothing is built."""
    return maturin.build_sdist(sdist_directory, config_settings)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    """PEP 517: names and versions only."""
    # maturin wants its data folder there, even when it looks only at names.
    SCRIPTS.mkdir(parents=True, exist_ok=True)
    return maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel
