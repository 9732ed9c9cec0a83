//! The device under attack: its registers, one queue, and what an honest driver would do.

use alloc::format;
use alloc::string::String;

use crate::memory::Page;
use crate::platform::Platform;

/// Entries of the queue.
pub const SIZE: u16 = 8;
/// Where the parts of the ring are in their page.
pub const DESC: usize = 0;
/// See [`DESC`].
pub const AVAIL: usize = 0x400;
/// See [`DESC`].
pub const USED: usize = 0x800;
/// Descriptor flag.
pub const NEXT: u16 = 1;
/// Descriptor flag.
pub const WRITE: u16 = 2;
/// Descriptor flag.
pub const INDIRECT: u16 = 4;
/// Register.
pub const STATUS: usize = 0x70;
/// Register.
pub const NOTIFY: usize = 0x50;

const NEEDS_RESET: u32 = 64;
/// VERSION_1, EVENT_IDX, INDIRECT_DESC.
pub const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28;
/// Kicks say how far the driver is.
pub const NOTIFICATION_DATA: u64 = 1 << 38;
/// Addresses are what the platform makes of them.
const ACCESS_PLATFORM: u64 = 1 << 33;
const MAGIC: u32 = 0x7472_6976;

/// The device.
pub struct Device<'a> {
    /// Where this runs.
    pub platform: &'a dyn Platform,
    /// Its registers.
    pub registers: Page,
    /// Descriptors and both rings.
    pub ring: Page,
    /// Data, and at its end header and status.
    pub data: Page,
    /// A table of descriptors.
    pub table: Page,
}

/// Where a request's header is in the page of data.
pub const HEADER: usize = 0xf00;
/// Where its status byte is.
pub const STATUS_BYTE: usize = 0xf80;

impl<'a> Device<'a> {
    /// Takes the device with these registers.
    ///
    /// # Errors
    /// There is no memory, or no disk.
    pub fn open(registers: Page, platform: &'a dyn Platform) -> Result<Self, &'static str> {
        let device = Self {
            platform,
            registers,
            ring: platform.page()?,
            data: platform.page()?,
            table: platform.page()?,
        };
        if [device.get(0), device.get(4), device.get(8)] != [MAGIC, 2, 2] {
            return Err("no virtio-mmio disk is there");
        }
        Ok(device)
    }

    /// Reads a register.
    pub fn get(&self, offset: usize) -> u32 {
        self.registers.load(offset)
    }

    /// Writes a register.
    pub fn set(&self, offset: usize, value: u32) {
        self.registers.store(offset, value);
    }

    /// Writes both halves of an address.
    pub fn set_address(&self, offset: usize, value: u64) {
        self.set(offset, value as u32);
        self.set(offset + 4, (value >> 32) as u32);
    }

    /// Resets the device and settles the features.
    pub fn negotiate(&self) {
        self.negotiate_for(FEATURES);
    }

    /// Resets the device and chooses these features.
    pub fn negotiate_for(&self, features: u64) {
        self.set(STATUS, 0);
        self.set(STATUS, 1);
        self.set(STATUS, 3);
        let features = match self.platform.granted() {
            Some(_) => features | ACCESS_PLATFORM,
            None => features,
        };
        for half in 0..2 {
            self.set(0x24, half);
            self.set(0x20, (features >> (32 * half)) as u32);
        }
        self.set(STATUS, 11);
    }

    /// Describes the queue, up to QueueReady.
    pub fn set_queue(&self) {
        for page in [&self.ring, &self.data, &self.table] {
            page.fill(0);
        }
        self.place_queue(0);
    }

    /// Tells the device that a queue is where this driver has its only one.
    pub fn place_queue(&self, queue: u32) {
        self.set(0x30, queue);
        self.set(0x38, SIZE.into());
        self.set_address(0x80, self.ring.gpa + DESC as u64);
        self.set_address(0x90, self.ring.gpa + AVAIL as u64);
        self.set_address(0xa0, self.ring.gpa + USED as u64);
    }

    /// The whole set-up.
    pub fn set_up(&self) {
        self.negotiate();
        self.set_queue();
        self.set(0x44, 1);
        self.set(STATUS, 15);
    }

    /// Writes a descriptor of the queue.
    pub fn describe(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        describe(
            &self.ring,
            DESC + usize::from(index) * 16,
            addr,
            len,
            flags,
            next,
        );
    }

    /// Makes a head available, without a kick.
    pub fn offer(&self, head: u16) {
        let idx = self.ring.load::<u16>(AVAIL + 2);
        self.ring
            .store(AVAIL + 4 + usize::from(idx % SIZE) * 2, head);
        self.ring.store(AVAIL + 2, idx.wrapping_add(1));
    }

    /// Kicks the queue.
    pub fn kick(&self) {
        self.set(NOTIFY, 0);
    }

    /// Makes a head available and kicks.
    pub fn submit(&self, head: u16) {
        self.offer(head);
        self.kick();
    }

    /// Describes a read of one sector, from descriptor 0 on, in three descriptors.
    pub fn describe_read(&self, sector: u64) {
        self.data.store(HEADER, 0u64);
        self.data.store(HEADER + 8, sector);
        self.data.store(STATUS_BYTE, 0xffu8);
        self.describe(0, self.data.gpa + HEADER as u64, 16, NEXT, 1);
        self.describe(1, self.data.gpa, 512, NEXT | WRITE, 2);
        self.describe(2, self.data.gpa + STATUS_BYTE as u64, 1, WRITE, 0);
    }

    /// used.idx.
    pub fn used(&self) -> u16 {
        self.ring.load(USED + 2)
    }

    /// Waits until used.idx gets there, a second at most.
    pub fn wait_used(&self, idx: u16) -> bool {
        let end = self.platform.milliseconds() + 3000;
        while self.used() != idx && self.platform.milliseconds() < end {
            self.platform.sleep(1);
        }
        self.used() == idx
    }

    /// Whether the device says that it is broken.
    pub fn is_broken(&self) -> bool {
        self.get(STATUS) & NEEDS_RESET != 0
    }

    /// Time for the device to do what it was told.
    pub fn settle(&self) {
        self.platform.sleep(20);
        // A read of a register is answered by the loop that runs the queues.
        self.get(STATUS);
        self.platform.sleep(20);
    }

    /// What an honest driver would do: reset, set up, read a sector.
    ///
    /// # Errors
    /// What the device has not done.
    pub fn check_service(&self) -> Result<(), String> {
        self.set_up();
        if self.get(STATUS) != 15 {
            return Err(format!("status {:#x} after the set-up", self.get(STATUS)));
        }
        self.describe_read(0);
        self.submit(0);
        if !self.wait_used(1) {
            return Err("an ordinary request was not served".into());
        }
        match self.data.load::<u8>(STATUS_BYTE) {
            0 => Ok(()),
            status => Err(format!("an ordinary request ended with status {status}")),
        }
    }
}

/// Writes a descriptor into a page.
pub fn describe(page: &Page, at: usize, addr: u64, len: u32, flags: u16, next: u16) {
    page.store(at, addr);
    page.store(at + 8, len);
    page.store(at + 12, flags);
    page.store(at + 14, next);
}
