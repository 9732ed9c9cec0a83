# shellcheck shell=bash
# The guest's initial RAM disk without its init and jobs (those are added at every run: overlay.sh).

# Sets GUEST: base.cpio.
need_guest() {
    local inputs=("$PACKAGES/guest.list" "$PACKAGES/boot.list" "$VD_LAB/modules.guest" "$VD_LAB/files.guest"
        "$VD_LAB/host/guest.sh" "$VD_LAB/host/boot.sh" "$VD_LAB/host/fio.sh")
    # shellcheck disable=SC2034 # used by the other files of this directory
    cached GUEST guest "$(key "${inputs[@]}")" build_guest
}

build_guest() {
    local directory=$1 tree=$1/tree root=$1/root file link
    unpack guest "$tree"
    fio_stand_ins "$tree"
    mkdir -p "$root"/{dev,etc,mnt,proc,run,sys,tmp} "$root"/usr/{bin,sbin,lib,lib64,local/bin}
    for link in bin sbin lib lib64; do
        ln -s "usr/$link" "$root/$link"
    done
    while read -r file; do
        cp -L "$tree$file" "$root$file"
        copy_libraries "$tree" "$file" "$root"
    done < <(list "$VD_LAB/files.guest")
    cp "$tree/etc/mke2fs.conf" "$root/etc"
    ln -s dash "$root/usr/bin/sh"
    # Where the kernel looks when it wants a module, such as ext4.
    ln -s ../bin/busybox "$root/usr/sbin/modprobe"
    busybox_links "$root"
    install_modules "$VD_LAB/modules.guest" "$root"
    # Not compressed: unpacking costs an emulated guest more than reading.
    pack "$root" >"$directory/base.cpio"
    rm -r "$tree" "$root"
}

# copy_libraries TREE PROGRAM ROOT: copies the libraries of TREE that the program loads.
copy_libraries() {
    local tree=$1 program=$2 root=$3 libraries=usr/lib/x86_64-linux-gnu loader=usr/lib64/ld-linux-x86-64.so.2 path
    # A static program has none.
    readelf --program-headers "$tree$program" | grep -q INTERP || return 0
    mkdir -p "$root/$libraries"
    cp -L "$tree/$loader" "$root/$loader"
    "$tree/$loader" --library-path "$tree/$libraries" --list "$tree$program" |
        sed -n "s|.* => \($tree/[^ ]*\).*|\1|p" | while read -r path; do
        cp -L "$path" "$root/$libraries/${path##*/}"
    done
}
