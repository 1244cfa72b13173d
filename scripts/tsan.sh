#!/bin/sh
# Runs the tests of loaderd-wire and loaderd-read, where threads share sockets, segments and
# buffers with each other, and those of the daemon's engine and step log, where sessions share
# threads, under ThreadSanitizer. The daemon is built without Lance, and its C code as well is
# instrumented.
#
# Needs the standard library's source, since one that is not instrumented itself makes races up:
# `rustup component add rust-src`, for the toolchain in use or for a nightly one. Says that it
# skips where there is none. CARGO_TARGET_DIR as for cargo.
set -eu
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR="$(realpath -m "${CARGO_TARGET_DIR:-target}")/tsan"
export RUSTFLAGS="-Zsanitizer=thread"
# The stable compiler has the flags of an unstable one under this name.
export RUSTC_BOOTSTRAP=1
export CFLAGS_x86_64_unknown_linux_gnu="-fsanitize=thread"
export CXXFLAGS_x86_64_unknown_linux_gnu="-fsanitize=thread"
# SQLite looks without a lock whether it is initialised, on purpose.
mkdir -p "$CARGO_TARGET_DIR"
printf 'race:sqlite3_initialize\nrace:sqlite3_mutex_alloc\n' >"$CARGO_TARGET_DIR/suppressions"
export TSAN_OPTIONS="suppressions='$CARGO_TARGET_DIR/suppressions'"

for toolchain in "" +nightly; do
    root=$(rustc $toolchain --print sysroot 2>/dev/null) || continue
    [ -d "$root/lib/rustlib/src/rust/library" ] && break
    root=
done
if [ -z "$root" ] || [ "$(uname -m)" != x86_64 ]; then
    echo "skipped: ThreadSanitizer, because this is no x86-64, or the standard library's source" >&2
    echo "is missing (rustup component add rust-src)" >&2
    exit 0
fi
tests() {
    cargo $toolchain test --release --locked -Zbuild-std --target x86_64-unknown-linux-gnu "$@"
}
# The test that is skipped is bounded in time, for code that is not instrumented.
tests -p loaderd-wire -p loaderd-read --tests -- --skip posting_never_blocks
tests -p loaderd --no-default-features --lib -- \
    engine:: steplog:: feed:: histogram:: memory:: slots::
