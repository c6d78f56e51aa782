#!/usr/bin/env bash
# Which way to the disk? Durability, the kind of sync, registered buffers, and blocks that were written before (recycled segments) against fresh ones.
#
# Answer (2 vCPUs of an AMD EPYC guest, Linux 6.18, a machine busy with other work, medians of 3): CPU of the engine for an event: group 176 ns, none 172, always
# with the sync in the write 144, behind it 161, recycled segments 166 (group) and 153 (always); stored 1.00, 1.08, 1.16, 1.16, 1.18 and 1.02. So every batch
# synced costs nothing where batches are large, in the write less than behind it; what registered buffers save (170 without) is within the noise.
#
# ROUNDS, RESULTS, BENCH as in variants.sh (BENCH="--data-dir /mnt/x --events 4000000" for another disk); arguments are further variants.
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "group:" "none:--durability=none" \
    "always, in the write:--durability=always --sync-method=dsync" "always, behind it:--durability=always --sync-method=fdatasync" \
    "group, unregistered buffers:EVENTSTREAM_WITHOUT=fixed_buffers" \
    "group, segments of 64 MiB:--segment-bytes=64MiB" "group, recycled segments of 64 MiB:--segment-bytes=64MiB --retention-bytes=64MiB" \
    "always, recycled segments of 64 MiB:--durability=always --segment-bytes=64MiB --retention-bytes=64MiB" "$@"
