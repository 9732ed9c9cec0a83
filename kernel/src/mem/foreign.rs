//! The guest's memory, all of it: mapped on first touch, 2 MiB at a time, and kept. What is mapped when is decided in
//! `vd_kernel_core::mapper`.
//!
//! Guest frame `g` appears at window frame `base + g`, so that a guest-physical
//! address is a pointer after one check and one addition. Xen counts a reference a
//! mapped page: a guest that is destroyed stays a zombie until [`GuestRam::unmap_all`]
//! has run.
//!
//! Invariants: a byte of the window is touched only after [`Mapper`] said that its
//! frame is mapped; nobody holds a reference into the window, accesses are copies.
//! The guest writes to the same bytes at any time; what is copied out may be torn, and
//! the device core validates the copy.

use alloc::boxed::Box;
use alloc::vec;
use core::cell::RefCell;
use core::fmt;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use vd_ioreq::rep::RamFault;
use vd_kernel_core::foreign::{CHUNK_FRAMES, TooLarge};
use vd_kernel_core::mapper::{Mapper, Physmap, UNMAP_BATCH};
use vd_virtio::mem::{CopyError, Gpa, GuestMemory, MemError};
use xen_hypercall::memory::{self, PhysmapSpace, RemoveFromPhysmap};
use xen_hypercall::multicall::{self, MulticallEntry};
use xen_hypercall::{DomId, Errno, Gfn};

use super::copy;
use super::frames::FRAME;
use super::space::{self, SpaceError};
use crate::counters;
use crate::xen::XEN;

pub use vd_kernel_core::mapper::Refusal;

/// The memory of one guest.
pub struct GuestRam {
    window: Window,
    state: RefCell<Mapper>,
}

/// Where the guest's memory appears.
struct Window {
    guest: DomId,
    /// Address of guest-physical address 0.
    base: u64,
    /// Room for this domain's frame numbers of one call: more than a stack should carry around.
    own: RefCell<Box<[u64]>>,
}

/// Why the guest's memory cannot be served.
#[derive(Clone, Copy, Debug)]
pub enum AttachError {
    /// Xen did not say how large the guest is.
    Size(Errno),
    /// The window cannot be made.
    Space(SpaceError),
    /// Too little heap.
    TooLarge(TooLarge),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(error) => write!(f, "asking for the guest's size: {error}"),
            Self::Space(error) => error.fmt(f),
            Self::TooLarge(error) => error.fmt(f),
        }
    }
}

impl GuestRam {
    /// Makes a window for the memory of `guest`. Nothing is mapped yet.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn new(guest: DomId) -> Result<Self, AttachError> {
        let max = memory::maximum_gpfn(&XEN, guest)
            .map_err(AttachError::Size)?
            .0;
        let mapper = Mapper::new(max).map_err(AttachError::TooLarge)?;
        let base = space::guest_window((max + 1) * FRAME).map_err(AttachError::Space)?;
        Ok(Self {
            window: Window {
                guest,
                base,
                own: RefCell::new(vec![0; CHUNK_FRAMES].into()),
            },
            state: RefCell::new(mapper),
        })
    }

    /// Number of the guest's frames that are mapped.
    pub fn mapped_frames(&self) -> u64 {
        self.state.borrow().mapped_frames()
    }

    /// Why memory was not mapped, once.
    pub fn take_refusal(&self) -> Option<Refusal> {
        self.state.borrow_mut().take_refusal()
    }

    /// Address of `len` bytes at `gpa` in the window, mapped if they can be.
    #[inline]
    fn place(&self, gpa: Gpa, len: u64) -> Result<*mut u8, MemError> {
        if !self.state.borrow().is_mapped(gpa, len) {
            self.map_range(gpa, len)?;
        }
        Ok((self.window.base + gpa.0) as *mut u8)
    }

    #[cold]
    fn map_range(&self, gpa: Gpa, len: u64) -> Result<(), MemError> {
        self.state.borrow_mut().map_range(&self.window, gpa, len)
    }

    /// Unmaps everything; what is touched afterwards is mapped again.
    pub fn unmap_all(&self) {
        let left = self.state.borrow_mut().unmap_all(&self.window);
        if left != 0 {
            log::error!("{left} frames of the guest stay mapped: it may stay a zombie");
        }
    }
}

impl Window {
    /// Number of this domain's frame where a frame of the guest appears.
    fn own(&self, frame: u64) -> u64 {
        self.base / FRAME + frame
    }
}

impl Physmap for Window {
    fn highest(&self) -> Result<u64, Errno> {
        memory::maximum_gpfn(&XEN, self.guest).map(|gfn| gfn.0)
    }

    fn extend(&self, highest: u64) -> bool {
        space::guest_window((highest + 1) * FRAME).is_ok()
    }

    fn map(&self, frames: &[u64], errors: &mut [i32]) -> Result<(), Errno> {
        let mut own = self.own.borrow_mut();
        for (own, frame) in own.iter_mut().zip(frames) {
            *own = self.own(*frame);
        }
        let from = PhysmapSpace::ForeignGmfn(self.guest);
        // SAFETY: the target frames are in the window, where this domain has no RAM, and
        // nobody touches them before they are recorded as mapped.
        unsafe { memory::add_to_physmap_batch(&XEN, DomId::SELF, from, frames, &own, errors) }
    }

    fn unmap(
        &self,
        frames: &[u64],
        results: &mut [Result<(), Errno>; UNMAP_BATCH],
    ) -> Result<(), Errno> {
        let mut arguments = [const { RemoveFromPhysmap::new(DomId::SELF, Gfn(0)) }; UNMAP_BATCH];
        let mut calls = [const { MulticallEntry::empty() }; UNMAP_BATCH];
        let used = frames.len().min(UNMAP_BATCH);
        let each = calls.iter_mut().zip(&mut arguments).zip(frames);
        for ((call, argument), frame) in each {
            *argument = RemoveFromPhysmap::new(DomId::SELF, Gfn(self.own(*frame)));
            *call = memory::remove_from_physmap_entry(argument);
        }
        // SAFETY: the frames are in the window and were just recorded as not mapped; the arguments outlive the call.
        unsafe { multicall::multicall(&XEN, &mut calls[..used]) }?;
        for (result, call) in results.iter_mut().zip(&calls[..used]) {
            *result = call.result().map(drop);
        }
        Ok(())
    }

    fn count_mapped(&self, frames: u64) {
        counters::add(&counters::FRAMES_MAPPED, frames);
    }

    fn count_unmapped(&self, frames: u64) {
        counters::add(&counters::FRAMES_UNMAPPED, frames);
    }
}

impl GuestMemory for GuestRam {
    #[inline]
    fn read(&self, from: Gpa, into: &mut [u8]) -> Result<(), MemError> {
        let place = self.place(from, into.len() as u64)?;
        // SAFETY: `place` said that the range is mapped; `into` is not in the window.
        unsafe { copy(place, into.as_mut_ptr(), into.len()) };
        counters::add(&counters::BYTES_FROM_GUEST, into.len() as u64);
        Ok(())
    }

    #[inline]
    fn write(&self, to: Gpa, from: &[u8]) -> Result<(), MemError> {
        let place = self.place(to, from.len() as u64)?;
        // SAFETY: as in `read`.
        unsafe { copy(from.as_ptr(), place, from.len()) };
        counters::add(&counters::BYTES_TO_GUEST, from.len() as u64);
        Ok(())
    }

    fn copy(&self, from: Gpa, to: Gpa, len: usize) -> Result<(), CopyError> {
        let source = self.place(from, len as u64).map_err(CopyError::Source)?;
        let target = self.place(to, len as u64).map_err(CopyError::Target)?;
        // SAFETY: `place` said that both ranges are mapped, and only `unmap_all` unmaps. They may overlap, which makes
        // a difference for what the guest finds there only.
        unsafe { copy(source, target, len) };
        counters::add(&counters::BYTES_IN_GUEST, len as u64);
        Ok(())
    }

    #[inline]
    fn load_u16(&self, at: Gpa) -> Result<u16, MemError> {
        Ok(u16::from_le(self.atomic(at)?.load(Ordering::Acquire)))
    }

    #[inline]
    fn store_u16(&self, at: Gpa, value: u16) -> Result<(), MemError> {
        self.atomic(at)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    fn check(&self, at: Gpa, len: u64) -> Result<(), MemError> {
        self.place(at, len).map(drop)
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl GuestRam {
    /// An aligned 16-bit number of the guest. The reference is to an atomic, used at once, and goes no further.
    #[inline]
    fn atomic(&self, at: Gpa) -> Result<&AtomicU16, MemError> {
        if !at.0.is_multiple_of(2) {
            return Err(MemError::new(at, 2));
        }
        let place = self.place(at, 2)?;
        // SAFETY: aligned and mapped; it stays mapped until `unmap_all`, which this thread calls between requests.
        Ok(unsafe { AtomicU16::from_ptr(place.cast()) })
    }
}

impl vd_ioreq::rep::GuestRam for &GuestRam {
    fn read(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), RamFault> {
        GuestMemory::read(*self, Gpa(gpa), into).map_err(|_| RamFault)
    }

    fn write(&mut self, gpa: u64, from: &[u8]) -> Result<(), RamFault> {
        GuestMemory::write(*self, Gpa(gpa), from).map_err(|_| RamFault)
    }
}
