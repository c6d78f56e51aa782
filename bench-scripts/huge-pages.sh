#!/usr/bin/env bash
# Are huge pages behind the pool and the table of duplicates worth it? `auto` takes reserved ones where there are enough, else asks for transparent ones; the
# start report says which. `required` needs reserved ones: vm.nr_hugepages.
#
# Answer:
#
# ROUNDS, RESULTS, BENCH as in variants.sh; arguments are further variants, such as "reserved:--huge-pages=required".
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "auto:" "off:--huge-pages=off" "$@"
