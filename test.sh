#!/usr/bin/env bash
# Tests everything: format, lints, documentation, host tests, and scenarios under nested Xen. Installs what it needs
# first and says what that is. The last line is "N passed, N failed"; the exit status tells the same.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit

usage() {
    cat <<'END'
Usage: ./test.sh [--fast]
  --fast   without fuzzing and the scenarios under nested Xen: five minutes instead of twenty
END
}

FAST=0
case ${1-} in
    '') ;;
    --fast) FAST=1 ;;
    --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
esac

PASSED=0 FAILED=0 FAILURES=()
LOG=$(mktemp) LAB_LOGS=("$(mktemp)" "$(mktemp)") LABS=()
trap 'clean_up' EXIT

clean_up() {
    # The scenarios' process groups, if they are still there.
    local lab
    for lab in "${LABS[@]}"; do
        kill -- "-$lab" 2>/dev/null
    done
    rm -f "$LOG" "${LAB_LOGS[@]}"
}

# run NAME COMMAND...: runs it with its output in $LOG; shows that if it fails.
run() {
    local name=$1 began=$SECONDS status=0
    shift
    nice -n 19 "$@" >"$LOG" 2>&1 || status=$?
    if ((status == 0)); then
        printf 'ok      %3d s  %s\n' $((SECONDS - began)) "$name"
    else
        printf 'FAILED  %3d s  %s\n' $((SECONDS - began)) "$name"
        tail -n 100 "$LOG"
        FAILURES+=("$name")
    fi
    return "$status"
}

# check NAME COMMAND...: a test that passes or fails as a whole.
check() {
    if run "$@"; then PASSED=$((PASSED + 1)); else FAILED=$((FAILED + 1)); fi
}

# count REGEX: adds up the numbers that the regex's group finds in $LOG.
count() {
    sed -nE "s/$1/\1/p" "$LOG" | awk '{ sum += $1 } END { print sum + 0 }'
}

# host_tests: every test of every crate counts.
host_tests() {
    local passed failed
    if ! run "host tests" cargo test --workspace --locked --no-fail-fast; then
        failed=$(count '^test result: .* ([0-9]+) failed;.*')
        # Why, which is long before the end of the output.
        sed -n '/^---- .* stdout ----$/,/^failures:$/p' "$LOG" | head -n 200
        mapfile -t -O "${#FAILURES[@]}" FAILURES < <(sed -nE 's/^test (.*) \.\.\. FAILED$/\1/p' "$LOG")
        # What does not compile has no results.
        FAILED=$((FAILED + (failed ? failed : 1)))
    fi
    passed=$(count '^test result: .* ([0-9]+) passed;.*')
    PASSED=$((PASSED + passed))
    printf '               %d tests passed\n' "$passed"
}

# start_scenarios: both halves, in the background from here on, in nested machines with one CPU each. They are idle for a third
# of their time, which is what all else gets: it has the lowest priority, because scenarios have limits of time.
start_scenarios() {
    set -m
    ./run-qemu.sh --scenario first --timeout 3000 >"${LAB_LOGS[0]}" 2>&1 &
    LABS+=($!)
    ./run-qemu.sh --second --scenario second --timeout 3000 >"${LAB_LOGS[1]}" 2>&1 &
    LABS+=($!)
    set +m
}

# end_scenarios: to the end of both. Each scenario counts; one without a result has failed.
end_scenarios() {
    local all passed scenario lab
    mapfile -t all < <(./run-qemu.sh --list)
    for lab in 1 0; do
        tail -n +1 --follow --pid="${LABS[lab]}" "${LAB_LOGS[lab]}" | show_scenarios
    done
    LABS=()
    passed=$(cat "${LAB_LOGS[@]}" | sed -nE 's/^ *[0-9.]+  PASS ([^ ]+) .*/\1/p')
    for scenario in "${all[@]}"; do
        if grep -qx "$scenario" <<<"$passed"; then
            PASSED=$((PASSED + 1))
        else
            FAILED=$((FAILED + 1)) FAILURES+=("scenario $scenario")
        fi
    done
}

# show_scenarios: a line for each scenario of the log that comes in, and the end of what one that failed has printed. So
# too the log's own end, if that is in the middle of a scenario or before the first.
show_scenarios() {
    local line words kept=() inside=0 began=0
    while IFS= read -r line; do
        read -ra words <<<"$line"
        [[ ${words[1]-} != '===' ]] || kept=() inside=1
        kept+=("$line")
        if [[ $line == NOTE:* ]]; then
            # What the machine that stood still has said last, and where its CPU was.
            printf '%s\n' "${kept[@]}" | tail -n 200
        fi
        case ${words[1]-} in
            PASS)
                printf 'ok    %5s s  scenario %s\n' "${words[3]#(}" "${words[2]}"
                kept=() inside=0 began=1
                ;;
            FAIL)
                printf '%s\n' "${kept[@]}" | tail -n 120
                kept=() inside=0 began=1
                ;;
        esac
    done
    if ((inside || !began)); then
        printf '%s\n' "${kept[@]}" | tail -n 120
    fi
}

shell_files() {
    find run-qemu.sh test.sh bench.sh .ci lab fuzz/run.sh -type f \( -name '*.sh' -o -name run -o -name init \)
}

TARGET=x86_64-unknown-none
IMAGE=(--package virtio-domain --package vd-rt --package virtio-paired --target "$TARGET")

lab/setup-host.sh || exit
((FAST)) || start_scenarios
check "format" cargo fmt --all --check
check "format of the fuzz targets" cargo fmt --manifest-path fuzz/Cargo.toml --check
check "lints of the host's programs" cargo clippy --workspace --all-targets --locked --quiet -- --deny warnings
check "lints of the image" cargo clippy --release --locked --quiet "${IMAGE[@]}" -- --deny warnings
check "documentation" env RUSTDOCFLAGS=--deny=warnings cargo doc --workspace --no-deps --locked --quiet
check "documentation of the image" \
    env RUSTDOCFLAGS=--deny=warnings cargo doc --no-deps --locked --quiet --document-private-items "${IMAGE[@]}"
mapfile -t SCRIPTS < <(shell_files)
check "shell scripts" shellcheck --external-sources "${SCRIPTS[@]}"
check "xen-hypercall as a package" cargo package --package xen-hypercall --locked --allow-dirty --quiet
host_tests
if ((FAST)); then
    echo "not run, because of --fast: fuzzing, the image on bare QEMU, scenarios under nested Xen"
else
    check "lints of the fuzz targets" \
        cargo clippy --manifest-path fuzz/Cargo.toml --locked --quiet -- --deny warnings
    check "fuzzing, short" fuzz/run.sh --short
    end_scenarios
    # Not before: it uses the same cache.
    check "the image on bare QEMU" lab/boot-check.sh
fi
((FAILED == 0)) || printf 'failed: %s\n' "${FAILURES[@]}"
echo "$PASSED passed, $FAILED failed"
((FAILED == 0))
