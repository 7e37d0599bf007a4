#!/usr/bin/env bash
# Everything that must hold before a change goes in, but for the tests: form, lints, documentation, dependencies.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

status=0
for script in scripts/*.sh .ci/run; do bash -n "$script" || status=1; done
step fmt cargo fmt --all --check -- --color never || status=1
step clippy cargo clippy --locked --workspace --all-targets -- -D warnings || status=1
# The crates are read by who works on them: their private items are documented too, and may be linked to.
step rustdoc env RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
    cargo doc --locked --workspace --no-deps --document-private-items || status=1

if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $DENY_VERSION" ]; then
    cargo_tool cargo-deny "$DENY_VERSION" --no-default-features || fail "cargo-deny could not be built"
fi
# It looks at the packages of all platforms, so all must be here; then nothing is asked of the network.
step fetch cargo fetch --locked || status=1
step deny cargo deny --offline --all-features check bans licenses sources || status=1

exit "$status"
