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

# says_version DIR PROGRAM: asks a program for its version, in a home of its own.
says_version() {
    mkdir -p "$1/home"
    env HOME="$1/home" "$2" --version
}

install_lab() {
    [ ! -e "$LAB" ] || return 0
    local new="$LAB.new.$$" status=0
    rm -rf "$new"
    mkdir -p "$new"
    cp lab/package.json lab/package-lock.json lab/.npmrc "$new/"
    # Not `npm ci`: it refuses a lock file without the programs for other platforms, which not every registry has.
    (cd "$new" && npm install --no-progress --cache "$new/cache") || status=$?
    rm -rf "$new/cache"
    # The same program once more, of 177 MB, for processors of before 2013.
    rm -rf "$new"/node_modules/opencode-*-baseline
    # An older Codex, of 400 MB, of which this machine runs one part; and its name stands for the newer one alone.
    find "$new/node_modules/codex-older/vendor" -mindepth 1 -maxdepth 1 ! -name "$(uname -m)-*-linux-*" -exec rm -rf {} +
    ln -sfn ../@openai/codex/bin/codex.js "$new/node_modules/.bin/codex"
    # What cannot say its version is not installed: the npm package holds one program for each platform.
    local program
    for program in "$new/node_modules/.bin/codex" "$new/node_modules/.bin/gemini" \
        "$(native_claude "$new")" "$(native_opencode "$new")" "$(native_droid "$new")"; do
        [ "$status" != 0 ] || says_version "$new" "$program" || status=$?
    done
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
