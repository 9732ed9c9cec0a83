# shellcheck shell=bash
# A guest with two vCPUs, which use the disk at once, each with a queue of its own. Such guests crash now and then in this test bed (nested
# SVM without KVM: triple faults, also without any driver domain), so that a crash of the guest alone is tried again.
# timeout: 420

# crashed: Xen says that the guest's CPU, not the driver domain, broke.
crashed() {
    xl dmesg | grep -aqE "d$1v[0-9]+.*(Triple fault|triple fault)|Domain $1 .*crash"
}

ended() { console_says smp '^guest: RESULT' || domain_is_gone smp; }

step "a guest with two vCPUs"
for attempt in 1 2 3; do
    truncate -s 16M /root/disk.img
    rm -f "$(console smp)" "$(console smp-vd)"
    expect_ok vdom create "$(guest_config smp smp 'vcpus = 2' 'vdom_devices = [ "type=blk,backend=module,serial=VDOM0,queues=2" ]')"
    id=$(xl domid smp)
    wait_for 130 "the guest's result" ended
    if ! console_says smp '^guest: RESULT' && crashed "$id"; then
        echo "attempt $attempt: the guest's CPU crashed; xl dmesg:"
        xl dmesg | grep -a "d${id}v" | tail -n 5
        wait_for_end 20 smp-vd
        vdom destroy smp
        continue
    fi
    grep -a '^guest:' "$(console smp)"
    console_says smp '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console smp)" || echo no result)"
    sleep 1.5
    ((2 * 256 * 2 <= $(counter smp device-0-requests))) || fail "too few requests"
    console_says smp-vd 'attached, 2 vCPUs' || fail "not two vCPUs"
    wait_for_end 20 smp
    wait_for_end 20 smp-vd
    no_warnings
    expect_ok vdom destroy smp
    assert_clean
    exit 0
done
fail "the guest's CPU crashed three times"
