# shellcheck shell=sh
# Takes its devices from their drivers and gives them back, again and again, in every way that there is; in between it
# uses them all (lab/churn).

ROUNDS=$(argument vd.rounds 1)

load() {
    modprobe virtio_mmio
    modprobe virtio_blk
    modprobe virtio_net
    modprobe virtio_rng
}

# tell TEXT: dom0 looks at what the driver domain has counted, and types a line when it has.
tell() {
    say "$*"
    read -r _ </dev/console
}

# loops ROUNDS: each of them, if nothing has failed yet.
loops() {
    rounds=$1
    for kind in driver transport module transport_module; do
        [ "$FAILED" != 0 ] || run_step $kind
    done
}

step_driver() { churn driver "$rounds" >&3; }
step_transport() { churn transport "$rounds" >&3; }
step_module() { churn module "$rounds" >&3; }
step_transport_module() { churn transport-module "$rounds" >&3; }

load
loops 1
tell "once, and all are there again"
loops "$ROUNDS"
tell "done"
grep virtio /proc/interrupts | sed 's/^/guest: /'
result
