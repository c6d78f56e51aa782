#!/usr/bin/env bash
# What one setting is worth: the throughput of variants of the engine, as ratios to the first one, in one interleaved run.
#
#   bench-scripts/variants.sh 'as it is:' 'no byte cap:EVENTSTREAM_WITHOUT=byte_cap' 'small chunks:--tcp-chunk-bytes=4KiB'
#
# Each argument is NAME:WORDS; words that begin with -- are flags of serve, others are VARIABLE=VALUE of its environment.
# Without arguments every probed kernel feature is taken away in turn, and chunk sizes and idle strategies are compared: the table of
# kernel-notes.md. The machine's speed drifts by tens of percent within minutes, so variants take turns and only ratios of
# the medians mean something.
#
#   ROUNDS=5 EVENTS=4000000 CONNECTIONS=8 BODY_BYTES=64 MIX=10,60,30 ENGINE_CORE=0 SENDER_CORE=1 WORK_DIR=target
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export RUNS=1 EVENTS=${EVENTS:-4000000}
ROUNDS=${ROUNDS:-5}
VARIANTS=("$@")
if [ $# -eq 0 ]; then
    VARIANTS=('as it is:')
    for feature in defer_taskrun no_sqarray restrictions registered_ring fixed_buffers byte_cap multishot_accept multishot_recv \
        huge_pages; do
        VARIANTS+=("without $feature:EVENTSTREAM_WITHOUT=$feature")
    done
    VARIANTS+=('chunks 16 x 8 KiB:--tcp-chunk-bytes=8KiB --tcp-chunks=16' 'chunks 2 x 64 KiB:--tcp-chunk-bytes=64KiB --tcp-chunks=2'
        'chunks 16 x 64 KiB:--tcp-chunk-bytes=64KiB --tcp-chunks=16 --poll-budget-us=1000' 'spin:--idle=spin' 'park:--idle=park'
        'durability none:--durability=none' 'durability always:--durability=always' 'dedup off:--dedup=off')
fi

build >&2
export EVENTSTREAM
RESULTS=$(mktemp)
trap 'rm -f "$RESULTS"' EXIT
for round in $(seq "$ROUNDS"); do
    for variant in "${VARIANTS[@]}"; do
        name=${variant%%:*} flags=() variables=()
        for word in ${variant#*:}; do
            case $word in --*) flags+=("$word") ;; *) variables+=("$word") ;; esac
        done
        rate=$(env "${variables[@]}" "$ROOT/bench-scripts/throughput.sh" "${flags[@]}" 2>/dev/null |
            grep -o '"median_stored_per_second":[0-9]*' | cut -d: -f2) || rate=0
        printf '%s\t%s\n' "$name" "$rate" >>"$RESULTS"
        printf 'round %d  %-28s %12s events/s\n' "$round" "$name" "$rate" >&2
    done
done
awk -F '\t' '
    { if (!($1 in seen)) { order[++variants] = $1; seen[$1] = 1 } rates[$1] = rates[$1] " " $2 }
    function median(list,   parts, count, i, j, t) {
        count = split(list, parts, " ")
        for (i = 2; i <= count; i++) for (j = i; j > 1 && parts[j] + 0 < parts[j - 1] + 0; j--) { t = parts[j]; parts[j] = parts[j - 1]; parts[j - 1] = t }
        return parts[int((count + 1) / 2)]
    }
    END {
        base = median(rates[order[1]])
        printf "%-28s %14s %7s\n", "variant", "median events/s", "ratio"
        for (i = 1; i <= variants; i++) printf "%-28s %14d %7.2f\n", order[i], median(rates[order[i]]), median(rates[order[i]]) / base
    }' "$RESULTS"
