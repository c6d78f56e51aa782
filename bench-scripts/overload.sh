#!/usr/bin/env bash
# Overload, shown (`make demo-overload`): a flood that can't wait drives an engine through every level and back, in about a minute.
#
#   ENGINE_CORE=0 LOAD_CORE=1   cores of the engine, and of senders and handler
#   OUT=target/overload         report.html (plot and figures), samples.csv, and the engine's data
#
# Arguments are further options of the example (`--help` lists them). The exit code is 0 when the ledger balances to the event; whether
# latencies held is printed, as they are only the engine's where nothing else takes its core.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OUT=${OUT:-$ROOT/target/overload}
build_example overload
"$EXAMPLE" --out "$OUT" --engine-core "${ENGINE_CORE:-0}" --load-core "${LOAD_CORE:-1}" "$@"
