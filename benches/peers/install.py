"""Environments of the peers: one each, beside loaderd's own, whose packages they see.

Enters: the files in `requirements`. Leaves: `ROOT/NAME`, with what collides with loaderd's
environment in front of it (FFCV knows no NumPy 2), and the last words of what does not install,
in `ROOT/NAME.failed`, for the table. One that fails never stops the others.

    python -m peers.install [NAME...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements")
#: Below loaderd's own environment, so that it goes with it.
ROOT = Path(os.environ.get("PEERS", Path(sys.prefix) / "peers"))


def main() -> None:
    known = sorted(file.stem for file in REQUIREMENTS.glob("*.txt"))
    for name in sys.argv[1:] or known:
        if name not in known:
            raise SystemExit(f"there is no peer {name}, only: {' '.join(known)}")
        why = install(name)
        print(f"{name}: {why or 'installed'}", flush=True)


def python(name: str) -> Path:
    return ROOT / name / "bin" / "python"


def failure(name: str) -> str:
    """Why a peer is not there, in a line."""
    file = ROOT / f"{name}.failed"
    return file.read_text() if file.exists() else "make bench-peers installs it"


def install(name: str) -> str | None:
    """Makes a peer's environment; returns why not, where it can't."""
    wanted = REQUIREMENTS / f"{name}.txt"
    done, failed = ROOT / name / "installed", ROOT / f"{name}.failed"
    if done.exists() and done.read_text() == wanted.read_text():
        return None
    failed.unlink(missing_ok=True)
    shutil.rmtree(ROOT / name, ignore_errors=True)
    run([sys.executable, "-m", "venv", "--without-pip", str(ROOT / name)])
    # What it lacks is taken from loaderd's environment: torch above all, which is large.
    (site,) = (ROOT / name / "lib").glob("python*/site-packages")
    (site / "zz_parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    why = system_packages(wanted)
    command = [sys.executable, "-m", "pip", f"--python={python(name)}", "install", "--quiet"]
    why_pip = run([*command, "--disable-pip-version-check", "-r", str(wanted)])
    if why_pip is not None:
        shutil.rmtree(ROOT / name)
        failed.write_text("; ".join(reason for reason in (why, why_pip) if reason))
        return failed.read_text()
    done.write_text(wanted.read_text())
    return None


def system_packages(wanted: Path) -> str | None:
    """Installs the Debian packages that a file asks for, where it may."""
    for line in wanted.read_text().splitlines():
        if line.startswith("# debian:"):
            packages = line.partition(":")[2].split()
            if shutil.which("apt-get") and os.geteuid() == 0:
                options = ["-y", "-qq", "--no-install-recommends"]
                return run(["apt-get", "install", *options, *packages])
            return f"needs the Debian packages {' '.join(packages)}"
    return None


def run(command: list[str]) -> str | None:
    """The last line of what it says where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in said if line.lower().startswith(("error", "e:"))]
    return (errors or said or [f"{command[0]} failed"])[-1].strip()


if __name__ == "__main__":
    main()
