# shellcheck shell=bash
# Xen's own way, in separate steps, as another toolstack would go: both domains are xl's, the devices are entries of virtio=
# in the guest's configuration, the states of xenbus are seen at each step. A device is attached by hand. xl destroy is quick
# and has nothing to complain about.
# timeout: 110
# half: second

# node SLOT NAME: a node of a device's back end, or nothing.
node() {
    xenstore-read "/local/domain/$DRIVER/backend/virtio/$GUEST/$1/$2" 2>/dev/null || true
}

# has_state SLOT STATE: it may be none, when the directory is gone.
has_state() {
    [[ $(node "$1" state) == "$2" ]]
}

states() {
    echo "$(node 0 state) $(node 1 state) $(node 2 state)"
}

have_states() {
    [[ $(states) == "$1" ]]
}

step "the driver domain, with plain xl, from a compressed image of less than 256 KiB"
gzip -9 -c /usr/lib/virtio-domain/virtio-domain >/run/virtio-domain.gz
echo "$(stat -c %s /usr/lib/virtio-domain/virtio-domain) bytes, compressed $(stat -c %s /run/virtio-domain.gz)"
(($(stat -c %s /run/virtio-domain.gz) <= 256 * 1024)) || fail "the compressed image is too large"
cat >/root/own-vd.cfg <<'END'
name = "own-vd"
type = "pvh"
kernel = "/run/virtio-domain.gz"
memory = 64
vcpus = 1
shadow_memory = 4
altp2m = "disabled"
nestedhvm = 0
on_reboot = "destroy"
END
expect_ok xl create /root/own-vd.cfg
DRIVER=$(xl domid own-vd)

step "the guest, with plain xl: paused, nobody serves it yet"
expect_ok vdom ssdt -o /root/vdom.aml
config=$(guest_config own plug 'acpi_firmware = "/root/vdom.aml"' 'on_soft_reset = "destroy"' \
    'virtio = [ "backend=own-vd,type=virtio,device2,transport=mmio", "backend=own-vd,type=virtio,device4,transport=mmio", "backend=own-vd,type=virtio,device2,transport=mmio" ]')
expect_ok xl create -p "$config"
GUEST=$(xl domid own)
assert_eq "$(states)" "1 1 1" "states before the guest is served"
assert_eq "$(node 0 base) $(node 0 irq)" "0 0" "base and irq before"

step "vdom attach: what xl cannot say"
expect_fail "type=virtio,device4 for it, which is virtio,device2" vdom attach -d type=blk,backend=ram:1M -d type=blk,backend=ram:1M own-vd own
expect_ok vdom attach -d type=blk,backend=ram:16M,serial=OWN0 -d type=rng,backend=cpu -d type=blk,backend=ram:1M own-vd own
assert_eq "$(states)" "2 2 2" "states when the guest is served"
assert_eq "$(node 0 base) $(node 0 irq) $(node 2 base) $(node 2 irq)" "0xfea00000 18 0xfea02000 26" "base and irq"

step "xl unpause: the guest's drivers connect"
expect_ok xl unpause own
wait_for 60 "own is ready" console_says own '^guest: ready'
wait_for 10 "disks in use" have_states "4 2 4"
wait_for 20 "I/O under way" console_says own '^guest: round 1'

step "a device attached by hand"
back=/local/domain/$DRIVER/backend/virtio/$GUEST/7
front=/local/domain/$GUEST/device/virtio/7
device=/local/domain/$DRIVER/virtio-domain/device/7
expect_ok xenstore-write "$device/type" blk "$device/backend" ram:4M "$device/serial" HAND
expect_ok xenstore-write "$front" "" "$back" ""
expect_ok xenstore-chmod "$front" "n$GUEST" "r$DRIVER"
expect_ok xenstore-chmod "$back" "n$DRIVER" "r$GUEST"
expect_ok xenstore-write "$front/backend" "$back" "$front/backend-id" "$DRIVER" "$front/state" 1
expect_ok xenstore-write "$back/frontend" "$front" "$back/frontend-id" "$GUEST" "$back/online" 1 "$back/state" 1
wait_for 5 "the state InitWait" has_state 7 2
assert_eq "$(node 7 base) $(node 7 irq)" "0xfea07000 46" "base and irq"
vdom stats own | grep 'slot 7'

step "one that cannot be had: the reason"
device=/local/domain/$DRIVER/virtio-domain/device/8
other=/local/domain/$DRIVER/backend/virtio/$GUEST/8
expect_ok xenstore-write "$device/type" blk "$device/backend" ram:64G
expect_ok xenstore-write "$other" ""
expect_ok xenstore-chmod "$other" "n$DRIVER" "r$GUEST"
expect_ok xenstore-write "$other/online" 1 "$other/state" 1
wait_for 5 "the state Closed" has_state 8 6
echo "error: $(node 8 error)"
[[ $(node 8 error) == *"does not fit"* ]] || fail "the reason is not there"

step "and detached: Closing, Closed, and the directory is gone"
expect_ok xenstore-write "$back/online" 0 "$back/state" 5
wait_for 5 "no directory" has_state 7 ""
expect_ok xenstore-rm "$front" "$device"

step "xl destroy, in the middle of I/O"
before=${EPOCHREALTIME/./}
assert_eq "$(xl destroy own 2>&1)" "" "what xl destroy says"
echo "$(((${EPOCHREALTIME/./} - before) / 1000)) ms"
wait_for 10 "no zombie" no_zombie
wait_for_end 20 own-vd
tail -n 8 "$(console own-vd)"
assert_eq "$(xenstore-list /libxl | grep -cx "$GUEST")" 0 "libxl's nodes of the guest"

step "the same for a guest that is not served yet: the driver domain answers all the same"
expect_ok xl create /root/own-vd.cfg
expect_ok xl create -p "$config"
assert_eq "$(xl destroy own 2>&1)" "" "what xl destroy says"
expect_ok xl shutdown -w own-vd
assert_clean
no_warnings 'cannot attach'
