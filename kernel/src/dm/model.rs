//! The kinds of devices that there are.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use vd_blk::Wake;
use vd_config::SlotIndex;
use vd_console::ConsoleDevice;
use vd_net::NetDevice;
use vd_rng::EntropyDevice;
use vd_virtio::fault::FaultKind;
use vd_virtio::state::{BadState, Reader, Writer};
use vd_virtio::{Chain, Device, DeviceId, Features, GuestMemory, Pass, Progress};

use super::disk::Disk;
use super::entropy::Cpu;

/// A device of any kind.
pub enum Model {
    /// A block device.
    Disk(Box<Disk>),
    /// A network device.
    Net(NetDevice),
    /// An entropy device.
    Rng(Box<EntropyDevice<Cpu>>),
    /// A console device.
    Console(Box<ConsoleDevice>),
}

/// Calls a method of whichever device it is.
macro_rules! each {
    ($model:expr, $device:ident => $call:expr) => {
        match $model {
            Model::Disk($device) => $call,
            Model::Net($device) => $call,
            Model::Rng($device) => $call,
            Model::Console($device) => $call,
        }
    };
}

impl Model {
    /// The queues that have something to do without a kick, as bits.
    pub fn take_wakes(&mut self) -> u32 {
        match self {
            Self::Net(port) => port.take_wakes(),
            Self::Console(console) => console.take_wakes(),
            Self::Disk(_) | Self::Rng(_) => 0,
        }
    }

    /// The console device, if it is one.
    pub fn console_mut(&mut self) -> Option<&mut ConsoleDevice> {
        match self {
            Self::Console(console) => Some(console),
            Self::Disk(_) | Self::Net(_) | Self::Rng(_) => None,
        }
    }

    /// Connects or cuts the link, of a network device.
    pub fn set_link(&mut self, up: bool) {
        if let Self::Net(port) = self {
            port.set_link(up);
        }
    }

    /// Takes away what is behind it, though its driver has not let it go: a disk has nothing any more, and every request fails;
    /// a link goes down. A console's output goes nowhere, as with nobody there. Behind an entropy device is nothing that
    /// could be taken away. `keep` is for memory that others may still name.
    pub fn depart(&mut self, keep: bool) {
        match self {
            Self::Disk(disk) => disk.depart(keep),
            Self::Net(port) => port.set_link(false),
            Self::Rng(_) | Self::Console(_) => {}
        }
    }

    /// It is not used any more by anybody.
    pub fn leave(&mut self) {
        if let Self::Net(port) = self {
            port.leave();
        }
    }

    /// The entropy device, if it is one.
    pub fn rng_mut(&mut self) -> Option<&mut EntropyDevice<Cpu>> {
        match self {
            Self::Rng(rng) => Some(rng),
            Self::Disk(_) | Self::Net(_) | Self::Console(_) => None,
        }
    }

    /// Takes what a back end has finished.
    pub fn poll(&mut self) -> Wake {
        match self {
            Self::Disk(disk) => disk.poll(),
            Self::Net(_) | Self::Rng(_) | Self::Console(_) => Wake::default(),
        }
    }

    /// Lets the events of its back end through that were held back.
    pub fn listen_again(&self) {
        if let Self::Disk(disk) = self {
            disk.listen_again();
        }
    }

    /// What it is, in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Disk(disk) => {
                let mode = if disk.readonly() {
                    "read-only"
                } else {
                    "read-write"
                };
                format!("blk, {} sectors, {mode}", disk.sectors())
            }
            Self::Net(port) => {
                let config = port.config();
                format!(
                    "net, {}, MTU {}, {} queue pair(s)",
                    port.mac(),
                    config.mtu,
                    config.pairs
                )
            }
            Self::Rng(rng) => format!("rng, {} bytes a second", rng.rate()),
            Self::Console(console) => {
                let mut text = String::from("console");
                for port in 1..console.ports() {
                    let open = if console.is_guest_open(port) {
                        " (open)"
                    } else {
                        ""
                    };
                    let name = console.name(port).unwrap_or("");
                    text += &format!(", port {port} {name}{open}");
                }
                text
            }
        }
    }

    /// What it has done, in words.
    pub fn summary(&self) -> String {
        match self {
            Self::Disk(disk) => {
                let counters = disk.counters();
                format!(
                    "{} bytes read, {} written, {} errors",
                    counters.bytes_read, counters.bytes_written, counters.errors
                )
            }
            Self::Net(port) => {
                let counters = port.counters();
                format!(
                    "{} frames sent, {} received, {} without room",
                    counters.tx_frames, counters.rx_frames, counters.rx_no_room
                )
            }
            Self::Rng(rng) => format!("{} random bytes", rng.counters().bytes),
            Self::Console(console) => {
                let counters = console.counters();
                format!(
                    "{} bytes out, {} of them lost, {} in",
                    counters.out_bytes, counters.out_lost, counters.in_given
                )
            }
        }
    }

    /// Adds its counters, by name.
    pub fn add_counters(&self, slot: SlotIndex, to: &mut Vec<(&'static str, u64)>) {
        match self {
            Self::Disk(disk) => {
                to.extend_from_slice(&disk.connection_counters(slot));
                let disk = disk.counters();
                to.extend_from_slice(&[
                    ("reads", disk.reads),
                    ("bytes-read", disk.bytes_read),
                    ("writes", disk.writes),
                    ("bytes-written", disk.bytes_written),
                    ("flushes", disk.flushes),
                    ("zeroings", disk.zeroings),
                    ("others", disk.others),
                    ("errors", disk.errors),
                ]);
            }
            Self::Net(port) => to.extend_from_slice(&port.counters().named()),
            Self::Rng(rng) => {
                let rng = rng.counters();
                to.extend_from_slice(&[
                    ("random-bytes", rng.bytes),
                    ("throttled", rng.throttled),
                    ("troubles", rng.troubles),
                    ("errors", rng.errors),
                ]);
            }
            Self::Console(console) => to.extend_from_slice(&console.counters().named()),
        }
    }
}

impl Device for Model {
    fn id(&self) -> DeviceId {
        each!(self, device => device.id())
    }

    fn features(&self) -> Features {
        each!(self, device => device.features())
    }

    fn queues(&self) -> u16 {
        match self {
            Self::Disk(disk) => Device::queues(&**disk),
            Self::Net(port) => Device::queues(port),
            Self::Rng(rng) => Device::queues(&**rng),
            Self::Console(console) => Device::queues(&**console),
        }
    }

    fn read_config(&self, offset: usize, into: &mut [u8]) {
        each!(self, device => device.read_config(offset, into));
    }

    fn write_config(&mut self, offset: usize, from: &[u8]) -> bool {
        each!(self, device => device.write_config(offset, from))
    }

    fn activate(&mut self, features: Features) {
        each!(self, device => device.activate(features));
    }

    fn reset(&mut self) {
        each!(self, device => device.reset());
    }

    fn reset_queue(&mut self, queue: u16) {
        each!(self, device => device.reset_queue(queue));
    }

    fn keeps_order(&self, queue: u16) -> bool {
        each!(self, device => device.keeps_order(queue))
    }

    fn quiesce(&mut self) {
        each!(self, device => device.quiesce());
    }

    fn save(&self, to: &mut Writer<'_>) {
        each!(self, device => device.save(to));
    }

    fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), BadState> {
        each!(self, device => device.restore(from))
    }

    fn run<M: GuestMemory + ?Sized>(
        &mut self,
        pass: &mut Pass<'_, M>,
        chain: &mut Chain,
    ) -> Result<Progress, FaultKind> {
        each!(self, device => device.run(pass, chain))
    }
}
