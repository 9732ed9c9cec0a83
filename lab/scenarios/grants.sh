# shellcheck shell=bash
# Memory by grant: a paired guest lends its rings and buffers page by page. Its disks work, the driver domain maps nothing
# but rings, and keeps no page when a disk has been reset or the guest has gone; what was not granted breaks one disk. One
# of the disks is dom0's: there what the guest grants goes through pages that the driver domain grants in its turn.
# timeout: 120
# half: second

# shellcheck disable=SC2034 # for lib.sh
ASK_SECONDS=60

# settled NAME VALUE: a counter has got there; the driver domain publishes all of them when it is told to.
settled() {
    type_at granting-vd stats
    [[ $(counter granting "$1") == "$2" ]]
}

# count_requests SLOT...: these disks have served what the last results say, besides what they had served before.
count_requests() {
    local slot
    for slot; do
        SERVED[slot]=$((SERVED[slot] + $(said_of granting "$slot" requests)))
    done
}

# all_published SLOT...: what the driver domain has published is not older than the last request of these disks.
all_published() {
    local slot
    for slot; do
        wait_for 10 "requests of slot $slot" settled "device-$slot-requests" "${SERVED[slot]}"
    done
}

# nothing_is_mapped: no page of the guest, neither granted nor otherwise.
nothing_is_mapped() {
    type_at granting-vd stats
    [[ $(counter granting frames-mapped) == 0 ]] &&
        (($(counter granting grant-maps) > 0)) &&
        [[ $(counter granting grant-unmaps) == "$(counter granting grant-maps)" ]]
}

# A serial number is asked for by each self-test.
SERVED=([0]=1 [1]=1 [2]=1 [5]=1 [6]=1)

step "a PVH guest that grants its memory"
rm -f "$(console granting)" "$(console granting-vd)"
config=/root/granting.cfg
sed -e 's/^name = .*/name = "granting"/' -e 's/^cmdline = .*/cmdline = "run=console log=warn memory=grants step=1"/' \
    -e '/"slot=[347]/d' -e '/"slot=5/s/ram:1M/vbd:xvda/' -e 's/\(doorbell=[a-z-]*\)/memory=grants,\1/' \
    /root/examples/paired.cfg >"$config"
echo 'vdom_disk = [ "format=raw,vdev=xvda,access=rw,target=/root/data.img" ]' >>"$config"
truncate -s 1M /root/data.img
grep slot= "$config"
expect_ok vdom create "$config"
wait_for 30 "the guest is ready" console_says granting '^paired: ready'
id=$(xl domid granting) driver=$(xl domid granting-vd)
assert_eq "$(xenstore-read "/local/domain/$driver/backend/virtio/$id/0/memory")" grants "what the back end asks for"

type_at granting-vd stats
sleep 1
# What connecting dom0's disk has cost.
begun=$(counter granting hypercall-20)
begun=${begun:-0}

step "each disk in memory: one request at a time"
for slot in 0 1 2 6; do
    ask granting 1 "selftest $slot"
done
# A serial number, 100 writes, 100 reads; with indirect descriptors. Each: the table, the header, the data of a write;
# then what is written for the guest, in one. And a ring of three areas is mapped, and unmapped.
calls=$((3 + 100 * 4 + 100 * 3 + 3 + 1))
wait_for 10 "hypercalls for grants" settled hypercall-20 $((begun + 4 * calls))
count_requests 0 1 2 6
all_published 0 1 2 6
assert_eq "$(counter granting grant-maps) $(counter granting grant-unmaps)" "12 12" "pages of rings, mapped and unmapped"
assert_eq "$(counter granting frames-mapped)" 0 "other pages"
echo "$(counter granting hypercall-20) hypercalls, as they should be"

step "the disk that dom0 serves"
ask granting 1 'selftest 5'
count_requests 5
ask granting 1 'data 5'
count_requests 5
all_published 5
wait_for 10 "nothing is mapped when it is reset" nothing_is_mapped
assert_eq "$(counter granting grant-maps)" 18 "pages of rings, mapped ever"
assert_eq "$(counter granting device-5-errors)" 0 "errors"
[[ $(tr -d '\0' </root/data.img | wc -c) -gt 900000 ]] || fail "the guest's data is not in dom0's image"

step "each disk in memory: all of it"
for slot in 0 1 2 6; do
    ask granting 1 "data $slot"
done
count_requests 0 1 2 6
all_published 0 1 2 6
wait_for 10 "nothing is mapped when all disks are reset" nothing_is_mapped
assert_eq "$(counter granting grant-maps)" 30 "pages of rings, mapped ever"
for slot in 0 1 2 5 6; do
    assert_eq "$(counter granting "device-$slot-faults")" 0 "faults of slot $slot"
done
assert_eq "$(counter granting grant-refused)" 0 "refused grants"
echo "$(counter granting grant-maps) pages mapped and unmapped, $(counter granting grant-copies) pieces copied," \
    "$(counter granting grant-bytes) bytes, $(counter granting hypercall-20) hypercalls for all of that"
no_warnings

step "what was not granted, and what was granted for reading"
ask granting 1 'hostile 1'
SERVED[0]=$((SERVED[0] + $(said_of granting 1 requests)))
ask granting 1 'selftest 1'
ask granting 1 'selftest 0'
count_requests 0
SERVED[0]=$((SERVED[0] + 1))
all_published 0
wait_for 10 "nothing is mapped after that" nothing_is_mapped
(($(counter granting grant-refused) > 0)) || fail "no grant was refused"
assert_eq "$(counter granting device-0-faults)" 0 "faults of the other disk"

step "a guest that goes while its rings are mapped"
before=$(counter granting grant-unmaps)
type_at granting 'latency 0'
wait_for 20 "the disk is set up" console_says granting '^paired: latency slot=0 .*: set up'
wait_for 10 "its ring is mapped" settled grant-maps $((before + 3))
assert_eq "$(counter granting grant-unmaps)" "$before" "pages unmapped meanwhile"
xl destroy granting
wait_for_end 20 granting-vd
wait_for 5 "no zombie" no_zombie
grep -a 'stay' "$(console granting-vd)" && fail "pages stay mapped"
# The same number of both, and those of the last ring are among them.
wait_for 5 "the driver domain's last words" console_says granting-vd 'grants: .* refused'
assert_eq "$(sed -n 's/.*grants: \([0-9]*\) pages mapped, \([0-9]*\) unmapped.*/\1 \2/p' "$(console granting-vd)")" \
    "$((before + 3)) $((before + 3))" "pages of rings, mapped and unmapped in the end"
expect_ok vdom destroy granting
assert_clean
