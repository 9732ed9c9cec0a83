#!/usr/bin/env bash
# Counts the instructions of each operation of the data path, with callgrind, and prints a table. The counts are of the
# host's build of the same crates, with the image's optimisation; they are the same in every run on the same machine.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

cargo build --release --quiet --locked --package vd-bench
# Counting is on inside of the function `measured`; the counts are written down after each call of `done`.
valgrind --tool=callgrind --collect-atstart=no --toggle-collect='vd_bench::measured*' \
    --dump-after='vd_bench::done*' --callgrind-out-file="$WORK/count" \
    target/release/vd-bench >"$WORK/operations" 2>"$WORK/valgrind" || {
    cat "$WORK/valgrind" >&2
    exit 1
}

# total N: all instructions of the N-th dump.
total() {
    sed -n 's/^totals: //p' "$WORK/count.$1"
}

echo '| operation | instructions |'
echo '|---|---|'
number=0 empty=
while IFS=$'\t' read -r times name; do
    number=$((number + 1))
    each=$(($(total "$number") / times))
    if [[ -z $empty ]]; then
        empty=$each
    else
        printf '| %s | %d |\n' "$name" $((each - empty))
    fi
done <"$WORK/operations"
