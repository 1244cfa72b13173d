#!/bin/sh
# Runs every fuzz target for a bounded time: what parses bytes that we did not write.
#
#   scripts/fuzz.sh          10 s a target
#   scripts/fuzz.sh 600      10 min a target
#   scripts/fuzz.sh 60 decode header
#
# Says that it skips where cargo-fuzz can't be had. What a target finds stays in
# fuzz/artifacts, and what it learns in fuzz/corpus; neither is part of the repository.
set -eu
cd "$(dirname "$0")/.."

VERSION=0.13.2
SECONDS_EACH=${1:-10}
[ $# -gt 0 ] && shift
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
# cargo-fuzz needs flags of an unstable compiler; the stable one has them under this name.
export RUSTC_BOOTSTRAP=1
# The C code under AddressSanitizer as well; its runtime is the one that Rust brings.
export CFLAGS="-fsanitize=address -fno-omit-frame-pointer"
unset CARGO_TARGET_DIR

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "installing cargo-fuzz $VERSION"
    if ! cargo install --quiet --locked --version "$VERSION" cargo-fuzz; then
        echo "skipped: fuzzing, because cargo-fuzz $VERSION can't be installed here" >&2
        exit 0
    fi
fi
case $(uname -m) in
x86_64 | aarch64) ;;
*)
    echo "skipped: fuzzing, because libFuzzer is not built for $(uname -m)" >&2
    exit 0
    ;;
esac

[ $# -gt 0 ] || set -- $(cargo fuzz list)
python3 fuzz/seeds.py
status=0
for name in "$@"; do
    echo "== fuzzing $name for $SECONDS_EACH s"
    mkdir -p "fuzz/corpus/$name"
    cargo fuzz run --target-dir "$TARGET" "$name" "fuzz/corpus/$name" -- \
        -max_total_time="$SECONDS_EACH" -rss_limit_mb=1024 -timeout=10 -max_len=65536 \
        -verbosity=0 -print_final_stats=1 || status=1
done
exit $status
