#!/usr/bin/env bash
# When should staged events be written: after how many (--flush-events), after how long (--flush-interval-us)? Flat out first; then how long acks
# take, from when an event was due, at 10,000 events a second.
#
# Answer (2 vCPUs of an AMD EPYC guest, Linux 6.18, ext4 on a virtual disk, one round): flat out 100 events 0.85 of the default, 4,096 0.97, 50 us 0.86, 5 ms 0.94.
# Acks, p50: 0.6 ms as it is, 0.3 ms with 1 event or 50 us, 3 ms with 5 ms, whether they say written or durable.
#
# ROUNDS, RESULTS, BENCH as in variants.sh (RESULTS and BENCH are for the first table); arguments are further variants.
HERE=$(dirname "${BASH_SOURCE[0]}")
VARIANTS=("16,384 events, 500 us:" "1 event:--flush-events=1" "100 events:--flush-events=100" "4,096 events:--flush-events=4096"
    "50 us:--flush-interval-us=50" "5 ms:--flush-interval-us=5000" "$@")
"$HERE/variants.sh" "${VARIANTS[@]}" || exit
echo
export SCENARIO=sessions BENCH="--seconds 1 --events 200000" RESULTS=
AT="10 k events/s@due to acked"
FIGURES="written, $AT, p50;written, $AT, p99;durable, $AT, p50;durable, $AT, p99" exec "$HERE/variants.sh" "${VARIANTS[@]}"
