# shellcheck shell=bash
# The main job: a guest with a stock kernel gets a disk from a driver domain, tests it, and powers off; then everything
# is taken away and nothing is left.
# timeout: 240

step "the image: $(stat -c %s /usr/lib/virtio-domain/virtio-domain) bytes, stripped"
step "a disk image of 128 MiB, and a guest with its driver domain"
truncate -s 128M /root/disk.img
expect_ok vdom --verbose create /root/examples/guest.cfg
xl list
follow_console guest

step "no emulated and no PV disk: what QEMU and xenstore know of the guest"
id=$(xl domid guest)
qemu=$(tr '\0' ' ' <"/proc/$(pgrep -f "qemu-system.*-xen-domid $id " | head -n 1)/cmdline")
printf '%s\n' "$qemu" | fold -sw 110
[[ $qemu != *-drive* && $qemu != *-blockdev* ]] || fail "QEMU has a disk of the guest"
assert_eq "$(xenstore-list "/local/domain/$id/device" 2>/dev/null | grep -c vbd || true)" 0 "PV disks"

step "the guest tests its disk"
wait_for 150 "the guest's result" console_says guest '^guest: RESULT'
sleep 1.5 # An idle driver domain publishes its counters twice a second.
expect_ok vdom stats guest
console_says guest '^guest: RESULT PASS' ||
    fail "$(grep -a -m 1 'FAILED' "$(console guest)" || echo 'guest: RESULT FAIL')"

step "who has done the work: kicks and interrupts, as counted on both sides"
interrupts=$(sed -n 's/^guest: *[0-9]*: *\([0-9]*\) .*virtio0.*/\1/p' "$(console guest)")
raised=$(counter guest lines-raised)
# An edge that comes while the guest still handles the one before is one interrupt with it.
((interrupts > 100 && interrupts <= raised)) || fail "$raised interrupts raised, $interrupts taken"
kicks=$(counter guest device-0-kicks)
assert_eq "$(counter guest posted-doorbells)" "$kicks" "kicks, and doorbells taken from the ring in its handler"
# Acknowledgements, and the driver's set-up.
(($(counter guest posted-writes) >= interrupts)) || fail "only $(counter guest posted-writes) other writes were posted"
assert_eq "$(counter guest doorbells) $(counter guest register-writes)" "0 0" "writes that somebody waited for"
sum=0
for kind in doorbells register-reads register-writes reps invalidates strays; do
    sum=$((sum + $(counter guest "$kind")))
done
assert_eq "$(counter guest answered)" "$sum" "requests answered, and requests of all kinds"
requests=$(counter guest device-0-requests)
((requests >= 10000)) || fail "only $requests requests"
echo "$requests requests; guest: $interrupts interrupts; driver domain: $kicks doorbells taken in its interrupt handler," \
    "$raised interrupts raised, $(counter guest register-reads) register reads that the guest waited for. QEMU had no request"

step "the guest powers off; the driver domain notices, and ends"
wait_for_end 20 guest
wait_for_end 20 guest-vd
show_console guest-vd
no_warnings

step "taking everything away"
expect_ok vdom destroy guest
assert_clean
