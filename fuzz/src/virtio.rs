//! The device under test: all that the targets know of `vd-virtio`'s and `vd-blk`'s types.
//!
//! When those crates change, this file changes, and the targets do not.

use vd_blk::{BlockDevice, Geometry, RamDisk};
use vd_virtio::{Chain, MmioTransport};

pub use vd_virtio::test_util::{DriverPacked, DriverRing, FakeMemory};

/// Queues that a device has room for.
pub const QUEUES: usize = 1;
/// Most entries of a queue.
pub const QUEUE_SIZE: u16 = 64;
/// Sectors of the disk.
pub const SECTORS: u64 = 16;
/// Its serial number: all 20 bytes.
pub const SERIAL: &[u8; 20] = b"FUZZED-DISK-00000001";

type Disk = BlockDevice<RamDisk<Vec<u8>>>;
/// What [`Device::snapshot`] gives.
pub type State = MmioTransport<Disk, QUEUES, 1>;

/// What the disk holds at first.
pub fn initial_content() -> Vec<u8> {
    (0..SECTORS * 512).map(|at| (at % 251) as u8).collect()
}

/// A disk behind its registers.
pub struct Device {
    transport: State,
    scratch: Chain,
}

impl Default for Device {
    fn default() -> Self {
        Self::new()
    }
}

impl Device {
    /// A disk with the initial content.
    pub fn new() -> Self {
        let content = RamDisk::new(initial_content());
        let disk = BlockDevice::new(content, Geometry::of_blocks(512), SERIAL, false);
        Self {
            transport: MmioTransport::new(disk, QUEUE_SIZE),
            scratch: Chain::new(),
        }
    }

    /// The driver reads a register or configuration space.
    pub fn read(&mut self, offset: u64, size: u64) -> u64 {
        self.transport.read(offset, size)
    }

    /// The driver writes a register or configuration space.
    pub fn write(&mut self, mem: &FakeMemory, offset: u64, size: u64, value: u64) {
        self.transport.write(mem, offset, size, value);
    }

    /// A kick that was taken from a doorbell, with the value that was written.
    pub fn kick(&mut self, value: u64) {
        self.transport.notify(value as u32);
    }

    /// Serves kicked queues.
    pub fn run(&mut self, mem: &FakeMemory, budget: u32) {
        self.transport.run(mem, budget, &mut self.scratch);
    }

    /// Whether a run would do something.
    pub fn has_work(&self) -> bool {
        self.transport.has_work()
    }

    /// Whether the interrupt line is up.
    pub fn interrupt(&self) -> bool {
        self.transport.interrupt()
    }

    /// Device status.
    pub fn status(&self) -> u32 {
        self.transport.status().bits()
    }

    /// Requests taken so far.
    pub fn requests(&self) -> u64 {
        self.transport.counters().requests
    }

    /// Faults of the driver so far.
    pub fn faults(&self) -> u64 {
        self.transport.counters().faults
    }

    /// Resets so far.
    pub fn resets(&self) -> u64 {
        self.transport.counters().resets
    }

    /// Accesses so far that meant nothing.
    pub fn bad_accesses(&self) -> u64 {
        self.transport.counters().bad_accesses
    }

    /// The text of the last fault, once.
    pub fn take_fault(&mut self) -> Option<String> {
        self.transport.take_fault().map(|fault| fault.to_string())
    }

    /// Everything there is to the transport but its counters: to see that nothing has changed.
    pub fn snapshot(&self) -> State {
        self.transport.clone().uncounted()
    }
}
