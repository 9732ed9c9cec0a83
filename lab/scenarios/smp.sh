# shellcheck shell=bash
# A guest with two vCPUs, which use a disk at once, each with a queue of its own; then all kinds of devices from each of
# them, and their drivers go and come back. Dom0's back end serves one of the disks over two rings. Such guests crash now
# and then in this test bed (nested SVM without KVM: triple faults, also without any driver domain), so that a crash of the
# guest alone is tried again.
# timeout: 560

# crashed ID: Xen says that the guest's CPU, not the driver domain, broke, or the guest's kernel says it.
crashed() {
    xl dmesg | grep -aqE "d$1v[0-9]+.*(Triple fault|triple fault)|Domain $1 .*crash" || panicked
}

panicked() { console_says smp 'Kernel panic'; }

# used_rings: how many rings of dom0's back end have had requests.
used_rings() { awk '/blkif-backend/ && $2 > 0 { rings++ } END { print rings + 0 }' /proc/interrupts; }

# counted NAME: a counter, as in /run/stats.
counted() {
    awk -v name="$1" '$1 == name { print $2 }' /run/stats
}

ended() { console_says smp '^guest: RESULT' || panicked || domain_is_gone smp; }

step "a guest with two vCPUs"
echo 2 >/sys/module/xen_blkback/parameters/max_queues
for attempt in 1 2 3 4; do
    truncate -s 16M /root/disk.img /root/data.img
    rm -f "$(console smp)" "$(console smp-vd)"
    expect_ok vdom create "$(guest_config smp smp 'vcpus = 2' 'vdom_devices = [
        "type=blk,backend=module,serial=VDOM0,queues=2", "type=blk,backend=vbd:xvda,serial=LASTING,queues=2",
        "type=net,backend=switch,mac=00:16:3e:00:00:01,queues=2", "type=net,backend=switch,mac=00:16:3e:00:00:02,queues=2",
        "type=rng,backend=cpu,rate=1M" ]' 'vdom_disk = [ "format=raw,vdev=xvda,access=rw,target=/root/data.img" ]')"
    id=$(xl domid smp)
    wait_for 130 "the guest's result" ended
    used_rings >/run/rings
    if ! console_says smp '^guest: RESULT' && crashed "$id"; then
        echo "attempt $attempt: the guest's CPU crashed; xl dmesg:"
        xl dmesg | grep -a "d${id}v" | tail -n 5 || true
        panicked && xl destroy smp
        wait_for_end 20 smp-vd
        vdom destroy smp
        continue
    fi
    grep -a '^guest:' "$(console smp)"
    console_says smp '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console smp)" || echo no result)"
    sleep 1.5
    # At once: the guest is about to end.
    vdom stats smp >/run/stats
    ((2 * 256 * 2 <= $(counted device-0-requests))) || fail "too few requests"
    console_says smp-vd 'attached, 2 vCPUs' || fail "not two vCPUs"
    console_says smp 'step use ok .* on 2 CPU.* 2 disks, 2 network devices, random numbers yes' || fail "not all was used"
    for slot in 2 3; do
        (($(counted "device-$slot-commands") >= 3)) || fail "slot $slot: the driver has not said how many queues it uses"
    done
    console_says smp-vd 'disk xvda is served by domain 0, 2 ring' || fail "not two rings"
    assert_eq "$(cat /run/rings)" 2 "rings of dom0's back end that had requests"
    wait_for_end 20 smp
    wait_for_end 20 smp-vd
    no_warnings
    expect_ok vdom destroy smp
    assert_clean
    exit 0
done
fail "the guest's CPU crashed four times"
