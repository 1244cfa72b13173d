"""Compares what is declared by hand of CUDA and nvJPEG with NVIDIA's own headers.

Enters: our sources, where each thing of a header's is named in a comment right before or behind it;
the headers, from the packages of `requirements.txt`. Leaves: a list of what differs. Never: a line
of a header's in the repository, a GPU, a driver.

A C++ program is made that holds our declarations against the headers' and prints what differs, at
the place where we declare it: types of functions, values of constants, members of structs. What is
not understood, or has no name of a header's, is an error: nothing goes unseen.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
#: What is declared, and where stand-ins and benches repeat it.
SOURCES = (
    "loaderd/gpu/src/library.rs",
    "loaderd/gpu/src/cuda/api.rs",
    "loaderd/gpu/src/nvjpeg.rs",
    "loaderd/gpu/src/nvjpeg/api.rs",
    "loaderd/gpu/src/nvjpeg/stream.rs",
    "pyclient/src/cuda.rs",
    "loaderd/gpu/tests/standin/cuda.c",
    "tests/python/standin/cuda.c",
    "benches/gpu/driver.py",
    "benches/gpu/copies.py",
)
#: In the packages' folder: headers, and nvJPEG's library.
TOOLKITS = {
    "CUDA 13": (("nvidia/cu13/include",), "nvidia/cu13/lib/libnvjpeg.so.13"),
    "CUDA 12": (
        # What both include of the compiler's comes with one of them only.
        ("nvidia/cuda_runtime/include", "nvidia/nvjpeg/include", "nvidia/cu13/include"),
        "nvidia/nvjpeg/lib/libnvjpeg.so.12",
    ),
}

#: Rust's types as C has them.
TYPES = {
    "c_char": "char",
    "c_int": "int",
    "c_uchar": "unsigned char",
    "c_uint": "unsigned int",
    "c_ulonglong": "unsigned long long",
    "c_void": "void",
    "u16": "unsigned short",
    "u64": "unsigned long long",
    "usize": "std::size_t",
}

PRELUDE = r"""
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <type_traits>
#include <utility>
#include <cuda.h>
#include <nvjpeg.h>

/* A header's type as we declare it: an enum is an int. */
template <class T, class = void> struct plain { using type = T; };
template <class T> struct plain<T, std::enable_if_t<std::is_enum_v<T> && !std::is_const_v<T>>> {
    static_assert(sizeof(T) == sizeof(int));
    using type = int;
};
template <class T> struct plain<const T> { using type = const typename plain<T>::type; };
template <class T> struct plain<T *> { using type = typename plain<T>::type *; };
template <class T, std::size_t N> struct plain<T[N]> { using type = typename plain<T>::type[N]; };
template <class R, class... A> struct plain<R(A...)> {
    using type = typename plain<R>::type(typename plain<A>::type...);
};

static int differing;

static void differs(const char *place, const char *name, std::string header, std::string ours) {
    std::printf("%s: %s is %s in the header, %s here\n", place, name, header.c_str(), ours.c_str());
    differing++;
}

/* A type's name, out of the compiler's name for this function. */
template <class T> std::string word() {
    std::string all = __PRETTY_FUNCTION__;
    auto from = all.find("T = ") + 4;
    return all.substr(from, std::min(all.find(';', from), all.rfind(']')) - from);
}

template <class Header, class Ours> void types(const char *place, const char *name) {
    using Plain = typename plain<Header>::type;
    if (!std::is_same_v<Plain, Ours>)
        differs(place, name, word<Plain>(), word<Ours>());
}

static void numbers(const char *place, const char *name, long long header, long long ours) {
    if (header != ours)
        differs(place, name, std::to_string(header), std::to_string(ours));
}

static void names(const char *place, const char *name, const char *header, const char *ours) {
    if (std::strcmp(header, ours))
        differs(place, name, header, ours);
}

#define TEXT(x) #x
#define EXPANDED(x) TEXT(x)
#define MEMBER(type, path) std::remove_reference_t<decltype((std::declval<type &>().path))>

int main() {
"""


class Trouble(Exception):
    """What the user can mend."""


@dataclass
class Declared:
    """What our sources declare: lines of the program, and what is counted or looked up later."""

    lines: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    numbers: int = 0
    members: int = 0
    #: Names of the errors after which a context is taken for dead.
    fatal: set[str] = field(default_factory=set)


def read(name: str, declared: Declared) -> None:
    """Adds all that a source declares."""
    text = (REPOSITORY / name).read_text()
    if name.endswith(".rs"):
        _Rust(name, text.split("#[cfg(test)]")[0], declared).read()
        return
    for at, line in enumerate(text.splitlines(), 1):
        place = f"{name}:{at}"
        if found := re.search(r'case (\d+): \*name = "(\w+)"', line):
            _number(declared, place, [found[2]], found[1])
        elif found := re.match(r"\s*\w+ = (\d+), +/\* (.+) \*/", line):
            _number(declared, place, _quoted(found[2]), found[1])
        elif found := re.match(r"\w+ = (.+)", line):
            before = text.splitlines()[at - 2]
            if quoted := _quoted(before) if before.startswith("#:") else []:
                _number(declared, place, quoted, found[1])


class _Rust:
    """A Rust source, read by what precedes each declaration."""

    def __init__(self, name: str, text: str, declared: Declared) -> None:
        self.name, self.text, self.declared = name, text, declared
        #: Names of ours for types of a header's.
        self.aliases: dict[str, str] = {}

    def read(self) -> None:
        docs: list[str] = []
        has_layout = False
        for at, line in enumerate(self.text.splitlines(), 1):
            place, line = f"{self.name}:{at}", line.strip()
            if line.startswith("///"):
                docs.append(line)
                continue
            if line.startswith("#["):
                has_layout |= line == "#[repr(C)]"
                continue
            quoted = _quoted(" ".join(docs))
            if found := re.match(r"(?:pub\S* )?type (\w+) = (.+);", line):
                self._alias(found[1], found[2], quoted, place)
            elif found := re.match(r"(?:pub\S* )?const (\w+): (?:c_u?int|u64) = (.+);", line):
                _number(self.declared, place, quoted, found[2])
            elif found := re.match(r"\w+ = (\d+),$", line):
                _number(self.declared, place, quoted, found[1])
            elif found := re.match(r"(\d+), +// (.+)", line):
                behind = _quoted(found[2])
                _number(self.declared, place, behind, found[1])
                self.declared.fatal.update(behind)
            elif has_layout:
                found = re.match(r"(?:pub\S* )?struct (\w+) \{", line)
                if not found or not quoted:
                    raise Trouble(f"{place}: what struct is this, of which header?")
                self._struct(found[1], quoted[0], at)
            docs, has_layout = [], False
        self._functions()

    def _alias(self, ours: str, kind: str, quoted: list[str], place: str) -> None:
        if not quoted and (ours, kind) == ("Opaque", "*mut c_void"):
            return
        if not quoted or kind not in ("Opaque", "c_void"):
            raise Trouble(f"{place}: which header's type is {ours}, and is it a pointer?")
        self.aliases[ours] = quoted[0]
        # What is void to us is only ever pointed to.
        if kind == "Opaque":
            line = f'numbers("{place}", "a pointer", std::is_pointer_v<{quoted[0]}>, 1);'
            self.declared.lines.append(line)

    def _functions(self) -> None:
        tables = re.sub(r"macro_rules! functions \{.*?\n\}", _blank, self.text, flags=re.DOTALL)
        entry = re.compile(r'\b\w+ = "(\w+)":\s*fn\(([^)]*)\);')
        for found in entry.finditer(tables):
            at = tables.count("\n", 0, found.start(2)) + 1
            symbol, place = found[1], f"{self.name}:{at}"
            kinds = [self._type(kind, place) for kind in found[2].split(",") if kind.strip()]
            ours = f"int({', '.join(kinds)})"
            # The header may stand for another function than the one that has this very name.
            plain = re.sub(r"_v\d+$", "", symbol)
            self.declared.lines += [
                f'types<decltype({symbol}), {ours}>("{place}", "{symbol}");',
                f'names("{place}", "{plain}", EXPANDED({plain}), "{symbol}");',
            ]
            self.declared.functions.append(symbol)
        if tables.count("fn(") - tables.count('extern "C" fn(') != len(entry.findall(tables)):
            raise Trouble(f"{self.name}: a table has a function that is not understood")

    def _struct(self, ours: str, header: str, at: int) -> None:
        mirror, checks = [], []
        body = self.text.splitlines()[at:]
        for line_at, line in enumerate(body[: body.index("}")], at + 1):
            place = f"{self.name}:{line_at}"
            found = re.match(r"\s*(\w+): (.+), *// `([\w.]+)`$", line)
            if not found:
                raise Trouble(f"{place}: what member of {header} is this?")
            name, member = found[1], found[3]
            kind, count = found[2], ""
            if array := re.match(r"\[(.+); (\d+)\]", kind):
                kind, count = array[1], f"[{array[2]}]"
            kind = self._type(kind, place)
            mirror.append(f"{kind} {name}{count};")
            checks += [
                f'types<MEMBER({header}, {member}), {kind}{count}>("{place}", "{member}");',
                f'numbers("{place}", "offset of {member}", offsetof({header}, {member}), '
                f"offsetof({ours}, {name}));",
            ]
        self.aliases[ours] = header
        self.declared.members += len(mirror)
        size = f'numbers("{self.name}:{at}", "size of {header}", sizeof({header}), sizeof({ours}));'
        checks.append(size)
        self.declared.lines += ["{", f"struct {ours} {{ {' '.join(mirror)} }};", *checks, "}"]

    def _type(self, kind: str, place: str) -> str:
        kind = kind.strip()
        if found := re.match(r"\*(const|mut) (.+)", kind):
            constant = " const" if found[1] == "const" else ""
            return f"{self._type(found[2], place)}{constant} *"
        found_type = TYPES.get(kind) or self.aliases.get(kind)
        if not found_type:
            raise Trouble(f"{place}: {kind} is no type of a header's: name it in a comment")
        return found_type


def _blank(found: re.Match[str]) -> str:
    """Lines stay where they are."""
    return "\n" * found[0].count("\n")


def _quoted(comment: str) -> list[str]:
    """What of a header's a comment names."""
    return re.findall(r"`([A-Za-z]\w+)`", comment)


def _number(declared: Declared, place: str, quoted: list[str], value: str) -> None:
    if not quoted:
        raise Trouble(f"{place}: a number without the header's name for it")
    name = " | ".join(quoted)
    # Some are casts to pointers.
    header = " | ".join(f"(long long)({each})" for each in quoted)
    value = value.replace("_", "")
    declared.lines.append(f'numbers("{place}", "{name}", {header}, {value});')
    declared.numbers += 1


def fatal(header: str) -> Iterator[str]:
    """Errors after which the process must be ended, by the header's own word."""
    for comment, name in re.findall(
        r"/\*\*((?:(?!\*/).)*)\*/\s*(CUDA_ERROR_\w+)", header, re.DOTALL
    ):
        if "process must be terminated" in re.sub(r"[\s*]+", " ", comment):
            yield name


def compare(toolkit: str, packages: Path, declared: Declared) -> None:
    """Holds what is declared against one toolkit's headers."""
    folders, library = TOOLKITS[toolkit]
    headers = [packages / folder for folder in folders]
    try:
        unknown = set(fatal((headers[0] / "cuda.h").read_text())) - declared.fatal
        nvjpeg = ctypes.CDLL(str(packages / library))
    except OSError as error:
        raise Trouble(
            f"{error}: pip install --no-deps --target FOLDER -r {HERE / 'requirements.txt'}, then "
            "--packages FOLDER"
        ) from None
    if unknown:
        raise Trouble(f"{toolkit}: the process must be ended after {', '.join(sorted(unknown))}")
    functions = [name for name in declared.functions if name.startswith("nvjpeg")]
    if missing := [name for name in functions if not hasattr(nvjpeg, name)]:
        raise Trouble(f"{toolkit}: {library} lacks {', '.join(missing)}")
    program = PRELUDE + "\n".join(declared.lines) + "\nreturn differing != 0;\n}\n"
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "headers.cpp"), Path(folder, "headers")
        source.write_text(program)
        compiler = [*shlex.split(os.environ.get("CXX") or "c++"), "-std=c++17"]
        included = [f"-I{header}" for header in headers]
        _run([*compiler, *included, str(source), "-o", str(binary)], toolkit)
        _run([str(binary)], toolkit)


def _run(command: list[str], toolkit: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Trouble(f"{error.filename} is needed: apt install g++") from None
    if done.returncode:
        raise Trouble(f"{toolkit}:\n{done.stdout}{done.stderr}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="where the headers are")
    arguments = parser.parse_args()
    try:
        declared = Declared()
        for name in SOURCES:
            read(name, declared)
        for toolkit in TOOLKITS:
            compare(toolkit, arguments.packages, declared)
    except Trouble as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 1
    print(
        f"{len(declared.functions)} functions, {declared.numbers} numbers and {declared.members} "
        f"members are those of {' and '.join(TOOLKITS)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
