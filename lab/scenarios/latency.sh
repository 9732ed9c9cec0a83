# shellcheck shell=bash
# The round trip of a request of one byte (a flush, whose answer is its status) over every doorbell and interrupt of
# the paired guest: cycles, exits to the driver domain, and hypercalls on both sides. Prints the table of
# docs/performance.md. Counts are checked, times are not.
# timeout: 240
# half: second

REQUESTS=100
declare -A SERVED=()

# measure WAY SLOT: has the guest set the device up, and then flush; prints a row of the table.
measure() {
    local way=$1 slot=$2 shown before after served=${SERVED[$2]:-0}
    shown="^paired: $way slot=$slot "
    type_at paired "$way $slot"
    wait_for 60 "$way $slot: set up" console_has_more "$shown.*: set up" "${SEEN[$way-$slot]:-0}"
    # One flush has been done.
    wait_for 20 "counters before" settled "$slot" $((served + 1))
    before=$(counters "$slot")
    type_at paired ''
    wait_for 60 "$way $slot: result" console_has_more "$shown.*: \(PASS\|FAIL\)" "${SEEN[$way-$slot]:-0}"
    RESULT=$(grep -a "$shown.*: \(PASS\|FAIL\)" "$(console paired)" | tail -n 1)
    [[ $RESULT == *": PASS "* ]] || fail "$RESULT"
    SERVED[$slot]=$((served + 1 + REQUESTS)) SEEN[$way-$slot]=$((${SEEN[$way-$slot]:-0} + 1))
    wait_for 20 "counters after" settled "$slot" "${SERVED[$slot]}"
    after=$(counters "$slot")
    row "$way" "$before" "$after"
}

declare -A SEEN=()
console_has_more() { (($(grep -ac "$1" "$(console paired)") > $2)); }
settled() {
    type_at paired-vd stats
    [[ $(counters "$1") == "$2 "* ]]
}

# counters SLOT: requests of the slot, requests through the ioreq page, interrupts sent, doorbells that came as events,
# looks at the slot's queues, kicks of the slot.
counters() {
    vdom stats paired | awk -v device="device-$1" '
        { value[$1] = $2 }
        END { print value[device "-requests"], value["answered"], value["messages-sent"] + value["events-sent"],
              value["event-doorbells"], value[device "-passes"], value[device "-kicks"] }'
}

# said KEY: a value of the last result.
said() { sed -n "s|.* $1=\([a-z0-9/-]*\).*|\1|p" <<<"$RESULT"; }

# row WAY BEFORE AFTER: cycles are the least, the median and the 95th percentile. An exit to the driver domain is a
# request through its ioreq page, for which it sends one event when it is answered.
row() {
    local way=$1 before after exits sent
    read -ra before <<<"$2"
    read -ra after <<<"$3"
    exits=$((after[1] - before[1])) sent=$((after[2] - before[2]))
    EXITS=$exits RUNG=$((after[3] - before[3])) SENT=$sent
    LOOKS=$((after[4] - before[4])) KICKS=$((after[5] - before[5]))
    printf '| %-13s | %-13s | %-14s | %5s | %5s | %5s | %5s | %s |\n' "$(said doorbell)" "$(said interrupt)" "$way" \
        "$(each "$(said kicks)")" "$(each "$exits")" "$(each "$(said hypercalls)")" "$(each $((exits + sent)))" \
        "$(said cycles)" | tee -a /run/latency
}

step "a PVH guest with one CPU and eight devices"
rm -f "$(console paired)" "$(console paired-vd)"
sed -e 's/^vcpus = .*/vcpus = 1/' -e "s/run=console/run=console step=1 requests=$REQUESTS/" \
    /root/examples/paired.cfg >/root/latency.cfg
expect_ok vdom create /root/latency.cfg
wait_for 30 "the guest is ready" console_says paired '^paired: ready'

step "interrupts that are acknowledged: a doorbell, a read and a write for each request"
for slot in 0 1; do
    measure latency "$slot"
    assert_eq "$EXITS $SENT" "$((3 * REQUESTS)) $REQUESTS" "exits and interrupts of slot $slot"
done
step "interrupts that say by themselves whose they are"
for slot in 0 1 2 3; do
    measure unacknowledged "$slot"
    assert_eq "$EXITS $SENT" "$REQUESTS $REQUESTS" "exits and interrupts of slot $slot"
done
for slot in 4 5; do
    measure unacknowledged "$slot"
    assert_eq "$EXITS $SENT $RUNG" "0 $REQUESTS $REQUESTS" "exits, interrupts and doorbells of slot $slot"
done
for slot in 6 7; do
    measure unacknowledged "$slot"
    ((EXITS <= REQUESTS)) || fail "slot $slot: $EXITS exits"
    # How many kicks polling saves is a matter of time; that a device looks again after what it has found is not.
    ((2 * LOOKS > 3 * KICKS)) || fail "slot $slot: polled, and only $LOOKS looks for $KICKS kicks"
done
step "no interrupts"
for slot in 0 2 4 6; do
    measure suppressed "$slot"
    assert_eq "$SENT" 0 "interrupts of slot $slot"
done

step "the table: kicks, exits, the guest's hypercalls, the driver domain's, cycles, for each request"
cat /run/latency
type_at paired poweroff
wait_for_end 20 paired
wait_for_end 20 paired-vd
console_says paired '^paired: RESULT PASS' || fail "$(tail -n 3 "$(console paired)")"
no_warnings
expect_ok vdom destroy paired
assert_clean
