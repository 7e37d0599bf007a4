#!/usr/bin/env bash
# Measures the figures of docs/figures.md in one run and prints them as a table: medians, release build.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
scripts/setup.sh
# The stand-in agent is a program of another package, which no benchmark would build.
step build-release cargo build --locked --release --workspace --bins
cargo bench --locked --quiet --bench figures "$@"
