# shellcheck shell=bash
# Drivers of all kinds of devices are unbound and bound, and their modules unloaded and loaded, many times, with verified
# data in between. Then the driver domain holds no more memory than before, and when all are gone Xen has what it had.
# timeout: 240

ROUNDS=$(rounds 3)

# snapshot FILE: what the driver domain has in use now.
snapshot() {
    type_at loops-vd stats
    sleep 1
    vdom stats loops >"$1"
}

# of FILE NAME: a counter.
of() {
    awk -v name="$2" '$1 == name { print $2 }' "$1"
}

free_memory() { xl info free_memory; }

# names FILE: of all counters.
names() {
    cut -d ' ' -f 1 "$1" | sort
}

# grants: how many grants of memory Xen knows that are in use, of all domains.
grants() {
    xl debug-keys g
    sleep 0.5
    xl dmesg | tac | sed -n "/key 'g' pressed/q; p" | grep -c '(XEN) \[0x' || true
}

step "a guest with two disks, two network devices and an entropy device"
free=$(free_memory)
truncate -s 8M /root/disk.img /root/data.img
config=$(guest_config loops loops 'vdom_devices = [ "type=blk,backend=module,serial=RAM", "type=blk,backend=vbd:xvda,serial=LASTING",
    "type=net,backend=switch,mac=00:16:3e:00:00:01", "type=net,backend=switch,mac=00:16:3e:00:00:02",
    "type=rng,backend=cpu,rate=1M" ]' 'vdom_disk = [ "format=raw,vdev=xvda,access=rw,target=/root/data.img" ]')
sed -i "s/vd.job=loops/& vd.rounds=$ROUNDS/" "$config"
expect_ok vdom create "$config"
follow_console loops
wait_for 60 "every loop once" console_says loops '^guest: once'
snapshot /run/before
grants_before=$(grants)
type_at loops go

step "$ROUNDS times each: drivers, transports, drivers' modules, the transport's module"
wait_for $((20 + 10 * ROUNDS)) "the loops" console_says loops '^guest: done'
snapshot /run/after
grants_after=$(grants)
type_at loops end
wait_for 20 "the guest's result" console_says loops '^guest: RESULT'
console_says loops '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console loops)")"
for kind in driver transport module transport_module; do
    console_says loops "step $kind ok .* $ROUNDS times, .*: 2 disks, 2 network devices, random numbers yes" ||
        fail "$kind: something was not used"
done

step "what was counted"
grep -E 'faults|failures|errors|bad-acc|resets|connections|frames-|heap|free' /run/after
for slot in 0 1 2 3 4; do
    # Each time that a device is given back its driver resets it, and once more before that.
    resets=$(($(of /run/after "device-$slot-resets") - $(of /run/before "device-$slot-resets")))
    ((resets >= 4 * ROUNDS)) || fail "slot $slot: $resets resets"
    for name in faults failures bad-accesses refusals; do
        assert_eq "$(of /run/after "device-$slot-$name")" 0 "$name of slot $slot"
    done
done

step "what the driver domain holds: as much as before"
for name in heap-bytes free-bytes; do
    echo "$name: $(of /run/before $name), then $(of /run/after $name)"
done
assert_eq "$(of /run/after free-bytes)" "$(of /run/before free-bytes)" "free memory after the loops"
# It remembers the name of each counter that it has published: a hypercall that was made for the first time has a new one.
new=$(comm -13 <(names /run/before) <(names /run/after))
echo "new counters: ${new:-none}"
[[ -z $(sed '/^hypercall-[0-9]*$/d' <<<"$new") ]] || fail "counters that should have been there before: $new"
assert_eq "$(of /run/after heap-bytes)" $(($(of /run/before heap-bytes) + 16 * $(wc -w <<<"$new"))) "heap after the loops"
echo "grants in use: $grants_before, then $grants_after"
assert_eq "$grants_after" "$grants_before" "grants in use after the loops"
mapped=$(($(of /run/after frames-mapped) - $(of /run/after frames-unmapped)))
((mapped <= 65536)) || fail "$mapped frames of a guest with 65536 are mapped"

step "the end"
wait_for_end 20 loops
wait_for_end 20 loops-vd
tail -n 12 "$(console loops-vd)"
no_warnings
expect_ok vdom destroy loops
assert_clean
# Xen scrubs what a domain had before it is free.
has_all() { [[ $(free_memory) == "$free" ]]; }
wait_for 10 "Xen has all of its memory again ($free MiB; now $(free_memory))" has_all
echo "free memory of Xen: $free MiB, as before"
