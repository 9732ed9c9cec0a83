# shellcheck shell=bash
# Mistakes of the operator: each gets a message that says what to do and a status that is not 0, and leaves nothing.
# timeout: 170
# half: second

truncate -s 16M /root/disk.img

# refused REGEX NAME LINE...: vdom does not create this guest.
refused() {
    local regex=$1 file
    shift
    file=$(guest_config "$1" idle "${@:2}")
    expect_fail "$regex" vdom create "$file"
    assert_clean
}

step "configurations that are wrong"
refused 'I/O APIC' pvh 'type = "pvh"' 'vdom_devices = [ "type=blk,backend=module,interrupt=intx" ]'
refused 'PVH guests' msi 'vdom_devices = [ "type=blk,backend=module,interrupt=msi" ]'
refused 'type hvm' port 'vdom_devices = [ "type=blk,backend=module,doorbell=port" ]'
refused 'interrupt .* not known' interrupt 'vdom_devices = [ "type=blk,backend=module,interrupt=loud" ]'
refused 'type pv ' pv 'type = "pv"'
refused 'slot 3' twice 'vdom_devices = [ "slot=3,type=blk,backend=module", "slot=3,type=blk,backend=ram:1M" ]'
refused '0 to 31' far 'vdom_devices = [ "slot=32,type=blk,backend=module" ]'
refused 'slots 0 to 15' edge 'vdom_devices = [ "slot=16,type=blk,backend=module,interrupt=edge" ]'
refused 'slots 0 to 15' posted 'vdom_devices = [ "slot=31,type=blk,backend=module,doorbell=posted" ]'
refused 'vdom_ramdisk' nomodule -vdom_ramdisk
refused 'vdom_ramdisk' emptymodule 'vdom_ramdisk = ""'
refused 'No such file' nofile 'vdom_ramdisk = "/root/nothing.img"'
refused 'vdom_devices' nodevices 'vdom_devices = [ ]'
refused 'size|bytes' size 'vdom_devices = [ "type=blk,backend=ram:64Q" ]'
refused 'whole|blocks' odd 'vdom_devices = [ "type=blk,backend=ram:1000" ]'
refused 'serial' serial 'vdom_devices = [ "type=blk,backend=module,serial=123456789012345678901" ]'
refused 'key|coulour' key 'vdom_devices = [ "type=blk,backend=module,coulour=blue" ]'
refused 'gets no disk at all.*add it to vdom_disk' nodisk 'vdom_devices = [ "type=blk,backend=vbd:xvda" ]'
refused 'is not known.*xvda' odddisk 'vdom_devices = [ "type=blk,backend=vbd:vda" ]'
refused 'block-size= does not go' blocks 'vdom_devices = [ "type=blk,backend=vbd:xvda,block-size=512" ]'
printf 'name = "broken\nmemory = = 3\n' >/root/broken.cfg
expect_fail 'broken.cfg|line 1' vdom create /root/broken.cfg
expect_fail 'No such file' vdom create /root/nothing.cfg
expect_fail 'Usage' vdom create
assert_clean

step "a kernel that xl refuses: vdom takes the driver domain away again"
refused 'create guest' nokernel 'kernel = "/root/nothing"'

step "a disk that dom0 cannot give to the driver domain"
refused 'start driver domain' noimage 'vdom_devices = [ "type=blk,backend=vbd:xvda" ]' \
    'vdom_disk = [ "format=raw,vdev=xvda,access=rw,target=/root/nothing.img" ]'

step "a driver domain without the module that its device needs"
cat >/root/driver.cfg <<'END'
name = "bare-vd"
type = "pvh"
kernel = "/usr/lib/virtio-domain/virtio-domain"
memory = 32
vcpus = 1
altp2m = "disabled"
nestedhvm = 0
END
refused 'gets no module.*set ramdisk' bare 'vdom_driver = "/root/driver.cfg"' -vdom_ramdisk

step "a disk that does not fit"
refused 'needs 80.*set memory = 80' large 'vdom_driver = "/root/driver.cfg"' -vdom_ramdisk \
    'vdom_devices = [ "type=blk,backend=ram:64M" ]'

step "the same without vdom create: the driver domain itself says what is missing"
plain=$(guest_config plain idle)
expect_ok xl create -q -p "$plain"
expect_ok xl create -q /root/driver.cfg
expect_fail 'no module was loaded: set' vdom attach bare-vd plain --device type=blk,backend=module
expect_ok xl destroy bare-vd
expect_ok xl create -q /root/driver.cfg
expect_fail 'does not fit.*raise memory=' vdom attach bare-vd plain --device type=blk,backend=ram:64M
expect_ok xl destroy bare-vd
expect_ok xl destroy plain
assert_clean

step "a guest that does not exist, and a driver domain without power over its guest"
expect_ok xl create /root/driver.cfg
expect_fail 'no such domain|no domain|does not exist|not running' vdom attach bare-vd nobody --device type=blk,backend=ram:1M
driver=$(xl domid bare-vd)
tree=/local/domain/$driver/virtio-domain
describe() {
    xenstore-write "$tree/version" 1 "$tree/target" "$1" "$tree/target-type" "$2" \
        "$tree/device/0/type" blk "$tree/device/0/backend" ram:1M
    xenstore-chmod -r "$tree" n0 "r$driver"
    xenstore-write "$tree/status" ""
    xenstore-chmod -r "$tree/status" "n$driver"
    xenstore-write "$tree/commit" 1
    xenstore-chmod "$tree/commit" n0 "r$driver"
}
says() { [[ $(xenstore-read "$tree/status/error" 2>/dev/null) =~ $1 ]]; }
describe 0 hvm
wait_for 10 "it says that it has no power over domain 0" says 'no power|domain id'
xenstore-read "$tree/status/error"
expect_ok xl create -q -p "$plain"
describe "$(xl domid plain)" hvm
wait_for 10 "it says that it has no power over a guest that vdom has not given to it" says 'no power .*vdom attach'
xenstore-read "$tree/status/error"
expect_ok xl destroy plain
describe 77 hvm
wait_for 10 "it says that there is no such domain" says 'no such domain .*start again'
xenstore-read "$tree/status/error"
describe 77 pv
wait_for 10 "it says that PV guests cannot be served" says 'pv.*cannot be served'
xenstore-read "$tree/status/error"
has_failed() { [[ $(xenstore-read "$tree/status/state") == failed ]]; }
wait_for 10 "the state failed" has_failed
expect_ok xl destroy bare-vd
assert_clean
