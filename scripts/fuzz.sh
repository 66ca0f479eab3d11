#!/usr/bin/env bash
# Looks for bytes that break what fuzz/src/lib.rs promises.
#
#   scripts/fuzz.sh [SECONDS] [TARGET]...    each target (all of them) for SECONDS (15)
#
# Begins with what is in fuzz/corpus and fuzz/regressions, and with what earlier runs on this machine found
# interesting (fuzz/target/corpus). Bytes that break something are left in fuzz/artifacts, and the exit
# status is 1; moved to fuzz/regressions/TARGET, `cargo test` tries them from then on.
#
# Needs stable Rust and a C++ compiler. `cargo fuzz run -s none TARGET` does the same for one target.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../fuzz"

seconds=15
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    seconds=$1
    shift
fi
mapfile -t targets < <(if (($#)); then printf '%s\n' "$@"; else ls corpus; fi)
# Threads and a runtime cost about 100 MiB; what a target itself may take it says.
max_rss_mib=1024
# One input that takes so long hangs.
max_seconds_an_input=60

host=$(rustc -vV | sed -n 's/^host: //p')
# As cargo-fuzz sets them without a sanitizer.
coverage=-Cllvm-args=-sanitizer-coverage
flags=(-Cpasses=sancov-module "$coverage"-{level=4,inline-8bit-counters,pc-table,trace-compares}
    --cfg fuzzing -Cllvm-args=-simplifycfg-branch-fold-threshold=0 "$coverage-stack-depth" -Ccodegen-units=1)
RUSTFLAGS="${flags[*]}" cargo build --quiet --release --locked --bins --target "$host"
built=${CARGO_TARGET_DIR:-target}/$host/release

# Files are made and removed by the million: in memory, if there is a place for it.
scratch=$(mktemp -d "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")/enxame-fuzz.XXXXXX")
trap 'rm -rf -- "$scratch"' EXIT

failed=0
for target in "${targets[@]}"; do
    found=target/corpus/$target
    log=$scratch/$target.log
    mkdir -p "$found" "artifacts/$target" "$scratch/tmp"
    folders=("$found" "corpus/$target")
    [[ -d regressions/$target ]] && folders+=("regressions/$target")
    if TMPDIR=$scratch/tmp "$built/$target" \
        -max_total_time="$seconds" -timeout="$max_seconds_an_input" -rss_limit_mb="$max_rss_mib" \
        -artifact_prefix="artifacts/$target/" -print_final_stats=1 \
        "${folders[@]}" >"$log" 2>&1; then
        verdict=
    else
        verdict=' FAILED'
        failed=1
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    # What was not tried has not passed.
    if [[ -z $verdict && ! ${executions:-0} -gt 0 ]]; then
        verdict=' NOT RUN'
        failed=1
    fi
    inputs=$(sed -n 's/.* corp: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
    printf '%-18s %9s executions, %5s inputs%s\n' "$target" "${executions:-?}" "${inputs:-?}" "$verdict"
    if [[ -n $verdict ]]; then
        grep -E 'panicked|ERROR|artifact_prefix|assertion|left:|right:' "$log" | head -n 20 || tail -n 20 "$log"
    fi
    rm -rf -- "$scratch/tmp"
done
exit "$failed"
