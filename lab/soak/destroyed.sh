# shellcheck shell=bash
# How often a hard `xl destroy` of a driver domain leaves its guest's vCPU stuck: the guest is busy with its disk, and says
# every second that it is alive, for which it needs no disk. Not a part of ./test.sh: it measures. As often as --rounds says,
# for each way of register writes.

ROUNDS=$(rounds 10)

signs() { grep -ac '^guest: alive' "$(console busy)"; }

for doorbell in posted mmio; do
    alive=0
    for ((round = 1; round <= ROUNDS; round++)); do
        start_guest busy hammer -vdom_ramdisk "vdom_devices = [ \"type=blk,backend=ram:16M,doorbell=$doorbell\" ]"
        wait_for 60 "I/O under way" console_says busy 'alive [0-9]+ s, [1-9][0-9]{2,} requests'
        sleep 0.$((RANDOM % 10))
        expect_ok xl destroy busy-vd
        before=$(signs)
        sleep 8
        # What was said just before may come late.
        if (($(signs) >= before + 3)); then
            alive=$((alive + 1))
        fi
        expect_ok xl destroy busy
        wait_for 10 "no zombie" no_zombie
        expect_ok vdom destroy busy
        assert_clean
    done
    echo "doorbell=$doorbell: after $ROUNDS destructions of a busy guest's driver domain its vCPU went on $alive times"
done
