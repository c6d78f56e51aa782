#!/usr/bin/env bash
# Isolation, shown: REALTIME's latency alone, beside a slow, a panicking and a too long inline handler of TRANSACTIONAL, and under floods of BATCH over
# TCP and UDP. One engine after the other, under a minute in all; a table at the end.
#
#   ENGINE_CORE=0 LOAD_CORE=1   cores of the engine and of the senders
#   OUT=target/isolation        the engines' data
#
# Arguments are further options of the example. The exit code is 0 when every ledger balances and REALTIME lost nothing.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OUT=${OUT:-$ROOT/target/isolation}
build_example isolation
# One of the handlers panics; what it says is enough without a trace.
export RUST_BACKTRACE=0
"$EXAMPLE" --out "$OUT" --engine-core "${ENGINE_CORE:-0}" --load-core "${LOAD_CORE:-1}" "$@"
rm -rf "$OUT"
