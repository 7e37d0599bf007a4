# Sourced by the scripts beside it: where things are, and how long work is told in one line.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

CACHE=${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}
TARGET=${CARGO_TARGET_DIR:-target}
mkdir -p "$TARGET/logs"
TARGET=$(cd "$TARGET" && pwd)
LOGS=$TARGET/logs

# The tools that are not Rust's own, as `make check` and `make test` build them.
DENY_VERSION=0.20.2
NEXTEST_VERSION=0.9.143

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    local hint
    for hint in "$@"; do printf 'hint: %s\n' "$hint" >&2; done
    exit 1
}

# shout TEXT...: what must not be overlooked.
shout() {
    local line
    say "────────────────────────────────────────────────────────────────────────"
    for line in "$@"; do say "  $line"; done
    say "────────────────────────────────────────────────────────────────────────"
}

# step NAME COMMAND...: runs a command with its output in a log; prints one line, and the log's end if it fails.
step() {
    local name=$1 log status=0 from=$SECONDS
    log="$LOGS/${name// /-}.log"
    shift
    [ ! -t 1 ] || printf '%-12s …' "$name"
    "$@" >"$log" 2>&1 </dev/null || status=$?
    [ ! -t 1 ] || printf '\r'
    if [ "$status" = 0 ]; then
        printf '%-12s ok, %d s\n' "$name" $((SECONDS - from))
        return 0
    fi
    printf '%-12s FAILED with status %d after %d s; the end of %s:\n\n' "$name" "$status" $((SECONDS - from)) "$log"
    tail -n 60 "$log"
    say ""
    return "$status"
}

# locked FILE COMMAND...: runs a command while nobody else runs one under the same lock.
locked() {
    local lock=$1
    shift
    mkdir -p "$(dirname "$lock")"
    if command -v flock >/dev/null; then
        (flock 9 && "$@") 9>"$lock"
    else
        "$@" # No harm: what is installed appears by a rename; work may be done twice.
    fi
}

# cargo_tool NAME VERSION FEATURES...: builds a tool once, outside of the checkout, and puts it on PATH.
cargo_tool() {
    local name=$1 version=$2
    shift 2
    local home="$CACHE/ccb-tools/$name-$version"
    if [ ! -x "$home/bin/$name" ]; then
        say "$name $version is not here: building it, once, into $home (some minutes)"
        step "$name" locked "$CACHE/ccb-tools/$name.lock" build_tool "$home" "$name" "$version" "$@" || return 1
    fi
    PATH=$home/bin:$PATH
}

build_tool() {
    local home=$1 name=$2 version=$3 status=0
    shift 3
    [ ! -x "$home/bin/$name" ] || return 0
    local new="$home.new.$$"
    # Without optimisation: building is what takes time here, and running takes a second.
    env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
        cargo install --locked --debug --version "$version" "$@" --root "$new" "$name" || status=$?
    if [ "$status" = 0 ] && [ ! -e "$home" ]; then mv "$new" "$home"; fi
    rm -rf "$new"
    return "$status"
}

# lab_home: where the pinned agent CLIs of this lock file are, or would be.
lab_home() {
    printf '%s/ccb-lab/%.16s\n' "$CACHE" "$(sha256sum lab/package-lock.json)"
}

# native_claude DIR: Claude Code's program itself; what stands before it in `.bin` is only made by an install script.
native_claude() {
    find "$1/node_modules/@anthropic-ai" -path '*/claude-code-*/claude*' -type f -perm -u+x | sort | head -n 1
}

# native_opencode DIR: OpenCode's program itself, for the same reason.
native_opencode() {
    find "$1"/node_modules/opencode-* -path '*/bin/opencode' -type f -perm -u+x | sort | head -n 1
}

# native_droid DIR: Droid's program itself.
native_droid() {
    find "$1/node_modules/@factory" -path '*/cli-*/bin/droid' -type f -perm -u+x | sort | head -n 1
}
