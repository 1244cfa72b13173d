"""Compiles the kernels ahead with NVRTC into `embedded/`, or checks what lies there.

Enters: `src/cuda`, NVRTC 13.0. Leaves: a cubin for each architecture, PTX for later ones, and
`manifest.json`: digests, compiler, and what each kernel takes of a multiprocessor. No GPU and no
driver is needed. Never: a file whose kernels spill registers or take more than LIMITS.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import re
import sys
from pathlib import Path

from blake3 import blake3

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src" / "cuda"
EMBEDDED = HERE / "embedded"
PROGRAM = "kernels.cu"
HEADERS = ["types.h", "weights.h", "finish.h", "poison.h"]
PACKAGE = "nvidia-cuda-nvrtc"

# Cubins run on their major version only, from their minor version on; PTX is for what comes after.
CUBINS = ["sm_80", "sm_90", "sm_100"]
PTX = "compute_80"
# Rounded products and sums, never fused: the CPU's arithmetic.
OPTIONS = ["--std=c++17", "--fmad=false", "--ptxas-options=-v"]

# Registers a thread. Of 65,536 a multiprocessor, 40 leave room for 6 blocks of 256 threads.
LIMITS = {
    "loaderd_weigh": 64,
    "loaderd_finish": 40,
    "loaderd_poison": 40,
    "loaderd_verify": 40,
}


class Trouble(Exception):
    """What the user can mend."""


class Compiler:
    """NVRTC, loaded from the package's folder."""

    def __init__(self, packages: Path | None) -> None:
        path = sys.path if packages is None else [str(packages)]
        found = list(importlib.metadata.distributions(name=PACKAGE, path=path))
        wanted = (HERE / "requirements.txt").read_text().split("==")[1].strip()
        if not found or found[0].version != wanted:
            has = f"version {found[0].version}" if found else "none"
            place = packages or "this Python"
            raise Trouble(
                f"{PACKAGE} {wanted} is needed, found {has} in {place}: "
                f"pip install --target FOLDER -r {HERE / 'requirements.txt'}, "
                "then --packages FOLDER"
            )
        self.version = wanted
        files = {path.name: path.locate() for path in found[0].files or []}
        # The compiler looks for its built-in functions by name: they are there already.
        self.builtins = ctypes.CDLL(str(files["libnvrtc-builtins.so.13.0"]))
        self.library = ctypes.CDLL(str(files["libnvrtc.so.13"]))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: object) -> None:
        code = getattr(self.library, name)(*arguments)
        if code:
            text = self.library.nvrtcGetErrorString(code).decode()
            raise Trouble(f"{name} failed: {text}")

    def output(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def compile(self, architecture: str) -> tuple[bytes, str]:
        """The image for one architecture, and what the compiler said."""
        headers = [(SOURCES / name).read_bytes() for name in HEADERS]
        options = [f"--gpu-architecture={architecture}", *OPTIONS]
        program = ctypes.c_void_p()
        self.call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            (SOURCES / PROGRAM).read_bytes(),
            PROGRAM.encode(),
            len(HEADERS),
            (ctypes.c_char_p * len(HEADERS))(*headers),
            (ctypes.c_char_p * len(HEADERS))(*(name.encode() for name in HEADERS)),
        )
        try:
            arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            code = self.library.nvrtcCompileProgram(program, len(options), arguments)
            log = self.output(program, "ProgramLog").rstrip(b"\0").decode()
            if code or "warning" in log:
                raise Trouble(f"{PROGRAM} for {architecture}:\n{log}")
            image = self.output(program, "CUBIN" if architecture.startswith("sm_") else "PTX")
        finally:
            self.call("nvrtcDestroyProgram", ctypes.byref(program))
        return image, log


def resources(log: str) -> dict[str, dict[str, int]]:
    """What each kernel takes, as ptxas tells it."""
    kernels = {}
    parts = re.split(r"Compiling entry function '(\w+)'", log)[1:]
    for name, text in zip(parts[::2], parts[1::2], strict=True):

        def number(pattern: str, text: str = text) -> int:
            found = re.search(pattern, text)
            return int(found[1]) if found else 0

        kernels[name] = {
            "registers": number(r"Used (\d+) registers"),
            "shared_bytes": number(r"(\d+) bytes smem"),
            "stack_bytes": number(r"(\d+) bytes stack frame"),
            "spill_store_bytes": number(r"(\d+) bytes spill stores"),
            "spill_load_bytes": number(r"(\d+) bytes spill loads"),
        }
    return kernels


def check_resources(architecture: str, kernels: dict[str, dict[str, int]]) -> None:
    """Refuses what spills or takes too much."""
    if set(kernels) != set(LIMITS):
        raise Trouble(f"{architecture}: kernels are {sorted(kernels)}, wanted {sorted(LIMITS)}")
    for name, taken in kernels.items():
        if not 0 < taken["registers"] <= LIMITS[name]:
            raise Trouble(
                f"{architecture}: {name} takes {taken['registers']} registers, "
                f"at most {LIMITS[name]} are allowed"
            )
        for what in ["stack_bytes", "spill_store_bytes", "spill_load_bytes"]:
            if taken[what]:
                raise Trouble(f"{architecture}: {name} has {taken[what]} {what}, wanted none")


def build(compiler: Compiler) -> dict[str, bytes]:
    """Every file of `embedded/`, by name."""
    files = {}
    taken = {}
    for architecture in CUBINS:
        image, log = compiler.compile(architecture)
        taken[architecture] = resources(log)
        check_resources(architecture, taken[architecture])
        files[f"{architecture}.cubin"] = image
    # Text, with a zero at its end as the driver wants it.
    files[f"{PTX}.ptx"] = compiler.compile(PTX)[0]
    manifest = {
        "compiler": f"{PACKAGE} {compiler.version}",
        "options": OPTIONS,
        "sources": {
            name: blake3((SOURCES / name).read_bytes()).hexdigest() for name in [PROGRAM, *HEADERS]
        },
        "images": {
            name: {"bytes": len(data), "digest": blake3(data).hexdigest()}
            for name, data in files.items()
        },
        "register_limits": LIMITS,
        "kernels": taken,
    }
    files["manifest.json"] = (json.dumps(manifest, indent=2) + "\n").encode()
    return files


def run(check: bool, packages: Path | None) -> None:
    """Writes `embedded/`, or fails where it differs."""
    files = build(Compiler(packages))
    if not check:
        EMBEDDED.mkdir(exist_ok=True)
        for name, data in files.items():
            (EMBEDDED / name).write_bytes(data)
            print(f"{name}: {len(data)} bytes")
        return
    found = {path.name: path.read_bytes() for path in EMBEDDED.iterdir()}
    differing = sorted(
        name for name in files.keys() | found.keys() if files.get(name) != found.get(name)
    )
    if differing:
        raise Trouble(
            f"kernels/embedded is not what the sources give ({', '.join(differing)} differ): "
            "run kernels/compile.py and commit what it writes"
        )
    print(f"kernels/embedded: {len(files)} files are what the sources give")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--packages", type=Path, help=f"the folder that {PACKAGE} is installed in")
    arguments = parser.parse_args()
    try:
        run(arguments.check, arguments.packages)
    except Trouble as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
