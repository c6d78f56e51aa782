#!/usr/bin/env bash
# When should staged events be written: after how many (--flush-events), after how long (--flush-interval-us)? Flat out first; then how long acks
# take, from when an event was due, at 10,000 events a second.
#
# ROUNDS, RESULTS, BENCH as in variants.sh (RESULTS and BENCH are for the first table); arguments are further variants.
HERE=$(dirname "${BASH_SOURCE[0]}")
VARIANTS=("100 events, 500 us:" "1 event:--flush-events=1" "10,000 events:--flush-events=10000" "100 events, 50 us:--flush-interval-us=50"
    "1,000,000 events, 50 us:--flush-events=1000000 --flush-interval-us=50"
    "1,000,000 events, 5 ms:--flush-events=1000000 --flush-interval-us=5000" "$@")
"$HERE/variants.sh" "${VARIANTS[@]}" || exit
echo
export SCENARIO=sessions BENCH="--seconds 1 --events 200000" RESULTS=
AT="10 k events/s@due to acked"
FIGURES="written, $AT, p50;written, $AT, p99;durable, $AT, p50;durable, $AT, p99" exec "$HERE/variants.sh" "${VARIANTS[@]}"
