#!/usr/bin/env bash
# The same events into eventstream and into the peers that Debian ships (rsyslog, NATS JetStream, Redis streams), as they come and durable: how many a
# second are stored, and at a steady rate how long after it was due an event is answered for. One table, servers pinned to one core, the
# sender (examples/peers) to another, all taking turns.
#
#   ROUNDS=3          of everything; the table has medians
#   SECONDS_EACH=2    for which events are sent, flat out and again at the rate
#   RATE=20000        events per second of the timed part; 0 leaves it out
#   CONNECTIONS=8     of what is flat out
#   ONLY=pattern      those rows whose names have this extended regular expression
#   RESULTS=file      results are added to it, and the table is of all that it has; else of this run
#   ENGINE_CORE=0 SENDER_CORE=1
#   WORK_DIR=target   where data folders are made (on the disk to be measured)
#
# What "stored" means is a column of the table: what is answered for, or what is found where the peer keeps it. "limit" says who was busy for more than
# 85 % of the time: the server's core, as it should be; the sender's; or neither, which is waiting: for the disk where each write is synced.
#
# Answer (2 vCPUs of an AMD EPYC guest, Linux 6.18, ext4 on a virtual disk, a quiet machine, medians of 3; rsyslog 8.2302, NATS 2.9.10, Redis
# 7.0.15). As they come, stored a second and nanoseconds of the server's core for an event: eventstream 10.67 M, 92 ns, in sessions 7.00 M; rsyslog 1.16 M, 861 ns,
# tuned 1.33 M, 751 ns; Redis 1.28 M, 783 ns in memory, 0.85 M, 1178 ns with its file; JetStream 0.48 M, 2093 ns, 0.39 M, 2535 ns with acks: 8.0 times the
# fastest peer. Durable: eventstream 10.79 M, 93 ns, in sessions 6.92 M; rsyslog 0.77 M, 939 ns; Redis 0.69 M, 1239 ns: 14 times. Times to an answer,
# p50: rsyslog 38 us, JetStream 34, Redis 33; synced 135 (rsyslog) and 274 us (Redis); eventstream in sessions 5.9 and 11.6 ms beside a sender that
# spins, 0.55 ms beside one that sleeps: kernel-notes.md says why.
#
# Peers run from folders of their own, on ports of their own, with the settings below, and are killed at the end; no service is started or stopped.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ROUNDS=${ROUNDS:-3} SECONDS_EACH=${SECONDS_EACH:-2} RATE=${RATE:-20000} CONNECTIONS=${CONNECTIONS:-8} ONLY=${ONLY:-.}
ENGINE_CORE=${ENGINE_CORE:-0} SENDER_CORE=${SENDER_CORE:-1}

# class|name|what "stored" means|protocol of the sender|how it is started, with its settings
SYSTEMS=(
    'plain|rsyslog|written to its file|syslog|rsyslog'
    'plain|rsyslog, tuned|written to its file|syslog|rsyslog tuned'
    'plain|JetStream, no acks|counted in its stream|jetstream-unacked|nats'
    'plain|JetStream, acks|acknowledged, not synced|jetstream|nats'
    'plain|Redis, in memory|answered, in memory only|redis|redis --appendonly no'
    'plain|Redis, everysec|answered, written to its file|redis|redis --appendonly yes --appendfsync everysec'
    'plain|eventstream|written, synced in 2 ms|eventstream|engine'
    'plain|eventstream, session|acknowledged: written|session-written|engine'
    'durable|rsyslog, sync|written to its file, synced by batch|syslog|rsyslog tuned sync'
    'durable|JetStream, sync always|acknowledged, synced|jetstream|nats sync'
    'durable|Redis, always|answered, synced|redis|redis --appendonly yes --appendfsync always'
    'durable|eventstream, always|written and synced|eventstream|engine --durability=always'
    'durable|eventstream, session|acknowledged: durable|session-durable|engine --durability=always'
    'durable|eventstream, session, 50 us|acknowledged: durable|session-durable|engine --durability=always --flush-interval-us=50'
)

for tool in taskset:util-linux rsyslogd:rsyslog nats-server:nats-server redis-server:redis-server; do
    PATH=$PATH:/usr/sbin command -v "${tool%:*}" >/dev/null ||
        fail "there is no ${tool%:*}" 'the table is of all peers, pinned' "apt-get install ${tool#*:} (as root; the service need not run)"
done
PATH=$PATH:/usr/sbin
[ "$(nproc)" -ge 2 ] || fail 'one core is too few' 'server and sender need one each, or figures are those of sharing' 'a host with two'
ENGINE_PREFIX="taskset -c $ENGINE_CORE" SENDER_PREFIX="taskset -c $SENDER_CORE"

build >&2
build_example peers >&2
FOLDER=$(work_folder)
SERVER_PID=
LINES=${RESULTS:-$FOLDER/results}
trap 'stop_peer; clean_up "$FOLDER"' EXIT

# Runs a peer pinned, its output in the folder, and waits until it listens.
start_peer() { # command…
    # shellcheck disable=SC2086 # a prefix is words
    $ENGINE_PREFIX "$@" >"$FOLDER/peer.log" 2>&1 &
    SERVER_PID=$!
    local try
    for try in {1..200}; do
        listens "$TCP_PORT" && return
        kill -0 "$SERVER_PID" 2>/dev/null || break
        sleep 0.05
    done
    cat "$FOLDER/peer.log" >&2
    fail "$1 did not start" "no answer on 127.0.0.1:$TCP_PORT after $try tries" 'read what it says above'
}

stop_peer() {
    [ -n "$SERVER_PID" ] || return 0
    kill -KILL "$SERVER_PID" 2>/dev/null || true
    wait "$SERVER_PID" 2>/dev/null || true
    SERVER_PID=
}

# As it comes: a queue of 50,000 in memory, batches of 256, lines made anew from what was parsed. Tuned, by what 13 settings cost it for an
# event: a larger queue and larger batches, lines kept as they were sent. A queue of type Direct cost it nearly twice as much.
start_rsyslog() { # [tuned] [sync]
    local queue='' file=''
    case " $* " in *' tuned '*)
        queue='template(name="sent" type="string" string="%rawmsg%\n") main_queue(queue.size="100000" queue.dequeueBatchSize="1024")'
        file='template="sent" ioBufferSize="64k"'
        ;;
    esac
    case " $* " in *' sync '*) file+=' sync="on"' ;; esac
    cat >"$FOLDER/rsyslog.conf" <<CONF
global(workDirectory="$FOLDER/data" net.enableDNS="off")
module(load="imtcp")
$queue
input(type="imtcp" address="127.0.0.1" port="$TCP_PORT")
action(type="omfile" file="$FOLDER/data/events.log" $file)
CONF
    start_peer rsyslogd -n -f "$FOLDER/rsyslog.conf" -i "$FOLDER/rsyslog.pid"
    TARGET=(--file "$FOLDER/data/events.log")
}

nats_conf() { # [sync]
    echo "listen: 127.0.0.1:$TCP_PORT"
    echo "jetstream { store_dir: \"$FOLDER/data\", max_file_store: 64GB${1:+, sync_interval: always} }"
}

start_nats() { # [sync]
    nats_conf "$@" >"$FOLDER/nats.conf"
    start_peer nats-server -c "$FOLDER/nats.conf"
    TARGET=()
}

# Without rewrites of its file and without snapshots: a run is shorter than what calls for them.
start_redis() { # flags…
    start_peer redis-server --bind 127.0.0.1 --port "$TCP_PORT" --dir "$FOLDER/data" --save '' --auto-aof-rewrite-percentage 0 "$@"
    TARGET=()
}

# Whether this host's peer can be run so: Debian 12's NATS (2.9) knows no sync for each message.
is_known() { # how it is started
    [ "$1" = 'nats sync' ] || return 0
    TCP_PORT=1 nats_conf sync >"$FOLDER/nats.conf"
    nats-server -t -c "$FOLDER/nats.conf" >/dev/null 2>&1
}

one_run() { # name, protocol, how, further arguments of the sender
    local name=$1 protocol=$2 how=$3 code=0
    shift 3
    rm -rf "$FOLDER/data"
    mkdir -p "$FOLDER/data"
    # shellcheck disable=SC2086 # settings are words
    case $how in
        engine*)
            start_engine "$FOLDER" ${how#engine}
            SERVER=$ENGINE_PID TARGET=(--admin "127.0.0.1:$ADMIN_PORT")
            ;;
        *)
            pick_ports
            "start_${how%% *}" ${how#"${how%% *}"}
            SERVER=$SERVER_PID
            ;;
    esac
    # shellcheck disable=SC2086 # a prefix is words
    LINE=$($SENDER_PREFIX "$EXAMPLE" "$protocol" --address "127.0.0.1:$TCP_PORT" --server-pid "$SERVER" "${TARGET[@]}" --seconds "$SECONDS_EACH" "$@") ||
        fail "$name: the run does not count" 'the sender ended with an error' 'read what it says above'
    stop_peer
    [ -z "$ENGINE_PID" ] || drain_engine || code=$?
    [ "$code" -eq 0 ] || { cat "$FOLDER/serve.log" >&2; fail "$name: the run does not count" "the engine's exit code is $code" 'read its summary above'; }
}

number() { # key; of LINE
    grep -o "\"$1\":[0-9.]*" <<<"$LINE" | cut -d: -f2
}

for round in $(seq "$ROUNDS"); do
    for system in "${SYSTEMS[@]}"; do
        IFS='|' read -r class name means protocol how <<<"$system"
        [[ $name =~ $ONLY ]] || continue
        is_known "$how" || { printf '%s\t%s\t%s\tunknown\n' "$class" "$name" "$means" >>"$LINES"; continue; }
        one_run "$name" "$protocol" "$how" --connections "$CONNECTIONS"
        printf '%s\t%s\t%s\tflat\t%s\t%s\t%s\n' "$class" "$name" "$means" \
            "$(number stored_per_second)" "$(number server_core)" "$(number sender_core)" >>"$LINES"
        printf 'round %d  %-28s %s\n' "$round" "$name" "$LINE" >&2
        # Without an answer, only a file can be looked at often enough.
        case $RATE:$protocol in 0:* | *:eventstream | *:jetstream-unacked) continue ;; esac
        one_run "$name" "$protocol" "$how" --rate "$RATE"
        printf '%s\t%s\t%s\tpaced\t%s\t%s\t%s\n' "$class" "$name" "$means" \
            "$(number p50_us)" "$(number p99_us)" "$(($(number answered) * 100 / $(number events)))" >>"$LINES"
        printf 'round %d  %-28s %s\n' "$round" "$name" "$LINE" >&2
    done
done

awk -F '\t' -v rate="$RATE" '
    { key = $1 FS $2 }
    !(key in means) { order[++rows] = key; means[key] = $3 }
    $4 == "unknown" { is_unknown[key] = 1 }
    $4 == "flat" {
        stored[key] = stored[key] " " $5; server[key] = server[key] " " $6; sender[key] = sender[key] " " $7
        cost[key] = cost[key] " " $6 / ($5 ? $5 : 1) * 1e9
    }
    $4 == "paced" { p50[key] = p50[key] " " $5; p99[key] = p99[key] " " $6; answered[key] = answered[key] " " $7 }
    function median(list,   parts, count, i, j, t) {
        count = split(list, parts, " ")
        for (i = 2; i <= count; i++) for (j = i; j > 1 && parts[j] + 0 < parts[j - 1] + 0; j--) { t = parts[j]; parts[j] = parts[j - 1]; parts[j - 1] = t }
        return parts[int((count + 1) / 2)] + 0
    }
    function limit(key) {
        if (median(server[key]) >= 0.85) return "server"
        return median(sender[key]) >= 0.85 ? "SENDER" : "waiting"
    }
    function times(key) {
        if (!(key in p50)) return "– | –"
        if (median(answered[key]) < 100) return "falls behind | –"
        return sprintf("%.0f | %.0f", median(p50[key]), median(p99[key]))
    }
    function section(class, title,   i, key, name, best) {
        for (i = 1; i <= rows; i++) {
            key = order[i]
            if (index(key, class FS) == 1 && key !~ FS "eventstream" && median(stored[key]) > best) best = median(stored[key])
        }
        printf "\n%s\n\n", title
        printf "| | stored means | stored/s | of the fastest peer | limit | core: server | sender | server ns an event | p50 us at %s/s | p99 us |\n", rate
        print "|---|---|---|---|---|---|---|---|---|---|"
        for (i = 1; i <= rows; i++) {
            key = order[i]
            if (index(key, class FS) != 1) continue
            name = substr(key, length(class) + 2)
            if (key in is_unknown) { printf "| %s | %s | not offered by this version | | | | | | | |\n", name, means[key]; continue }
            printf "| %s | %s | %d | %.2f | %s | %.2f | %.2f | %.0f | %s |\n", name, means[key], median(stored[key]), best ? median(stored[key]) / best : 0, \
                limit(key), median(server[key]), median(sender[key]), median(cost[key]), times(key)
        }
    }
    END {
        section("plain", "As they come: nothing is synced before it counts")
        section("durable", "Durable: synced before it counts")
    }' "$LINES"
