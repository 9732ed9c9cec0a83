# shellcheck shell=bash
# The driver domain of a running guest is replaced by another one, twice or --rounds times, while the guest writes to a disk
# of dom0's and to one in memory, syncs, verifies, and talks over the network: nothing is lost, no request fails. A new one
# that does not boot, or cannot serve, leaves the old one serving.
# timeout: 150
# half: second

IMAGE=/usr/lib/virtio-domain/virtio-domain

step "a guest with a disk of dom0's, one in memory, and two network devices"
truncate -s 32M /root/data.img
start_guest moved restart 'cpu_weight = 64' -vdom_ramdisk 'vdom_devices = [
    "type=blk,backend=vbd:xvda,serial=DATA", "type=blk,backend=ram:32M,serial=MEMORY,registers=memory",
    "type=net,backend=switch,mac=00:16:3e:00:00:01", "type=net,backend=switch,mac=00:16:3e:00:00:02,registers=memory",
    "type=rng,backend=cpu,rate=1M", "type=console,backend=console,ports=data" ]' \
    'vdom_disk = [ "format=raw,vdev=xvda,access=rw,target=/root/data.img" ]'
follow_console moved
first=$(xl domid moved-vd)
wait_for 30 "records" has_records moved 2 2

# Of two, one has a higher and one a lower number for its ioreq server than who leaves.
step "another driver domain takes over, more than once; the last one is of another version"
sed 's/0\.1\.0/0.1.1/g' "$IMAGE" >/root/other
take_overs=$(rounds 2)
for ((n = 1; n < take_overs; n++)); do
    expect_ok vdom --verbose restart moved
    records_go_on moved
done
expect_ok vdom --verbose restart --image /root/other moved
records_go_on moved
console_says moved-vd.new '^(\[ *[0-9.]*\] )?virtio-domain 0\.1\.1' || fail "it is not of another version"
second=$(xl domid moved-vd)
((second >= first + take_overs)) || fail "domain $second after $first: not another one"
vdom list
assert_eq "$(counter moved state)" ready "state"
wait_for 10 "the old ones are gone" eval "((\$(xl list | grep -c moved) == 2))"
wait_for 5 "no zombie" no_zombie

step "an image that does not boot: the old one goes on"
head -c 100000 "$IMAGE" >/root/broken
printf '\0\0' | dd of=/root/broken bs=1 seek=24 conv=notrunc status=none
expect_fail 'moved-vd.new: ' vdom restart --timeout 1 --image /root/broken moved
assert_eq "$(xl domid moved-vd)" "$second" "the driver domain"
domain_exists moved-vd.new && fail "the new one is left"

step "one that dies when it has the disk already: the old one gets it back"
has_disk() { xenstore-read "/local/domain/$(xl domid moved-vd.new)/device/vbd/51712/backend"; }
vdom restart moved >/run/restart.log 2>&1 &
restart=$!
wait_for 20 "the disk is the new one's" has_disk
expect_ok xl destroy moved-vd.new
wait "$restart" && fail "it succeeded"
cat /run/restart.log
grep -q 'serves it as before' /run/restart.log || fail "it did not say who serves"
records_go_on moved

step "the guest reads everything again"
type_at moved go
wait_for 60 "the guest's result" console_says moved '^guest: RESULT'
console_says moved '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console moved)")"
expect_ok vdom destroy moved
assert_clean
no_warnings
