# shellcheck shell=bash
# vd.run=shell: a shell for the user, on the serial console.

cat <<END

This is dom0 under Xen $(xl info xen_version).
  vdom create examples/guest.cfg    start a guest and its driver domain   (vdom --help)
  xl list, xl console -t pv guest   what runs; a guest's console (leave it with Ctrl-])
  /var/log/xen/console/             the logs of all consoles
  /lab/scenarios/                   scenarios; run one with: scenario NAME
$(ls -d /root/examples/*.cfg)
The guest wants a disk image first: truncate -s 128M /root/disk.img
Ctrl-D ends dom0 and QEMU; Ctrl-A X kills QEMU.

END
cat >/root/.bashrc <<'END'
PS1='dom0:\w# '
scenario() { timeout --foreground 300 bash /lab/run-scenario.sh "$1"; }
END
# A controlling terminal, for job control and Ctrl-C.
setsid --ctty --wait bash -i </dev/hvc0 >/dev/hvc0 2>&1
report "status $?"
