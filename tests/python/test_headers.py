"""What is declared by hand of CUDA and nvJPEG: a wrong word in it is found, where it stands."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "loaderd" / "gpu" / "headers.py"
API = "loaderd/gpu/src/cuda/api.rs"
NVJPEG = "loaderd/gpu/src/nvjpeg/api.rs"
CLIENT = "pyclient/src/cuda.rs"


@pytest.fixture(scope="session")
def headers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("headers", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["headers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def packages() -> Path:
    for prefix in (Path(sys.prefix), REPOSITORY / ".venv"):
        if (prefix / "headers" / "nvidia").is_dir():
            return prefix / "headers"
    pytest.skip("NVIDIA's headers are not here: make .venv/headers/.installed")


@pytest.fixture
def copy(tmp_path: Path, headers: ModuleType) -> Path:
    """The sources, to be changed."""
    for name in (*headers.SOURCES, "loaderd/gpu/headers.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    return tmp_path


def change(root: Path, name: str, old: str, new: str) -> int:
    """Puts ``new`` in the place of ``old``, which is there once; the line that it is in."""
    text = (root / name).read_text()
    assert text.count(old) == 1, f"{old} in {name}"
    (root / name).write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def run(root: Path, packages: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "loaderd/gpu/headers.py", "--packages", packages]
    return subprocess.run(command, capture_output=True, text=True)


def test_all_of_it_is_as_in_the_headers(copy: Path, packages: Path) -> None:
    done = run(copy, packages)
    assert done.returncode == 0, done.stderr
    assert "are those of CUDA 13 and CUDA 12" in done.stdout


#: A file, what is changed there, and what is said of it.
WRONG = [
    # An integer of another width, arguments in another order, and one too few.
    (API, '"cuDeviceTotalMem_v2": fn(*mut usize', '"cuDeviceTotalMem_v2": fn(*mut c_uint'),
    (API, '"cuEventRecord": fn(Event, Stream)', '"cuEventRecord": fn(Stream, Event)'),
    (
        CLIENT,
        '"cuStreamIsCapturing": fn(RawStream, *mut c_int)',
        '"cuStreamIsCapturing": fn(RawStream)',
    ),
    (
        NVJPEG,
        "fn(Decoder, JpegStream, Params, *mut c_int)",
        "fn(Decoder, Params, JpegStream, *mut c_int)",
    ),
    # A pointer to what must not be written.
    (API, "fn(*mut Module, *const c_void)", "fn(*mut Module, *mut c_void)"),
    # A function of CUDA 3, which drivers still have under the name without a number.
    (API, '"cuMemAlloc_v2"', '"cuMemAlloc"'),
    (API, "SYSTEM_NOT_READY: c_int = 802", "SYSTEM_NOT_READY: c_int = 812"),
    (NVJPEG, "BITSTREAM_STRICT: c_uint = 1 << 2", "BITSTREAM_STRICT: c_uint = 1 << 3"),
    ("loaderd/gpu/src/nvjpeg.rs", "S440 = 3,", "S440 = 4,"),
    ("loaderd/gpu/src/nvjpeg/stream.rs", "Quarter = 2,", "Quarter = 4,"),
    (CLIENT, "EVENT_FLAGS: c_uint = 3", "EVENT_FLAGS: c_uint = 1"),
    (CLIENT, "715, //", "725, //"),
    (CLIENT, "STREAM_LEGACY: u64 = 1", "STREAM_LEGACY: u64 = 2"),
    # Fields in another order, and of another size.
    (API, "    requested_handle_types: c_int,", "    requested_handle_types: u64,"),
    (NVJPEG, "pitch: [usize; 4]", "pitch: [usize; 3]"),
    # What repeats them.
    ("tests/python/standin/cuda.c", "case 700:", "case 701:"),
    ("tests/python/standin/cuda.c", "NOT_READY = 600, ", "NOT_READY = 601, "),
    ("loaderd/gpu/tests/standin/cuda.c", "case 803:", "case 802:"),
    ("benches/gpu/copies.py", "_FLAGS = 1 | 2", "_FLAGS = 1 | 4"),
]


def test_whatever_is_wrong_is_named_with_its_place(copy: Path, packages: Path) -> None:
    lines = [f"{name}:{change(copy, name, old, new)}: " for name, old, new in WRONG]
    done = run(copy, packages)
    assert done.returncode == 1
    unseen = [line for line in lines if f"\n{line}" not in done.stderr]
    assert not unseen, done.stderr
    assert (
        f"{lines[0]}cuDeviceTotalMem_v2 is int(long unsigned int*, int) in the header"
        in done.stderr
    )
    assert f"{lines[6]}CUDA_ERROR_SYSTEM_NOT_READY is 802 in the header, 812 here" in done.stderr


def test_a_name_that_no_header_has_is_refused(copy: Path, packages: Path) -> None:
    change(copy, API, '"cuMemRelease"', '"cuMemLetGo"')
    done = run(copy, packages)
    assert done.returncode == 1 and "cuMemLetGo" in done.stderr


def test_an_error_that_ends_the_process_is_not_forgotten(copy: Path, packages: Path) -> None:
    change(copy, CLIENT, "    911, // `CUDA_ERROR_EXTERNAL_DEVICE`\n", "")
    done = run(copy, packages)
    assert done.returncode == 1
    assert "the process must be ended after CUDA_ERROR_EXTERNAL_DEVICE" in done.stderr


def test_without_the_packages_it_says_how_to_get_them(copy: Path) -> None:
    done = run(copy, copy / "nowhere")
    assert done.returncode == 1 and "pip install --no-deps --target FOLDER" in done.stderr


@pytest.mark.parametrize(
    ("name", "old", "new", "why"),
    [
        (API, "/// `CU_COMPUTEMODE_DEFAULT`", "/// Anybody", "a number without the header's name"),
        (API, "/// `CUevent`", "/// An event", "which header's type is Event"),
        (API, "Event = Opaque", "Event = c_int", "which header's type is Event, and is it"),
        (API, "(Event, Stream)", "(Event, Wave)", "Wave is no type of a header's"),
        (CLIENT, "700, // `CUDA_ERROR_ILLEGAL_ADDRESS`", "700, // memory", "a number without"),
        (NVJPEG, "/// `nvjpegImage_t`; its", "/// Its", "what struct is this"),
        (NVJPEG, "// `pitch`", "// pitch", "what member of nvjpegImage_t"),
        (
            API,
            '"cuMemRelease": fn(c_ulonglong);',
            '"cuMemRelease": fn(c_ulonglong)',
            "a function that is",
        ),
    ],
)
def test_what_is_not_understood_is_refused(
    copy: Path, name: str, old: str, new: str, why: str
) -> None:
    change(copy, name, old, new)
    done = run(copy, copy / "nowhere")
    assert done.returncode == 1 and why in done.stderr
