#!/usr/bin/env bash
# Overload, shown (`make demo-overload`): a flood that can't wait drives an engine through every level and back, in about a minute.
#
#   OUT=target/overload   overload.json, report.html (course and figures), and the engine's data meanwhile
#
# Arguments are further options of `eventstream bench run overload`, such as --repeat 3. The exit code is 0 when every event is accounted for;
# whether levels and latencies were as expected is printed, as latencies are only the engine's where nothing else takes its core.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

OUT=${OUT:-$ROOT/target/overload}
build
case " $* " in *" --repeat"*) ;; *) set -- --repeat 1 "$@" ;; esac
"$EVENTSTREAM" bench run overload --out "$OUT" "$@"
"$EVENTSTREAM" bench report "$OUT"
