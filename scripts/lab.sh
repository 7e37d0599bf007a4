#!/usr/bin/env bash
# Installs the pinned agent CLIs of lab/package-lock.json outside of the checkout. Exit code 3: it cannot be done here.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

LAB=$(lab_home)

# left_out WHY...: says what will be missing.
left_out() {
    shout "LEFT OUT: the lab (the real agent CLIs)" "$@"
    exit 3
}

install_lab() {
    [ ! -e "$LAB" ] || return 0
    local new="$LAB.new.$$" status=0
    rm -rf "$new"
    mkdir -p "$new/home"
    cp lab/package.json lab/package-lock.json lab/.npmrc "$new/"
    (cd "$new" && npm ci --no-progress --cache "$new/cache") || status=$?
    rm -rf "$new/cache"
    # What cannot say its version is not installed: the npm package holds one program for each platform.
    [ "$status" != 0 ] || env HOME="$new/home" "$new/node_modules/.bin/codex" --version || status=$?
    [ "$status" != 0 ] || env HOME="$new/home" "$(native_claude "$new")" --version || status=$?
    rm -rf "$new/home"
    [ "$status" != 0 ] || mv "$new" "$LAB"
    rm -rf "$new"
    return "$status"
}

if [ ! -e "$LAB" ]; then
    command -v node >/dev/null || left_out "Node.js is not installed; with it, \`make lab\` fetches the CLIs."
    command -v npm >/dev/null || left_out "npm is not installed; with it, \`make lab\` fetches the CLIs."
    say "the agent CLIs of lab/package-lock.json are not here: fetching them, once, into $LAB"
    step lab locked "$CACHE/ccb-lab/lock" install_lab || left_out "npm could not install them; the end of its log is above."
fi
say "lab          $LAB"
