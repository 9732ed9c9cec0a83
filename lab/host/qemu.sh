# shellcheck shell=bash
# The emulated machine: its command line and its console.
#
# com1 is the console of Xen and dom0. com2 is dom0's alone: result lines go there, which no message of Xen can break, and
# signs of life. The monitor is for watch.sh.

XEN_ARGUMENTS="console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all noreboot \
dom0_mem=1024M,max:1024M dom0_max_vcpus=1 spec-ctrl=no watchdog=0"
DOM0_ARGUMENTS="console=hvc0 quiet mitigations=off nokaslr random.trust_cpu=on xen_scrub_pages=0"

# run_qemu WORK MODE CHARDEV [PREFIX...]: boots WORK/dom0.img, with the console at CHARDEV and results added to WORK/results.
# PREFIX is a command that runs QEMU, such as timeout.
run_qemu() (
    work=$1 mode=$2 console=$3
    shift 3
    accelerator=(-accel "tcg,thread=multi,tb-size=512")
    ((!ICOUNT)) || accelerator=(-accel "tcg,thread=single,tb-size=512" -icount "shift=0,sleep=off")
    # In -initrd a comma ends a name and a blank begins the arguments: hence short names in WORK.
    cd "$work" || exit
    ln -sf "$BOOT/vmlinuz" vmlinuz
    rm -f monitor.in monitor.out pid
    mkfifo monitor.in monitor.out
    exec "$@" "$QEMU_TREE/usr/lib64/ld-linux-x86-64.so.2" --library-path "$QEMU_TREE/usr/lib/x86_64-linux-gnu" \
        "$QEMU_TREE/usr/bin/qemu-system-x86_64" -L "$QEMU_TREE/usr/share/qemu" -L "$QEMU_TREE/usr/share/seabios" \
        -M pc "${accelerator[@]}" -cpu qemu64,+svm,+npt,+rdrand -smp "$CPUS" -m 4096 \
        -display none -no-reboot -nic none -device isa-debug-exit,iobase=0xf4,iosize=1 \
        -chardev "$console,id=console" -serial chardev:console \
        -chardev file,id=results,path=results,append=on -serial chardev:results \
        -chardev pipe,id=monitor,path=monitor -monitor chardev:monitor -pidfile pid \
        -kernel "$BOOT/xen.elf" -append "$XEN_ARGUMENTS" \
        -initrd "vmlinuz $DOM0_ARGUMENTS vd.run=$mode,dom0.img"
)

# transcript: copies a console to standard output without control codes, each line with the seconds since the start.
transcript() {
    local line start=${EPOCHREALTIME/./} passed
    sed -u -e 's/\r//g' -e 's/\x1b\[[0-9;?]*[A-Za-z]//g' -e 's/\x1b[()][A-Z0-9]//g' |
        while IFS= read -r line || [[ -n $line ]]; do
            passed=$(((${EPOCHREALTIME/./} - start) / 100000))
            printf '%4d.%d  %s\n' $((passed / 10)) $((passed % 10)) "$line"
        done
}
