# shellcheck shell=sh
# Does nothing with its disk. `xl shutdown` ends it: the kernel then runs poweroff.

wait_for_disk
say ready
while :; do
    sleep 1000
done
