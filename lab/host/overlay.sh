# shellcheck shell=bash
# What changes from run to run: the project's files in dom0 and in the guest, as cpio archives of their own. The kernel
# unpacks archives that follow one another. Ours come first: they are not compressed, and so stay aligned.

# guest_initrd: writes the guest's initial RAM disk to standard output.
guest_initrd() {
    local tree=$1/guest-overlay
    mkdir -p "$tree/jobs"
    install -m 755 "$VD_LAB/guest/init" "$tree/init"
    install -m 644 "$VD_LAB/guest/lib.sh" "$tree/lib.sh"
    install -m 644 "$VD_LAB"/guest/jobs/*.sh "$tree/jobs"
    # orderly_poweroff() of the kernel runs this when the toolstack asks for a shutdown.
    mkdir -p "$tree/usr/sbin"
    install -m 755 "$VD_LAB/guest/poweroff" "$tree/usr/sbin/poweroff"
    mkdir -p "$tree/usr/bin"
    install --strip -m 755 "$HOSTILE" "$CHURN" "$tree/usr/bin"
    pack "$tree"
    cat "$GUEST/base.cpio"
}

# dom0_initrd WORK: writes dom0's initial RAM disk. WORK/request and WORK/rounds go along, in /lab.
dom0_initrd() {
    local work=$1 tree=$1/dom0-overlay ours=$1/dom0-overlay/usr/lib/virtio-domain
    mkdir -p "$ours/guest" "$tree"/{lab/scenarios,root/examples,usr/sbin}
    install -m 755 "$VD_LAB/dom0/init" "$tree/init"
    install -m 644 "$VD_LAB"/dom0/*.sh "$tree/lab"
    install -m 644 "$VD_LAB"/scenarios/*.sh "$VD_LAB"/{bench,soak}/*.sh "$tree/lab/scenarios"
    install -m 644 "$VD_LAB"/examples/* "$tree/root/examples"
    install --strip -m 755 "$IMAGE" "$ours/virtio-domain"
    install --strip -m 755 "$PAIRED" "$ours/guest/paired"
    install --strip -m 755 "$VDOM" "$tree/usr/sbin/vdom"
    install -m 644 "$BOOT/vmlinuz" "$ours/guest/vmlinuz"
    guest_initrd "$work" >"$ours/guest/initrd"
    install -m 644 "$work/request" "$work/rounds" "$tree/lab"
    pack "$tree"
    cat "$DOM0/base.cpio.zst"
}
