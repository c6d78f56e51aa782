#!/usr/bin/env bash
# What it costs to look for duplicates: MEDIUM events flat out with dedup off, by content, and by a part of the body, as ratios to `off`
# in one interleaved run; then the table alone, for a thousand and a million keys.
#
#   ROUNDS=5 EVENTS=4000000 and what else variants.sh takes; its arguments are further variants
#   TABLE=no   leaves the table alone out
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

MIX=0,100,0 "$ROOT/bench-scripts/variants.sh" 'dedup off:--dedup=off' 'by content:' \
    'by prefix:--dedup=key --dedup-key=prefix:32' "$@"
[ "${TABLE:-}" = no ] || (cd "$ROOT" && cargo bench --locked --bench micro -- dedup)
