# shellcheck shell=bash
# A guest reboots: it gets its devices back without anyone's help, from a new driver domain, and finds on its disk what it
# has written before. What vdom has left behind for that ends with the guest, and never leaves anything.
# timeout: 240
# half: second

REBOOTS=$(rounds 3)

free_memory() { xl info free_memory; }

supervisor() { cat /run/vdom/.phoenix.supervisor; }

# has_ended PID: whether the process is gone.
has_ended() { [[ ! -d /proc/$1 ]]; }

has_booted() { console_says phoenix "^guest: boot $1 ok"; }

ended_or_booted() { has_booted "$1" || console_says phoenix '^guest: (RESULT FAIL|.*FAILED)'; }

create() {
    truncate -s 8M /root/data.img
    expect_ok vdom create "$config"
}

step "a guest whose configuration says on_reboot=restart"
free=$(free_memory)
config=$(guest_config phoenix reboot 'on_reboot = "restart"' -vdom_ramdisk 'vdom_devices = [
    "type=blk,backend=vbd:xvda,serial=LASTING", "type=blk,backend=ram:8M,serial=RAM",
    "type=net,backend=switch,mac=00:16:3e:00:00:01", "type=net,backend=switch,mac=00:16:3e:00:00:02",
    "type=rng,backend=cpu,rate=1M" ]' 'vdom_disk = [ "format=raw,vdev=xvda,access=rw,target=/root/data.img" ]')
sed -i "s/vd.job=reboot/& vd.rounds=$REBOOTS/" "$config"
create
pid=$(supervisor)
[[ -d /proc/$pid ]] || fail "nobody supervises it"
# It needs neither the file nor the terminal that it was created from.
mv "$config" "$config.gone"

step "$REBOOTS reboots"
first=$(xl domid phoenix)
for ((boot = 0; boot <= REBOOTS; boot++)); do
    wait_for 90 "boot $boot" ended_or_booted "$boot"
    has_booted "$boot" || fail "$(grep -a -m 1 FAILED "$(console phoenix)")"
    id=$(xl domid phoenix 2>/dev/null || true)
    echo "$(date +%T) boot $boot: domain ${id:-(between two)}, free $(free_memory) MiB"
done
assert_eq "$(supervisor)" "$pid" "the supervisor"
id=$(xl domid phoenix)
((id >= first + 2 * REBOOTS)) || fail "domain $id after $REBOOTS reboots, $first before them: not a new pair each time"
assert_eq "$(counter phoenix state)" ready "state"
for slot in 0 1 2 3 4; do
    assert_eq "$(counter phoenix "device-$slot-faults")" 0 "faults of slot $slot"
done
wait_for 5 "no zombie" no_zombie
no_warnings
cat /var/log/xen/vdom-phoenix.log
assert_eq "$(grep -c 'restart [0-9]*$' /var/log/xen/vdom-phoenix.log)" "$REBOOTS" "restarts that were logged"

step "it powers off: that is the end of its supervisor too"
type_at phoenix poweroff
wait_for_end 20 phoenix
wait_for_end 20 phoenix-vd
wait_for 10 "the supervisor's end" has_ended "$pid"
expect_ok vdom destroy phoenix
assert_clean
has_all() { [[ $(free_memory) == "$free" ]]; }
wait_for 10 "Xen has all of its memory again ($free MiB; now $(free_memory))" has_all
echo "free memory of Xen: $free MiB, as before"

step "vdom destroy while it is being created again"
rm -f "$(console phoenix)"
mv "$config.gone" "$config"
sed -i 's/vd.rounds=[0-9]*/vd.rounds=0/' "$config"
create
pid=$(supervisor)
expect_fail 'another vdom supervises|a domain of this name' vdom create "$config"
wait_for 60 "the guest's result" console_says phoenix '^guest: RESULT PASS'
type_at phoenix reboot
restarting() { grep -q 'restart 1$' /var/log/xen/vdom-phoenix.log; }
: >/var/log/xen/vdom-phoenix.log
wait_for 20 "its restart" restarting
expect_ok vdom destroy phoenix
cat /var/log/xen/vdom-phoenix.log
has_ended "$pid" || fail "its supervisor lives"
assert_clean
