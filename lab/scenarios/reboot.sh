# shellcheck shell=bash
# A guest reboots: it gets its devices back without anyone's help, from a new driver domain, and finds on its disk what it
# has written before. What vdom has left behind for that ends with the guest, and never leaves anything.
# timeout: 240

# The stock guest takes ten times as long as the small one.
REBOOTS=$(rounds 5)
BOOTS=$((REBOOTS / 20 + 2))

free_memory() { xl info free_memory; }

supervisor() { cat /run/vdom/.phoenix.supervisor; }

# has_ended PID: whether the process is gone.
has_ended() { [[ ! -d /proc/$1 ]]; }

has_booted() { console_says phoenix "^guest: boot $1 ok"; }

ended_or_booted() { has_booted "$1" || console_says phoenix '^guest: (RESULT FAIL|.*FAILED)'; }

step "a guest whose configuration says on_reboot=restart"
free=$(free_memory)
config=$(guest_config phoenix reboot 'on_reboot = "restart"' -vdom_ramdisk 'vdom_devices = [
    "type=blk,backend=vbd:xvda,serial=LASTING", "type=blk,backend=ram:8M,serial=RAM",
    "type=net,backend=switch,mac=00:16:3e:00:00:01", "type=net,backend=switch,mac=00:16:3e:00:00:02",
    "type=rng,backend=cpu,rate=1M" ]' 'vdom_disk = [ "format=raw,vdev=xvda,access=rw,target=/root/data.img" ]')
sed -i "s/vd.job=reboot/& vd.rounds=$BOOTS/" "$config"
truncate -s 8M /root/data.img
expect_ok vdom create "$config"
pid=$(supervisor)
[[ -d /proc/$pid ]] || fail "nobody supervises it"
# It needs neither the file nor the terminal that it was created from.
mv "$config" "$config.gone"

step "$BOOTS reboots"
first=$(xl domid phoenix)
for ((boot = 0; boot <= BOOTS; boot++)); do
    wait_for 90 "boot $boot" ended_or_booted "$boot"
    has_booted "$boot" || fail "$(grep -a -m 1 FAILED "$(console phoenix)")"
    id=$(xl domid phoenix 2>/dev/null || true)
    echo "$(date +%T) boot $boot: domain ${id:-(between two)}, free $(free_memory) MiB"
done
assert_eq "$(supervisor)" "$pid" "the supervisor"
id=$(xl domid phoenix)
((id >= first + 2 * BOOTS)) || fail "domain $id after $BOOTS reboots, $first before them: not a new pair each time"
assert_eq "$(counter phoenix state)" ready "state"
for slot in 0 1 2 3 4; do
    assert_eq "$(counter phoenix "device-$slot-faults")" 0 "faults of slot $slot"
done
wait_for 5 "no zombie" no_zombie
no_warnings
cat /var/log/xen/vdom-phoenix.log
assert_eq "$(grep -c 'restart [0-9]*$' /var/log/xen/vdom-phoenix.log)" "$BOOTS" "restarts that were logged"

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

step "a guest that does nothing but test its disk and reboot, $REBOOTS times; then it is destroyed, wherever it is"
rm -f "$(console again)"
again=/root/again.cfg
sed -e 's/^name = .*/name = "again"/' -e 's/run=console/run=selftest reboot=1/' -e 's/on_reboot = .*/on_reboot = "restart"/' \
    -e '/"slot=[1-7]/d' /root/examples/paired.cfg >"$again"
: >/var/log/xen/vdom-again.log
# A guest that ends so soon would have to wait longer and longer.
expect_ok env VDOM_RESTART_GAP=2 vdom create "$again"
pid=$(cat /run/vdom/.again.supervisor)
expect_fail 'another vdom creates|a domain of this name' vdom create "$again"
has_restarted() { [[ $(grep -c 'restart [0-9]*$' /var/log/xen/vdom-again.log) -ge $1 ]]; }
restarted_or_failed() { has_restarted "$REBOOTS" || console_says again FAIL; }
wait_for $((60 + 15 * REBOOTS)) "$REBOOTS restarts" restarted_or_failed

step "its supervisor is killed: the guest stays shut down, until another one comes"
killed=$pid
lives() { grep -c '^again .* runs with' /var/log/xen/vdom-again.log; }
before=$(lives)
# Not in the middle of a creation.
wait_for 30 "the beginning of a life" eval "((\$(lives) > $before))"
kill -9 "$killed"
is_shut_down() { xl list | awk '$1 == "again" { print $5 }' | grep -q '^---s'; }
wait_for 30 "the end of a life" is_shut_down
expect_ok env VDOM_RESTART_GAP=2 vdom supervise "$again"
expect_fail 'another vdom' vdom supervise "$again"
pid=$(cat /run/vdom/.again.supervisor)
wait_for 60 "more restarts" has_restarted $(($(grep -c 'restart [0-9]*$' /var/log/xen/vdom-again.log) + 2))
expect_ok vdom destroy again
tail -n 12 /var/log/xen/vdom-again.log
has_ended "$pid" || fail "its supervisor lives"
has_ended "$killed" || fail "the first supervisor lives"
(($(grep -ac '^paired: RESULT PASS' "$(console again)") >= REBOOTS)) || fail "$(tail -n 3 "$(console again)")"
console_says again FAIL && fail "$(grep -am 1 FAIL "$(console again)")"
assert_clean
wait_for 10 "Xen has all of its memory again ($free MiB; now $(free_memory))" has_all

step "its supervisor is killed, and its id given to another process: that is seen, and no harm"
sed -i 's/run=selftest reboot=1/run=console/' "$again"
expect_ok vdom create "$again"
assert_eq "$(stat -c %a /run/vdom/again/restarts)" 600 "who may read the guest's files"
vdom list | grep -q unsupervised && fail "it is supervised"
kill -9 "$(cat /run/vdom/.again.supervisor)"
sleep 600 &
innocent=$!
echo "$innocent" >/run/vdom/.again.supervisor
vdom list | grep -q ',unsupervised ' || fail "$(vdom list)"
expect_ok vdom destroy again
has_ended "$innocent" && fail "an innocent process was ended"
kill "$innocent"
assert_clean
wait_for 10 "Xen has all of its memory again ($free MiB; now $(free_memory))" has_all
