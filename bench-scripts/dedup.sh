#!/usr/bin/env bash
# What it costs to look for duplicates: MEDIUM events flat out with dedup off, by content, and by a part of the body, as ratios to `off`
# in one interleaved run; then the table alone, for a thousand and a million keys.
#
#   ROUNDS, RESULTS, BENCH   as in variants.sh; arguments are further variants
#   TABLE=no                 leaves the table alone out
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BENCH=${BENCH:---mix 0,100,0 --events 4000000} "$ROOT/bench-scripts/variants.sh" 'dedup off:--dedup=off' 'by content:' \
    'by prefix:--dedup=key --dedup-key=prefix:32' "$@"
[ "${TABLE:-}" = no ] || (cd "$ROOT" && cargo bench --locked --bench micro -- dedup)
