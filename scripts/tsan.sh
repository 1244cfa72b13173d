#!/bin/sh
# Runs what shares memory between threads under ThreadSanitizer: the tests of loaderd-wire and
# loaderd-read, and a daemon without Lance under the Python tests that drive it.
#
#   scripts/tsan.sh                       those that take a few minutes
#   scripts/tsan.sh tests/python/NAME.py  the daemon under these alone
#
# Needs the standard library's source, since one that is not instrumented itself makes races up:
# `rustup component add rust-src`, for the toolchain in use or for a nightly one. Says that it
# skips where there is none. C code (libjpeg-turbo, SQLite, ZeroMQ) is not instrumented: races
# in it are not seen, and its locks are. From the environment: BIN, a folder with a `python` that
# can import loaderd (default: .venv/bin); CARGO_TARGET_DIR, as for cargo.
set -eu
cd "$(dirname "$0")/.."

BIN=${BIN:-$PWD/.venv/bin}
HOST=x86_64-unknown-linux-gnu
export CARGO_TARGET_DIR="$(realpath -m "${CARGO_TARGET_DIR:-target}")/tsan"
export RUSTFLAGS="-Zsanitizer=thread"
# The stable compiler has the flags of an unstable one under this name.
export RUSTC_BOOTSTRAP=1

for toolchain in "" +nightly; do
    root=$(rustc $toolchain --print sysroot 2>/dev/null) || continue
    [ -d "$root/lib/rustlib/src/rust/library" ] && break
    root=
done
if [ -z "$root" ] || [ "$(uname -m)" != x86_64 ]; then
    echo "skipped: ThreadSanitizer, because the standard library's source is missing" >&2
    echo "(rustup component add rust-src), or this is no x86-64" >&2
    exit 0
fi

build="--release --locked -Zbuild-std --target $HOST"
status=0
if [ $# -eq 0 ]; then
    # The one that is skipped is bounded in time, for code that is not instrumented.
    # shellcheck disable=SC2086
    cargo $toolchain test $build -p loaderd-wire -p loaderd-read -- \
        --skip posting_never_blocks || status=1
    set -- tests/python/test_e2e_memory.py tests/python/test_columns.py \
        tests/python/test_bad_samples.py tests/python/test_full_disk.py
fi
# shellcheck disable=SC2086
cargo $toolchain build $build -p loaderd --no-default-features --bin loaderd
# Also of daemons that a test kills or leaves alone.
races="$CARGO_TARGET_DIR/races"
rm -f "$races".*
TSAN_OPTIONS="log_path=$races ${TSAN_OPTIONS:-}" \
    LOADERD_BIN="$CARGO_TARGET_DIR/$HOST/release/loaderd" \
    "$BIN/python" -m pytest "$@" || status=1
for race in "$races".*; do
    [ -e "$race" ] || continue
    cat "$race"
    status=1
done
exit $status
