"""What a bundle holds, and how its parts are reached.

Enters: the bundle's folder. Leaves: paths, and answers of its programs. ``make`` builds such a
folder where there is no GPU, for a machine that has one but neither compilers nor a network.
Nothing here looks at a device.

    python benches/gpu/bundle.py --programs target/gpu/release --tests LIST --out gpu-bundle
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: All files of a bundle together, in bytes.
BYTES_MAX = 64 << 20
#: What is carried where it fits, the dearer to do without first.
WHEELS = ("nvidia-nvjpeg", "nvidia-nvimgcodec-cu13")
#: What of them has nothing to do with JPEGs, or with running them.
_NOT_CARRIED = re.compile(r"/(include|tools|samples)/|lib(opencv|nvtiff|tiff|nvjpeg2k)_ext")
#: What the names of tests have that need a GPU, and skip themselves where there is none.
GPU_TESTS = "real_gpu"

#: Names the file that a part keeps what it has found in, should it come to no end.
SO_FAR = "GPU_CHECK_SO_FAR"

_HERE = Path(__file__).resolve().parent
_REPOSITORY = _HERE.parents[1]
_PYTHON_TESTS = _REPOSITORY / "tests" / "python"


class Skipped(Exception):
    """Why a part has nothing to do here."""


class Failed(Exception):
    """What went wrong, in a line; and what was found all the same."""

    def __init__(self, why: str, found: dict[str, Any] | None = None) -> None:
        super().__init__(why)
        self.found = found


class Hung(Failed):
    """A program did not end; what it had said by then."""

    def __init__(self, why: str, said: str) -> None:
        super().__init__(why)
        self.said = said


def keep(found: Mapping[str, Any]) -> None:
    """What a part has found so far: it counts where the part hangs or crashes later."""
    if (name := os.environ.get(SO_FAR)) is not None:
        write_whole(Path(name), json.dumps(found))


def write_whole(file: Path, text: str) -> None:
    """The text as a file, or the file as it was, should this process be ended meanwhile."""
    fresh = file.with_name(f"{file.name}.fresh")
    fresh.write_text(text)
    fresh.replace(file)


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder."""

    root: Path

    @property
    def loaderd(self) -> Path:
        return self.root / "bin" / "loaderd"

    @property
    def photos(self) -> Path:
        return self.root / "pictures" / "photos"

    @property
    def kinds(self) -> Path:
        return self.root / "pictures" / "kinds"

    @property
    def damaged(self) -> Path:
        return self.root / "pictures" / "damaged"

    @property
    def pinning(self) -> Path:
        return self.root / "pytests" / "test_pinning_gpu.py"

    def tests(self) -> list[tuple[Path, str]]:
        """Tests of loaderd's that need a GPU: their program and name."""
        programs = sorted((self.root / "tests").glob("*"))
        return [(program, name) for program in programs for name in gpu_tests(program)]

    def gpucheck(self, task: str, *options: str | Path, seconds_max: float = 50) -> Any:
        """The answer of a task of ``gpucheck``, which is ended after that time."""
        command = [str(self.root / "bin" / "gpucheck"), task, *map(str, options)]
        done = run(command, f"gpucheck {task}", seconds_max)
        # All of it is kept with the part.
        print(done.stderr, end="", file=sys.stderr, flush=True)
        if done.returncode != 0:
            raise Failed(f"gpucheck {task}: {last_words(done.stderr) or ended(done.returncode)}")
        try:
            # Libraries may have said something before.
            return json.loads(last_line(done.stdout))
        except json.JSONDecodeError:
            raise Failed(f"gpucheck {task}: this is no answer: {done.stdout[-200:]!r}") from None

    def answers(
        self, calls: Mapping[str, tuple[str | Path, ...]], seconds_max: float
    ) -> tuple[dict[str, Any], list[str]]:
        """What calls of ``gpucheck`` say, by name, and why others say nothing."""
        found, failed = {}, []
        for name, (task, *options) in calls.items():
            try:
                found[name] = self.gpucheck(str(task), *options, seconds_max=seconds_max)
                keep(found)
            except Failed as why:
                failed.append(f"{name}: {why}")
        return found, failed

    def unpack(self, wheel: str, site: Path) -> None:
        """Makes a wheel that the bundle carries importable, where ``site`` is on the path."""
        found = list((self.root / "wheels").glob(f"{wheel.replace('-', '_')}-*.whl"))
        if not found:
            raise Skipped(f"{wheel} is neither installed nor in the bundle")
        with zipfile.ZipFile(found[0]) as files:
            files.extractall(site)


def run(command: Sequence[str], title: str, seconds_max: float) -> subprocess.CompletedProcess[str]:
    """Runs a program; raises :class:`Hung` where it has not ended by then."""
    with (
        tempfile.TemporaryFile("w+", errors="replace") as out,
        tempfile.TemporaryFile("w+", errors="replace") as errors,
    ):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
        is_hung = False
        try:
            process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            is_hung = True
            process.kill()
            # Not for ever: a wedged driver keeps what it holds, dead or alive.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        out.seek(0)
        errors.seek(0)
        done = subprocess.CompletedProcess(command, process.returncode, out.read(), errors.read())
    if is_hung:
        raise Hung(f"{title}: no end after {seconds_max:.0f} s", done.stdout + done.stderr)
    return done


def ended(status: int) -> str:
    """A process's status in words."""
    return f"ended by signal {-status}" if status < 0 else f"ended with status {status}"


def last_line(text: str) -> str:
    """The last line with something in it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def last_words(text: str) -> str:
    """Why a program has failed, by what it said: a panic with its words, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    panics = [number for number, line in enumerate(lines) if "panicked at" in line]
    return " ".join(lines[panics[0] : panics[0] + 2]) if panics else last_line(text)


def make(programs: Path, tests: Sequence[Path], images: Path, wheels: Path, out: Path) -> None:
    """Builds a bundle; ends where it would be larger than :data:`BYTES_MAX`."""
    if out.exists():
        if not (out / "check").exists():
            raise SystemExit(f"{out} is there, and is no bundle: name another folder")
        shutil.rmtree(out)
    (out / "bin").mkdir(parents=True)
    # First, so that one that is left half made counts as a bundle the next time.
    start = out / "check"
    shutil.copyfile(_HERE / "start.py", start)
    start.chmod(0o755)
    for name in ("loaderd", "gpucheck"):
        _program(programs / name, out / "bin" / name)
    (out / "tests").mkdir()
    for test in filter(gpu_tests, tests):
        # Without the hash that cargo gives it.
        _program(test, out / "tests" / test.name.rpartition("-")[0])
    library = out / "lib"
    shutil.copytree(
        _REPOSITORY / "pyclient" / "python" / "loaderd",
        library / "loaderd",
        ignore=shutil.ignore_patterns("__pycache__", "*.so"),
    )
    _program(programs / "lib_native.so", library / "loaderd" / "_native.abi3.so")
    shutil.copytree(_HERE, library / "gpu", ignore=lambda _, names: _but_python(names))
    shutil.copyfile(_HERE.parent / "harness.py", library / "harness.py")
    _carry_tests(out)
    made = Bundle(out).gpucheck(
        "pictures", "--images", images, "--out", out / "pictures", seconds_max=600
    )
    left_out = _carry(wheels, out)
    about = {
        "pictures": made,
        "left_out": left_out,
        "commit": _commit(),
        "needs": needs(out),
    }
    (out / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    size = size_of(out)
    if size > BYTES_MAX:
        raise SystemExit(f"the bundle has {size:,} bytes, and {BYTES_MAX:,} are the most")
    print(f"{out}: {size / (1 << 20):.1f} MiB, {made['photos']} photos, needs {about['needs']}")
    for line in left_out:
        print(f"left out: {line}")


def size_of(folder: Path) -> int:
    """Bytes of all files below it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def gpu_tests(program: Path) -> list[str]:
    """Names of a test program's tests that need a GPU."""
    listed = subprocess.run([program, "--list"], capture_output=True, text=True)
    names = [line.removesuffix(": test") for line in listed.stdout.splitlines()]
    return [name for name in names if GPU_TESTS in name]


def needs(out: Path) -> dict[str, str]:
    """The newest versions of the C and C++ libraries' symbols that its programs ask for."""
    newest: dict[str, tuple[int, ...]] = {}
    programs = [*(out / "bin").iterdir(), *(out / "tests").iterdir(), *out.rglob("*.abi3.so")]
    for program in programs:
        for kind, version in re.findall(rb"(GLIBC|GLIBCXX)_([0-9.]+)\0", program.read_bytes()):
            numbers = tuple(int(number) for number in version.split(b"."))
            newest[kind.decode()] = max(newest.get(kind.decode(), ()), numbers)
    return {kind: ".".join(map(str, numbers)) for kind, numbers in sorted(newest.items())}


def _program(source: Path, target: Path) -> None:
    subprocess.run(["strip", "-o", target, source], check=True)
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _but_python(names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".py")]


def _carry_tests(out: Path) -> None:
    """Copies the tests of pinned slots, what they import, and what that imports."""
    tests = Bundle(out).pinning
    (tests.parent / "faults").mkdir(parents=True)
    names = [tests.name, "conftest.py", "daemon_process.py", "fake_daemon.py"]
    names += [f"faults/{file.name}" for file in (_PYTHON_TESTS / "faults").glob("*.py")]
    for name in names:
        shutil.copyfile(_PYTHON_TESTS / name, tests.parent / name)


def _carry(wheels: Path, out: Path) -> list[str]:
    """Copies the wheels that are there and fit; says which are left out."""
    (out / "wheels").mkdir()
    left_out = []
    for name in WHEELS:
        found = list(wheels.glob(f"{name.replace('-', '_')}-*.whl")) if wheels.is_dir() else []
        if not found:
            left_out.append(f"{name}: no wheel")
            continue
        carried = out / "wheels" / found[0].name
        _thin(found[0], carried)
        if size_of(out) > BYTES_MAX:
            left_out.append(f"{name}: its {carried.stat().st_size:,} bytes don't fit")
            carried.unlink()
    return left_out


def _thin(wheel: Path, carried: Path) -> None:
    with (
        zipfile.ZipFile(wheel) as files,
        zipfile.ZipFile(carried, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as kept,
    ):
        for name in files.namelist():
            if not _NOT_CARRIED.search(name):
                kept.writestr(files.getinfo(name), files.read(name), zipfile.ZIP_DEFLATED)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_REPOSITORY)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--programs", type=Path, required=True, help="folder of what cargo built")
    parser.add_argument("--tests", type=Path, help="what cargo said of the test programs, as JSON")
    parser.add_argument("--images", type=Path, help="JPEGs [default: drawn ones]")
    parser.add_argument("--wheels", type=Path, default=Path("wheels"), help="folder of wheels")
    parser.add_argument("--out", type=Path, required=True, help="the bundle")
    given = parser.parse_args()
    tests = [] if given.tests is None else test_programs(given.tests.read_text())
    with tempfile.TemporaryDirectory(prefix="gpu-bundle-") as drawn:
        images = given.images
        if images is None:
            images = Path(drawn) / "images"
            command = [given.programs / "loaderd", "sample", images, "--count", "100"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        make(given.programs, tests, images, given.wheels, given.out)


def test_programs(messages: str) -> list[Path]:
    """The programs of ``cargo test --no-run --message-format=json``."""
    found = []
    for line in messages.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("profile", {}).get("test") and message.get("executable"):
            found.append(Path(message["executable"]))
    return found


if __name__ == "__main__":
    try:
        main()
    except Failed as why:
        sys.exit(os.fspath(str(why)))
