# shellcheck shell=bash
# What a toolstack does to a running guest while it uses its disk: pause, balloon, save, migrate, suspend; then the
# guest crashes and is kept. All along it compares what it reads with what it has written.
# timeout: 150

last_round() { grep -ac '^guest: round .* verified' "$(console life)" || true; }

has_rounds() { (($(last_round) >= $1)); }

# goes_on WHAT: two more rounds are verified, so that one of them began afterwards.
goes_on() {
    wait_for 20 "verified rounds after $1" has_rounds $(($(last_round) + 2))
    console_says life '^guest: RESULT FAIL' && fail "$1: $(tail -n 5 "$(console life)")"
    echo "after $1: round $(last_round) verified"
}

state_of() { xl list "$1" | awk 'NR == 2 { print $5 }'; }

has_mib() { [[ $(xl list life | awk 'NR == 2 { print $3 }') == "$1" ]]; }

step "a guest that is busy with a disk of dom0's"
truncate -s 16M /root/data.img
config=$(guest_config life life 'on_crash = "preserve"' -vdom_ramdisk \
    'vdom_devices = [ "type=blk,backend=vbd:xvda,serial=LIFE" ]' \
    'vdom_disk = [ "format=raw,vdev=xvda,access=rw,target=/root/data.img" ]')
# Without that word, a Linux of today ends a crash with a reboot where it runs in an HVM domain.
sed -i 's/vd.job=life/& xen_legacy_crash/' "$config"
expect_ok vdom create "$config"
wait_for 60 "life is ready" console_says life '^guest: ready'
goes_on "its start"

step "it is paused in the middle of its I/O: nothing is done for it, and nothing is lost"
expect_ok xl pause life
[[ $(state_of life) == --p--- ]] || fail "it is not paused: $(state_of life)"
sleep 2
requests=$(counter life device-0-requests) rounds=$(last_round)
sleep 2
assert_eq "$(counter life device-0-requests)" "$requests" "requests of a paused guest"
assert_eq "$(last_round)" "$rounds" "rounds of a paused guest"
expect_ok xl unpause life
goes_on "the pause"

step "it balloons down and up"
sleep 1
invalidates=$(counter life invalidates) unmapped=$(counter life frames-unmapped)
expect_ok xl mem-set life 200
wait_for 20 "200 MiB" has_mib 199
goes_on "ballooning down"
sleep 1
echo "INVALIDATE $(counter life invalidates) times ($invalidates before), $(counter life frames-unmapped) frames unmapped ($unmapped before)"
(($(counter life invalidates) > invalidates)) || fail "no INVALIDATE"
(($(counter life frames-unmapped) > unmapped)) || fail "nothing was unmapped"
expect_ok xl mem-set life 256
wait_for 20 "256 MiB" has_mib 255
goes_on "ballooning up"

step "it is not saved, migrated or suspended, and goes on"
expect_fail 'failed to bind suspend event channel' xl save life /root/saved
expect_fail 'failed to bind suspend event channel.*Migration failed, resuming at sender' \
    xl migrate -s "" life "xl migrate-receive"
# What xl makes of the migration where it was to go.
xl destroy life--incoming 2>/dev/null || true
# xl suspend fails, and its exit status does not say so.
said=$(xl suspend life 2>&1 || true)
[[ $said == *"failed to bind suspend event channel"* ]] || fail "xl suspend said: $said"
[[ $(state_of life) != *s* ]] || fail "it is suspended: $(state_of life)"
goes_on "all that"
assert_eq "$(counter life state)" ready "state"
for count in faults failures resets; do
    # A driver resets its device once, when it starts.
    expected=0
    [[ $count != resets ]] || expected=1
    assert_eq "$(counter life device-0-$count)" "$expected" "$count"
done
assert_eq "$(counter life events-refused)" 0 "events that Xen refused"

step "its kernel crashes, and it is kept: so is its driver domain"
type_at life crash
is_crashed() { [[ $(state_of life) == *c* ]]; }
wait_for 20 "the crash" is_crashed
sleep 2
xl list
expect_ok domain_exists life-vd
vdom list
assert_eq "$(counter life state)" ready "state"
mapped=$(counter life frames-mapped)
expect_ok vdom destroy life
console_says life-vd 'stopping: the guest is gone' || fail "the driver domain did not notice"
echo "frames mapped at the crash: $mapped"
wait_for 10 "no zombie" no_zombie
no_warnings
assert_clean
