# shellcheck shell=bash
# A guest with as many devices as there are slots: disks of every kind, network devices, entropy devices, consoles, the first
# sixteen with lines of their own, level- and edge-triggered. A disk of QEMU's has the line of slot 16. All disks are used at
# once, and what that costs each is counted. The last device comes late, and another driver domain takes over all of them.
# timeout: 300

# disks SLOT...: a disk in each of these slots, as it is by default.
disks() {
    local slot
    for slot; do
        printf '"slot=%d,type=blk,backend=ram:1M,serial=S%d", ' "$slot" "$slot"
    done
}

# all: how often the guest has used all disks.
all() {
    grep -ac '^guest: step disks \(ok\|FAILED\)' "$(console many)" || true
}

# everything_again: the guest uses all disks once more.
everything_again() {
    local before
    before=$(all)
    type_at many again
    wait_for 60 "all disks again" eval "((\$(all) > $before))"
    console_says many FAILED && fail "$(grep -am 1 FAILED "$(console many)")"
    # More than once, so that none is left that was published before.
    type_at many-vd stats
    sleep 2
}

# snapshot FILE: what was counted of each device.
snapshot() {
    vdom stats many >"$1"
}

# of FILE SLOT NAME
of() {
    awk -v name="device-$2-$3" '$1 == name { print $2 }' "$1"
}

step "a guest with 31 devices, and a disk of QEMU's"
truncate -s 1M /run/qemu.img
# QEMU's disk has no messages for interrupts, so that it uses its line; and it is not taken away by PV drivers.
cmdline="$(sed -n 's/^cmdline = "\(.*\)pci=noearly.*/\1/p' /root/examples/guest.cfg)"
cmdline+="pci=noearly,nomsi xen_emul_unplug=unnecessary vd.devices=31 vd.job=many"
start_guest many many "cmdline = \"$cmdline\"" -vdom_ramdisk 'vdom_reserve = 4' \
    'device_model_args_hvm = [ "-drive", "file=/run/qemu.img,if=none,id=q,format=raw", "-device",
        "virtio-blk-pci,drive=q,serial=qemu,addr=0xf" ]' "vdom_devices = [ $(disks 0 {9..17} {23..30})
    \"slot=1,type=blk,backend=ram:1M,serial=S1,registers=memory\", \"slot=2,type=blk,backend=ram:1M,serial=S2,interrupt=edge,doorbell=mmio\",
    \"slot=3,type=blk,backend=ram:1M,serial=S3,interrupt=intx\", \"slot=4,type=rng,backend=cpu,rate=1M\",
    \"slot=5,type=net,backend=switch,mac=00:16:3e:00:00:05,interrupt=edge\", \"slot=6,type=net,backend=switch,mac=00:16:3e:00:00:06\",
    \"slot=7,type=console,backend=console\", \"slot=8,type=blk,backend=ram:1M,serial=S8,doorbell=polled\",
    \"slot=18,type=net,backend=switch,mac=00:16:3e:00:00:18\", \"slot=19,type=net,backend=switch,mac=00:16:3e:00:00:19\",
    \"slot=20,type=rng,backend=cpu,rate=1M\", \"slot=21,type=console,backend=console\",
    \"slot=22,type=blk,backend=ram:1M,serial=S22,doorbell=polled\" ]"
grep -a '^guest: ' "$(console many)"
console_says many '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console many)")"
console_says many 'IO-APIC +45-fasteoi +virtio[0-9]+, virtio[0-9]+' || fail "QEMU's disk and slot 16 do not share a line"
assert_eq "$(grep -ac 'IO-APIC .*-fasteoi ' "$(console many)")" 19 "level-triggered lines"
assert_eq "$(grep -ac 'IO-APIC .*-edge ' "$(console many)")" 12 "edge-triggered lines"

step "what is only for the first sixteen slots"
for item in interrupt=edge doorbell=posted registers=memory; do
    expect_fail "slots 0 to 15" vdom device-attach many "slot=31,type=blk,backend=ram:1M,serial=S31,$item"
done

step "eight requests to each disk, all at the same time: each has eight, and consoles have none"
type_at many-vd stats
sleep 2
snapshot /run/before
everything_again
snapshot /run/after
for slot in {0..30}; do
    requests=$(($(of /run/after "$slot" requests) - $(of /run/before "$slot" requests)))
    interrupts=$(($(of /run/after "$slot" interrupts) - $(of /run/before "$slot" interrupts)))
    case $slot in
        7 | 21) assert_eq "$requests $interrupts" "0 0" "requests to slot $slot, and interrupts" ;;
        # Linux asks for random numbers, and its networks are up.
        4 | 5 | 6 | 18 | 19 | 20) ;;
        *)
            assert_eq "$requests" 8 "requests to slot $slot"
            ((interrupts >= 1 && interrupts <= 8)) || fail "slot $slot: $interrupts interrupts"
            ;;
    esac
    for name in faults failures bad-accesses refusals; do
        assert_eq "$(of /run/after "$slot" $name)" 0 "$name of slot $slot"
    done
done

step "the last device comes late, and another driver domain takes over all of them"
expect_ok vdom device-attach many slot=31,type=blk,backend=ram:1M,serial=S31
nodes=/local/domain/$(xl domid many-vd)/backend/virtio/$(xl domid many)
assert_eq "$(xenstore-read "$nodes"/{16,31}/{base,irq} | tr '\n' ' ')" "0xfea10000 45 0xfea1f000 16 " "base and irq"
type_at many 'take 31 S31'
wait_for 20 "the guest takes it" console_says many '^guest: step take ok'
everything_again
driver=$(xl domid many-vd)
expect_ok vdom restart many
is_another many "$driver" || fail "the driver domain is the same"
everything_again
snapshot /run/after
for slot in {0..3} {8..17} {22..31}; do
    assert_eq "$(of /run/after "$slot" requests)" 8 "requests to slot $slot"
done
grep -E '^(heap-bytes|free-bytes|allocations-in-passes|slot 31)' /run/after
xenstore-ls "/local/domain/$(xl domid many-vd)" | wc -l

step "the end"
type_at many end
wait_for_end 20 many
wait_for_end 20 many-vd
tail -n 40 "$(console many-vd)"
expect_ok vdom destroy many
assert_clean
no_warnings
