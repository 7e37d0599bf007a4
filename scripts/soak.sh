#!/usr/bin/env bash
# Runs the soak: minutes of random kills, stops, disk errors, slow clients and a typing human, with a ledger at the end.
# CCB_SOAK_S says for how long (600), CCB_SOAK_SEED repeats an order of events.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
scripts/setup.sh

step build cargo build --locked --workspace --bins
step build-tests cargo test --locked --no-run --test blackbox
CCB_SOAK_S=${CCB_SOAK_S:-600}
export CCB_SOAK_S
say "soaking for $CCB_SOAK_S s"
cargo test --locked --test blackbox a_day_of_kills -- --nocapture
