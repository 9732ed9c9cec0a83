//! The page that Xen shares with every domain (public/xen.h, `shared_info`).
//!
//! Xen writes it at any time, so that it is only ever touched through atomics and
//! volatile reads, never through a reference to the structure.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use spin::Once;
use vd_kernel_core::clock::TimeInfo;
use vd_kernel_core::upcall::Events;
use volatile::VolatilePtr;
use xen_hypercall::shared::{SharedInfo, VcpuInfo, VcpuTimeInfo};
use xen_hypercall::{Gfn, memory};

use super::XEN;
use crate::mem::frames::FRAME;
use crate::mem::space;

/// The mapped page.
#[derive(Clone, Copy, Debug)]
pub struct Shared(*mut SharedInfo);

// SAFETY: every access is atomic or volatile.
unsafe impl Send for Shared {}
// SAFETY: every access is atomic or volatile.
unsafe impl Sync for Shared {}

/// The part of the boot vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Vcpu(*mut VcpuInfo);

static SHARED: Once<Shared> = Once::new();

/// Maps the page.
///
/// # Errors
/// A message for the operator.
pub fn init() -> Result<(), &'static str> {
    let gfn = space::special_frames(1).map_err(|_| "no guest frame number is free")?;
    // SAFETY: nothing is mapped at this guest frame number, by the allocator.
    unsafe { memory::add_to_physmap_shared_info(&XEN, Gfn(gfn)) }
        .map_err(|_| "Xen refused to map the shared info page")?;
    SHARED.call_once(|| Shared((gfn * FRAME) as *mut SharedInfo));
    Ok(())
}

/// The page, once it is mapped.
pub fn get() -> Option<&'static Shared> {
    SHARED.get()
}

impl Events for Shared {
    type Word = AtomicU64;

    fn take_upcall(&self) -> bool {
        self.vcpu().take_upcall_pending()
    }

    fn selectors(&self) -> &AtomicU64 {
        let vcpu = self.vcpu();
        // SAFETY: an aligned word of the mapped page that everybody accesses atomically.
        unsafe { AtomicU64::from_ptr((&raw mut (*vcpu.0).evtchn_pending_sel).cast()) }
    }

    fn pending(&self, word: usize) -> &AtomicU64 {
        // SAFETY: the page is mapped for ever, the field is an aligned word that
        // everybody accesses atomically; the index is checked by `Array`.
        unsafe { AtomicU64::from_ptr((&raw mut (*self.0).evtchn_pending[word]).cast()) }
    }

    fn mask(&self, word: usize) -> &AtomicU64 {
        // SAFETY: as for `pending`.
        unsafe { AtomicU64::from_ptr((&raw mut (*self.0).evtchn_mask[word]).cast()) }
    }
}

impl Shared {
    /// The part of the boot vCPU.
    pub fn vcpu(&self) -> Vcpu {
        // SAFETY: a place expression inside the mapped page; nothing is read.
        Vcpu(unsafe { &raw mut (*self.0).vcpu_info[0] })
    }
}

impl Vcpu {
    /// Clears the flag that an upcall is due; returns what it was.
    fn take_upcall_pending(&self) -> bool {
        // SAFETY: a byte of the mapped page that everybody accesses atomically.
        let flag = unsafe { AtomicU8::from_ptr(&raw mut (*self.0).evtchn_upcall_pending) };
        flag.swap(0, Ordering::AcqRel) != 0
    }

    /// A consistent copy of the clock.
    pub fn time(&self) -> TimeInfo {
        // SAFETY: a place expression inside the mapped page; nothing is read.
        let place = unsafe { &raw mut (*self.0).time };
        let place = core::ptr::NonNull::new(place).unwrap_or(core::ptr::NonNull::dangling());
        // SAFETY: mapped for ever and aligned; Xen's writes are what volatile is for.
        let place = unsafe { VolatilePtr::new(place) };
        loop {
            let before: VcpuTimeInfo = place.read();
            fence(Ordering::Acquire);
            let after = place.read();
            if before.version & 1 == 0 && before.version == after.version {
                return TimeInfo {
                    tsc_timestamp: before.tsc_timestamp,
                    system_time: before.system_time,
                    tsc_to_system_mul: before.tsc_to_system_mul,
                    tsc_shift: before.tsc_shift,
                };
            }
            core::hint::spin_loop();
        }
    }
}
