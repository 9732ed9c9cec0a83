# shellcheck shell=bash
# Disks that dom0 serves to the driver domain, and the driver domain to the guest: what the guest has synced is in the
# image, whatever happens to the driver domain; a back end that goes and comes back is waited for; a disk that grows,
# grows in the guest; a disk that stays away gives errors in the end.
# timeout: 150

DATA="format=raw,vdev=xvda,access=rw,target=/root/data.img"
LIBRARY="format=raw,vdev=xvdb,access=ro,target=/root/library.img"
SECTORS=131072

# The number of the last record that the guest has been told is safe.
last_record() {
    sed -n 's/^guest: record \([0-9]*\) on .*/\1/p' "$(console disks)" | tail -n 1
}

# has_records NUMBER
has_records() {
    (($(last_record) >= $1))
}

# what_guest_says STEP: the information of one of its steps.
what_guest_says() {
    sed -n "s/^guest: step $1 ok ([^)]*) *\([^ ]*\).*/\1/p" "$(console disks)"
}

# counted NAME: a counter, as in /run/stats.
counted() {
    awk -v name="$1" '$1 == name { print $2 }' /run/stats
}

# sum COUNT: of the first so many MiB of its input.
sum() {
    head -c "$(($1 << 20))" | sha256sum | cut -d ' ' -f 1
}

step "two images, and a guest with both and a disk in memory"
truncate -s $((SECTORS * 512)) /root/data.img
head -c 4M /dev/urandom >/root/library.img
expect_ok vdom --verbose create /root/examples/disks.cfg
xl list
follow_console disks
id=$(xl domid disks)
assert_eq "$(xenstore-list "/local/domain/$id/device" 2>/dev/null | grep -c vbd || true)" 0 "PV disks of the guest"

step "the guest uses all three"
wait_for 60 "the guest's result" console_says disks '^guest: RESULT'
console_says disks '^guest: RESULT PASS' || fail "$(grep -a -m 1 FAILED "$(console disks)")"
console_says disks "vda: $SECTORS sectors, serial \"DATA\", read-only 0, cache write back" || fail "vda is another disk"
console_says disks 'vdb: 8192 sectors, serial "LIBRARY", read-only 1' || fail "vdb is another disk"
assert_eq "$(what_guest_says readonly)" "$(sum 4 </root/library.img)" "what the guest reads of the read-only disk"

step "requests, as counted on both sides"
type_at disks-vd stats # Publishes them.
sleep 1
expect_ok vdom stats disks >/run/stats
read -r reads read writes written discards flushes < <(
    sed -n 's/^guest: stat *//p' "$(console disks)" | awk '{ print $1, $3, $5, $7, $12, $16 }'
)
assert_eq "$(counted device-0-reads)" "$reads" "reads"
assert_eq "$(counted device-0-bytes-read)" $((read * 512)) "bytes read"
# Linux counts a flush as a write without data, too.
assert_eq "$(counted device-0-writes)" $((writes - flushes)) "writes"
assert_eq "$(counted device-0-bytes-written)" $((written * 512)) "bytes written"
assert_eq "$(counted device-0-zeroings)" "$discards" "discards"
assert_eq "$(counted device-0-flushes)" "$flushes" "flushes"
type_at disks go
echo "$reads reads, $((writes - flushes)) writes, $discards discard, $flushes flush of the first disk: in the guest and here"

step "it writes records; the read-only disk is taken away, the other one grows"
wait_for 20 "records" has_records 3
expect_ok xl block-detach disks-vd xvdb
truncate -s +4M /root/data.img
losetup -c "$(losetup -a | sed -n 's|^\([^:]*\):.*/root/data.img.*|\1|p')"
wait_for 10 "the new size in the guest" console_says disks "^guest: record [0-9]+ on $((SECTORS + 8192)) sectors"

step "that one is taken away as well: the guest waits, and goes on where it was"
expect_ok xl block-detach disks-vd xvda
sleep 1 # What was finished before is on its way to the console.
before=$(last_record)
sleep 1.5
assert_eq "$(last_record)" "$before" "records without a disk"
expect_ok xl block-attach disks-vd "$DATA"
wait_for 20 "more records" has_records $((before + 3))
assert_eq "$(grep -ac 'record .* FAILED' "$(console disks)" || true)" 0 "records that failed"

step "its back end is gone without a word: it is connected again, and says if that has cost something"
before=$(last_record)
xenstore-write "$(xenstore-read "/local/domain/$(xl domid disks-vd)/device/vbd/51712/backend")/state" 6
wait_for 20 "more records" has_records $((before + 3))

step "the read-only disk has been away for too long: errors, until it is there again"
wait_for 25 "an error" console_says disks '^guest: library not readable: Input/output error'
expect_ok xl block-attach disks-vd "$LIBRARY"
wait_for 20 "no error" eval "tail -n +\$(grep -an 'library not readable' \"$(console disks)\" | tail -n 1 |
    cut -d : -f 1) \"$(console disks)\" | grep -aq 'library readable'"

step "what was counted"
type_at disks-vd stats # Publishes them.
sleep 1
expect_ok vdom stats disks >/run/stats
grep -E 'slot|device-[01]-' /run/stats
assert_eq "$(counted device-0-connections)" 3 "connections of the first disk"
assert_eq "$(counted device-1-connections)" 2 "connections of the second disk"
assert_eq "$(counted device-0-connections-lost)" 1 "connections that were lost"
assert_eq "$(counted device-0-errors)" "$(counted device-0-lost-flushes)" "errors, and flushes that failed for it"
assert_eq "$(counted device-0-config-interrupts)" 1 "interrupts for its new size"

step "the driver domain is destroyed in the middle of it: every record that the guest was told of is in the image"
expect_ok xl destroy disks-vd
last=$(last_record)
dd if=/root/data.img bs=4k skip=8192 count="$last" status=none | tr -d '\0' >/run/records
seq -f 'record %g' "$last" | cmp - /run/records || fail "a record is not in the image"
assert_eq "$(sum 8 </root/data.img)" "$(what_guest_says write)" "what the guest has written before"
echo "$last records, and 8 MiB before them"

step "taking everything away"
expect_ok xl destroy disks
expect_ok vdom destroy disks
show_console disks-vd
assert_clean
no_warnings 'disk xvdb has had no back end for too long|disk xvda: the connection was lost'
