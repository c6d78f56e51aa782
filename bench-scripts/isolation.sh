#!/usr/bin/env bash
# Isolation, shown: REALTIME's latency alone; beside a slow, a panicking and a too long inline handler of TRANSACTIONAL; under floods of BATCH over
# TCP and UDP; and beside a sender of its own tier that is a hundred times as fast. One engine after the other; a page with the curves at the end.
#
#   OUT=target/isolation   results, and the engines' data meanwhile
#
# Arguments are further options of `eventstream bench run isolation`. The exit code is 0 when every ledger balances and REALTIME lost nothing.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OUT=${OUT:-$ROOT/target/isolation}
build
"$EVENTSTREAM" bench run isolation --out "$OUT" "$@"
"$EVENTSTREAM" bench report "$OUT"
