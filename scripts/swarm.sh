#!/usr/bin/env bash
# Starts a tracker and N peers on this machine, and has all of them fetch one file at the same time.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'USAGE'
Usage: scripts/swarm.sh N [FILE] [--dir DIR] [--keep]

Builds enxame, starts a tracker and the peers p1 to pN, puts FILE into p1's folder, lets all others
fetch it at the same time, prints who got how much from whom, and compares all copies.

  N          how many peers: 1 or more
  FILE       what to distribute; 256 MiB of random data if it is left out
  --dir DIR  where the peers' folders are made; a temporary folder, removed at the end, if it is
             left out
  --keep     leave the swarm running until Ctrl-C

Exit code: 0 if all copies are identical, 2 for wrong usage, 130 for Ctrl-C, 1 for anything else.
USAGE
}

wrong_usage() {
    say "swarm.sh: $1"
    usage >&2
    exit 2
}

# ---- what was asked for ----

n='' file='' dir='' keep=false
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --keep) keep=true ;;
        --dir)
            (($# > 1)) || wrong_usage "--dir needs a folder"
            dir=$2
            shift
            ;;
        --dir=*) dir=${1#--dir=} ;;
        --) ;;
        -*) wrong_usage "there is no option $1" ;;
        *)
            if [[ -z $n ]]; then
                n=$1
            elif [[ -z $file ]]; then
                file=$1
            else
                wrong_usage "one FILE only; put names with spaces into quotes"
            fi
            ;;
    esac
    shift
done
[[ -n $n ]] || wrong_usage "how many peers?"
[[ $n =~ ^[1-9][0-9]{0,3}$ ]] || wrong_usage "$n is no number of peers"
if [[ -n $file && ! (-f $file && -r $file) ]]; then
    say "swarm.sh: $file: there is no such file, or it cannot be read"
    exit 1
fi

# ---- the end, however it comes ----

temporary=false
failed() {
    say "swarm.sh: $1"
    if [[ -n $logs ]]; then
        temporary=false
        say "the logs are in $logs"
    fi
    exit 1
}
at_exit() {
    trap '' HUP INT TERM
    end_all || true
    if $temporary; then rm -rf -- "$dir"; fi
}
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

# ---- the swarm ----

build_enxame || failed "the build failed"

if [[ -n $dir ]]; then
    mkdir -p -- "$dir" || failed "$dir cannot be made"
else
    dir=$(mktemp -d "${TMPDIR:-/tmp}/enxame-swarm.XXXXXX")
    temporary=true
fi
dir=$(cd -- "$dir" && pwd)
logs=$dir/logs
mkdir -p -- "$logs" "$dir/p1/files"

if [[ -n $file ]]; then
    name=$(basename -- "$file")
    cp -- "$file" "$dir/p1/files/$name" || failed "$file could not be copied to $dir/p1/files"
else
    name=random-256MiB.bin
    file=$dir/p1/files/$name
    if [[ ! -f $file ]]; then
        head -c $((256 << 20)) /dev/urandom >"$file" || failed "$file could not be written"
    fi
fi
id=$("$enxame" hash --json -- "$file") || failed "$file could not be hashed"
id=${id#'{"id":"'}
id=${id%%\"*}
size=$(wc -c <"$file")

start tracker tracker --listen 127.0.0.1:0
await tracker '^ready tracker ' || failed "the tracker did not start: $(tail -n 1 "$logs/tracker.err")"
tracker=${line##* }

start p1 peer p1 --tracker "$tracker" --root "$dir" --listen 127.0.0.1:0
await p1 '^ready peer p1 ' || failed "p1 did not start: $(tail -n 1 "$logs/p1.err")"
say "p1 shares $name ($((size / 1000000)) MB, $id); $((n - 1)) others fetch it now"

for ((i = 2; i <= n; i++)); do
    start "p$i" peer "p$i" --tracker "$tracker" --root "$dir" --listen 127.0.0.1:0 --get "$id" --json
done

# ---- who got how much from whom ----

if ((n > 1)); then printf '%-6s %9s %9s  %s\n' peer seconds MB/s 'from whom'; fi
for ((i = 2; i <= n; i++)); do
    await "p$i" '^\{"event":"(done|error)"' || failed "p$i ended: $(tail -n 1 "$logs/p$i.err")"
    [[ $line =~ ^\{\"event\":\"done\".*\"elapsed_s\":([0-9.e+-]+) ]] ||
        failed "p$i could not fetch it: $(tail -n 1 "$logs/p$i.err")"
    seconds=${BASH_REMATCH[1]}
    shares=$(grep -o '"peer":"[^"]*","bytes":[0-9]*' <<<"${line##*\"sources\":}" |
        awk -F'"' '{ printf "%s%s %.1f MB", (NR > 1 ? ", " : ""), $4, substr($7, 2) / 1e6 }') ||
        shares='it was there already'
    awk -v peer="p$i" -v seconds="$seconds" -v size="$size" -v shares="$shares" 'BEGIN {
        rate = seconds > 0 ? sprintf("%.1f", size / seconds / 1e6) : "-"
        printf "%-6s %9.3f %9s  %s\n", peer, seconds, rate, shares
    }'
done

# ---- are they all the same? ----

for ((i = 1; i <= n; i++)); do
    cmp -- "$file" "$dir/p$i/files/$name" >&2 || failed "p$i's copy is not the file"
done
echo "$n of $n copies are identical"

if $keep; then
    trap 'exit 0' INT TERM
    cat <<TRY

The swarm is running in $dir. Try in another terminal:
  export ENXAME_TRACKER=$tracker
  $enxame ls
  $enxame peers
  $enxame who-has $id
  $enxame get $id -o /tmp/
  date > $dir/p$n/files/now.txt; $enxame ls now
Ctrl-C ends it.
TRY
    wait -n "${pids[@]}" || true
    failed "a process of the swarm ended by itself"
fi

end_all || failed "the swarm did not end in order"
