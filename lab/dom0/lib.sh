# shellcheck shell=bash
# Helpers for scenarios. A scenario ends at the first thing that is not as expected, and says why in $REASON.
set -Eeuo pipefail

REASON=${REASON:-/dev/stderr}
CONSOLES=/var/log/xen/console
SCENARIO_START=${EPOCHREALTIME/./}

fail() {
    trap - ERR
    printf '%s\n' "$*" >"$REASON"
    exit 1
}
trap 'fail "line $LINENO: \"$BASH_COMMAND\" failed with status $?"' ERR

# step TEXT: says what comes now, with the seconds since the scenario's start.
step() {
    local passed=$(((${EPOCHREALTIME/./} - SCENARIO_START) / 100000))
    printf -- '--- %3d.%d %s\n' $((passed / 10)) $((passed % 10)) "$*"
}

# expect_ok COMMAND...: the command succeeds.
expect_ok() {
    local status=0
    "$@" || status=$?
    ((status == 0)) || fail "\"$*\" failed with status $status"
}

# expect_fail REGEX COMMAND...: the command fails, and what it prints matches.
expect_fail() {
    local regex=$1 status=0 output
    shift
    output=$("$@" 2>&1) || status=$?
    printf '%s\n' "$output"
    ((status != 0)) || fail "\"$*\" succeeded"
    [[ $output =~ $regex ]] || fail "\"$*\" did not say \"$regex\""
}

# assert_eq A B WHAT: two values are the same.
assert_eq() {
    [[ $1 == "$2" ]] || fail "$3: $1 instead of $2"
}

# wait_for SECONDS DESCRIPTION COMMAND...: the command succeeds within that time. Its output is dropped.
wait_for() {
    local description=$2 end=$((${EPOCHREALTIME/./} + $1 * 1000000))
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((${EPOCHREALTIME/./} < end)) || fail "$description: not within the time"
        sleep 0.2
    done
}

# console NAME: the file that a domain's console is logged in.
console() {
    printf '%s\n' "$CONSOLES/guest-$1.log"
}

# show_console NAME: prints a domain's console.
show_console() {
    echo "--- console of $1"
    sed "s/^/$1| /" "$(console "$1")" || true
}

# follow_console NAME: prints a domain's console from now on, as it comes, until the scenario ends.
follow_console() {
    tail -n +1 --follow=name --retry "$(console "$1")" 2>/dev/null | sed -u "s/^/$1| /" &
}

# console_says NAME REGEX: whether a line of a domain's console matches.
console_says() {
    grep -qaE "$2" "$(console "$1")"
}

# domain_exists NAME
domain_exists() {
    xl domid "$1"
}

# wait_for_end SECONDS NAME: the domain ends by itself within that time.
wait_for_end() {
    wait_for "$1" "end of $2" domain_is_gone "$2"
}

domain_is_gone() {
    ! xl domid "$1"
}

# assert_clean: no domain is left but dom0, and nothing of others in xenstore or vdom's directory.
assert_clean() {
    # Xen frees a domain's memory in the background.
    wait_for 5 "only Domain-0 in xl list" only_dom0 || true
    only_dom0 || fail "domains are left: $(xl list | awk 'NR > 1 && $2 != 0 { printf "%s ", $1 }')"
    assert_eq "$(xenstore-list /local/domain | tr '\n' ' ')" "0 " "xenstore's /local/domain"
    assert_eq "$(ls -A /run/vdom 2>/dev/null)" "" "/run/vdom"
}

only_dom0() {
    [[ $(xl list | awk 'NR > 1 { print $1 }') == Domain-0 ]]
}
