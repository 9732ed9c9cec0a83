//! The pages of the ioreq server and those that show registers, where they are mapped.
//!
//! Invariant: every access is one volatile or atomic one, inside of the page.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use vd_ioreq::buffered::{self, BufferedPage};
use vd_ioreq::page::SlotPage;
use vd_ioreq::slot::{CONTROL_OFFSET, Control, DATA_OFFSET, SLOT_SIZE, VP_EPORT_OFFSET};
use vd_ioreq::{EvtchnPort, SlotIndex};
use vd_kernel_core::server::VCPUS;
use vd_kernel_core::server::shown::ShownPage;
use vd_virtio::mmio::still;
use volatile::VolatilePtr;

/// Where the entries start in the ring's page.
const ENTRIES: usize = 8;

/// The mapped ioreq page.
#[derive(Clone, Copy, Debug)]
pub struct IoreqPage {
    page: NonNull<u8>,
    vcpus: usize,
}

impl IoreqPage {
    /// # Safety
    /// `page` must be the ioreq page, mapped writable as long as this is used.
    pub unsafe fn new(page: NonNull<u8>, vcpus: usize) -> Self {
        Self {
            page,
            vcpus: vcpus.min(VCPUS),
        }
    }

    fn at(&self, slot: SlotIndex, offset: usize) -> Option<NonNull<u8>> {
        let inside = slot.index() < self.vcpus;
        // SAFETY: slot and offset stay inside the page.
        inside.then(|| unsafe { self.page.add(slot.index() * SLOT_SIZE + offset) })
    }

    fn control_byte(&self, slot: SlotIndex) -> Option<&AtomicU8> {
        let byte = self.at(slot, CONTROL_OFFSET)?;
        // SAFETY: mapped by the promise of `new`; both sides treat the byte as an atomic.
        Some(unsafe { AtomicU8::from_ptr(byte.as_ptr()) })
    }
}

impl SlotPage for IoreqPage {
    fn slots(&self) -> usize {
        self.vcpus
    }

    fn control(&self, slot: SlotIndex) -> Control {
        Control(
            self.control_byte(slot)
                .map_or(0, |byte| byte.load(Ordering::Acquire)),
        )
    }

    fn load(&self, slot: SlotIndex) -> [u64; 4] {
        self.at(slot, 0).map_or([0; 4], |place| {
            // SAFETY: 32 aligned bytes of the page; Xen's writes are what volatile is for.
            unsafe { VolatilePtr::new(place.cast::<[u64; 4]>()) }.read()
        })
    }

    fn store_data(&self, slot: SlotIndex, data: u64) {
        if let Some(place) = self.at(slot, DATA_OFFSET) {
            // SAFETY: 8 aligned bytes of the page.
            unsafe { VolatilePtr::new(place.cast::<u64>()) }.write(data);
        }
    }

    fn store_control(&self, slot: SlotIndex, control: Control) {
        if let Some(byte) = self.control_byte(slot) {
            byte.store(control.0, Ordering::Release);
        }
    }

    fn vp_eport(&self, slot: SlotIndex) -> EvtchnPort {
        let place = self.at(slot, VP_EPORT_OFFSET);
        EvtchnPort(place.map_or(0, |place| {
            // SAFETY: 4 aligned bytes of the page.
            unsafe { VolatilePtr::new(place.cast::<u32>()) }.read()
        }))
    }
}

/// The mapped ring of posted writes.
#[derive(Clone, Copy, Debug)]
pub struct Ring(NonNull<u8>);

impl Ring {
    /// # Safety
    /// `page` must be the server's buffered ring, mapped writable as long as this is used.
    pub unsafe fn new(page: NonNull<u8>) -> Self {
        Self(page)
    }
}

impl BufferedPage for Ring {
    fn pointers(&self) -> u64 {
        // SAFETY: the first word of the mapped page, which Xen changes atomically too.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().cast()) }.load(Ordering::Acquire)
    }

    fn entry(&self, index: u32) -> u64 {
        let index = index.min(buffered::ENTRIES - 1) as usize;
        // SAFETY: 8 aligned bytes of the page, by the index.
        let place = unsafe { self.0.add(ENTRIES + index * 8) };
        // SAFETY: as above; Xen's writes are what volatile is for.
        unsafe { VolatilePtr::new(place.cast::<u64>()) }.read()
    }

    fn advance(&self, entries: u32) {
        // SAFETY: the read pointer, which Xen changes atomically too.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().cast()) }.fetch_add(entries, Ordering::AcqRel);
    }
}

/// A page of the guest's that shows registers.
#[derive(Clone, Copy, Debug)]
pub struct Registers(NonNull<u8>);

impl Registers {
    /// # Safety
    /// `page` must be a page of the guest's, mapped writable as long as this is used.
    pub unsafe fn new(page: NonNull<u8>) -> Self {
        Self(page)
    }

    fn word(&self, word: usize) -> &AtomicU32 {
        let word = word.min(still::WORDS - 1);
        // SAFETY: an aligned word of the page, by the number of words; the guest reads, and may write, as it likes.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().cast::<u32>().add(word)) }
    }
}

impl ShownPage for Registers {
    fn load(&self, word: usize) -> u32 {
        self.word(word).load(Ordering::Acquire)
    }

    fn store(&self, word: usize, value: u32) {
        self.word(word).store(value, Ordering::Release);
    }
}
