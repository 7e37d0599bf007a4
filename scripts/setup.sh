#!/usr/bin/env bash
# Brings what `make test` and `make demo` need besides Rust: a C compiler and tmux. Says so before it installs.
# With `nextest` as argument: cargo-nextest too, if it can be built.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

as_root() {
    if [ "$(id -u)" = 0 ]; then env DEBIAN_FRONTEND=noninteractive "$@"
    else sudo env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

# Debian's list of packages may be missing or old: then it is fetched first.
by_apt() { as_root apt-get install -y --no-install-recommends "$1" || { as_root apt-get update && as_root apt-get install -y --no-install-recommends "$1"; }; }
by_dnf() { as_root dnf install -y "$1"; }
by_pacman() { as_root pacman -S --noconfirm --needed "$1"; }
by_apk() { as_root apk add "$1"; }
by_brew() { brew install "$1"; }

# need COMMAND WHAT-FOR APT DNF PACMAN APK BREW: installs the package that holds the command, unless it is there.
need() {
    local command=$1 what_for=$2 by package
    command -v "$command" >/dev/null && return 0
    if command -v apt-get >/dev/null; then by=apt package=$3
    elif command -v dnf >/dev/null; then by=dnf package=$4
    elif command -v pacman >/dev/null; then by=pacman package=$5
    elif command -v apk >/dev/null; then by=apk package=$6
    elif command -v brew >/dev/null; then by=brew package=$7
    else fail "$command is not installed, and $what_for" "no package manager is known here: install it by hand"
    fi
    say "$command is not installed, and $what_for: installing the system's package $package by $by"
    if [ "$by" != brew ] && [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "only root may install, and there is no sudo" "as root, install $package"
        sudo -v # A question for the password belongs on the terminal, not into the log.
    fi
    step "$command" "by_$by" "$package" || fail "$package could not be installed" "install it by hand"
    command -v "$command" >/dev/null || fail "$package is installed, and still $command is not on PATH"
}

command -v cargo >/dev/null ||
    fail "there is no cargo on PATH" "Rust's toolchain is the one thing that must be there: https://rustup.rs"
need cc "Rust links with it" build-essential gcc gcc build-base gcc
need tmux "the agents run in its panes" tmux tmux tmux tmux tmux

if [ "${1:-}" = nextest ] && ! cargo nextest --version >/dev/null 2>&1; then
    cargo_tool cargo-nextest "$NEXTEST_VERSION" --no-default-features --features default-no-update ||
        say "cargo-nextest could not be built; \`cargo test\` runs the tests instead"
fi
