//! The device under attack: its registers, one of its queues, and what an honest driver would do.

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
pub const QUEUE_READY: usize = 0x44;
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

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A disk.
    Disk,
    /// A network device.
    Net,
    /// An entropy device.
    Entropy,
}

impl Kind {
    fn from_id(id: u32) -> Option<Self> {
        match id {
            1 => Some(Self::Net),
            2 => Some(Self::Disk),
            4 => Some(Self::Entropy),
            _ => None,
        }
    }

    /// The queue that requests go to: a network device's is the one for sending.
    #[must_use]
    pub fn queue(self) -> u32 {
        match self {
            Self::Disk | Self::Entropy => 0,
            Self::Net => TRANSMIT,
        }
    }

    /// Features of that kind: CSUM, HOST_TSO4 and CTRL_VQ of a network device.
    fn features(self) -> u64 {
        match self {
            Self::Disk | Self::Entropy => 0,
            Self::Net => 1 | 1 << 11 | 1 << 17,
        }
    }
}

/// A network device's queue.
pub const RECEIVE: u32 = 0;
/// A network device's queue.
pub const TRANSMIT: u32 = 1;
/// A network device's queue, if it has one pair of the others.
pub const CONTROL: u32 = 2;
/// Bytes of the header before each frame.
pub const NET_HEADER: u32 = 12;
/// Bytes of an Ethernet header.
pub const ETHERNET: u32 = 14;
/// Bytes of an ordinary frame.
pub const FRAME: u32 = 60;

/// The device.
pub struct Device<'a> {
    /// What it is.
    pub kind: Kind,
    /// The queue that is used.
    pub queue: u32,
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
    /// There is no memory, or no device.
    pub fn open(registers: Page, platform: &'a dyn Platform) -> Result<Self, &'static str> {
        let kind = Kind::from_id(registers.load(8)).ok_or("it is no device of a known kind")?;
        let device = Self {
            kind,
            queue: kind.queue(),
            platform,
            registers,
            ring: platform.page()?,
            data: platform.page()?,
            table: platform.page()?,
        };
        if [device.get(0), device.get(4)] != [MAGIC, 2] {
            return Err("no virtio-mmio device is there");
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
        self.negotiate_for(FEATURES | self.kind.features());
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
        self.place_queue(self.queue);
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
        self.set(QUEUE_READY, 1);
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
        self.set(NOTIFY, self.queue);
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

    /// Describes an ordinary request, from descriptor 0 on.
    pub fn describe_request(&self) {
        self.describe_request_at(self.data.gpa, None);
    }

    /// Describes a request whose data is there, and, if that is given, so long.
    pub fn describe_request_at(&self, addr: u64, len: Option<u32>) {
        match self.kind {
            Kind::Disk => {
                self.describe_read(0);
                self.describe(1, addr, len.unwrap_or(512), NEXT | WRITE, 2);
            }
            Kind::Net => {
                self.write_frame();
                let header = self.data.gpa + HEADER as u64;
                let rest = len.unwrap_or(FRAME - ETHERNET);
                self.describe(0, header, NET_HEADER, NEXT, 1);
                // Where it goes, or else nobody would look at what is in it.
                self.describe(1, self.data.gpa, ETHERNET, NEXT, 2);
                self.describe(2, addr, rest, 0, 0);
            }
            Kind::Entropy => {
                self.data.store(0, 0u64);
                self.describe(0, addr, len.unwrap_or(64), WRITE, 0);
            }
        }
    }

    /// An ordinary header, and an ordinary frame at the start of the page of data: to everybody, from this device, of a
    /// type that nobody listens to (IEEE 802, local experimental EtherType 2).
    pub fn write_frame(&self) {
        self.data.store(HEADER, 0u64);
        self.data.store(HEADER + 8, 0u32);
        self.data.store(0, u32::MAX);
        self.data.store(4, u16::MAX);
        for byte in 0..6 {
            self.data
                .store(6 + byte, self.registers.load::<u8>(0x100 + byte));
        }
        self.data.store(12, 0x88b6_u16.to_be());
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

    /// The status, when all that was written before has been carried out: where the device has its registers in memory, it
    /// is read there and waits for nothing, but QueueReady never is.
    pub fn status(&self) -> u32 {
        self.get(QUEUE_READY);
        self.get(STATUS)
    }

    /// Whether the device says that it is broken.
    pub fn is_broken(&self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    /// Time for the device to do what it was told.
    pub fn settle(&self) {
        self.platform.sleep(20);
        // A read of a register is answered by the loop that runs the queues.
        self.status();
        self.platform.sleep(20);
    }

    /// What an honest driver would do: reset, set up, one request.
    ///
    /// # Errors
    /// What the device has not done.
    pub fn check_service(&self) -> Result<(), String> {
        self.set_up();
        if self.status() != 15 {
            return Err(format!("status {:#x} after the set-up", self.status()));
        }
        self.describe_request();
        self.submit(0);
        if !self.wait_used(1) {
            return Err("an ordinary request was not served".into());
        }
        let written = self.ring.load::<u32>(USED + 8);
        let answer = match self.kind {
            Kind::Disk => self.data.load::<u8>(STATUS_BYTE).into(),
            Kind::Net => u64::from(written),
            // None at all, or zeroes, are no random numbers.
            Kind::Entropy => u64::from(written != 64 || self.data.load::<u64>(0) == 0),
        };
        match answer {
            0 => Ok(()),
            answer => Err(format!("an ordinary request ended with {answer}")),
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
