# shellcheck shell=bash
# The driver domain of a running guest crashes, by an NMI and by a panic, in the middle of its guest's I/O: the guest's
# supervisor lets another one take its place, which does again what was under way. Nothing that the guest was told to be
# safe is lost, on a disk of dom0's or in memory, and no request fails.
# timeout: 150
# half: second

step "a guest with a supervisor, a disk of dom0's, one in memory, and two network devices"
truncate -s 32M /root/data.img
rm -f /var/log/xen/vdom-heir.log
start_guest heir restart 'cpu_weight = 64' 'on_reboot = "restart"' -vdom_ramdisk 'vdom_devices = [
    "type=blk,backend=vbd:xvda,serial=DATA", "type=blk,backend=ram:32M,serial=MEMORY,registers=memory",
    "type=net,backend=switch,mac=00:16:3e:00:00:01", "type=net,backend=switch,mac=00:16:3e:00:00:02,registers=memory",
    "type=rng,backend=cpu,rate=1M" ]' \
    'vdom_disk = [ "format=raw,vdev=xvda,access=rw,target=/root/data.img" ]'
follow_console heir
wait_for 30 "records" has_records heir 2 2

for way in "xl trigger heir-vd nmi" "type_at heir-vd panic"; do
    step "$way"
    id=$(xl domid heir-vd)
    $way
    wait_for 30 "another driver domain" is_another heir "$id"
    tail -n 2 /var/log/xen/vdom-heir.log
    records_go_on heir
done
vdom list
wait_for 10 "the crashed ones are gone" eval "((\$(xl list | grep -c heir) == 2))"
assert_eq "$(grep -c 'which has crashed: it was paused for [0-9]* ms' /var/log/xen/vdom-heir.log)" 2 "replacements that were logged"

step "the guest reads everything again"
type_at heir go
wait_for 60 "the guest's result" console_says heir '^guest: RESULT'
console_says heir '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console heir)")"
expect_ok vdom destroy heir
assert_clean
no_warnings 'PANIC|asked for at the console|NMI'
