# shellcheck shell=sh
# Two disks, and lines on the console: "DISK REQUESTS" has it read so many sectors one by one, "rebind SLOT" has the driver
# let that device go and take it again. What was written to the first disk at the start is there each time. Another line ends
# it.

# has_data: the first disk has what was written to it.
has_data() {
    dd if="/dev/$DISK" of=/run/back bs=64k count=16 iflag=direct 2>/dev/null
    cmp /run/data /run/back
}

step_find() {
    wait_for_disk
    head -c 1048576 /dev/urandom >/run/data
    dd if=/run/data of="/dev/$DISK" bs=64k oflag=direct
    has_data
}

# time_of PERCENTILE: microseconds, as fio says them for people who compute.
time_of() {
    tr ';' '\n' </run/fio.log | sed -n "s/^$1%=//p" | head -n 1
}

run_step find
mhz=$(sed -n 's/^cpu MHz[^:]*: *//p' /proc/cpuinfo | head -n 1)
say ready
rebinds=0
while read -r what argument; do
    case $what in
        rebind)
            echo "LNRO0005:0$argument" >"$TRANSPORT/unbind"
            echo "LNRO0005:0$argument" >"$TRANSPORT/bind"
            wait_for_disk || break
            has_data || break
            rebinds=$((rebinds + 1))
            say "rebound $rebinds"
            ;;
        vd*)
            fio --name=probe --filename="/dev/$what" --rw=read --bs=512 --direct=1 --ioengine=sync \
                --number_ios="$argument" --percentile_list=1:50:95 --eta=never --minimal --output=/run/fio.log || break
            has_data || break
            say "probe $what $argument requests: $(
                for percentile in 1.000000 50.000000 95.000000; do time_of $percentile; done |
                    awk -v mhz="$mhz" '{ printf "%s%d", (NR > 1 ? "/" : ""), $1 * mhz / 1000 }'
            ) thousand cycles"
            ;;
        *) break ;;
    esac
done </dev/console
say "left by $what"
