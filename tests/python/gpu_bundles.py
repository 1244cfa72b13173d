"""Bundles of the GPU check that hold no more than a test needs."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from loaderd import launch

BENCHES = Path(__file__).parents[2] / "benches"


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


def a_program(file: Path, script: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file
