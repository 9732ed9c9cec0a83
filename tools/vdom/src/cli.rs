//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use vd_config::SlotIndex;

const ABOUT: &str = "Gives a Xen HVM guest virtio devices that a driver domain serves.";

const MORE: &str = "\
Exit status: 0 done; 1 failed, and what create or attach had done has been undone as far as Xen allows; 2 wrong usage.
Messages go to standard error as \"vdom: DOMAIN: STEP: WHAT (REMEDY)\".

Environment:
  VDOM_XL          the xl to use (default: xl in $PATH)
  VDOM_RUN_DIR     where the files of running guests are kept (default: /run/vdom)
  VDOM_LOG_DIR     where those say what they do that restart guests (default: /var/log/xen)
  XENSTORED_PATH   xenstored's socket or device (default: the usual places)

vdom has to run as root in dom0.";

const CREATE_MORE: &str = "\
GUEST.cfg is an ordinary xl configuration (type = \"hvm\") with keys that xl ignores:
  vdom_devices = [ \"DEVICE\", ... ]   the devices; required
  vdom_ramdisk = \"disk.img\"          the disk image behind backend=module
  vdom_disk    = [ \"...\", ... ]      the driver domain's disks, in the words of xl's disk=
  vdom_network = [ \"...\", ... ]      the driver domain's network interfaces, in the words of xl's vif=
  vdom_reserve = MEBIBYTES           the driver domain's memory for devices attached later
  vdom_image   = \"PATH\"              the driver domain's image
                                     (default: /usr/lib/virtio-domain/virtio-domain)
  vdom_cmdline = \"log=debug\"         the driver domain's command line
  vdom_name    = \"NAME\"              its name (default: the guest's with -vd)
  vdom_driver  = \"driver.cfg\"        its xl configuration, instead of the seven above
Paths are relative to the directory of GUEST.cfg.

A DEVICE is a list of key=value, separated by commas:
  slot=0..15        where the guest sees it (default: the next free one)
  type=blk          a disk; required (others: net, rng, console; see docs/operating.md)
  backend=module    its data is the driver domain's module: vdom_ramdisk
  backend=ram:SIZE  its data is memory, zeroes at first; SIZE is 64M, 1G, ...
  backend=vbd:DEV   its data is a disk of the driver domain; DEV is its vdev, as xvda
  type=net          a network device; mac= is required
  backend=switch    it is joined with the others of the guest
  backend=vif:N     the same, and with interface N of the driver domain (0: the first)
  serial=TEXT       up to 20 characters
  readonly=0|1      (default: 0)
  packed=0|1        whether packed rings are offered (default: 1; with vbd: 0)
  queues=1..4       how many queues; a guest uses one for each vCPU (default: 1)
  interrupt=HOW     intx or edge (HVM), msi or event-channel (PVH)
  doorbell=HOW      mmio, polled, posted (HVM), port or event-channel (PVH)
  queue-size=N      most entries of a queue, a power of two up to 32768 (default: 256)
  block-size=512|4096

vdom starts the driver domain, creates the guest paused, gives the driver domain power over the
guest, describes the devices, waits until they are ready, and lets the guest run. If on_reboot is
restart (xl's default), a process stays behind that creates both again when the guest reboots.";

const SUPERVISE_MORE: &str = "\
vdom create leaves a process behind for a guest that is to be created again when it reboots. vdom list says
\"unsupervised\" of a guest whose process is gone. This leaves another one behind, with the configuration as it is now;
a guest that has rebooted meanwhile is created again at once.";

const ATTACH_MORE: &str = "\
For toolstacks other than xl. Create the driver domain (PVH, altp2m and nested virtualization off,
enough shadow memory) and the guest (HVM, with the table of `vdom ssdt` as its acpi_firmware,
paused), then attach, then let the guest run. A driver domain serves one guest for its whole life.";

const DEVICE_MORE: &str = "\
A slot without a device is a placeholder in the guest, which its driver has passed by. When a device is there, and
nothing before, a Linux guest takes slot N (two hexadecimal digits) by
  echo LNRO0005:NN > /sys/bus/platform/drivers/virtio-mmio/bind
and lets it go by writing the same to unbind, which is to be done before it is detached. A disk or network
interface behind it is given to the driver domain before: xl block-attach, xl network-attach.";

const CONSOLE_MORE: &str = "\
The driver domain passes everything on over its own console, which one program at a time can have.
What the guest has printed on its console while nobody was there comes first, the last 16 KiB of it.
With standard input in a pipe or file, all of it goes to the guest, and vdom leaves when the guest
has closed the port or nothing has come for --idle seconds, or if the guest does not read for ten.
Other ports hold the guest back while nobody reads them, and nothing is lost. The exit status is 0
only if every byte got through, or waits for the guest to read it.";

const RESTART_MORE: &str = "\
The new driver domain starts beside the old one, which serves the guest until the new one says that it
does. Requests that the guest makes meanwhile wait; nothing that it was told is lost. How long they
waited, and for how long the guest was paused, is printed. If the new one does not come so far, the
old one goes on. Disks in memory are copied; disks of other domains are detached from the old one
and attached to the new one. PVH guests cannot be served by another driver domain.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "vdom", version, about = ABOUT, after_help = MORE, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print each step with the time since the start
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a guest and its driver domain, and let it run
    #[command(after_help = CREATE_MORE)]
    Create {
        #[command(flatten)]
        config: GuestConfig,
        /// Leave the guest paused
        #[arg(short, long)]
        paused: bool,
        #[command(flatten)]
        timeout: Timeout,
    },
    /// Create a running guest again whenever it reboots, after the process that did so was killed
    #[command(after_help = SUPERVISE_MORE)]
    Supervise {
        #[command(flatten)]
        config: GuestConfig,
        #[command(flatten)]
        timeout: Timeout,
    },
    /// Check a guest's configuration without creating anything
    Check {
        #[command(flatten)]
        config: GuestConfig,
    },
    /// Make a running driver domain serve an existing guest
    #[command(after_help = ATTACH_MORE)]
    Attach {
        /// Driver domain: name or id
        driver: String,
        /// Guest: name or id
        guest: String,
        /// A device, as in vdom_devices; can be given several times
        #[arg(short, long = "device", value_name = "DEVICE", required = true)]
        devices: Vec<String>,
        #[command(flatten)]
        timeout: Timeout,
    },
    /// Attach another device to a running guest
    #[command(after_help = DEVICE_MORE)]
    DeviceAttach {
        /// Guest or driver domain: name or id
        domain: String,
        /// The device, as in vdom_devices
        device: String,
        #[command(flatten)]
        timeout: Timeout,
    },
    /// Detach a device from a running guest
    #[command(after_help = DEVICE_MORE)]
    DeviceDetach {
        /// Guest or driver domain: name or id
        domain: String,
        /// The device's slot
        #[arg(value_parser = slot)]
        slot: SlotIndex,
        /// Take it away although the guest uses it: what the guest asks of it fails
        #[arg(short, long)]
        force: bool,
        /// Time that the guest's driver has to let it go
        #[arg(short, long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
        timeout: u16,
    },
    /// List guests with their driver domains
    List,
    /// Show what a driver domain has counted
    Stats {
        /// Guest or driver domain: name or id
        domain: String,
    },
    /// A port of a guest's console device: on this terminal until Ctrl-], or in a pipe
    #[command(after_help = CONSOLE_MORE)]
    Console {
        /// Guest or driver domain: name or id
        domain: String,
        /// The port's name or number, with SLOT: before it if several devices have such a port (default: 0, the console)
        #[arg(value_name = "[SLOT:]PORT")]
        port: Option<String>,
        /// When standard input has ended and is no terminal: leave after so long without output
        #[arg(short, long, value_name = "SECONDS", default_value_t = 1)]
        idle: u16,
        /// The size that the console has, instead of this terminal's
        #[arg(short, long, value_name = "COLUMNSxROWS", value_parser = size)]
        size: Option<(u16, u16)>,
    },
    /// Let another driver domain take the place of a running guest's, also one with another image
    #[command(after_help = RESTART_MORE)]
    Restart {
        /// Guest or driver domain: name or id
        #[arg(value_name = "GUEST")]
        domain: String,
        /// The image of the new driver domain (default: the same file as before)
        #[arg(short, long, value_name = "PATH")]
        image: Option<PathBuf>,
        #[command(flatten)]
        timeout: Timeout,
    },
    /// Destroy a guest and its driver domain, or what is left of them
    Destroy {
        /// Guest: name or id
        guest: String,
        /// Time that the driver domain has to release the guest and power off by itself
        #[arg(short, long, value_name = "SECONDS", default_value_t = 5)]
        grace: u16,
    },
    /// Write the ACPI table that a guest gets (an SSDT in AML)
    Ssdt {
        /// A device that it will get with `vdom attach`; needed for those with interrupt=edge or doorbell=posted
        #[arg(short, long = "device", value_name = "DEVICE")]
        devices: Vec<String>,
        /// Where to write it instead of standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// A guest's configuration.
#[derive(Args, Debug)]
pub(crate) struct GuestConfig {
    /// xl configuration of the guest
    #[arg(value_name = "GUEST.cfg")]
    pub(crate) path: PathBuf,
    /// Settings that win over the configuration's, as in `xl create`
    #[arg(value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) overrides: Vec<String>,
}

/// How long to wait.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Timeout {
    /// Time that the driver domain has to become ready
    #[arg(short, long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    timeout: u16,
}

impl Timeout {
    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

fn setting(text: &str) -> Result<String, String> {
    if text.contains('=') {
        Ok(text.into())
    } else {
        Err("a setting has the form KEY=VALUE".into())
    }
}

fn slot(text: &str) -> Result<SlotIndex, String> {
    SlotIndex::parse(text.as_bytes()).map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let size = text
        .split_once('x')
        .and_then(|(columns, rows)| Some((columns.parse().ok()?, rows.parse().ok()?)));
    size.ok_or_else(|| "a size has the form 80x25".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
