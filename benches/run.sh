#!/bin/sh
# Runs the benches, all or those that are named:
# read rings entropy cutread plan handover peers extras followers memory soak.
#
#   sh benches/run.sh                     brief: shows that each works, in a few minutes
#   FULL=1 sh benches/run.sh peers        at full length; installs the peers first
#
# From the environment: BIN, a folder with `python` and `loaderd` (default: .venv/bin);
# IMAGES, a folder of JPEGs (default: drawn pictures); OUT, a folder for results as JSON;
# CARGO_TARGET_DIR, as for cargo. All benches run, even after one that fails.
set -eu
cd "$(dirname "$0")/.."

BIN=${BIN:-$PWD/.venv/bin}
FULL=${FULL:-}
IMAGES=${IMAGES:-}
OUT=${OUT:-}
ALL="read rings entropy cutread plan handover peers extras followers memory soak"

# start NAME [OPTION...]
start() {
    bench=$1
    shift
    [ -n "$FULL" ] || set -- "$@" --brief
    [ -z "$OUT" ] || set -- "$@" "--json=$OUT/$bench.json"
    case $bench in
    read | plan)
        # With the daemon's package, so that Lance is not built anew with other features.
        cargo build --release --locked --quiet -p loaderd -p loaderd-benches
        "${CARGO_TARGET_DIR:-target}/release/$bench" "$@"
        ;;
    rings)
        # Without Lance. What tokio-uring stands on is optimised in full for once, as our own
        # reader is: at the workspace's levels it would cost more than it has to.
        level=opt-level=3
        cargo build --release --locked --quiet -p loaderd-rings \
            --config "profile.release.package.tokio.$level" \
            --config "profile.release.package.mio.$level" \
            --config "profile.release.package.slab.$level"
        "${CARGO_TARGET_DIR:-target}/release/$bench" "$@"
        ;;
    entropy | cutread)
        cargo build --release --locked --quiet -p "loaderd-$bench"
        "${CARGO_TARGET_DIR:-target}/release/$bench" "$@"
        ;;
    peers)
        # What times libjpeg-turbo by itself.
        cargo build --release --locked --quiet -p loaderd-decode --example crop_decode_speed
        set -- "$@" "--example=${CARGO_TARGET_DIR:-target}/release/examples/crop_decode_speed"
        [ -z "$OUT" ] || set -- "$@" "--plot=$OUT/peers.svg"
        PYTHONPATH="benches${PYTHONPATH:+:$PYTHONPATH}" "$BIN/python" -m peers "$@"
        ;;
    *) "$BIN/python" "benches/$bench.py" "$@" ;;
    esac
}

run() {
    echo "== $1"
    if [ "$1" = peers ] && [ -n "$FULL" ]; then
        echo "installing the peers, each into an environment of its own"
        # What does not install says so in the table.
        PYTHONPATH=benches "$BIN/python" -m peers.install
    fi
    case $1 in
    rings | plan | handover | extras | soak) start "$1" ;;
    read | entropy | cutread | peers | followers | memory)
        if [ -n "$IMAGES" ]; then start "$1" "--images=$IMAGES"; else start "$1"; fi
        ;;
    *)
        echo "there is no bench $1, only: $ALL" >&2
        return 1
        ;;
    esac
}

if ! [ -x "$BIN/python" ]; then
    echo "no python in $BIN: run make test first, or name a folder that has it with BIN=" >&2
    exit 1
fi
if [ -n "$OUT" ]; then
    mkdir -p "$OUT"
    OUT=$(cd "$OUT" && pwd)
fi
[ $# -gt 0 ] || set -- $ALL
status=0
for bench in "$@"; do
    run "$bench" || status=1
done
exit $status
