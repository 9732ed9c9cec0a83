# shellcheck shell=bash
# Registers in the guest's memory (registers=memory): neither a kick, nor an interrupt, nor its acknowledgement makes the
# guest wait. The driver is rebound, the driver domain replaced by another one, and by another one when it has crashed:
# each time registers are in memory again, and counts are what they were.
# timeout: 200
# half: second

REQUESTS=100
# So many that has_data makes besides.
ALL=$((REQUESTS + 16))

values() {
    local all name
    all=$(vdom stats shown)
    for name; do
        awk -v name="$name" '$1 == name { print $2 }' <<<"$all"
    done
}

settled() { [[ $(counter shown "device-$1-requests") == "$2" ]]; }
counts_up() { (($(counter shown "$1") >= $2)); }
says_so_often() { (($(grep -ac "^guest: $1" "$(console shown)") >= $2)); }

COUNTERS=(doorbells register-reads register-writes posted-writes hypercall-41 hypercall-13 allocations-in-passes
    registers-shown registers-hidden)

# probe DISK SLOT REQUESTS: has the guest read sectors one by one, and the first disk's data; sets COST to what counters grew by.
PROBES=0
probe() {
    local before after index served
    PROBES=$((PROBES + 1))
    sleep 1.3
    served=$(counter shown "device-$2-requests")
    mapfile -t before < <(values "${COUNTERS[@]}")
    type_at shown "$1 $REQUESTS"
    wait_for 60 "the probe of $1" says_so_often probe "$PROBES"
    wait_for 20 "counters after" settled "$2" $((served + $3))
    mapfile -t after < <(values "${COUNTERS[@]}")
    COST=()
    for index in "${!after[@]}"; do
        COST+=($((after[index] - before[index])))
    done
    grep -a '^guest: probe' "$(console shown)" | tail -n 1
    echo "doorbells, reads, writes that waited: ${COST[*]:0:3}; posted: ${COST[3]}; dm_ops, multicalls: ${COST[*]:4:2}"
}

# costs_nothing: the first disk's registers are in memory.
costs_nothing() {
    probe vda 0 $ALL
    assert_eq "${COST[*]:0:3}" "0 0 0" "doorbells, reads and writes that somebody waited for"
    assert_eq "${COST[3]}" $ALL "posted acknowledgements"
    assert_eq "${COST[*]:4:2}" "0 $ALL" "dm_ops, and multicalls: a pulse is one"
    assert_eq "${COST[*]:6:3}" "0 0 0" "blocks of heap, and registers that come and go"
}

step "registers in memory are for posted writes"
expect_fail 'registers=memory goes with doorbell=posted' vdom check "$(guest_config shown registers \
    'vdom_devices = [ "type=blk,backend=ram:16M,doorbell=mmio,registers=memory" ]')"

step "a guest with a disk whose registers are in its memory, and one whose are not"
start_guest shown registers 'on_reboot = "restart"' -vdom_ramdisk \
    'vdom_devices = [ "type=blk,backend=ram:16M,registers=memory", "type=blk,backend=ram:1M" ]'
console_says shown '^guest: step find ok' || fail "$(grep -a FAILED "$(console shown)")"
console_says shown-vd 'registers in memory' || fail "the driver domain does not say so"

step "what one request costs"
costs_nothing
probe vdb 1 $REQUESTS
# The check of the first disk is among all but the reads.
assert_eq "${COST[*]:0:3}" "0 $REQUESTS 0" "with registers that are not in memory"

step "the driver lets the device go, and takes it again"
for n in 1 2 3; do
    type_at shown "rebind 0"
    wait_for 30 "the disk is back" says_so_often rebound $n
done
wait_for 10 "registers in memory" counts_up registers-shown 4
assert_eq "$(counter shown registers-shown) $(counter shown registers-hidden)" "4 3" "registers shown and hidden"
costs_nothing

step "another driver domain takes over"
expect_ok vdom restart shown
costs_nothing
assert_eq "$(counter shown registers-shown)" 1 "registers shown by the other one"

step "and another one when that has crashed"
id=$(xl domid shown-vd)
xl trigger shown-vd nmi
wait_for 30 "another driver domain" is_another shown "$id"
# The acknowledgement of its first interrupt.
wait_for 10 "registers in memory" counts_up registers-shown 1
costs_nothing
type_at shown "rebind 0"
wait_for 30 "the disk is back" says_so_often rebound 4
costs_nothing

step "the end"
type_at shown end
wait_for_end 20 shown
wait_for_end 20 shown-vd
grep -a 'served:' "$(console shown-vd)"
wait_for 5 "no zombie" no_zombie
expect_ok vdom destroy shown
assert_clean
no_warnings 'NMI|PANIC'
