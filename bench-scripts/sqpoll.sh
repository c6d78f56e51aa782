#!/usr/bin/env bash
# Is a kernel thread that submits (--sqpoll on) worth its core? The kernel places it on any core: on a host of two it takes the sender's or the
# engine's. 10,000 REALTIME events a second, alone and beside a flood.
#
# Answer (2 vCPUs of an AMD EPYC guest, Linux 6.18, a machine busy with other work, medians of 3): no, on two cores: p50 7.6 us without, 6.8 ms with it (its thread
# and the engine or the sender take turns on a core), and beside a flood 0.48 of the events.
#
# ROUNDS, RESULTS, BENCH as in variants.sh; arguments are further variants.
export SCENARIO=mixed BENCH=${BENCH:---seconds 1 --rates 10000}
export FIGURES="alone@core taken by the engine;alone@due to handled, p50;alone@due to handled, p99;beside a flood@stored, timed ones and flood"
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "off:" "on:--sqpoll=on" "$@"
