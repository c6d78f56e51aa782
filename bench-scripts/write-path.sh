#!/usr/bin/env bash
# Which way to the disk? Durability, the kind of sync, registered buffers, and blocks that were written before (recycled segments) against fresh ones.
#
# Answer:
#
# ROUNDS, RESULTS, BENCH as in variants.sh (BENCH="--data-dir /mnt/x --events 4000000" for another disk); arguments are further variants.
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "group:" "none:--durability=none" \
    "always, in the write:--durability=always --sync-method=dsync" "always, behind it:--durability=always --sync-method=fdatasync" \
    "group, unregistered buffers:EVENTSTREAM_WITHOUT=fixed_buffers" \
    "group, segments of 64 MiB:--segment-bytes=64MiB" "group, recycled segments of 64 MiB:--segment-bytes=64MiB --retention-bytes=64MiB" \
    "always, recycled segments of 64 MiB:--durability=always --segment-bytes=64MiB --retention-bytes=64MiB" "$@"
