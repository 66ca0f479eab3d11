#!/usr/bin/env bash
# Everything a change has to pass, here and in CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; }

step formatting
cargo fmt --all --check
cargo fmt --manifest-path fuzz/Cargo.toml --check

step clippy
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo clippy --manifest-path fuzz/Cargo.toml --locked -- -D warnings

step documentation
RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked

step shellcheck
shellcheck --external-sources scripts/*.sh .ci/run

step dependencies
if command -v cargo-deny >/dev/null; then
    cargo deny check
else
    echo "not checked: cargo-deny is not installed (cargo install cargo-deny --locked)"
fi

step tests
cargo test --locked

step "bytes from outside, 15 s for each place at which they come in"
scripts/fuzz.sh

step "a swarm of four"
file=$(mktemp "${TMPDIR:-/tmp}/enxame-check.XXXXXX")
trap 'rm -f -- "$file"' EXIT
head -c $((8 << 20)) /dev/urandom >"$file"
scripts/swarm.sh 4 "$file"

step "a short bench"
if time=$(type -P time) && "$time" --version 2>&1 | grep -q GNU; then
    scripts/bench.sh one-to-one swarm-8 --mib 4 --rounds 1 --tools enxame
else
    echo "not checked: GNU time is not installed"
fi

step "all passed"
