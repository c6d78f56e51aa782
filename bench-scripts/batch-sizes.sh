#!/usr/bin/env bash
# When should staged events be written: after how many (--flush-events), after how long (--flush-interval-us)? Flat out first; then how long acks take at
# 10,000 events a second, with each interval (microseconds; the disk alone stands before and after).
#
# Answer:
#
# ROUNDS, RESULTS, BENCH as in variants.sh (RESULTS is for the table), RATE and SECONDS_EACH as in ack-latency.sh; arguments are further variants.
HERE=$(dirname "${BASH_SOURCE[0]}")
"$HERE/variants.sh" "100 events, 500 us:" "1 event:--flush-events=1" "10,000 events:--flush-events=10000" \
    "1,000,000 events, 50 us:--flush-events=1000000 --flush-interval-us=50" "1,000,000 events, 5 ms:--flush-events=1000000 --flush-interval-us=5000" "$@" || exit
export SECONDS_EACH=${SECONDS_EACH:-3}
for interval_us in 500 50 5000; do
    printf "\nflush interval of %d us\n" "$interval_us"
    "$HERE/ack-latency.sh" --durability=always --flush-interval-us="$interval_us" || exit
done
