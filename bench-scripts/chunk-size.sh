#!/usr/bin/env bash
# How large should TCP receive chunks be, and how many bytes on offer? One enter hands over all that is on offer, so more of it is throughput, and
# time that a REALTIME event waits: 10,000 of them a second on a connection of their own, beside a flood of the rest on eight.
#
# Answer (2 vCPUs of an AMD EPYC guest, Linux 6.18, a machine busy with other work, medians of 3): 2 of 64 KiB stored 1.26 of what 4 of 32 KiB do (5.0 M/s),
# with a p50 of 94 us against 127; 16 of 8 KiB 0.97, with a p50 of 774 us. More on offer than 128 KiB bought 1.03 (512 KiB) and 1.10 (4 MiB). The p99 were
# those of the machine.
#
# ROUNDS, RESULTS, BENCH as in variants.sh (BENCH="--seconds 1 --connections 256" for many connections); arguments are further variants.
export SCENARIO=mixed BENCH=${BENCH:---seconds 1 --rates 10000}
export FIGURES="beside a flood@stored, timed ones and flood;beside a flood@due to handled, p50;beside a flood@due to handled, p99"
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "4 of 32 KiB:" \
    "16 of 8 KiB:--tcp-chunk-bytes=8KiB --tcp-chunks=16" "8 of 16 KiB:--tcp-chunk-bytes=16KiB --tcp-chunks=8" \
    "2 of 64 KiB:--tcp-chunk-bytes=64KiB --tcp-chunks=2" "1 of 128 KiB:--tcp-chunk-bytes=128KiB --tcp-chunks=1" \
    "2 of 32 KiB:--tcp-chunks=2 --poll-budget-us=50" "16 of 32 KiB:--tcp-chunks=16 --poll-budget-us=400" \
    "64 of 64 KiB:--tcp-chunk-bytes=64KiB --tcp-chunks=64 --poll-budget-us=3200" "$@"
