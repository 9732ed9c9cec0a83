# shellcheck shell=sh
# All that selftest does, with less data. Then a line on the console, "DISK REQUESTS", has it read so many sectors of a
# disk one by one, and say how long a request took: the least, the median and the 95th percentile, in cycles. Another
# line ends it.

FILE_MIB=8 IOS=1000
# shellcheck source=lab/guest/jobs/selftest.sh
. /jobs/selftest.sh

# time_of PERCENTILE: microseconds, as fio says them for people who compute.
time_of() {
    tr ';' '\n' </run/fio.log | sed -n "s/^$1%=//p" | head -n 1
}

mhz=$(sed -n 's/^cpu MHz[^:]*: *//p' /proc/cpuinfo | head -n 1)
say ready
while read -r disk requests; do
    [ -b "/dev/$disk" ] || break
    fio --name=probe --filename="/dev/$disk" --rw=read --bs=512 --direct=1 --ioengine=sync --number_ios="$requests" \
        --percentile_list=1:50:95 --eta=never --minimal --output=/run/fio.log || break
    say "probe $disk $requests requests: $(
        for percentile in 1.000000 50.000000 95.000000; do time_of $percentile; done |
            awk -v mhz="$mhz" '{ printf "%s%d", (NR > 1 ? "/" : ""), $1 * mhz / 1000 }'
    ) thousand cycles"
done </dev/console
