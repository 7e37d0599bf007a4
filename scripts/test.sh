#!/usr/bin/env bash
# Runs the tests: rings 1 to 3, and ring 4 where the real agent CLIs can be had. Arguments go to nextest.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
scripts/setup.sh nextest
[ ! -x "$CACHE/ccb-tools/cargo-nextest-$NEXTEST_VERSION/bin/cargo-nextest" ] ||
    PATH=$CACHE/ccb-tools/cargo-nextest-$NEXTEST_VERSION/bin:$PATH

profile=default
[ -z "${CI:-}" ] || profile=ci
if scripts/lab.sh; then
    CCB_LAB=$(lab_home)
    export CCB_LAB
else
    profile=without-lab
fi

# The black-box tests run these programs, which no dependency of theirs would build.
step build cargo build --locked --workspace --bins

status=0
if cargo nextest --version >/dev/null 2>&1; then
    arguments=(--locked --workspace --profile "$profile")
    step build-tests cargo nextest run --no-run "${arguments[@]}"
    cargo nextest run "${arguments[@]}" "$@" || status=$?
else
    arguments=(--locked --workspace --lib --bins --tests --no-fail-fast)
    step build-tests cargo test --no-run "${arguments[@]}"
    # Few at a time; nextest would know which of them are heavy.
    RUST_TEST_THREADS=2 cargo test "${arguments[@]}" "$@" || status=$?
fi

[ "$profile" != without-lab ] || shout "LEFT OUT: ring 4, the tests with the real agent CLIs; the reason is above."
exit "$status"
