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

# rounds DEFAULT: how often to repeat what a scenario repeats: as often as ./run-qemu.sh --rounds says, or else so often.
rounds() {
    local asked
    asked=$(cat /lab/rounds)
    printf '%s\n' "${asked:-$1}"
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

# wait_for SECONDS DESCRIPTION COMMAND...: the command succeeds within that time, or SLOWNESS times that. Its output is
# dropped.
wait_for() {
    local description=$2 end=$((${EPOCHREALTIME/./} + $1 * SLOWNESS * 1000000))
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

# no_zombie: no domain is dying for longer than a moment.
no_zombie() {
    ! xl list | grep -q "(null)"
}

only_dom0() {
    [[ $(xl list | awk 'NR > 1 { print $1 }') == Domain-0 ]]
}

# counter GUEST NAME: what the driver domain of a guest has published last.
counter() {
    vdom stats "$1" | awk -v name="$2" '$1 == name { print $2 }'
}

# guest_config NAME JOB [LINE...]: writes the configuration of another guest like the example: its name, its job, and
# lines that replace or follow the example's; a line "-KEY" takes one away. Prints where.
guest_config() {
    local name=$1 job=$2 line key file=/root/$1.cfg
    shift 2
    sed -e "s/^name = .*/name = \"$name\"/" -e "s/vd.job=[a-z]*/vd.job=$job/" /root/examples/guest.cfg >"$file"
    for line in "$@"; do
        key=${line%%[ =]*}
        sed -i "/^${key#-}[ =]/d" "$file"
        [[ $line == -* ]] || printf '%s\n' "$line" >>"$file"
    done
    printf '%s\n' "$file"
}

# start_guest NAME JOB [LINE...]: creates a guest as guest_config describes it, and waits until it is ready.
start_guest() {
    local file
    [[ -e /root/disk.img ]] || truncate -s 16M /root/disk.img
    file=$(guest_config "$@")
    rm -f "$(console "$1")" "$(console "$1-vd")"
    expect_ok vdom create "$file"
    wait_for 60 "$1 is ready" console_says "$1" '^guest: ready'
}

# type_at NAME TEXT: types a line at a domain's console.
type_at() {
    printf '%s\n' "$2" >"$(xenstore-read "/local/domain/$(xl domid "$1")/console/tty")"
}

# each NUMBER: so many of a total for each of REQUESTS requests, with two digits.
each() {
    awk -v all="$1" -v requests="$REQUESTS" 'BEGIN { printf "%.2f", all / requests }'
}

# bridge_with_files MIB: dom0's bridge xenbr0, 10.1.0.1/24 without IPv6, with a web server that has /run/www: "bulk" with so
# many random MiB, and what else is put there.
bridge_with_files() {
    local module group
    for module in bridge xen-netback af_packet; do
        modprobe "$module"
    done
    brctl addbr xenbr0
    echo 0 >/sys/class/net/xenbr0/bridge/forward_delay
    for group in all default; do
        echo 1 >/proc/sys/net/ipv6/conf/$group/disable_ipv6
    done
    ip addr add 10.1.0.1/24 dev xenbr0
    ip link set xenbr0 up
    mkdir -p /run/www
    head -c "${1}M" /dev/urandom >/run/www/bulk
    httpd -f -p 80 -h /run/www &
}

# records NAME DISK: the last one that the job restart has told of.
records() {
    sed -n "s/^guest: record \([0-9]*\) of $2\r*$/\1/p" "$(console "$1")" | tail -n 1
}

# has_records NAME VDA VDB: at least so many of its two disks.
has_records() {
    (($(records "$1" vda) >= $2 && $(records "$1" vdb) >= $3))
}

# records_go_on NAME: both disks get two more, and nothing has failed.
records_go_on() {
    local vda vdb
    vda=$(records "$1" vda) vdb=$(records "$1" vdb)
    wait_for 20 "more records" has_records "$1" $((vda + 2)) $((vdb + 2))
    console_says "$1" FAILED && fail "$(grep -a -m 1 FAILED "$(console "$1")")"
    return 0
}

# is_another NAME ID: the driver domain that serves it is not that one, and does.
is_another() {
    local id
    id=$(xl domid "$1-vd") && [[ $id != "$2" ]] && [[ $(counter "$1" state) == ready ]]
}

# ask NAME COUNT COMMAND: types a command at the console of a paired guest and waits for that many results, none of which
# is a failure. They may take ASK_SECONDS.
ask() {
    local name=$1 count=$2 command=$3 before
    before=$(results "$name")
    type_at "$name" "$command"
    wait_for "$ASK_SECONDS" "results of $command" has_results "$name" $((before + count))
    grep -a "^paired: ${command%% *} " "$(console "$name")" | tail -n "$count"
    if console_says "$name" '^paired: .*FAIL'; then
        fail "$(grep -am 1 '^paired: .*FAIL' "$(console "$name")")"
    fi
}

# results NAME: how many a paired guest has printed.
results() {
    grep -ac '^paired: [a-z]* .*: \(PASS\|FAIL\)' "$(console "$1")" || true
}

has_results() {
    (($(results "$1") >= $2))
}

# said_of NAME SLOT KEY: a number of a paired guest's last result of a slot.
said_of() {
    grep -a "^paired: .* slot=$2 " "$(console "$1")" | sed -n "s/.* $3=\([0-9]*\).*/\1/p" | tail -n 1
}

# no_warnings [REGEX]: Xen has not complained about any of our domains, and none of ours has complained, except in words
# that match.
no_warnings() {
    local found
    found=$(xl dmesg | grep -aE 'd[0-9]+v[0-9]+.*(WARN|BUG|ERROR)|\(XEN\).*(WARN|BUG|rror)|\(d[0-9]+\).*(WARN|ERROR|PANIC)' |
        grep -avE "d0v0|Unhandled|MSR${1:+|$1}" || true)
    assert_eq "$found" "" "warnings in xl dmesg"
}
