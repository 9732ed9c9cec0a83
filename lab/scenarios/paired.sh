# shellcheck shell=bash
# The paired guest: a PVH guest with a device for every doorbell and every interrupt that such a guest can have. It
# tests each, alone and all at once; a storm, writes that are no doorbell, and a hostile driver harm nothing.
# timeout: 300
# half: second

# shellcheck disable=SC2034 # for lib.sh
ASK_SECONDS=120

# settled NAME VALUE: a counter has got there; the driver domain publishes it when it is idle.
settled() { [[ $(counter paired "$1") == "$2" ]]; }

step "a PVH guest with eight devices"
rm -f "$(console paired)" "$(console paired-vd)"
expect_ok vdom create /root/examples/paired.cfg
wait_for 30 "the guest is ready" console_says paired '^paired: ready'
grep -a '^paired: up' "$(console paired)"
id=$(xl domid paired) driver=$(xl domid paired-vd)
for slot in 0 7; do
    assert_eq "$(xenstore-read "/local/domain/$id/device/virtio/$slot/state")" 4 "state of the front end"
    assert_eq "$(xenstore-read "/local/domain/$driver/backend/virtio/$id/$slot/state")" 4 "state of the back end"
done

step "each device: one request at a time, with one interrupt for each"
ask paired 8 selftest
wait_for 10 "the driver domain's counters" settled device-7-requests $(($(said_of paired 7 requests) + 1))
for slot in 0 1 2 3 4 5 6 7; do
    # The serial number is asked for without waiting for its interrupt: the guest may be too fast to want it.
    assert_eq $(($(counter paired "device-$slot-interrupts") + $(counter paired "device-$slot-suppressed"))) \
        $(($(said_of paired "$slot" interrupts) + 1)) "interrupts of slot $slot"
done
for slot in 2 3; do
    assert_eq "$(counter paired "device-$slot-payload")" "$(said_of paired "$slot" payload)" "what the port of slot $slot was written"
done
assert_eq "$(counter paired lines-raised)" 0 "interrupt lines"
# How many kicks polling saves is a matter of time; that a device looks again after what it has found is not.
for slot in 6 7; do
    kicks=$(counter paired "device-$slot-kicks") passes=$(counter paired "device-$slot-passes")
    echo "slot $slot, polled: $kicks kicks, $passes looks, $(said_of paired "$slot" requests) requests"
    ((2 * passes > 3 * kicks)) || fail "slot $slot: polled, and only $passes looks for $kicks kicks"
done

step "each device: all of the disk"
ask paired 8 data

step "writes that are no doorbell"
sleep 1.5
doorbells=$(counter paired doorbells) strays=$(counter paired strays)
ask paired 1 'unknown 0'
# Five writes and five reads, and the serial number, ring.
wait_for 10 "doorbells" settled doorbells $((doorbells + 11))
assert_eq "$(counter paired strays)" "$strays" "requests for nobody"

step "four CPUs at once"
ask paired 1 smp

step "storms of kicks"
for slot in 0 2 4; do
    ask paired 1 "storm $slot"
done

no_warnings

step "a hostile driver beside an honest one"
ask paired 1 'hostile 1'
assert_eq "$(counter paired state)" ready "state"
ask paired 1 'selftest 0'
ask paired 1 'selftest 1'

step "what a device does, event by event, in the driver domain's record"
type_at paired-vd 'trace on'
ask paired 1 'selftest 0'
type_at paired-vd queues
type_at paired-vd 'trace dump'
wait_for 20 "the end of the record" console_says paired-vd '^trace end, 0 older events lost'
# recorded WHAT: how many events.
recorded() { grep -ac "^trace [0-9.]* slot 0 $1" "$(console paired-vd)" || true; }
grep -a '^trace .* slot 0' "$(console paired-vd)" | tail -n 8
# The serial number is one request more, whose kick is not counted.
assert_eq "$(recorded 'kick 0')" $(($(said_of paired 0 kicks) + 1)) "kicks on record"
assert_eq "$(recorded 'ran 1 1')" $(($(said_of paired 0 interrupts) + 1)) "looks on record that found one request"
assert_eq "$(recorded 'write 0x064 0x1')" "$(recorded 'read 0x060 0x1')" "acknowledgements on record"
console_says paired-vd '^slot 0 queue 0: not in use, at most 256 entries' || fail "the queue is not shown"

step "the end"
type_at paired poweroff
wait_for_end 20 paired
wait_for_end 20 paired-vd
console_says paired '^paired: RESULT PASS' || fail "$(tail -n 3 "$(console paired)")"
expect_ok vdom destroy paired
assert_clean

step "the same devices in the last eight slots"
config=$(sed 's/^name = .*/name = "high"/' /root/examples/paired.cfg)
for slot in {0..7}; do
    config=${config/slot=$slot,/slot=$((slot + 24)),}
done
echo "$config" >/root/high.cfg
expect_ok vdom create /root/high.cfg
wait_for 30 "the guest is ready" console_says high '^paired: ready'
ask high 8 selftest
for slot in {24..31}; do
    assert_eq "$(said_of high "$slot" requests)" 200 "requests to slot $slot"
done
type_at high poweroff
wait_for_end 20 high
wait_for_end 20 high-vd
expect_ok vdom destroy high
assert_clean
