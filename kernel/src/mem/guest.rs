//! All ways to the guest's memory that its devices have.
//!
//! Invariant: if no device maps the guest's memory, nothing does: there is no window for it.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use vd_ioreq::rep::RamFault;
use vd_kernel_core::granted::{Counters, Grants, Rings, Trouble, View};
use vd_virtio::Span;
use vd_virtio::mem::{Cause, CopyError, Gpa, GuestMemory, MemError, RingArea};
use xen_hypercall::DomId;

use super::foreign::{AttachError, GuestRam, Refusal};
use super::grants::Xen;

/// The memory of one guest.
pub struct Memory {
    ram: Option<GuestRam>,
    grants: Option<Grants<Xen>>,
}

/// What the devices of a guest need.
#[derive(Debug, Default)]
pub struct Needs {
    /// Whether one of them maps the guest's memory.
    pub foreign: bool,
    /// How many pages of rings can be granted to them.
    pub ring_pages: u32,
    /// Where they have data that stays where it is.
    pub lasting: Vec<Range<u64>>,
}

/// The memory of one device.
pub enum DeviceMemory<'a> {
    /// All of it, mapped.
    Foreign(&'a GuestRam),
    /// What is granted.
    Granted(View<'a, Xen>),
    /// None: there is no such device.
    Nothing,
}

/// Why memory was not accessible, through no fault of the guest's.
#[derive(Clone, Copy, Debug)]
pub enum Unavailable {
    /// It could not be mapped.
    Foreign(Refusal),
    /// It was granted, and could not be used.
    Granted(Trouble),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(refusal) => write!(f, "mapping it failed: {refusal}"),
            Self::Granted(trouble) => trouble.fmt(f),
        }
    }
}

impl Memory {
    /// Makes what devices with these needs can use. Nothing is mapped yet.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn new(guest: DomId, needs: Needs) -> Result<Self, AttachError> {
        let ram = needs.foreign.then(|| GuestRam::new(guest));
        let window = || Xen::new(guest, needs.ring_pages, needs.lasting);
        let xen = (needs.ring_pages != 0).then(window);
        Ok(Self {
            ram: ram.transpose()?,
            grants: xen
                .transpose()
                .map_err(AttachError::Space)?
                .map(Grants::new),
        })
    }

    /// The memory of the device that has these rings; one without maps.
    pub fn of<'a>(&'a self, rings: Option<&'a Rings>) -> DeviceMemory<'a> {
        match (rings, &self.ram, &self.grants) {
            (None, Some(ram), _) => DeviceMemory::Foreign(ram),
            (Some(rings), _, Some(grants)) => DeviceMemory::Granted(grants.view(rings)),
            _ => DeviceMemory::Nothing,
        }
    }

    /// Number of the guest's frames that are mapped without having been granted.
    pub fn mapped_frames(&self) -> u64 {
        self.ram.as_ref().map_or(0, GuestRam::mapped_frames)
    }

    /// What was done with grants, if a device uses them.
    pub fn grant_counters(&self) -> Option<Counters> {
        self.grants.as_ref().map(Grants::counters)
    }

    /// Why memory was not accessible, once.
    pub fn take_unavailable(&self) -> Option<Unavailable> {
        let refusal = self.ram.as_ref().and_then(GuestRam::take_refusal);
        let trouble = || self.grants.as_ref().and_then(Grants::take_trouble);
        refusal
            .map(Unavailable::Foreign)
            .or_else(|| trouble().map(Unavailable::Granted))
    }

    /// Unmaps what is mapped without having been granted; it is mapped again when it is touched.
    pub fn unmap_foreign(&self) {
        if let Some(ram) = &self.ram {
            ram.unmap_all();
        }
    }

    /// Unmaps everything, for good.
    pub fn unmap_all<'a>(&self, rings: impl Iterator<Item = &'a Rings>) {
        self.unmap_foreign();
        let Some(grants) = &self.grants else { return };
        let left: usize = rings.map(|rings| grants.close_all(rings)).sum();
        if left != 0 {
            log::error!("{left} granted pages of the guest stay mapped: it may stay a zombie");
        }
    }
}

/// For accesses in one piece that name memory of the guest's, which virtio drivers do not make.
impl vd_ioreq::rep::GuestRam for &Memory {
    fn read(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), RamFault> {
        let mut ram = self.ram.as_ref().ok_or(RamFault)?;
        vd_ioreq::rep::GuestRam::read(&mut ram, gpa, into)
    }

    fn write(&mut self, gpa: u64, from: &[u8]) -> Result<(), RamFault> {
        let mut ram = self.ram.as_ref().ok_or(RamFault)?;
        vd_ioreq::rep::GuestRam::write(&mut ram, gpa, from)
    }
}

/// Calls a method of whichever memory it is.
macro_rules! memory {
    ($memory:expr, $at:expr, $len:expr, $method:ident($($arg:expr),*)) => {
        match $memory {
            DeviceMemory::Foreign(memory) => memory.$method($($arg),*),
            DeviceMemory::Granted(memory) => memory.$method($($arg),*),
            DeviceMemory::Nothing => Err(MemError::because(Cause::Platform, $at, $len)),
        }
    };
}

impl GuestMemory for DeviceMemory<'_> {
    #[inline]
    fn read(&self, from: Gpa, into: &mut [u8]) -> Result<(), MemError> {
        memory!(self, from, into.len() as u64, read(from, into))
    }

    #[inline]
    fn write(&self, to: Gpa, from: &[u8]) -> Result<(), MemError> {
        memory!(self, to, from.len() as u64, write(to, from))
    }

    #[inline]
    fn copy(&self, from: Gpa, to: Gpa, len: usize) -> Result<(), CopyError> {
        match self {
            Self::Foreign(memory) => memory.copy(from, to, len),
            Self::Granted(memory) => memory.copy(from, to, len),
            Self::Nothing => {
                let error = MemError::because(Cause::Platform, from, len as u64);
                Err(CopyError::Source(error))
            }
        }
    }

    #[inline]
    fn read_span(&self, from: Span<'_>, into: &mut [u8]) -> Result<(), MemError> {
        memory!(self, Gpa(0), from.len(), read_span(from, into))
    }

    #[inline]
    fn write_span(&self, to: Span<'_>, from: &[u8]) -> Result<(), MemError> {
        memory!(self, Gpa(0), to.len(), write_span(to, from))
    }

    #[inline]
    fn prefetch(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        memory!(self, at, len, prefetch(at, len))
    }

    #[inline]
    fn flush(&self) -> Result<(), MemError> {
        memory!(self, Gpa(0), 0, flush())
    }

    fn open_ring(&self, id: u32, areas: &[RingArea; 3]) -> Result<(), MemError> {
        memory!(self, Gpa(0), 0, open_ring(id, areas))
    }

    fn close_ring(&self, id: u32) {
        if let Self::Granted(memory) = self {
            memory.close_ring(id);
        }
    }

    #[inline]
    fn load_u16(&self, at: Gpa) -> Result<u16, MemError> {
        memory!(self, at, 2, load_u16(at))
    }

    #[inline]
    fn store_u16(&self, at: Gpa, value: u16) -> Result<(), MemError> {
        memory!(self, at, 2, store_u16(at, value))
    }

    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        memory!(self, at, len, check(at, len))
    }

    #[inline]
    fn fence(&self) {
        match self {
            Self::Foreign(memory) => memory.fence(),
            Self::Granted(memory) => memory.fence(),
            Self::Nothing => {}
        }
    }
}
