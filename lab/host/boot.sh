# shellcheck shell=bash
# What the emulator boots: QEMU itself, Xen, and the kernel that dom0 and the guest share.

# Sets QEMU_TREE: QEMU with its libraries, run from where it was unpacked.
need_qemu() {
    # shellcheck disable=SC2153 # set by need_packages
    cached QEMU_TREE qemu "$(key "$PACKAGES/qemu.list" "$VD_LAB/host/boot.sh")" unpack qemu
}

# Sets BOOT: xen.elf, vmlinuz, and the kernel's modules below modules/.
need_boot() {
    # shellcheck disable=SC2034 # used by the other files of this directory
    cached BOOT boot "$(key "$PACKAGES/boot.list" "$VD_LAB/host/boot.sh")" build_boot
}

build_boot() {
    local directory=$1 tree=$1/modules
    unpack boot "$tree"
    # QEMU's multiboot loader wants Xen's ELF file, not the compressed one.
    gunzip <"$(echo "$tree"/boot/xen-4.*.gz)" >"$directory/xen.elf"
    mv "$tree"/boot/vmlinuz-* "$directory/vmlinuz"
    rm -r "${tree:?}/boot"
    depmod --basedir "$tree" "$(kernel_version "$directory")"
}

kernel_version() {
    basename "$1"/modules/usr/lib/modules/*
}

# install_modules LIST DIRECTORY: copies the listed modules and their dependencies, unpacked: that is faster to load.
install_modules() {
    local directory=$2 version module file names
    version=$(kernel_version "$BOOT")
    mapfile -t names < <(list "$1")
    for module in "${names[@]}"; do
        modprobe --dirname "$BOOT/modules" --set-version "$version" --show-depends "$module"
    done | sed -n "s|^insmod $BOOT/modules/*||p" | sort -u | while read -r file; do
        file=usr/lib/${file#*lib/}
        mkdir -p "$directory/${file%/*}"
        xz --decompress --stdout "$BOOT/modules/$file" >"$directory/${file%.xz}"
    done
    cp "$BOOT"/modules/usr/lib/modules/"$version"/modules.{builtin,builtin.modinfo,order} \
        "$directory/usr/lib/modules/$version"
    depmod --basedir "$directory" "$version"
}
