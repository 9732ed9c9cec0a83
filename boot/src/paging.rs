//! The final page tables: identity, W^X, no null page, no page below a stack.
//!
//! Virtual addresses equal physical ones. Every page is either writable or
//! executable or neither; the image's text is the only executable memory. The
//! walk itself is the `x86_64` crate's; this module decides what is mapped and how.

use core::fmt;
use core::ops::Range;

use x86_64::structures::paging::mapper::{MapToError, MapperFlush};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame,
    Size1GiB, Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

/// What may be done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write, not execute.
    ReadWrite,
    /// Read and execute, not write.
    ReadExecute,
    /// Read and write, not execute, uncached: device registers.
    Device,
}

impl Access {
    fn flags(self) -> PageTableFlags {
        let base = PageTableFlags::PRESENT;
        match self {
            Self::Read => base | PageTableFlags::NO_EXECUTE,
            Self::ReadWrite => base | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE,
            Self::ReadExecute => base,
            Self::Device => {
                base | PageTableFlags::WRITABLE
                    | PageTableFlags::NO_EXECUTE
                    | PageTableFlags::NO_CACHE
                    | PageTableFlags::WRITE_THROUGH
            }
        }
    }
}

/// Why a mapping could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingError {
    /// No frame is left for a page table.
    OutOfFrames,
    /// The address is mapped already.
    AlreadyMapped(u64),
    /// The range is not page-aligned or beyond the lower canonical half.
    BadRange(u64, u64),
}

impl fmt::Display for PagingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrames => write!(f, "no memory is left for page tables"),
            Self::AlreadyMapped(addr) => write!(f, "{addr:#x} is mapped already"),
            Self::BadRange(start, end) => {
                write!(
                    f,
                    "{start:#x}..{end:#x} is no page-aligned range of the lower half"
                )
            }
        }
    }
}

/// One identity mapping to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Page-aligned, in bytes.
    pub range: Range<u64>,
    /// What may be done with it.
    pub access: Access,
}

/// Splits identity-mapped RAM around the image and the holes in it.
///
/// `ram` is the RAM to map read-write, `image` the regions of the image with their
/// own access, and `holes` single pages that must not be mapped at all (the guard
/// pages). Calls `emit` with disjoint regions. Page 0 is left out, so that a null pointer
/// faults.
///
/// # Errors
/// Whatever `emit` returns first.
pub fn plan<E>(
    ram: &Range<u64>,
    image: &[Region],
    holes: &[u64],
    mut emit: impl FnMut(Region) -> Result<(), E>,
) -> Result<(), E> {
    let mut at = ram.start.max(PAGE).next_multiple_of(PAGE);
    let end = ram.end & !(PAGE - 1);
    while at < end {
        if holes.contains(&at) {
            at += PAGE;
            continue;
        }
        let inside = image.iter().find(|r| r.range.contains(&at));
        let access = inside.map_or(Access::ReadWrite, |r| r.access);
        // The region runs to the nearest of: its own end, the next image region, the next hole.
        let mut stop = inside.map_or(end, |r| r.range.end.min(end));
        let starts = image
            .iter()
            .map(|r| r.range.start)
            .chain(holes.iter().copied());
        for start in starts.filter(|&start| start > at) {
            stop = stop.min(start);
        }
        emit(Region {
            range: at..stop,
            access,
        })?;
        at = stop;
    }
    Ok(())
}

const PAGE: u64 = Size4KiB::SIZE;

/// The page tables under construction or in force.
pub struct AddressSpace<'t> {
    tables: OffsetPageTable<'t>,
    gib_pages: bool,
}

impl<'t> AddressSpace<'t> {
    /// Wraps an empty or live root table.
    ///
    /// `gib_pages`: the CPU has 1 GiB pages (CPUID 8000_0001h, EDX bit 26).
    ///
    /// # Safety
    /// Table frames must be readable and writable at `offset` + physical address,
    /// and nobody else may change the tables while this value lives.
    pub unsafe fn new(root: &'t mut PageTable, offset: u64, gib_pages: bool) -> Self {
        // SAFETY: the caller's promise is exactly what OffsetPageTable needs.
        let tables = unsafe { OffsetPageTable::new(root, VirtAddr::new(offset)) };
        Self { tables, gib_pages }
    }

    /// Identity-maps `region` with the largest pages that fit.
    ///
    /// New mappings only: no TLB flush is needed, because Xen's guests never cache
    /// non-present entries.
    ///
    /// # Errors
    /// [`PagingError`]; what was mapped before the error stays mapped.
    ///
    /// # Safety
    /// The memory must be of a kind for which `region.access` breaks no other
    /// owner's assumptions.
    pub unsafe fn map(
        &mut self,
        region: &Region,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<(), PagingError> {
        let Range { start, end } = region.range;
        if start % PAGE != 0 || end % PAGE != 0 || start > end || end > 1 << 47 {
            return Err(PagingError::BadRange(start, end));
        }
        let mut at = start;
        while at < end {
            let fits = |size: u64| at.is_multiple_of(size) && end - at >= size;
            let flags = region.access.flags();
            // SAFETY: the caller vouches for the region.
            at += unsafe {
                if self.gib_pages && fits(Size1GiB::SIZE) {
                    self.map_page::<Size1GiB>(at, flags, frames)?
                } else if fits(Size2MiB::SIZE) {
                    self.map_page::<Size2MiB>(at, flags, frames)?
                } else {
                    self.map_page::<Size4KiB>(at, flags, frames)?
                }
            };
        }
        Ok(())
    }

    unsafe fn map_page<S: PageSize + fmt::Debug>(
        &mut self,
        at: u64,
        flags: PageTableFlags,
        frames: &mut impl FrameAllocator<Size4KiB>,
    ) -> Result<u64, PagingError>
    where
        OffsetPageTable<'t>: Mapper<S>,
    {
        let page = Page::<S>::containing_address(VirtAddr::new(at));
        let frame = PhysFrame::containing_address(PhysAddr::new(at));
        let parents = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        // SAFETY: the caller vouches for the mapping; page and frame are equal.
        let mapped = unsafe {
            self.tables
                .map_to_with_table_flags(page, frame, flags, parents, frames)
        };
        mapped
            .map(MapperFlush::ignore)
            .map_err(|error| match error {
                MapToError::FrameAllocationFailed => PagingError::OutOfFrames,
                MapToError::ParentEntryHugePage | MapToError::PageAlreadyMapped(_) => {
                    PagingError::AlreadyMapped(at)
                }
            })?;
        Ok(S::SIZE)
    }
}

#[cfg(test)]
mod tests;
