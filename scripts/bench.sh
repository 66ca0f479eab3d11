#!/usr/bin/env bash
# Measures how fast files move, beside other programs that do the same. `--help` tells the cases.
set -euo pipefail
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
    echo "bench.sh: python3 is needed, 3.9 or later" >&2
    exit 1
fi
# The interpreter leaves no compiled files in the source tree.
exec python3 -B "$(dirname "${BASH_SOURCE[0]}")/bench" "$@"
