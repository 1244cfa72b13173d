#!/bin/sh
# Makes sure that the programs which building needs are there: installs their Debian
# packages where it may, else names them and stops. What only a test needs is installed
# with them where that is possible; else that test is skipped.
set -eu

missing=
wanted=
need() { # program, Debian package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need cc gcc
need c++ g++
need cmake cmake
need nasm nasm
need protoc protobuf-compiler
need python3 python3

if ! command -v cargo >/dev/null 2>&1; then
    echo "loaderd: building needs the Rust toolchain named in rust-toolchain.toml: install rustup (https://rustup.rs)" >&2
    exit 1
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    { echo "loaderd: Python 3.10 or later is needed" >&2; exit 1; }
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"

[ -e /usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1 ] || wanted="$wanted libfaketime"

[ -z "$missing$wanted" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    install() {
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
    }
    echo "loaderd: installing$missing$wanted"
    apt-get update -qq || [ -z "$missing" ]
    [ -z "$missing" ] || install $missing
    [ -z "$wanted" ] || install $wanted || echo "loaderd: going on without$wanted" >&2
elif [ -n "$missing" ]; then
    echo "loaderd: these packages are missing:$missing" >&2
    echo "  on Debian or Ubuntu: sudo apt-get install$missing" >&2
    exit 1
fi
