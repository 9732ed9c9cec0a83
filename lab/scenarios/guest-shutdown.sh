# shellcheck shell=bash
# The toolstack's own commands on both domains: xl list, xl console, xl shutdown; a second disk that is read-only; random numbers.
# timeout: 120
# half: second

step "a guest with two disks and an entropy device"
start_guest two idle 'vdom_devices = [ "type=blk,backend=module,serial=FIRST", "slot=7,type=blk,backend=ram:4M,serial=SECOND,readonly=1,block-size=4096,packed=0,queue-size=1024", "type=rng,backend=cpu,rate=16K" ]'
console_says two 'disk vda: 32768 sectors, serial "FIRST", blocks of 512, read-only 0, packed 1, queues of 256' || fail "vda is not as described"
console_says two 'disk vdb: 8192 sectors, serial "SECOND", blocks of 4096, read-only 1, packed 0, queues of 1024' || fail "vdb is not as described"
console_says two 'rng: virtio_rng.[0-9]+, 8192 bytes, 1024 different words' || fail "no random numbers"
xl list
expect_ok vdom list
assert_eq "$(xl list two-vd | awk 'NR == 2 { print $3 }')" 36 "MiB of the driver domain: 16 and its disks"

step "its console takes commands"
for command in help devices queues stats 'log debug' nonsense; do
    type_at two-vd "$command"
done
wait_for 5 "an answer" console_says two-vd 'not understood'
show_console two-vd
console_says two-vd '^guest: domain' || fail "no list of devices"
console_says two-vd '^slot 0 queue 0: 256 of 256 entries, packed, 0 in flight' || fail "the first disk's queue is not shown"
console_says two-vd '^slot 7 queue 0: 1024 of 1024 entries, split, 0 in flight' || fail "the second disk's queue is not shown"
timeout 2 xl console two-vd </dev/null | head -n 3 || true

step "xl shutdown of the driver domain in the middle of I/O: it releases its guest, which goes on without its disks"
type_at two busy
is_busy() { (($(counter two device-0-requests) > 200)); }
wait_for 20 "I/O" is_busy
expect_ok xl shutdown two-vd
wait_for_end 20 two-vd
grep -a 'served: \|answered, server' "$(console two-vd)"
console_says two-vd 'requests answered, server destroyed' || fail "it did not say that it let the guest go"
console_says two-vd 'stopping: the toolstack asks for poweroff' || fail "it did not say why it stopped"
console_says two-vd 'state: stopped' || fail "it did not stop in order"

step "xl shutdown of the guest"
expect_ok xl shutdown -F two
wait_for_end 30 two
no_warnings
expect_ok vdom destroy two
assert_clean
