//! The last will: what this domain leaves to the next one when it crashes.
//!
//! Where the devices stand is in their registers and queues, in this domain's memory, at any moment; nothing is written
//! down while they work. When the domain crashes, the panic path puts all of it into the form that another image can read,
//! into memory that was set aside and that dom0 knows of. The toolstack keeps a crashed domain's memory for that long.
//!
//! Invariant: it is written after the guest was released, so that whatever goes wrong here keeps nobody waiting.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use vd_kernel_core::bequest::Cause;

use super::devices::DeviceTable;
use super::disk::Storage;

/// The devices that are served; null = none.
static DEVICES: AtomicPtr<DeviceTable> = AtomicPtr::new(core::ptr::null_mut());
/// Where it goes.
static ROOM: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// From now on these devices are left if the domain crashes.
///
/// # Safety
/// The devices stay where they are, and the room is nobody else's, until [`forget`] is called.
pub unsafe fn remember(devices: &mut DeviceTable, room: &mut Storage) {
    let room: &mut [u8] = room.as_mut();
    BYTES.store(room.len(), Ordering::Release);
    ROOM.store(room.as_mut_ptr(), Ordering::Release);
    DEVICES.store(devices, Ordering::Release);
}

/// Nothing is left any more.
pub fn forget() {
    DEVICES.store(core::ptr::null_mut(), Ordering::Release);
}

/// Leaves what there is. For the panic path: once, and whoever was interrupted never goes on. Returns whether there was
/// something and it is complete.
pub fn leave() -> bool {
    let devices = DEVICES.swap(core::ptr::null_mut(), Ordering::AcqRel);
    let room = ROOM.load(Ordering::Acquire);
    let (Some(devices), Some(room)) = (NonNull::new(devices), NonNull::new(room)) else {
        return false;
    };
    // SAFETY: both are there until `forget`, by the contract of `remember`. Whoever was using them was interrupted for
    // ever, on this CPU, and what it had stored is in memory; each of its steps leaves something that can be read.
    let (devices, room) = unsafe {
        let bytes = BYTES.load(Ordering::Acquire);
        let room = core::slice::from_raw_parts_mut(room.as_ptr(), bytes);
        (devices.as_ref(), room)
    };
    devices.export(room, Cause::Crash)
}
