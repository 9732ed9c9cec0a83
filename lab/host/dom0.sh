# shellcheck shell=bash
# dom0's initial RAM disk without the project's own files (those are added at every run: overlay.sh).

# Sets DOM0: base.cpio.zst.
need_dom0() {
    local inputs=("$PACKAGES/dom0.list" "$PACKAGES/boot.list" "$VD_LAB/modules.dom0" "$VD_LAB/dom0/prune"
        "$VD_LAB/host/dom0.sh" "$VD_LAB/host/boot.sh")
    # shellcheck disable=SC2034 # used by the other files of this directory
    cached DOM0 dom0 "$(key "${inputs[@]}")" build_dom0
}

build_dom0() {
    local directory=$1 tree=$1/tree pattern
    unpack dom0 "$tree"
    while read -r pattern; do
        find "$tree" -path "$tree$pattern" -prune -exec rm -r {} +
    done < <(list "$VD_LAB/dom0/prune")
    install_modules "$VD_LAB/modules.dom0" "$tree"
    mkdir -p "$tree"/{dev,proc,root,run,sys,tmp} "$tree/usr/local/bin"
    # Xen's scripts are written for any POSIX shell.
    ln -s bash "$tree/usr/bin/sh"
    # What is not in packages.dom0 comes from BusyBox: awk, ip, vi, clear and the like.
    busybox_links "$tree"
    echo 'root:x:0:0:root:/root:/bin/bash' >"$tree/etc/passwd"
    echo 'root:x:0:' >"$tree/etc/group"
    pack "$tree" | zstd --quiet --threads=0 -3 -o "$directory/base.cpio.zst"
    rm -r "$tree"
}

# Links in /usr/local/bin to BusyBox for every command that the tree does not have.
busybox_links() {
    local tree=$1 command
    "$tree/usr/bin/busybox" --list | while read -r command; do
        [[ -e $tree/usr/bin/$command || -e $tree/usr/sbin/$command ]] ||
            ln -sf /usr/bin/busybox "$tree/usr/local/bin/$command"
    done
}
