#!/usr/bin/env bash
# What does it buy to let completions gather while a runner is parked (--min-wait-us)? Fewer wake-ups, so less of the core at a steady rate; each event
# waits longer. 100,000 REALTIME events a second alone, and what it does to a flood. `spin` is there as the other end.
#
# Answer (2 vCPUs of an AMD EPYC guest, Linux 6.18, a machine busy with other work, medians of 3): at 100,000 events a second a parked engine takes 73 % of its core
# with a p50 of 18 us; waiting for 20, 50 and 200 us it takes 51, 39 and 24 %, with 30, 49 and 148 us. Spinning: 99 % and 7 us. The flood was stored as fast
# with all of them (0.96 to 1.06).
#
# ROUNDS, RESULTS, BENCH as in variants.sh; arguments are further variants.
export SCENARIO=mixed BENCH=${BENCH:---seconds 1 --rates 100000}
export FIGURES="alone@core taken by the engine;alone@due to handled, p50;alone@due to handled, p99;beside a flood@stored, timed ones and flood"
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "park:--idle=park" "park, 20 us:--idle=park --min-wait-us=20" \
    "park, 50 us:--idle=park --min-wait-us=50" "park, 200 us:--idle=park --min-wait-us=200" "spin:--idle=spin" "$@"
