#!/usr/bin/env bash
# Shows what the driver domain's image is made of: its sections as they are in the stripped file, and the text by crate. What
# another crate's code was copied to is counted where it comes from; what comes from Rust's own libraries, where it was copied to.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

TARGET=x86_64-unknown-none
cargo build --release --quiet --locked --package virtio-domain --target "$TARGET"
IMAGE=${CARGO_TARGET_DIR:-target}/$TARGET/release/virtio-domain
strip -o "$WORK/image" "$IMAGE"

echo '| section | bytes |'
echo '|---|---|'
size -A "$IMAGE" | awk '/^\.(rodata|text|data|got) / { printf "| `%s` | %d |\n", $1, $2 }'
echo "| the file, stripped | $(stat -c %s "$WORK/image") |"
echo

# Where a piece of text may begin or end: at each row of the line table, and at each function.
readelf --wide --debug-dump=decodedline "$IMAGE" 2>/dev/null |
    awk 'match($0, /0x[0-9a-f]+/) { print substr($0, RSTART + 2, RLENGTH - 2) }' >"$WORK/rows"
nm --print-size --defined-only "$IMAGE" | awk 'NF == 4 && tolower($3) == "t" { print $1, $2 }' >"$WORK/functions"
readonly HEX='
    function number(text,    i, value) {
        value = 0
        for (i = 1; i <= length(text); i++) value = value * 16 + index("123456789abcdef", substr(text, i, 1))
        return value
    }'
awk "$HEX"'
    NF == 2 { start = number($1); print start; print start + number($2); next }
    { print number($1) }' "$WORK/functions" "$WORK/rows" | sort --numeric-sort --unique >"$WORK/addresses"
awk '{ printf "0x%x\n", $1 }' "$WORK/addresses" |
    addr2line --addresses --inlines --exe="$IMAGE" >"$WORK/places"

echo '| crate | bytes of text |'
echo '|---|---|'
awk -v root="$PWD/" "$HEX"'
    # The crate of a source file; nothing for the libraries of Rust.
    function crate(file) {
        sub(/:[^:]*$/, "", file)
        if (index(file, root) == 1) { file = substr(file, length(root) + 1); sub(/\/src\/.*/, "", file); return file }
        if (file !~ /\/registry\/src\//) return ""
        sub(/.*\/registry\/src\/[^\/]*\//, "", file); sub(/-[0-9][^\/]*\/.*/, "", file)
        return file
    }
    function finish() { if (at != "") place[at] = found == "" ? "of Rust alone" : found }
    FILENAME == ARGV[1] { start[++functions] = number($1); end[functions] = start[functions] + number($2); next }
    /^0x/ { finish(); at = number(substr($1, 3)); order[++count] = at; found = ""; next }
    found == "" { found = crate($1) }
    END {
        finish()
        function_at = 1
        for (i = 1; i < count; i++) {
            while (function_at < functions && end[function_at] <= order[i]) function_at++
            if (order[i] < start[function_at] || order[i] >= end[function_at]) continue
            bytes[place[order[i]]] += order[i + 1] - order[i]
        }
        for (name in bytes) printf "| %s | %d |\n", name, bytes[name]
    }' <(sort "$WORK/functions") "$WORK/places" | sort --field-separator='|' --key=3,3nr
