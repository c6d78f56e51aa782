#!/usr/bin/env bash
# Is a kernel thread that submits (--sqpoll on) worth its core? Here it shares that of the engine, as all of its threads do; give the engine more with
# BENCH="--rates 10000 --seconds 1" and `--cores=0,1` as a flag of both variants, on a host that has them.
#
# Answer:
#
# ROUNDS, RESULTS, BENCH as in variants.sh; arguments are further variants.
export SCENARIO=mixed BENCH=${BENCH:---seconds 1 --rates 10000}
export FIGURES="alone@core taken by the engine;alone@due to handled, p50;alone@due to handled, p99;beside a flood@stored, timed ones and flood"
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "off:" "on:--sqpoll=on" "$@"
