#!/usr/bin/env bash
# What should a runner without work do? Spinning answers at once and burns its core; parking wakes for each event. 10,000 REALTIME events a second alone and
# beside a flood, then an engine with nothing to do.
#
# Answer (2 vCPUs of an AMD EPYC guest, Linux 6.18, a machine busy with other work, medians of 3): at 10,000 events a second adaptive takes 40 % of its core
# and answers in 28 us (p50), park 25 % and 28 us, spin 99 % and 7.6 us; with nothing to do 0.14 %, 0.13 % and all of it. Beside a flood they stored alike (1.00, 0.88, 0.98).
#
# ROUNDS, RESULTS, BENCH as in variants.sh (RESULTS is for the first table); arguments are further variants.
export SCENARIO=mixed BENCH=${BENCH:---seconds 1 --rates 10000}
export FIGURES="alone@core taken by the engine;alone@due to handled, p50;alone@due to handled, p99;beside a flood@stored, timed ones and flood"
VARIANTS=("adaptive:--idle=adaptive" "spin:--idle=spin" "park:--idle=park" "$@")
"$(dirname "${BASH_SOURCE[0]}")/variants.sh" "${VARIANTS[@]}"
echo
SCENARIO=idle ROUNDS=1 RESULTS= FIGURES="core taken;wake-ups;memory resident" exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "${VARIANTS[@]}"
