//! The guest's memory: mapped on first touch, 2 MiB at a time, and kept.
//!
//! Guest frame `g` appears at window frame `base + g`, so that a guest-physical
//! address is a pointer after one check and one addition. Xen counts a reference a
//! mapped page: a guest that is destroyed stays a zombie until [`GuestRam::unmap_all`]
//! has run.
//!
//! Invariants: a byte of the window is touched only after [`ForeignMap`] said that its
//! frame is mapped; nobody holds a reference into the window, accesses are copies.
//! The guest writes to the same bytes at any time; what is copied out may be torn, and
//! the device core validates the copy.

use alloc::boxed::Box;
use alloc::vec;
use core::cell::RefCell;
use core::fmt;
use core::sync::atomic::{AtomicU16, Ordering, fence};

use vd_ioreq::rep::RamFault;
use vd_kernel_core::foreign::{CHUNK_FRAMES, ChunkBits, ForeignMap, TooLarge, bit, set_bit};
use vd_virtio::mem::{Gpa, GuestMemory, MemError};
use xen_hypercall::memory::{self, PhysmapSpace, RemoveFromPhysmap};
use xen_hypercall::multicall::{self, MulticallEntry};
use xen_hypercall::{DomId, Errno, Gfn};

use super::frames::FRAME;
use super::space::{self, SpaceError};
use crate::counters;
use crate::xen::XEN;

/// Entries of one multicall when unmapping.
const UNMAP_BATCH: usize = 64;

/// The memory of one guest.
pub struct GuestRam {
    guest: DomId,
    /// Address of guest-physical address 0 in the window.
    base: u64,
    state: RefCell<State>,
}

struct State {
    map: ForeignMap,
    /// Scratch space of one batch: kept, so that mapping never allocates.
    batch: Batch,
    /// Why memory was not mapped the last time that this was nobody's fault but the operator's.
    refused: Option<Refusal>,
}

/// Why memory of the guest was not mapped.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// Xen said no.
    Xen(Errno),
    /// The guest's memory has more holes, or more of it, than can be kept track of.
    TooLarge,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xen(error) => error.fmt(f),
            Self::TooLarge => f.write_str("too much of it, or too many holes in it"),
        }
    }
}

/// On the heap: it is larger than what a stack should carry around.
struct Batch {
    guest: Box<[u64]>,
    own: Box<[u64]>,
    errors: Box<[i32]>,
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
        let map = ForeignMap::new(max).map_err(AttachError::TooLarge)?;
        let base = space::guest_window((max + 1) * FRAME).map_err(AttachError::Space)?;
        let batch = Batch {
            guest: vec![0; CHUNK_FRAMES].into(),
            own: vec![0; CHUNK_FRAMES].into(),
            errors: vec![0; CHUNK_FRAMES].into(),
        };
        let state = RefCell::new(State {
            map,
            batch,
            refused: None,
        });
        Ok(Self { guest, base, state })
    }

    /// Number of the guest's frames that are mapped.
    pub fn mapped_frames(&self) -> u64 {
        self.state.borrow().map.mapped_frames()
    }

    /// Why memory was not mapped, once.
    pub fn take_refusal(&self) -> Option<Refusal> {
        self.state.borrow_mut().refused.take()
    }

    /// Address of `len` bytes at `gpa` in the window, mapped if they can be.
    #[inline]
    fn place(&self, gpa: Gpa, len: u64) -> Result<*mut u8, MemError> {
        if !self.state.borrow().map.is_mapped(gpa.0, len) {
            self.map_range(gpa, len)?;
        }
        Ok((self.base + gpa.0) as *mut u8)
    }

    #[cold]
    fn map_range(&self, gpa: Gpa, len: u64) -> Result<(), MemError> {
        let state = &mut *self.state.borrow_mut();
        if state.map.is_beyond(gpa.0, len) {
            self.grow(state);
        }
        while let Some((chunk, mapped)) = state.map.next_to_map(gpa.0, len) {
            let wanted = missing(&mapped);
            let now = self.map_chunk(state, chunk, mapped, &wanted);
            if now == mapped {
                break;
            }
            if state.map.set_mapped(chunk, &now).is_err() {
                self.unmap_chunk(chunk, &now, &mapped);
                state.refused = Some(Refusal::TooLarge);
                break;
            }
        }
        if state.map.is_mapped(gpa.0, len) {
            Ok(())
        } else {
            Err(MemError::new(gpa, len))
        }
    }

    /// Looks whether the guest has got memory beyond what it had.
    fn grow(&self, state: &mut State) {
        let Ok(max) = memory::maximum_gpfn(&XEN, self.guest) else {
            return;
        };
        let grown =
            state.map.grow(max.0).is_ok() && space::guest_window((max.0 + 1) * FRAME).is_ok();
        if !grown {
            state.refused = Some(Refusal::TooLarge);
        }
    }

    /// Maps the frames of `wanted`; returns what is mapped then.
    fn map_chunk(
        &self,
        state: &mut State,
        chunk: u64,
        mapped: ChunkBits,
        wanted: &ChunkBits,
    ) -> ChunkBits {
        let mut now = mapped;
        let first = chunk * CHUNK_FRAMES as u64;
        let mut n = 0;
        for frame in (0..CHUNK_FRAMES as u64).filter(|&frame| bit(wanted, frame)) {
            state.batch.guest[n] = first + frame;
            state.batch.own[n] = self.base / FRAME + first + frame;
            state.batch.errors[n] = 0;
            n += 1;
        }
        let batch = &mut state.batch;
        // SAFETY: the target frames are in the window, where this domain has no RAM, and
        // nobody touches them before they are recorded as mapped.
        let result = unsafe {
            memory::add_to_physmap_batch(
                &XEN,
                DomId::SELF,
                PhysmapSpace::ForeignGmfn(self.guest),
                &batch.guest[..n],
                &batch.own[..n],
                &mut batch.errors[..n],
            )
        };
        if let Err(error) = result {
            state.refused = Some(Refusal::Xen(error));
        }
        for (index, &error) in batch.errors[..n].iter().enumerate() {
            if result.is_ok() && error == 0 {
                set_bit(&mut now, batch.guest[index] - first);
                counters::add(&counters::FRAMES_MAPPED, 1);
            } else if error == -Errno::ENOMEM.0 {
                // The paging pool is empty: the operator's to mend. Other refusals mean that there is no RAM.
                state.refused = Some(Refusal::Xen(Errno::ENOMEM));
            }
        }
        now
    }

    fn unmap_chunk(&self, chunk: u64, now: &ChunkBits, before: &ChunkBits) {
        let first = self.base / FRAME + chunk * CHUNK_FRAMES as u64;
        let mut unmapper = Unmapper::new();
        for frame in 0..CHUNK_FRAMES as u64 {
            if bit(now, frame) && !bit(before, frame) {
                unmapper.push(first + frame);
            }
        }
        unmapper.flush();
    }

    /// Unmaps everything; what is touched afterwards is mapped again.
    pub fn unmap_all(&self) {
        let base = self.base / FRAME;
        let mut unmapper = Unmapper::new();
        self.state
            .borrow_mut()
            .map
            .clear(|frame| unmapper.push(base + frame));
        unmapper.flush();
    }
}

/// The frames that are not in `mapped`.
fn missing(mapped: &ChunkBits) -> ChunkBits {
    mapped.map(|word| !word)
}

/// Collects removals from the own physmap into multicalls: Xen has no batch for them.
struct Unmapper {
    frames: [RemoveFromPhysmap; UNMAP_BATCH],
    used: usize,
}

impl Unmapper {
    fn new() -> Self {
        Self {
            frames: [const { RemoveFromPhysmap::new(DomId::SELF, Gfn(0)) }; UNMAP_BATCH],
            used: 0,
        }
    }

    fn push(&mut self, frame: u64) {
        self.frames[self.used] = RemoveFromPhysmap::new(DomId::SELF, Gfn(frame));
        self.used += 1;
        if self.used == UNMAP_BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut calls = [const { MulticallEntry::empty() }; UNMAP_BATCH];
        for (call, frame) in calls.iter_mut().zip(&self.frames[..self.used]) {
            *call = memory::remove_from_physmap_entry(frame);
        }
        // SAFETY: the frames are in the window and were just recorded as not mapped.
        let result = unsafe { multicall::multicall(&XEN, &mut calls[..self.used]) };
        if let Err(error) = result {
            log::error!("unmapping {} frames of the guest: {error}", self.used);
        }
        let failed = calls[..self.used]
            .iter()
            .filter(|call| call.result().is_err())
            .count();
        if failed != 0 {
            log::error!("{failed} frames of the guest stay mapped: it may stay a zombie");
        }
        counters::add(&counters::FRAMES_UNMAPPED, (self.used - failed) as u64);
        self.used = 0;
    }
}

/// Copies with `rep movsb`, which the CPU does in the widest pieces it has.
///
/// # Safety
/// Both ranges are valid for `len` bytes; other writers to them are tolerated, as the
/// copy is made of single machine accesses, not of Rust reads.
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's promise; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
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
