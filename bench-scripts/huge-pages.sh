#!/usr/bin/env bash
# Are huge pages behind the pool and the table of duplicates worth it? `auto` takes reserved ones where there are enough, else asks for transparent ones; the
# start report says which. `required` needs reserved ones: vm.nr_hugepages.
#
# Answer (2 vCPUs of an AMD EPYC guest, Linux 6.18, a machine busy with other work, medians of 3, transparent ones): an event costs the engine 166 ns with them, 181
# without (1.09).
#
# ROUNDS, RESULTS, BENCH as in variants.sh; arguments are further variants, such as "reserved:--huge-pages=required".
exec "$(dirname "${BASH_SOURCE[0]}")/variants.sh" "auto:" "off:--huge-pages=off" "$@"
