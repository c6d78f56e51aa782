#!/usr/bin/env bash
# What settings are worth: variants of the engine under one load, taking turns, and what `eventstream bench run` measured of each, with ratios to the
# first one. A script beside this one that asks a question (chunk-size.sh, idle.sh, …) is a list of variants, and its answer.
#
#   bench-scripts/variants.sh 'as it is:' 'no byte cap:EVENTSTREAM_WITHOUT=byte_cap' 'small chunks:--tcp-chunk-bytes=4KiB' 'one topic:bench:--topics=1'
#
# Each argument is NAME:WORDS. A word that begins with -- is a flag of serve, one that begins with bench: an option of bench run, another
# VARIABLE=VALUE of the environment.
#
#   SCENARIO=ingest-tcp      of bench run
#   FIGURES='stored;…'       its figures, by name, separated by semicolons; POINT@FIGURE where it has several points
#   BENCH='--events 4000000' options of bench run for all variants: load, cores, folder of the data
#   ROUNDS=5                 of all variants; the table has medians
#   RESULTS=file             results are added to it, and the table is of all that it has; else of this run
#
# The machine's speed drifts by tens of percent within minutes, so variants take turns and only ratios of the medians mean something. A run in which an
# event was lost counts for nothing, and is said.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SCENARIO=${SCENARIO:-ingest-tcp} ROUNDS=${ROUNDS:-5} BENCH=${BENCH:---events 4000000}
FIGURES=${FIGURES:-stored;share of the pipeline;CPU of the engine for each event}
[ $# -gt 0 ] || fail 'no variants' 'there is nothing to compare' "$0 'as it is:' 'spin:--idle=spin'"

build >&2
FOLDER=$(work_folder)
trap 'clean_up "$FOLDER"' EXIT
ROWS=${RESULTS:-$FOLDER/rows}

# The median and the unit of a figure, of a CSV: scenario,point,x,figure,unit,median,…
figure() { # [POINT@]FIGURE
    awk -v wanted="$1" '
        { gsub("\"", "") }
        BEGIN { at = index(wanted, "@"); point = at ? substr(wanted, 1, at - 1) : ""; name = substr(wanted, at + 1) }
        (place = index($0, "," name ",")) && (!at || index($0, "," point ",")) {
            split(substr($0, place + length(name) + 2), rest, ",")
            print rest[2] "\t" rest[1]
            exit
        }' "$FOLDER/out/$SCENARIO.csv"
}

for round in $(seq "$ROUNDS"); do
    for variant in "$@"; do
        name=${variant%%:*} flags=() options=() variables=()
        for word in ${variant#*:}; do
            case $word in
                --*) flags+=("$word") ;;
                bench:*) options+=("${word#bench:}") ;;
                *) variables+=("$word") ;;
            esac
        done
        rm -rf "$FOLDER/out"
        # shellcheck disable=SC2086 # options are words
        if ! said=$(env "${variables[@]}" "$EVENTSTREAM" bench run "$SCENARIO" --repeat 1 --out "$FOLDER/out" $BENCH "${options[@]}" -- "${flags[@]}" 2>&1); then
            printf 'round %d  %-32s does not count\n%s\n' "$round" "$name" "$said" >&2
            continue
        fi
        IFS=';' read -ra wanted <<<"$FIGURES"
        for one in "${wanted[@]}"; do
            value=$(figure "$one")
            [ -n "$value" ] || fail "$SCENARIO has no figure \`$one\`" 'FIGURES names one that bench run did not write' "look into its output: $(printf '%q ' "$EVENTSTREAM" bench run "$SCENARIO")"
            printf '%s\t%s\t%s\n' "$name" "$one" "$value" >>"$ROWS"
        done
        printf 'round %d  %-32s %s\n' "$round" "$name" "$(figure "${wanted[0]}" | tr '\t' ' ')" >&2
    done
done
[ -s "$ROWS" ] || fail 'nothing to show' 'no run counts' 'read what each said above'

awk -F '\t' '
    !($1 in seen) { names[++rows] = $1; seen[$1] = 1 }
    !($2 in unit) { figures[++columns] = $2; unit[$2] = $4 }
    { values[$1, $2] = values[$1, $2] " " $3 }
    function median(list,   parts, count, i, j, t) {
        count = split(list, parts, " ")
        for (i = 2; i <= count; i++) for (j = i; j > 1 && parts[j] + 0 < parts[j - 1] + 0; j--) { t = parts[j]; parts[j] = parts[j - 1]; parts[j - 1] = t }
        return parts[int((count + 1) / 2)] + 0
    }
    function readable(value, unit) {
        if (unit == "ns") return value >= 10000 ? sprintf("%.1f us", value / 1000) : sprintf("%.0f ns", value)
        if (unit == "events/s") return sprintf("%.2f M/s", value / 1e6)
        if (unit == "bytes") return sprintf("%.1f MiB", value / 1048576)
        return unit == "share" ? sprintf("%.3f", value) : sprintf("%.2f %s", value, unit)
    }
    END {
        printf "| |"
        for (c = 1; c <= columns; c++) { title = figures[c]; sub("@", ": ", title); printf " %s |", title }
        printf "\n|---|"
        for (c = 1; c <= columns; c++) printf "---|"
        print ""
        for (r = 1; r <= rows; r++) {
            printf "| %s |", names[r]
            for (c = 1; c <= columns; c++) {
                value = median(values[names[r], figures[c]]); base = median(values[names[1], figures[c]])
                printf " %s (%.2f) |", readable(value, unit[figures[c]]), base ? value / base : 0
            }
            print ""
        }
    }' "$ROWS"
