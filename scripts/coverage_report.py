"""What ``scripts/coverage.sh`` found in the Rust crates: shares, and functions never run.

Enters: an lcov file, or cargo's messages about the test programs. Leaves: a table by crate and
file and the names of functions that no test enters; or, of messages, llvm-cov's arguments that
name the programs. Lines from ``#[cfg(test)]`` on are tests, and don't count.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What ships; benches and tests of the workspace don't.
CRATES = ("loaderd/", "pyclient/")
_FUNCTION = re.compile(r"\bfn\s+(\w+)")


@dataclass
class File:
    """How often each line ran, and each function, by its first line."""

    lines: dict[int, int] = field(default_factory=dict)
    functions: dict[int, int] = field(default_factory=dict)


def main() -> None:
    """Does what the first argument's kind asks for."""
    if Path(sys.argv[1]).suffix == ".json":
        print(*objects(Path(sys.argv[1])), *sys.argv[2:], sep="\n--object=")
    else:
        show(read(Path(sys.argv[1])))


def objects(messages: Path) -> list[str]:
    """The test programs that cargo built."""
    found = []
    for line in messages.read_text().splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            found.append(message["executable"])
    return sorted(set(found))


def read(lcov: Path) -> dict[str, File]:
    """By path from the repository's root. Copies of a generic function add up."""
    files: dict[str, File] = {}
    starts: dict[str, int] = {}
    name, last = "", 0
    for entry in lcov.read_text().splitlines():
        key, _, rest = entry.partition(":")
        if key == "SF":
            path = Path(rest)
            name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else ""
            starts = {}
            if name.startswith(CRATES) and "/src/" in name:
                files[name] = File()
                last = end_of_code(path)
            else:
                name = ""
        elif not name:
            continue
        elif key == "FN":
            line, _, function = rest.partition(",")
            starts[function] = int(line)
        elif key == "FNDA":
            count, _, function = rest.partition(",")
            line = starts[function]
            if line < last:
                functions = files[name].functions
                functions[line] = functions.get(line, 0) + int(count)
        elif key == "DA":
            line, count = (int(number) for number in rest.split(",")[:2])
            if line < last:
                files[name].lines[line] = count
    return files


def end_of_code(path: Path) -> int:
    """The first line of tests."""
    text = path.read_text().splitlines()
    for number, line in enumerate(text, 1):
        if line.startswith("#[cfg(test)]") and text[number : number + 1] != ["mod tests;"]:
            return number
    return 0 if path.name == "tests.rs" or "tests" in path.parts else len(text) + 1


def show(files: dict[str, File]) -> None:
    """Prints the table, and what is not run at all."""
    crates: dict[str, list[str]] = defaultdict(list)
    for name in sorted(files):
        if files[name].lines:
            crates[name.partition("/src/")[0]].append(name)
    for crate, names in crates.items():
        print(row(crate, [files[name] for name in names]))
        for name in names:
            print(row(f"  {name.partition('/src/')[2]}", [files[name]]))
    print(row("all", list(files.values())))
    print("\nfunctions that no test enters:")
    for name, file in files.items():
        text = (ROOT / name).read_text().splitlines()
        for line, count in sorted(file.functions.items()):
            # Closures and what macros make have no name of their own.
            match = _FUNCTION.search(text[line - 1])
            if count == 0 and match:
                print(f"  {name}:{line}  {match[1]}")


def row(title: str, files: list[File]) -> str:
    """A line of the table."""
    lines = sum(len(file.lines) for file in files)
    run = sum(count > 0 for file in files for count in file.lines.values())
    return f"{title:<44}{run:>7} of {lines:<7}{100 * run / max(lines, 1):6.1f} %"


if __name__ == "__main__":
    main()
