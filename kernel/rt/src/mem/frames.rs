//! Frames of the domain's own RAM, and guest frame numbers without RAM.

use core::ops::Range;

use vd_boot::start_info::{BootInfo, MemoryKind};
use vd_kernel_core::frames::{FrameSet, bitmap_words};
use x86_64::PhysAddr;
use x86_64::structures::paging::{FrameAllocator, PhysFrame, Size4KiB};

use crate::arch::IrqLock;

/// Bytes in a frame.
pub const FRAME: u64 = 4096;

/// Frames below this one are reachable through the provisional page tables.
const REACHABLE: u64 = vd_boot::start_info::REACHABLE / FRAME;

static FRAMES: IrqLock<Option<FrameSet<'static>>> = IrqLock::new(None);

/// There is too little RAM.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory;

fn frames_of(range: &Range<u64>) -> Range<u64> {
    range.start / FRAME..range.end.div_ceil(FRAME)
}

/// Takes stock of the RAM: everything is free but what the image, the modules and
/// the hand-over structures occupy, and page 0.
///
/// # Errors
/// No place for the bitmap.
///
/// # Safety
/// Call once, with the provisional page tables in force; `info` is true and
/// `image` is where the image lies.
pub unsafe fn init(info: &BootInfo, image: &Range<u64>) -> Result<(), OutOfMemory> {
    let ram = || {
        let map = info.memory_map.iter();
        map.filter(|entry| entry.kind == MemoryKind::Ram)
            .map(|entry| entry.range.clone())
    };
    let end = ram()
        .map(|range| range.end / FRAME)
        .max()
        .ok_or(OutOfMemory)?;
    let words = bitmap_words(end);
    let reserved = || {
        let modules = info.modules.iter().map(|module| module.range.clone());
        let first_mib = 0..0x10_0000;
        modules.chain([image.clone(), first_mib])
    };
    // The bitmap goes to the first gap that is large enough. start_info and its lists
    // were copied already, so that they may be overwritten.
    let bytes = words * 8;
    let ends = reserved().map(|range| range.end.next_multiple_of(FRAME));
    let place = ends
        .filter(|&start| {
            let candidate = start..start + bytes;
            let in_ram = ram().any(|r| r.start <= candidate.start && candidate.end <= r.end);
            let free = reserved().all(|r| r.end <= candidate.start || candidate.end <= r.start);
            in_ram && free && candidate.end <= vd_boot::start_info::REACHABLE
        })
        .min()
        .ok_or(OutOfMemory)?;
    // SAFETY: the place is RAM below 4 GiB that nothing else occupies; the set below
    // keeps it reserved for ever.
    let bitmap = unsafe { core::slice::from_raw_parts_mut(place as *mut u64, words as usize) };
    let mut set = FrameSet::all_taken(0, end, bitmap);
    for range in ram() {
        set.release(range.start.div_ceil(FRAME)..range.end / FRAME);
    }
    for range in reserved().chain(core::iter::once(place..place + bytes)) {
        set.reserve(frames_of(&range));
    }
    FRAMES.with(|frames| *frames = Some(set));
    Ok(())
}

/// Takes `count` consecutive frames, the first a multiple of `align`; returns the
/// physical address. `below_4g`: reachable before the final page tables are in force.
pub fn allocate(count: u64, align: u64, below_4g: bool) -> Result<u64, OutOfMemory> {
    let limit = if below_4g { REACHABLE } else { u64::MAX };
    let first = FRAMES.with(|set| {
        set.as_mut()
            .and_then(|set| set.allocate(count, align, limit))
    });
    first.map(|frame| frame * FRAME).ok_or(OutOfMemory)
}

/// Gives back what [`allocate`] handed out.
pub fn release(start: u64, count: u64) {
    let first = start / FRAME;
    FRAMES.with(|set| {
        if let Some(set) = set.as_mut() {
            set.release(first..first + count);
        }
    });
}

/// Number of free bytes.
pub fn free_bytes() -> u64 {
    FRAMES.with(|set| set.as_ref().map_or(0, |set| set.free() * FRAME))
}

/// Frames for page tables, zeroed by the mapper that asks for them.
pub struct TableFrames;

// SAFETY: a frame that was handed out is reserved and never handed out again.
unsafe impl FrameAllocator<Size4KiB> for TableFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let address = allocate(1, 1, true).ok()?;
        PhysFrame::from_start_address(PhysAddr::new(address)).ok()
    }
}
