# shellcheck shell=bash
# A hostile driver in the guest breaks one rule of virtio after another on a disk, a network device and an entropy device.
# Each goes broken and heals with each reset; the guest's other disk passes all its checks meanwhile, frames get from one
# of its other network devices to the other, and the driver domain goes on. The other disk is one whose interrupt is
# edge-triggered and whose queue is polled, which a stock driver does not notice; the entropy device's register writes are
# posted, and while a driver runs it, its registers are a page of the guest's memory.
# timeout: 330

HOSTILE="1 2 3" HONEST="0 4 5"

# counted NAME: a counter, as in /run/stats.
counted() {
    awk -v name="$1" '$1 == name { print $2 }' /run/stats
}

step "a guest with two disks, three network devices and an entropy device"
rm -f "$(console bad)" "$(console bad-vd)"
truncate -s 16M /root/disk.img
expect_ok vdom create "$(guest_config bad hostile \
    'vdom_devices = [ "slot=0,type=blk,backend=module,interrupt=edge,doorbell=polled", "slot=1,type=blk,backend=ram:8M,queues=2,doorbell=mmio",
    "slot=2,type=net,backend=switch,mac=00:16:3e:00:00:03,doorbell=mmio", "slot=3,type=rng,backend=cpu,rate=1M,registers=memory",
    "slot=4,type=net,backend=switch,mac=00:16:3e:00:00:01", "slot=5,type=net,backend=switch,mac=00:16:3e:00:00:02" ]')"
follow_console bad
wait_for 180 "the guest's result" console_says bad '^guest: RESULT'
sleep 1.5
# At once: the guest is about to end.
vdom stats bad >/run/stats
grep -E 'fault|errors|strays|reps|bad-acc|requests|resets|state' /run/stats
console_says bad '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console bad)" || echo no result)"
console_says bad '^guest: innocent: [1-9]' || fail "the honest disk did no work"
console_says bad '^guest: passing: [1-9]' || fail "the honest network devices did no work"

step "the driver domain has counted the same, and the honest devices have no fault"
all=0
for slot in $HOSTILE; do
    console_says bad "^guest: hostile $slot: [0-9]+ attacks, 0 failed" || fail "an attack had another effect than it should"
    broken=$(sed -n "s/^guest: hostile $slot: .* broken \([0-9]*\) times.*/\1/p" "$(console bad)")
    faults=$(counted "device-$slot-faults")
    echo "slot $slot: $faults faults"
    # Attacks that may go either way can break the device again and again.
    ((faults >= broken && broken >= 25)) || fail "slot $slot: $faults faults, broken $broken times"
    all=$((all + faults))
done
for slot in $HONEST; do
    assert_eq "$(counted "device-$slot-faults")" 0 "faults of slot $slot"
done
assert_eq "$(counted device-0-errors)" 0 "errors of the honest disk"
for name in tx-short tx-long tx-bad-offload tx-spoofed bad-commands; do
    echo "slot 2: $name $(counted "device-2-$name")"
    (($(counted "device-2-$name") > 0)) || fail "the hostile network device has no $name"
    assert_eq "$(counted "device-4-$name")" 0 "$name of an honest one"
done
assert_eq "$(counted state)" ready "state"
# What the guest took: less than there were pulses, if some came while one was waiting.
interrupts=$(sed -n 's/^guest: *[0-9]*: *\([0-9]*\) .*edge *virtio0.*/\1/p' "$(console bad)")
echo "edge-triggered: $interrupts interrupts taken, $(counted device-0-interrupts) raised"
((interrupts > 0 && interrupts <= $(counted device-0-interrupts))) || fail "no edge-triggered interrupts"
# How many kicks that saves is a matter of time; that it looks again after what it has found is not.
kicks=$(counted device-0-kicks) passes=$(counted device-0-passes)
echo "polled: $kicks kicks, $passes looks, $(counted device-0-requests) requests"
((2 * passes > 3 * kicks)) || fail "polled, and only $passes looks for $kicks kicks"
grep -a 'driver fault' "$(console bad-vd)" | head -n 12
lines=$(grep -ac 'driver fault' "$(console bad-vd)")
((lines < all)) || fail "$lines lines about $all faults: not limited"
echo "$all faults, $lines lines about them"
wait_for_end 20 bad
wait_for_end 20 bad-vd
expect_ok vdom destroy bad
assert_clean
