#!/usr/bin/env bash
# Shows ccb at work, in a home and a project made for it: `demo.sh stub` with two stand-in agents, `demo.sh real`
# with the real Claude Code and Codex CLI and a model server on loopback. Needs no account, and touches nothing of yours.
# KEEP=1 on a terminal leaves the panes open. Exits 0 if everything that it shows has really happened.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

AGENTS=${1:-stub}
LIMIT=60 # seconds that a thing may take that takes a moment
BIN=$TARGET/debug
KEEP=${KEEP:-}
[ -t 0 ] || KEEP=""
# Screens are cut to their width by characters, not by bytes.
case ${LC_ALL:-${LC_CTYPE:-${LANG:-}}} in *[Uu][Tt][Ff]*) ;; *) export LC_ALL=C.UTF-8 ;; esac
BOLD="" DIM="" PLAIN="" COLUMNS=100
if [ -t 1 ]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' PLAIN=$'\e[0m'
    COLUMNS=$(tput cols 2>/dev/null || echo 80)
fi

DEMO="" PORTS="" MODEL="" STARTED="" SHOWN=""

# world PATH [NAME=VALUE...]: makes home and project, and the script that runs commands in them.
world() {
    local path=$1
    shift
    # Not below /tmp: there Codex does without some of its own tools, and warns.
    mkdir -p "$CACHE"
    DEMO=$(mktemp -d "$CACHE/ccb-demo.XXXXXX")
    trap clean EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    mkdir -p "$DEMO/home" "$DEMO/project/.ccb"
    {
        say '#!/usr/bin/env bash'
        say '# Runs a command in the project of the demo and with its home; without a command, a shell.'
        printf 'cd %q || exit 1\n' "$DEMO/project"
        say '[ "$#" -gt 0 ] || set -- sh'
        printf 'exec env -i HOME=%q PATH=%q' "$DEMO/home" "$path:/usr/local/bin:/usr/bin:/bin"
        printf ' TERM="${TERM:-xterm-256color}" LANG=C.UTF-8 SHELL=/bin/sh PS1=%q' 'demo$ '
        [ "$#" = 0 ] || printf ' %q' "$@"
        say ' "$@"'
    } >"$DEMO/in"
    chmod +x "$DEMO/in"
}

# clean: ends what the demo has started, and nothing else, however the demo ends.
clean() {
    local status=$?
    trap - EXIT INT TERM HUP
    if [ -n "$KEEP" ] && [ -n "$SHOWN" ]; then exit "$status"; fi
    [ -z "$STARTED" ] || "$DEMO/in" ccb kill >"$LOGS/demo-kill.log" 2>&1 || true
    [ -z "$MODEL" ] || kill "$MODEL" 2>/dev/null || true
    rm -rf "$DEMO" ${PORTS:+"$PORTS"}
    exit "$status"
}

# broken WHAT: ends the demo, with all that may tell why.
broken() {
    {
        printf '\n%serror: %s%s\n' "$BOLD" "$1" "$PLAIN"
        [ -z "$STARTED" ] || { "$DEMO/in" ccb ps; panes; "$DEMO/in" ccb status; "$DEMO/in" ccb logs; } || true
    } >&2
    exit 1
}

# show COMMAND...: prints a command as one would type it, runs it, prints what it says.
show() {
    local word line=""
    for word in "$@"; do
        case $word in
        *[!a-zA-Z0-9_./:=-]*) line+=" \"$word\"" ;;
        *) line+=" $word" ;;
        esac
    done
    printf '\n%s$%s%s\n' "$BOLD" "$line" "$PLAIN"
    "$DEMO/in" "$@" || broken "\`${line# }\` ended with status $?"
}

# wait_until WHAT COMMAND...: waits until a command succeeds.
wait_until() {
    local what=$1 from=$SECONDS
    shift
    until "$@"; do
        [ $((SECONDS - from)) -lt $LIMIT ] || broken "not within $LIMIT s: $what"
        sleep 0.05
    done
}

all_is_over() { "$DEMO/in" ccb ps --json | grep -q '"requests":\[\]'; }

# in_pane TEXT: whether the text stands in some agent's pane.
in_pane() { grep -qF "$1" <<<"$(panes)"; }

# panes: prints the screen of each agent in a frame, as wide as this terminal.
panes() {
    local socket name pane line
    socket=$(socket)
    "$DEMO/in" ccb ps --json | grep -oE '"name":"[^"]*"|"pane":"[^"]*"' | cut -d '"' -f 4 |
        while read -r name && read -r pane; do
            printf '\n%s┌── the pane of %s%s\n' "$DIM" "$name" "$PLAIN"
            tmux -S "$socket" capture-pane -p -t "$pane" | cat -s | while IFS= read -r line; do
                line=${line%"${line##*[! ]}"}
                case $line in
                ──*) line=${line:0:COLUMNS-2} ;; # a rule goes across any screen
                *) [ "${#line}" -le $((COLUMNS - 2)) ] || line=${line:0:COLUMNS-3}… ;;
                esac
                printf '%s│%s %s\n' "$DIM" "$PLAIN" "$line"
            done
            printf '%s└──%s\n' "$DIM" "$PLAIN"
        done
}

# ends: what one can do now.
ends() {
    SHOWN=yes
    if [ -n "$KEEP" ]; then
        say ""
        say "The agents are still there:"
        say "    $DEMO/in ccb attach      shows them; Ctrl-B D goes away again"
        say "    $DEMO/in                 is a shell in their project: ask, ccb ps, ccb pend …"
        say "    $DEMO/in ccb kill        ends them; then rm -r $DEMO${MODEL:+; kill $MODEL}"
        return
    fi
    show ccb kill
    STARTED=""
    say ""
    say "That took $((SECONDS - FROM)) s, and nothing of it is left. \`make demo${1:+ $1} KEEP=1\` leaves the panes open to attach to."
}

# toml TEXT: a TOML string; a checkout may stand anywhere.
toml() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

stub_demo() {
    local name request
    world "$BIN:$(dirname "$(command -v tmux)")"
    for name in alice bob; do
        cat >>"$DEMO/project/.ccb/ccb.config" <<CONFIG
[agents.$name]
provider = "codex"
command = $(toml "$BIN/stub-agent")
args = ["--name", "$name"]
env = { CODEX_LOG_PATH = $(toml "$DEMO/project/.ccb/$name.jsonl") }
transcript = ".ccb/$name.jsonl"
screen = "boxed"

CONFIG
    done
    say ""
    say "Two stand-in agents, alice and bob, in a project made for this: $DEMO/project"
    show ccb trust --yes
    STARTED=yes
    show ccb --detach

    say ""
    say "A human asks alice to run a command. The command asks bob, and alice does not wait for him:"
    show ask alice "RUN: ask bob --async 'ECHO: hello from bob'" | tee "$DEMO/answer"
    request=$(grep -m 1 -oE '[0-9]{8}-[0-9]{6}-[0-9]{3}-[0-9]+-[0-9]+' "$DEMO/answer") || broken "alice has not asked bob"
    wait_until "bob's answer comes to alice" all_is_over
    say ""
    say "Bob's answer has come to alice's pane by itself:"
    panes
    show ccb explain "$request" | tee "$DEMO/answer"
    grep -q 'delivered: alice' "$DEMO/answer" || broken "bob's answer has not reached alice"
    ends
}

real_demo() {
    local request claude
    claude=$(dirname "$(native_claude "$CCB_LAB")")
    command -v tmux >/dev/null
    [ -z "${CCB_DEMO_SEALED:-}" ] || ip link set lo up
    # First of all the port: Claude has its model's address from the environment.
    mkdir -p "$CACHE"
    PORTS=$(mktemp -d "$CACHE/ccb-demo-port.XXXXXX")
    trap 'rm -rf "$PORTS"' EXIT
    "$BIN/fake-model" --port-file "$PORTS/port" >"$LOGS/fake-model.log" 2>&1 </dev/null &
    MODEL=$!
    wait_until "the model server listens" test -s "$PORTS/port"
    world "$BIN:$claude:$CCB_LAB/node_modules/.bin:$(dirname "$(command -v node)"):$(dirname "$(command -v tmux)")" \
        FAKE_KEY=sk-fake ANTHROPIC_AUTH_TOKEN=sk-fake "ANTHROPIC_BASE_URL=http://127.0.0.1:$(cat "$PORTS/port")" \
        CLAUDE_CODE_MAX_RETRIES=1 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1
    mkdir "$DEMO/home/.codex" "$DEMO/home/.claude"
    cat >"$DEMO/home/.codex/config.toml" <<CONFIG
model = "gpt-5.1-codex"
model_provider = "fake"
check_for_update_on_startup = false

[model_providers.fake]
name = "fake"
base_url = "http://127.0.0.1:$(cat "$PORTS/port")/v1"
wire_api = "responses"
env_key = "FAKE_KEY"
request_max_retries = 1
stream_max_retries = 1
CONFIG
    # What a human has answered in Claude's first run, and that this directory is trusted.
    printf '{"hasCompletedOnboarding":true,"hasSeenAutoDefaultNotice":true,"officialMarketplaceAutoInstallAttempted":true,"projects":{%s:{"hasTrustDialogAccepted":true}}}\n' \
        "$(toml "$DEMO/project")" >"$DEMO/home/.claude.json"
    say ""
    say "The real Claude Code ($("$DEMO/in" claude --version)) and the real Codex CLI ($("$DEMO/in" codex --version)),"
    say "with a home of their own and a model server on loopback,"
    say "${CCB_DEMO_SEALED:+in a network namespace without any other network, }in a project made for this: $DEMO/project"
    STARTED=yes
    show ccb --detach claude codex
    wait_until "Claude is ready" is_idle claude

    say ""
    say "You type into Claude's pane; Claude asks Codex in its shell, ends its turn, and goes on when the answer comes:"
    say ""
    say "    ❯ TOOL: ask codex ECHO: hello from the real Codex"
    type_into claude "TOOL: ask codex ECHO: hello from the real Codex"
    wait_until "Claude goes on with the answer" in_pane "NOTED: hello from the real Codex"
    wait_until "nothing is left to do" all_is_over
    panes
    request=$("$DEMO/in" ccb pend codex --json | grep -m 1 -oE '[0-9]{8}-[0-9]{6}-[0-9]{3}-[0-9]+-[0-9]+' | head -n 1)
    show ccb explain "$request" | tee "$DEMO/answer"
    grep -q 'delivered: claude' "$DEMO/answer" || broken "Codex's answer has not reached Claude"

    say ""
    say "And Codex, whose sandbox forbids our socket, asks Claude by the MCP server that it was given:"
    show ask codex 'MCP: ccb ask {"agent":"claude","message":"ECHO: hello from the real Claude"}' | tee "$DEMO/answer"
    grep -q 'hello from the real Claude' "$DEMO/answer" || broken "Claude's answer has not reached Codex"
    ends AGENTS=real
}

# is_idle AGENT: whether `ccb ps` shows that the agent can take something.
is_idle() { "$DEMO/in" ccb ps --json | grep -q "\"name\":\"$1\"[^}]*\"state\":\"idle\""; }

# type_into AGENT TEXT: types a line into an agent's pane and enters it, as you would.
type_into() {
    local socket pane
    socket=$(socket)
    pane=$("$DEMO/in" ccb ps --json | grep -oE "\"name\":\"$1\"[^}]*" | sed -n 's/.*"pane":"\([^"]*\)".*/\1/p')
    tmux -S "$socket" send-keys -t "$pane" -l "$2"
    wait_until "what was typed is shown" shown_in "$socket" "$pane" "${2##* }"
    tmux -S "$socket" send-keys -t "$pane" Enter
}

shown_in() { tmux -S "$1" capture-pane -p -J -t "$2" | grep -qF "$3"; }

# socket: the socket of the project's tmux server.
socket() {
    "$DEMO/in" ccb status --json | sed -n 's/.*"attach":{"socket":"\(\([^"\\]\|\\.\)*\)".*/\1/p' | sed 's/\\\(.\)/\1/g'
}

# seal COMMAND...: becomes the command in a network namespace with loopback only, where that is allowed.
seal() {
    local unshare
    if command -v ip >/dev/null && command -v unshare >/dev/null; then
        for unshare in "unshare --net" "unshare --map-root-user --net"; do
            # Two words are wanted here.
            # shellcheck disable=SC2086
            if $unshare ip link set lo up 2>/dev/null; then exec $unshare env CCB_DEMO_SEALED=yes "$@"; fi
        done
    fi
    say "note: no network namespace can be made here; nothing but loopback is named all the same"
    exec env CCB_DEMO_SEALED= "$@"
}

if [ -z "${CCB_DEMO_SEALED+x}" ]; then
    case $AGENTS in stub | real) ;; *) fail "AGENTS is stub or real, not $AGENTS" ;; esac
    scripts/setup.sh
    step build cargo build --locked --workspace --bins
    if [ "$AGENTS" = real ]; then
        scripts/lab.sh || fail "the real agents cannot be shown here" "\`make demo\` shows stand-ins"
        CCB_LAB=$(lab_home)
        export CCB_LAB KEEP
        seal "$0" real
    fi
fi
FROM=$SECONDS
"${AGENTS}_demo"
