# shellcheck shell=bash
# Register writes that are posted: neither a kick nor an acknowledgement makes the guest wait. Then what one request
# costs a stock guest with each doorbell and interrupt that a HVM guest can have; prints rows for the table of
# docs/performance.md. Counts are checked, times are not.
# timeout: 200
# half: second

REQUESTS=100

# values NAME...: counters of the driver domain, as they are now.
values() {
    local all name
    all=$(vdom stats posts)
    for name; do
        awk -v name="$name" '$1 == name { print $2 }' <<<"$all"
    done
}

# settled SLOT REQUESTS: the counters of that many requests are there: they are published twice a second. To ask at the
# console would be hypercalls, too.
settled() {
    [[ $(counter posts "device-$1-requests") == "$2" ]]
}

has_probed() { (($(grep -ac "^guest: probe $1 " "$(console posts)") > 0)); }

COUNTERS=(doorbells register-reads register-writes posted-writes hypercall-41 hypercall-13 hypercall-32
    allocations-in-passes frames-mapped)

# probe SLOT DISK DOORBELL INTERRUPT: reads sectors one by one, and sets COST to what each counter grew by. Prints a row:
# kicks, exits, the guest's hypercalls, the driver domain's (events, dm_ops, and multicalls of both; the look at the guest
# twice a second is among them), cycles.
probe() {
    local slot=$1 disk=$2 before after index served kicks exits
    sleep 1.3
    served=$(counter posts "device-$slot-requests") kicks=$(counter posts "device-$slot-kicks")
    mapfile -t before < <(values "${COUNTERS[@]}")
    type_at posts "$disk $REQUESTS"
    wait_for 60 "the probe of $disk" has_probed "$disk"
    wait_for 20 "counters after" settled "$slot" $((served + REQUESTS))
    mapfile -t after < <(values "${COUNTERS[@]}")
    kicks=$(($(counter posts "device-$slot-kicks") - kicks))
    COST=()
    for index in "${!after[@]}"; do
        COST+=($((after[index] - before[index])))
    done
    exits=$((COST[0] + COST[1] + COST[2]))
    printf '| %-13s | %-13s | %-14s | %5s | %5s | %5s | %5s | %s |\n' "$3" "$4" stock "$(each "$kicks")" \
        "$(each "$exits")" 0.00 "$(each $((COST[4] + COST[5] + COST[6])))" \
        "$(sed -n "s/^guest: probe $disk .*: \(.*\) thousand cycles.*/\1/p" "$(console posts)")" | tee -a /run/hvm-latency
    assert_eq "$kicks" "$REQUESTS" "kicks"
    assert_eq "${COST[*]:7}" "0 0" "blocks of heap, and frames mapped"
}

step "a window where writes are posted needs the place of the VGA card"
expect_fail 'vga = "none"' vdom check "$(guest_config vga probe 'vga = "stdvga"' \
    'vdom_devices = [ "type=blk,backend=module,doorbell=posted" ]')"

step "a guest that tests a disk whose register writes are posted"
truncate -s 64M /root/disk.img
expect_ok vdom create "$(guest_config posts probe 'vdom_devices = [ "type=blk,backend=module,serial=VDOM0,doorbell=posted",
    "type=blk,backend=ram:1M,doorbell=mmio", "type=blk,backend=ram:1M,doorbell=mmio,interrupt=edge" ]')"
wait_for 120 "the guest's result" console_says posts '^guest: RESULT'
grep -a '^guest:' "$(console posts)" | tail -n 12
console_says posts '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console posts)" || echo no result)"
wait_for 20 "the guest is ready" console_says posts '^guest: ready'

step "what one request costs"
probe 0 vda posted edge
assert_eq "${COST[*]:0:3}" "0 $REQUESTS 0" "doorbells, reads and writes that somebody waited for"
assert_eq "${COST[3]}" "$REQUESTS" "posted acknowledgements"
assert_eq "${COST[*]:4:2}" "0 $REQUESTS" "dm_ops, and multicalls: a pulse is one"
probe 1 vdb mmio intx
assert_eq "${COST[*]:0:4}" "$REQUESTS $REQUESTS $REQUESTS 0" "doorbells, reads, writes, posted"
assert_eq "${COST[*]:4:2}" "$REQUESTS $REQUESTS" "dm_ops for lines that go up, multicalls that lower them and answer"
probe 2 vdc mmio edge
assert_eq "${COST[*]:0:4}" "$REQUESTS $REQUESTS $REQUESTS 0" "doorbells, reads, writes, posted"
assert_eq "${COST[*]:4:2}" "0 $REQUESTS" "dm_ops, and multicalls"
cat /run/hvm-latency

step "the end"
type_at posts end
wait_for_end 20 posts
wait_for_end 20 posts-vd
no_warnings
grep -a 'served:' "$(console posts-vd)"
expect_ok vdom destroy posts
assert_clean
