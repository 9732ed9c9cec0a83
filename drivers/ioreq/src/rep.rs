//! String instructions: one request that stands for many accesses.
//!
//! What the fields mean, as Xen's instruction emulator fills them:
//! - `count` accesses of `size` bytes, the first at `addr`. Memory addresses step by `size`, up or (`df`) down;
//!   a port stays the same.
//! - `data_is_ptr`: `data` is the guest-physical address of the first element; it steps by `size` in the same
//!   direction, for ports too. The elements of one request are contiguous.
//! - otherwise every write carries the same `data` (`rep stos`), and of several reads the last value counts.
//! - Xen cuts a request at the page boundary of either address, and a vCPU whose request has a pointer takes no data
//!   from the answer. Nothing in the answer can say that fewer accesses were made.
//!
//! Invariant: a request costs at most a page's worth of accesses, whatever `count` says.

use crate::types::{Direction, Space, Width};

/// The most bytes one request moves: Xen cuts at the page boundary.
pub const MAX_BYTES: u64 = 4096;

/// Where the data of a [`Rep`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepData {
    /// In the request: each write writes this, reads ignore it.
    Immediate(u64),
    /// In guest memory, from this guest-physical address on.
    GuestMemory(u64),
}

/// A repeated access, or one whose data is in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rep {
    /// Address space.
    pub space: Space,
    /// Address of the first access.
    pub addr: u64,
    /// Size of each access.
    pub width: Width,
    /// Number of accesses asked for; [`Rep::accesses`] are made.
    pub count: u32,
    /// Whether addresses step downwards.
    pub backwards: bool,
    /// Direction of each access.
    pub dir: Direction,
    /// Where the data comes from or goes to.
    pub data: RepData,
}

/// The registers, as the main loop reaches them. An address that is no register reads as all-ones and drops writes.
pub trait RegisterBus {
    /// Reads one register.
    fn read(&mut self, space: Space, addr: u64, width: Width) -> u64;
    /// Writes one register. A doorbell's address must work here as well: string instructions come this way.
    fn write(&mut self, space: Space, addr: u64, width: Width, value: u64);
}

/// The guest address is not memory that can be reached. The guest's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamFault;

/// The guest's memory, by guest-physical address.
pub trait GuestRam {
    /// Copies from guest memory; on an error nothing may be assumed of `into`.
    fn read(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), RamFault>;
    /// Copies to guest memory.
    fn write(&mut self, gpa: u64, from: &[u8]) -> Result<(), RamFault>;
}

/// What became of a [`Rep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepResult {
    /// What to complete the request with.
    pub data: u64,
    /// Accesses that were not (wholly) made, because their guest memory could not be reached or their address would
    /// have wrapped.
    pub faults: u32,
}

impl Rep {
    /// How many accesses are made.
    pub fn accesses(&self) -> u64 {
        let most = match self.width {
            Width::Byte => MAX_BYTES,
            Width::Word => MAX_BYTES >> 1,
            Width::Dword => MAX_BYTES >> 2,
            Width::Qword => MAX_BYTES >> 3,
        };
        u64::from(self.count).min(most)
    }

    /// The lowest and the highest byte address that is accessed.
    pub fn span(&self) -> (u64, u64) {
        let tail = self.width.bytes().saturating_sub(1);
        let steps = match self.space {
            Space::Port => 0,
            Space::Memory => self
                .accesses()
                .saturating_sub(1)
                .saturating_mul(self.width.bytes()),
        };
        if self.backwards {
            (
                self.addr.saturating_sub(steps),
                self.addr.saturating_add(tail),
            )
        } else {
            (
                self.addr,
                self.addr.saturating_add(steps).saturating_add(tail),
            )
        }
    }

    /// Whether the guest expects its memory to be written.
    pub fn fills_guest_memory(&self) -> bool {
        self.dir == Direction::Read && matches!(self.data, RepData::GuestMemory(_))
    }

    /// Makes the accesses. The n-th may see what the one before did, as on hardware.
    pub fn run<B, R>(&self, bus: &mut B, ram: &mut R) -> RepResult
    where
        B: RegisterBus + ?Sized,
        R: GuestRam + ?Sized,
    {
        let mut result = RepResult {
            data: self.width.mask(),
            faults: 0,
        };
        for n in 0..self.accesses() {
            let done = self.register(n).and_then(|addr| match self.dir {
                Direction::Read => self
                    .read_one(bus, ram, addr, n)
                    .map(|value| result.data = value),
                Direction::Write => self.write_one(bus, ram, addr, n),
            });
            if done.is_err() {
                result.faults = result.faults.saturating_add(1);
            }
        }
        result
    }

    fn read_one<B, R>(&self, bus: &mut B, ram: &mut R, addr: u64, n: u64) -> Result<u64, RamFault>
    where
        B: RegisterBus + ?Sized,
        R: GuestRam + ?Sized,
    {
        let value = bus.read(self.space, addr, self.width) & self.width.mask();
        if let RepData::GuestMemory(gpa) = self.data {
            let bytes = value.to_le_bytes();
            ram.write(
                self.step(gpa, n)?,
                bytes.get(..self.bytes()).ok_or(RamFault)?,
            )?;
        }
        Ok(value)
    }

    fn write_one<B, R>(&self, bus: &mut B, ram: &mut R, addr: u64, n: u64) -> Result<(), RamFault>
    where
        B: RegisterBus + ?Sized,
        R: GuestRam + ?Sized,
    {
        let value = match self.data {
            RepData::Immediate(value) => value,
            RepData::GuestMemory(gpa) => {
                let mut bytes = [0; 8];
                ram.read(
                    self.step(gpa, n)?,
                    bytes.get_mut(..self.bytes()).ok_or(RamFault)?,
                )?;
                u64::from_le_bytes(bytes)
            }
        };
        bus.write(self.space, addr, self.width, value & self.width.mask());
        Ok(())
    }

    fn bytes(&self) -> usize {
        match self.width {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Dword => 4,
            Width::Qword => 8,
        }
    }

    /// The register of the n-th access.
    fn register(&self, n: u64) -> Result<u64, RamFault> {
        match self.space {
            Space::Port => Ok(self.addr),
            Space::Memory => self.step(self.addr, n),
        }
    }

    /// `base` moved by n accesses. Addresses do not wrap: there is nothing beyond either end.
    fn step(&self, base: u64, n: u64) -> Result<u64, RamFault> {
        let offset = n.wrapping_mul(self.width.bytes());
        let moved = if self.backwards {
            base.checked_sub(offset)
        } else {
            base.checked_add(offset)
        };
        moved.ok_or(RamFault)
    }
}
