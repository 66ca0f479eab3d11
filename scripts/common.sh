# Functions of the scripts that run tracker and peers: building, starting, waiting, ending. To be sourced.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Settings of whoever calls must not change what is run here.
unset "${!ENXAME_@}" RUST_LOG

say() { printf '%s\n' "$*" >&2; }

# Builds the binary and sets $enxame to its path.
build_enxame() {
    cargo build --release --locked --manifest-path "$root/Cargo.toml"
    enxame=$(cd "${CARGO_TARGET_DIR:-$root/target}" && pwd)/release/enxame
}

# Where the output of what is started goes: the folder that the script makes for it.
logs=''
# What was started and still runs: pids[NAME]. Only these are ever ended.
declare -A pids=()

# start NAME ARGS...: runs enxame in the background, its output in $logs/NAME.out and .err.
start() {
    local name=$1
    shift
    # Made first, so that a reader finds it before the process writes.
    : >"$logs/$name.out"
    # In a process group of its own: Ctrl-C is for the script, which then ends it in order.
    set -m
    "$enxame" "$@" >"$logs/$name.out" 2>"$logs/$name.err" </dev/null &
    pids[$name]=$!
    set +m
}

# await NAME REGEX: waits for a line of NAME's output that matches, and sets $line to it. Fails when
# NAME ends without having printed one.
await() {
    local reader fd status=1
    # tail ends with the process, so a process that died is the end of the lines and not a hang.
    exec {fd}< <(exec tail -n +1 -s 0.1 -f --pid="${pids[$1]}" "$logs/$1.out" 2>/dev/null)
    reader=$!
    while IFS= read -r line <&"$fd"; do
        if [[ $line =~ $2 ]]; then
            status=0
            break
        fi
    done
    exec {fd}<&-
    kill "$reader" 2>/dev/null || true
    wait "$reader" 2>/dev/null || true
    return "$status"
}

# end_all: ends in order what was started. Fails, and says so, if one of them did not end well.
end_all() {
    local name watchdog status=0 code
    ((${#pids[@]})) || return 0
    kill -TERM "${pids[@]}" 2>/dev/null || true
    # An orderly end takes well under a second. What hangs must not make this script hang.
    (
        trap 'kill "$sleeper"; exit' TERM
        sleep 20 &
        sleeper=$!
        wait "$sleeper"
        kill -KILL "${pids[@]}" 2>/dev/null
    ) &
    watchdog=$!
    for name in "${!pids[@]}"; do
        code=0
        wait "${pids[$name]}" 2>/dev/null || code=$?
        if ((code != 0)); then
            say "$name ended with $code"
            status=1
        fi
    done
    pids=()
    kill "$watchdog" 2>/dev/null || true
    wait "$watchdog" 2>/dev/null || true
    return "$status"
}
