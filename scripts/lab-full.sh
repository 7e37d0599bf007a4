#!/usr/bin/env bash
# Runs the whole table: every CLI on every rung through everything that can become of a turn, and writes the table of
# docs/agents.md from what passed. Arguments go to nextest, as a filter: what is left out keeps no cell.

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
scripts/setup.sh nextest
[ ! -x "$CACHE/ccb-tools/cargo-nextest-$NEXTEST_VERSION/bin/cargo-nextest" ] ||
    PATH=$CACHE/ccb-tools/cargo-nextest-$NEXTEST_VERSION/bin:$PATH
scripts/lab.sh
CCB_LAB=$(lab_home)
CCB_LAB_TABLE=$TARGET/lab-table
export CCB_LAB CCB_LAB_TABLE
rm -rf "$CCB_LAB_TABLE"
mkdir -p "$CCB_LAB_TABLE"
step build cargo build --locked --workspace --bins

status=0
cargo nextest run --locked --test lab --run-ignored only --no-fail-fast -E 'test(/^full::/)' "$@" || status=$?

# table: a line for each CLI, version and rung, a column for each cell.
table() {
    local cells='story interrupt errors permission large askd-killed cli-killed typing' row cell agent version rung line
    say '| agent | version | rung | story | interrupt | errors | permission | 200 KB | askd killed | CLI killed | typing |'
    say '|---|---|---|---|---|---|---|---|---|---|---|'
    (cd "$CCB_LAB_TABLE" && ls) | cut -d' ' -f1-3 | sort -u | while read -r agent version rung; do
        row="$agent $version $rung"
        line="| $agent | $version | $rung |"
        for cell in $cells; do
            if [ -e "$CCB_LAB_TABLE/$row $cell" ]; then line="$line yes |"; else line="$line – |"; fi
        done
        say "$line"
    done
}

page=docs/agents.md
{
    sed '/<!-- table -->/q' "$page"
    table
    sed -n '/<!-- end of table -->/,$p' "$page"
} >"$page.new"
mv "$page.new" "$page"
say "the table of $page is written"
exit "$status"
