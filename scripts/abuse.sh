#!/usr/bin/env bash
# Does to a tracker and a peer what strangers and broken programs do, and fails if they take harm.
# `--help` tells the cases.
set -euo pipefail
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
    echo "abuse.sh: python3 is needed, 3.9 or later" >&2
    exit 1
fi
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
if [[ " $* " != *" --enxame "* && " $* " != *" --help "* ]]; then
    build_enxame
    cargo build --release --locked --manifest-path "$root/Cargo.toml" -p enxame-actors --example panic
    set -- --enxame "$enxame" "$@"
fi
# The interpreter leaves no compiled files in the source tree.
exec python3 -B "$root/scripts/abuse" "$@"
