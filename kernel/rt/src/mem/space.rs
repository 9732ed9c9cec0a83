//! The address space: the final page tables and the guest frame numbers above RAM.
//!
//! Above the last byte of RAM, from 4 GiB on, there are guest-physical addresses
//! that nothing uses. The first 2 MiB of them take pages that Xen puts there on
//! request (shared info, ioreq pages); from the next GiB on, the guest's memory is
//! mapped, guest frame `g` at window frame `base + g`.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;
use vd_boot::paging::{Access, AddressSpace, PagingError, Region, plan};
use vd_boot::start_info::{BootInfo, MemoryKind};
use vd_kernel_core::frames::{FrameSet, bitmap_words};
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::registers::model_specific::{Efer, EferFlags};
use x86_64::structures::paging::{PageTable, PhysFrame};

use super::frames::{self, FRAME, OutOfMemory, TableFrames};
use crate::arch::{IrqLock, gdt};

unsafe extern "C" {
    static __image_start: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __image_end: u8;
}

const GIB: u64 = 1 << 30;
const SPECIAL_FRAMES: u64 = 512;
/// Most pages that other domains' grants are mapped to: what 32 devices with four queues of 32768 entries need.
const GRANT_FRAMES: u64 = 1 << 15;

static SPACE: IrqLock<Option<AddressSpace<'static>>> = IrqLock::new(None);
static SPECIAL: IrqLock<Option<FrameSet<'static>>> = IrqLock::new(None);
static WINDOW: Once<Range<u64>> = Once::new();
/// Where grants are mapped, and up to where there are page tables.
static GRANTS: Once<u64> = Once::new();
static GRANTS_MAPPED: AtomicU64 = AtomicU64::new(0);
/// Up to where the guest's window has page tables.
static WINDOW_MAPPED: AtomicU64 = AtomicU64::new(0);

/// Why the address space could not be set up or extended.
#[derive(Clone, Copy, Debug)]
pub enum SpaceError {
    /// No RAM for page tables.
    OutOfMemory,
    /// The CPU cannot address so much (bytes wanted, bytes there are).
    TooLarge(u64, u64),
    /// The mapping was refused.
    Paging(PagingError),
}

impl From<OutOfMemory> for SpaceError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<PagingError> for SpaceError {
    fn from(error: PagingError) -> Self {
        Self::Paging(error)
    }
}

impl fmt::Display for SpaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => write!(f, "not enough memory: raise memory= of this domain"),
            Self::TooLarge(wanted, there) => write!(
                f,
                "the guest needs {wanted:#x} bytes of address space, and this CPU has {there:#x}"
            ),
            Self::Paging(error) => write!(f, "page tables: {error}"),
        }
    }
}

/// Where the image lies, in bytes.
pub fn image() -> Range<u64> {
    &raw const __image_start as u64..&raw const __image_end as u64
}

fn image_regions() -> [Region; 3] {
    let region = |start: *const u8, end: *const u8, access| Region {
        range: start as u64..end as u64,
        access,
    };
    [
        region(
            &raw const __rodata_start,
            &raw const __rodata_end,
            Access::Read,
        ),
        region(
            &raw const __text_start,
            &raw const __text_end,
            Access::ReadExecute,
        ),
        region(
            &raw const __data_start,
            &raw const __data_end,
            Access::ReadWrite,
        ),
    ]
}

fn extended_cpuid(leaf: u32) -> Option<core::arch::x86_64::CpuidResult> {
    use core::arch::x86_64::__cpuid;
    (__cpuid(0x8000_0000).eax >= leaf).then(|| __cpuid(leaf))
}

/// Physical address bits of this CPU (CPUID 8000_0008h), at most what the lower
/// half of the address space can map.
fn address_bits() -> u32 {
    extended_cpuid(0x8000_0008)
        .map_or(36, |leaf| leaf.eax & 0xff)
        .min(46)
}

/// Replaces the provisional page tables by the final ones: W^X, no null page, no
/// guard pages. `extra` pages (Xen's rings) are mapped writable too.
///
/// # Errors
/// Too little memory.
///
/// # Safety
/// Call once, after [`frames::init`], with the provisional page tables in force.
pub unsafe fn init(info: &BootInfo, extra: &[u64]) -> Result<(), SpaceError> {
    let gib_pages = extended_cpuid(0x8000_0001).is_some_and(|leaf| leaf.edx & 1 << 26 != 0);
    let root_address = frames::allocate(1, 1, true)?;
    let root = root_address as *mut PageTable;
    // SAFETY: a fresh frame, reachable, exclusively ours.
    let root: &'static mut PageTable = unsafe {
        root.write(PageTable::new());
        &mut *root
    };
    // SAFETY: table frames are identity-mapped, now and after the switch.
    let mut space = unsafe { AddressSpace::new(root, 0, gib_pages) };
    let mut ram_end = 0;
    for entry in info
        .memory_map
        .iter()
        .filter(|entry| entry.kind == MemoryKind::Ram)
    {
        ram_end = ram_end.max(entry.range.end);
        plan(&entry.range, &image_regions(), &gdt::guards(), |region| {
            // SAFETY: RAM of ours, each part with the access its contents need.
            unsafe { space.map(&region, &mut TableFrames) }
        })?;
    }
    for &page in extra {
        let region = Region {
            range: page..page + FRAME,
            access: Access::ReadWrite,
        };
        // SAFETY: a page that Xen gave us for a ring.
        unsafe { space.map(&region, &mut TableFrames) }?;
    }
    let special = ram_end.max(1 << 32).next_multiple_of(2 << 20);
    let end = special + SPECIAL_FRAMES * FRAME;
    let region = Region {
        range: special..end,
        access: Access::ReadWrite,
    };
    // SAFETY: nothing is there until Xen puts something there at our request.
    unsafe { space.map(&region, &mut TableFrames) }?;
    GRANTS.call_once(|| end);
    let end = end + GRANT_FRAMES * FRAME;
    WINDOW.call_once(|| end.next_multiple_of(GIB)..1 << address_bits());
    let words = bitmap_words(SPECIAL_FRAMES) * 8;
    let bits = frames::allocate(words.div_ceil(FRAME), 1, true)? as *mut u64;
    // SAFETY: fresh frames, reachable, exclusively ours.
    let bits = unsafe { core::slice::from_raw_parts_mut(bits, words as usize / 8) };
    let first = special / FRAME;
    let mut set = FrameSet::all_taken(first, SPECIAL_FRAMES, bits);
    set.release(first..first + SPECIAL_FRAMES);
    SPECIAL.with(|special| *special = Some(set));
    // SAFETY: no-execute entries need EFER.NXE; the new root maps everything that
    // runs and is used from here on, the stack included.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        let frame = PhysFrame::containing_address(PhysAddr::new(root_address));
        Cr3::write(frame, Cr3Flags::empty());
    }
    SPACE.with(|slot| *slot = Some(space));
    Ok(())
}

/// Maps a range of guest-physical addresses without RAM at the same addresses: device registers, accesses to which
/// leave the domain.
///
/// # Errors
/// Memory for page tables, or the range is mapped already.
pub fn map_registers(range: Range<u64>) -> Result<(), SpaceError> {
    let region = Region {
        range,
        access: Access::ReadWrite,
    };
    SPACE.with(|space| {
        let space = space.as_mut().ok_or(SpaceError::OutOfMemory)?;
        // SAFETY: there is no RAM, so that nothing of this program's can be there.
        unsafe { space.map(&region, &mut TableFrames) }.map_err(SpaceError::from)
    })
}

/// Takes `count` consecutive guest frame numbers without RAM, mapped writable at
/// the same address.
pub fn special_frames(count: u64) -> Result<u64, OutOfMemory> {
    let first = SPECIAL.with(|set| {
        set.as_mut()
            .and_then(|set| set.allocate(count, 1, u64::MAX))
    });
    first.ok_or(OutOfMemory)
}

/// Gives back what [`special_frames`] handed out, once Xen has nothing there any more.
pub fn release_special(first: u64, count: u64) {
    SPECIAL.with(|set| {
        if let Some(set) = set.as_mut() {
            set.release(first..first + count);
        }
    });
}

/// Makes addresses for `frames` pages of grants and returns the first. There is one such window.
///
/// # Errors
/// There is no room for so many, or no memory for page tables.
pub fn grant_window(frames: u64) -> Result<u64, SpaceError> {
    let start = *GRANTS.get().ok_or(SpaceError::OutOfMemory)?;
    if frames > GRANT_FRAMES {
        return Err(SpaceError::TooLarge(frames * FRAME, GRANT_FRAMES * FRAME));
    }
    // In large pages, which cost no page table.
    let end = start + (frames * FRAME).next_multiple_of(2 << 20);
    // SAFETY: nothing is there until grants are mapped at our request, and those are only touched by the mapper's own
    // accessors.
    unsafe { extend_window(start, end, &GRANTS_MAPPED) }
}

/// Makes addresses for a guest of `bytes` bytes of guest-physical address space and
/// returns the first. There is one such window.
///
/// # Errors
/// The CPU's address space is too small, or memory for page tables.
pub fn guest_window(bytes: u64) -> Result<u64, SpaceError> {
    let window = WINDOW.get().ok_or(SpaceError::OutOfMemory)?;
    let there = window.end.saturating_sub(window.start);
    let end = window.start + bytes.next_multiple_of(GIB).min(there);
    if bytes > there {
        return Err(SpaceError::TooLarge(bytes, there));
    }
    // SAFETY: nothing is there until guest frames are mapped at our request, and those are only touched by the mapper's
    // own accessors.
    unsafe { extend_window(window.start, end, &WINDOW_MAPPED) }
}

/// Makes addresses from `start` to `end`, as far as there are none yet, and returns the first. `mapped` is where those
/// end that there are: a window that was made for an attempt that failed is used again.
///
/// # Safety
/// Nothing else may be at these addresses, and nothing may use them but who knows what is there.
unsafe fn extend_window(start: u64, end: u64, mapped: &AtomicU64) -> Result<u64, SpaceError> {
    let first = mapped.load(Ordering::Relaxed).max(start);
    if end > first {
        let region = Region {
            range: first..end,
            access: Access::ReadWrite,
        };
        SPACE.with(|space| {
            let space = space.as_mut().ok_or(SpaceError::OutOfMemory)?;
            // SAFETY: the caller's promise.
            unsafe { space.map(&region, &mut TableFrames) }.map_err(SpaceError::from)
        })?;
        mapped.store(end, Ordering::Relaxed);
    }
    Ok(start)
}
