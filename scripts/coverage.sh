#!/bin/sh
# Line coverage of the Rust crates and of the Python package, by all tests together: what
# the Python tests have the daemon do counts as well.
#
#   scripts/coverage.sh              without Lance: all but its crate, in minutes once built
#   LANCE=1 scripts/coverage.sh      all crates
#
# Only the workspace's own Rust code is instrumented, so that what is built of its
# dependencies is used as it is, Lance included. C code is not counted. From the environment:
# BIN, a folder with `python` (default: .venv/bin); CARGO_TARGET_DIR, as for cargo. Needs LLVM's
# llvm-cov and llvm-profdata, at least as new as the compiler's. A test that fails is named,
# and the report is made nevertheless.
set -eu
cd "$(dirname "$0")/.."

BIN=$(realpath "${BIN:-.venv/bin}")
LANCE=${LANCE:-}
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")
OUT=$TARGET/coverage
status=0

llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
tool() { # llvm-cov or llvm-profdata
    for found in "$(rustc --print sysroot)"/lib/rustlib/*/bin/"$1" "$(command -v "$1-$llvm")"; do
        if [ -x "$found" ]; then
            echo "$found"
            return
        fi
    done
    echo "$1 of LLVM $llvm is missing: \`rustup component add llvm-tools\`, or Debian's package llvm-$llvm" >&2
    exit 1
}
cov=$(tool llvm-cov)
profdata=$(tool llvm-profdata)

rm -rf "$OUT"
mkdir -p "$OUT/bin" "$OUT/python" "$OUT/profiles"
printf '#!/bin/sh\nexec "$@" -C instrument-coverage\n' >"$OUT/instrument"
chmod +x "$OUT/instrument"
# Processes of one program share a few files, into which each adds its counts as it ends.
export LLVM_PROFILE_FILE="$OUT/profiles/%4m.profraw"

if [ -n "$LANCE" ]; then
    daemon="-p loaderd -p loaderd-snapshot"
    left_out=
else
    daemon="-p loaderd --no-default-features"
    # These need a daemon that reads Lance.
    left_out="--ignore-glob=*test_e2e_lance* --ignore=tests/python/test_synthetic.py
        --ignore-glob=*test_tile*"
fi
crates="-p loaderd-names -p loaderd-pagemap -p loaderd-plan -p loaderd-read -p loaderd-decode -p loaderd-gpu -p loaderd-wire"

instrumented() {
    RUSTC_WORKSPACE_WRAPPER="$OUT/instrument" cargo "$@"
}
instrumented build --release --locked $daemon
cp "$TARGET/release/loaderd" "$OUT/bin/"
instrumented build --release --locked -p loaderd-python
cp -r pyclient/python/loaderd "$OUT/python/"
cp "$TARGET/release/lib_native.so" "$OUT/python/loaderd/_native.abi3.so"
instrumented test --release --locked --no-run --message-format=json $daemon $crates >"$OUT/tests.json"

echo "== Rust tests"
instrumented test --release --locked --quiet --no-fail-fast --lib --bins --tests $daemon $crates || status=1
echo "== Python tests"
COVERAGE_FILE=$OUT/python.coverage PYTHONPATH=$OUT/python LOADERD_BIN=$OUT/bin/loaderd \
    "$BIN/python" -m coverage run -m pytest $left_out || status=1

echo "== Coverage of the Python package"
export COVERAGE_FILE="$OUT/python.coverage"
"$BIN/python" -m coverage combine --quiet
"$BIN/python" -m coverage report
echo "== Coverage of the Rust crates"
"$profdata" merge --sparse --failure-mode=warn -o "$OUT/rust.profdata" "$OUT"/profiles/*.profraw
"$BIN/python" scripts/coverage_report.py "$OUT/tests.json" "$OUT/bin/loaderd" \
    "$OUT/python/loaderd/_native.abi3.so" >"$OUT/objects"
"$cov" export --format=lcov --instr-profile="$OUT/rust.profdata" $(cat "$OUT/objects") \
    >"$OUT/rust.lcov"
"$BIN/python" scripts/coverage_report.py "$OUT/rust.lcov"
echo "line by line: $OUT/rust.lcov, and \`coverage html --data-file $OUT/python.coverage\`"
exit $status
