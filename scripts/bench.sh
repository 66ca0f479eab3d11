#!/usr/bin/env bash
# Measures how fast files move on this machine, and how much memory both sides take.
set -euo pipefail
export LC_ALL=C
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'USAGE'
Usage: scripts/bench.sh [--rounds N] [--mib N] [--json] [--install] [CASE]...

  --rounds N  how often each case is run: 5 unless stated
  --mib N     size of the file: 1024 unless stated
  --json      one object per line instead of the table
  --install   install with apt-get what is needed, and nginx and curl to compare with
  CASE        what to measure; all of them if none is named:
    one-to-one  one holder, one getter, over loopback

Each round is timed from the start of the getting program to its end, and the copy is compared. The
programs take turns, so that a slow moment of the machine falls on all of them. The memory is the
most that a process ever had resident. Needs GNU time and python3.
USAGE
}

wrong_usage() {
    say "bench.sh: $1"
    usage >&2
    exit 2
}

rounds=5 mib=1024 json=false install=false cases=()
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --rounds | --mib)
            [[ ${2-} =~ ^[1-9][0-9]{0,5}$ ]] || wrong_usage "$1 needs a number from 1 on"
            if [[ $1 == --rounds ]]; then rounds=$2; else mib=$2; fi
            shift
            ;;
        --json) json=true ;;
        --install) install=true ;;
        one-to-one) cases+=("$1") ;;
        *) wrong_usage "there is no option or case $1" ;;
    esac
    shift
done
((${#cases[@]})) || cases=(one-to-one)
if $install; then
    export DEBIAN_FRONTEND=noninteractive
    # In run level 1 the package does not start a web server of its own.
    apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends time python3 nginx-light curl
fi >&2 </dev/null
if ! /usr/bin/time --version 2>&1 | grep -q GNU || ! command -v python3 >/dev/null; then
    say "bench.sh: GNU time and python3 are needed; --install installs both"
    exit 1
fi

# ---- a place in memory, so that no disk is measured ----

need_bytes=$(((mib << 20) * 5 / 2))
place=${TMPDIR:-/tmp}
where="on disk ($place)"
if [[ -d /dev/shm ]] && (($(df --output=avail -B1 /dev/shm | tail -n 1) > need_bytes)); then
    place=/dev/shm
    where='in memory (/dev/shm)'
fi
dir=$(mktemp -d "$place/enxame-bench.XXXXXX")
logs=$dir/logs
nginx_pid=''
at_exit() {
    trap '' HUP INT TERM
    end_all || true
    stop_nginx || true
    rm -rf -- "$dir"
}
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM
failed() {
    say "bench.sh: $1"
    exit 1
}

# ---- measuring ----

# measure COMMAND...: runs it and prints its microseconds and its peak of resident memory in kB.
measure() {
    local start=${EPOCHREALTIME/./} end
    /usr/bin/time --quiet --format %M --output "$dir/peak" "$@" >&2 || return 1
    end=${EPOCHREALTIME/./}
    echo "$((end - start)) $(<"$dir/peak")"
}

# peak_kb PID: the same for a process that still runs.
peak_kb() { awk '/^VmHWM:/ { print $2 }' "/proc/$1/status"; }

# report CASE TOOL SIZE_BYTES HOLDER_KB: a row of the table, from the lines of measure on stdin.
report() {
    python3 -c '
import json, statistics, sys
case, tool, size, holder_kb, as_json = sys.argv[1:]
rounds = [line.split() for line in sys.stdin]
rates = [int(size) / int(us) for us, _ in rounds]  # bytes per microsecond are MB/s
row = {
    "case": case, "tool": tool, "size": int(size), "rounds": len(rates),
    "median_mb_s": round(statistics.median(rates), 1),
    "min_mb_s": round(min(rates), 1), "max_mb_s": round(max(rates), 1),
    "getter_peak_mib": round(max(int(kb) for _, kb in rounds) / 1024, 1),
    "holder_peak_mib": round(int(holder_kb) / 1024, 1),
}
if as_json == "true":
    print(json.dumps(row))
else:
    print("{case:12} {tool:14} {median_mb_s:9} {min_mb_s:9} {max_mb_s:9} {getter_peak_mib:11} {holder_peak_mib:11}".format(**row))
' "$1" "$2" "$3" "$4" "$json"
}

header() {
    $json || printf '%-12s %-14s %9s %9s %9s %11s %11s\n' \
        case tool 'MB/s' slowest fastest 'getter MiB' 'holder MiB'
}

# ---- what is compared with ----

# Serves $1 on a free port of loopback with sendfile; sets $nginx_url. Fails if there is no nginx or curl.
start_nginx() {
    command -v nginx >/dev/null && command -v curl >/dev/null || return 1
    local port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    mkdir -p "$dir/nginx/temp"
    cat >"$dir/nginx/nginx.conf" <<CONF
$( ((EUID)) || echo 'user root;')
worker_processes 1;
pid $dir/nginx/pid;
error_log $dir/nginx/error.log;
events {}
http {
    access_log off;
    sendfile on;
    client_body_temp_path $dir/nginx/temp;
    proxy_temp_path $dir/nginx/temp;
    fastcgi_temp_path $dir/nginx/temp;
    uwsgi_temp_path $dir/nginx/temp;
    scgi_temp_path $dir/nginx/temp;
    server { listen 127.0.0.1:$port; root $1; }
}
CONF
    # It goes to the background only when it listens.
    nginx -p "$dir/nginx" -c "$dir/nginx/nginx.conf" 2>>"$dir/nginx/error.log" || return 1
    nginx_pid=$(<"$dir/nginx/pid")
    nginx_url=http://127.0.0.1:$port
}

stop_nginx() {
    [[ -n $nginx_pid ]] || return 0
    kill -TERM "$nginx_pid"
    nginx_pid=''
}

# The worker has the connections, and is the child of the process in the pid file.
nginx_peak_kb() {
    local worker
    worker=$(<"/proc/$nginx_pid/task/$nginx_pid/children")
    peak_kb "${worker%% *}"
}

# ---- the cases ----

one_to_one() {
    local files=$dir/root/holder/files size=$((mib << 20)) with_nginx=false i
    mkdir -p "$files" "$dir/got"
    head -c "$size" /dev/urandom >"$files/file.bin"
    start tracker tracker --listen 127.0.0.1:0
    await tracker '^ready tracker ' || failed "the tracker did not start: $(tail -n 1 "$logs/tracker.err")"
    local tracker=${line##* }
    start holder peer holder --root "$dir/root" --tracker "$tracker" --listen 127.0.0.1:0
    await holder '^ready peer ' || failed "the holder did not start: $(tail -n 1 "$logs/holder.err")"
    if start_nginx "$files"; then
        with_nginx=true
    else
        say "nginx and curl are not measured: at least one is not installed; --install installs both"
    fi

    for ((i = 1; i <= rounds; i++)); do
        say "one-to-one, round $i of $rounds"
        measure "$enxame" get file.bin --quiet --tracker "$tracker" -o "$dir/got/enxame" >>"$dir/enxame.rounds" ||
            failed "enxame could not get the file"
        cmp "$files/file.bin" "$dir/got/enxame" || failed "the copy is not the file"
        rm "$dir/got/enxame"
        if $with_nginx; then
            measure curl -sS --fail -o "$dir/got/curl" "$nginx_url/file.bin" >>"$dir/curl.rounds" ||
                failed "curl could not get the file"
            cmp "$files/file.bin" "$dir/got/curl" || failed "curl's copy is not the file"
            rm "$dir/got/curl"
        fi
    done

    report one-to-one enxame "$size" "$(peak_kb "${pids[holder]}")" <"$dir/enxame.rounds"
    if $with_nginx; then
        report one-to-one 'curl, nginx' "$size" "$(nginx_peak_kb)" <"$dir/curl.rounds"
        stop_nginx
    fi
    end_all || failed "the roles did not end in order"
}

build_enxame
mkdir -p "$logs"
say "$mib MiB, $rounds rounds, files $where; curl verifies nothing, enxame every byte"
header
for case in "${cases[@]}"; do
    "${case//-/_}"
done
