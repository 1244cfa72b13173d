#!/bin/sh
# What `make demo` does once everything is built; each step can be repeated by hand.
# BIN: where `python` and `loaderd` are. IMAGES: a folder of JPEGs, else some are drawn.
set -eu
export PATH="$BIN:$PATH"
mkdir -p demo
rm -rf demo/pictures.lance

say() { printf '\n$ %s\n' "$*"; "$@"; }

if [ -z "${IMAGES:-}" ]; then
    IMAGES=demo/pictures
    [ -d "$IMAGES" ] || say loaderd sample "$IMAGES" --count 1024
fi
# Classes are sub-folders, or the names' first part where the folder is flat.
label_from=name
[ -z "$(find "$IMAGES"/ -mindepth 1 -maxdepth 1 -type d | head -1)" ] || label_from=folder
say loaderd ingest "$IMAGES" demo/pictures.lance --label-from "$label_from"

run="demo-$(date +%Y%m%d-%H%M%S)"
say python examples/02_train.py demo/pictures.lance --grid demo/batch.png --run "$run"
say loaderd log --run "$run" --last 10
printf '\nThe first batch is in demo/batch.png. What this did can be repeated by hand with %s\n' "$BIN"
