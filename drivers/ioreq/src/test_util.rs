//! Fakes of the shared pages, for tests.

#![allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::vec::Vec;

use crate::buffered::{BufferedPage, ENTRIES};
use crate::page::SlotPage;
use crate::slot::{Control, State};
use crate::types::{EvtchnPort, SlotIndex};

/// One slot of a [`FakePage`], with a field for each thing that is accessed on its own.
#[derive(Debug, Default)]
struct FakeSlot {
    addr: AtomicU64,
    data: AtomicU64,
    lengths: AtomicU64,
    vp_eport: AtomicU32,
    control: AtomicU8,
    kind: AtomicU8,
    loads: AtomicU32,
}

/// A request for [`FakePage::post`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// `addr`
    pub addr: u64,
    /// `data`
    pub data: u64,
    /// `count`
    pub count: u32,
    /// `size`
    pub size: u32,
    /// The flags above the state: data_is_ptr 0x10, dir 0x20, df 0x40.
    pub flags: u8,
    /// `type`
    pub kind: u8,
}

impl Request {
    /// A memory write.
    pub fn write(addr: u64, size: u32, data: u64) -> Self {
        Request {
            addr,
            data,
            count: 1,
            size,
            flags: 0,
            kind: 1,
        }
    }

    /// A memory read.
    pub fn read(addr: u64, size: u32) -> Self {
        Request {
            addr,
            data: 0,
            count: 1,
            size,
            flags: 0x20,
            kind: 1,
        }
    }

    /// An INVALIDATE, as Xen sends it: 4 bytes, a write of all-ones.
    pub fn invalidate() -> Self {
        Request {
            addr: 0,
            data: u64::MAX,
            count: 0,
            size: 4,
            flags: 0,
            kind: 8,
        }
    }
}

/// An ioreq page in ordinary memory, with Xen's side of the protocol.
#[derive(Debug)]
pub struct FakePage {
    slots: Vec<FakeSlot>,
}

impl FakePage {
    /// A page with `slots` slots; slot n has vp_eport n + 1.
    pub fn new(slots: usize) -> Self {
        let slots: Vec<FakeSlot> = (0..slots).map(|_| FakeSlot::default()).collect();
        for (slot, port) in slots.iter().zip(1..) {
            slot.vp_eport.store(port, Ordering::Relaxed);
        }
        FakePage { slots }
    }

    /// Xen's part: fills the slot and sets it READY. `false` when the slot is not NONE.
    pub fn post(&self, slot: SlotIndex, request: &Request) -> bool {
        let Some(s) = self.slots.get(slot.index()) else {
            return false;
        };
        if self.state(slot) != Some(State::None) {
            return false;
        }
        s.addr.store(request.addr, Ordering::Relaxed);
        s.data.store(request.data, Ordering::Relaxed);
        s.lengths.store(
            u64::from(request.size) << 32 | u64::from(request.count),
            Ordering::Relaxed,
        );
        s.kind.store(request.kind, Ordering::Relaxed);
        s.control
            .store(request.flags & 0xf0 | State::Ready as u8, Ordering::Release);
        true
    }

    /// Xen's part: takes the answer's data and sets the slot NONE; `None` when the slot is not IORESP_READY.
    pub fn take_response(&self, slot: SlotIndex) -> Option<u64> {
        let s = self.slots.get(slot.index())?;
        if self.state(slot) != Some(State::RespReady) {
            return None;
        }
        let data = s.data.load(Ordering::Relaxed);
        s.control
            .store(s.control.load(Ordering::Relaxed) & 0xf0, Ordering::Release);
        Some(data)
    }

    /// The state of a slot.
    pub fn state(&self, slot: SlotIndex) -> Option<State> {
        self.control(slot).state()
    }

    /// Overwrites the control byte with anything.
    pub fn set_control(&self, slot: SlotIndex, byte: u8) {
        if let Some(s) = self.slots.get(slot.index()) {
            s.control.store(byte, Ordering::Release);
        }
    }

    /// Overwrites the port of a slot.
    pub fn set_vp_eport(&self, slot: SlotIndex, port: u32) {
        if let Some(s) = self.slots.get(slot.index()) {
            s.vp_eport.store(port, Ordering::Relaxed);
        }
    }

    /// How often the slot was copied.
    pub fn loads(&self, slot: SlotIndex) -> u32 {
        self.slots
            .get(slot.index())
            .map_or(0, |s| s.loads.load(Ordering::Relaxed))
    }
}

impl SlotPage for FakePage {
    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn control(&self, slot: SlotIndex) -> Control {
        Control(
            self.slots
                .get(slot.index())
                .map_or(0, |s| s.control.load(Ordering::Acquire)),
        )
    }

    fn load(&self, slot: SlotIndex) -> [u64; 4] {
        let Some(s) = self.slots.get(slot.index()) else {
            return [0; 4];
        };
        s.loads.fetch_add(1, Ordering::Relaxed);
        let control = u64::from(s.control.load(Ordering::Relaxed)) << 48;
        let kind = u64::from(s.kind.load(Ordering::Relaxed)) << 56;
        [
            s.addr.load(Ordering::Relaxed),
            s.data.load(Ordering::Relaxed),
            s.lengths.load(Ordering::Relaxed),
            u64::from(s.vp_eport.load(Ordering::Relaxed)) | control | kind,
        ]
    }

    fn store_data(&self, slot: SlotIndex, data: u64) {
        if let Some(s) = self.slots.get(slot.index()) {
            s.data.store(data, Ordering::Relaxed);
        }
    }

    fn store_control(&self, slot: SlotIndex, control: Control) {
        if let Some(s) = self.slots.get(slot.index()) {
            s.control.store(control.0, Ordering::Release);
        }
    }

    fn vp_eport(&self, slot: SlotIndex) -> EvtchnPort {
        EvtchnPort(
            self.slots
                .get(slot.index())
                .map_or(0, |s| s.vp_eport.load(Ordering::Relaxed)),
        )
    }
}

/// A buffered ring in ordinary memory, with Xen's side of it.
#[derive(Debug)]
pub struct FakeBuffered {
    pointers: AtomicU64,
    entries: Vec<AtomicU64>,
}

impl FakeBuffered {
    /// An empty ring whose pointers both are `start`.
    pub fn new(start: u32) -> Self {
        let pointers = AtomicU64::new(u64::from(start) << 32 | u64::from(start));
        FakeBuffered {
            pointers,
            entries: (0..ENTRIES).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Overwrites both pointers with anything.
    pub fn set_pointers(&self, read: u32, write: u32) {
        self.pointers
            .store(u64::from(write) << 32 | u64::from(read), Ordering::SeqCst);
    }

    /// Puts one raw entry and moves the write pointer, whether there is room or not.
    pub fn push_raw(&self, entry: u64) {
        let pointers = self.pointers.load(Ordering::SeqCst);
        let write = (pointers >> 32) as u32;
        if let Some(cell) = self.entries.get((write % ENTRIES) as usize) {
            cell.store(entry, Ordering::SeqCst);
        }
        self.set_pointers(pointers as u32, write.wrapping_add(1));
    }

    /// Xen's part: posts a write as `ioreq_send_buffered` does, canonicalising the pointers. `false` when full.
    pub fn post(&self, kind: u8, addr: u32, size: u32, data: u64) -> bool {
        let code: u64 = match size {
            1 => 0,
            2 => 1,
            4 => 2,
            _ => 3,
        };
        let pointers = self.pointers.load(Ordering::SeqCst);
        let filled = ((pointers >> 32) as u32).wrapping_sub(pointers as u32);
        if filled >= ENTRIES - u32::from(code == 3) {
            return false;
        }
        let head = u64::from(kind) | code << 10 | u64::from(addr & 0xf_ffff) << 12;
        self.push_raw(head | (data & 0xffff_ffff) << 32);
        if code == 3 {
            self.push_raw(head | (data >> 32) << 32);
        }
        self.canonicalise();
        true
    }

    fn canonicalise(&self) {
        let pointers = self.pointers.load(Ordering::SeqCst);
        let (read, write) = (pointers as u32, (pointers >> 32) as u32);
        if read >= ENTRIES {
            let turns = read / ENTRIES * ENTRIES;
            self.set_pointers(read - turns, write.wrapping_sub(turns));
        }
    }
}

impl BufferedPage for FakeBuffered {
    fn pointers(&self) -> u64 {
        self.pointers.load(Ordering::SeqCst)
    }

    fn entry(&self, index: u32) -> u64 {
        self.entries
            .get(index as usize)
            .map_or(0, |entry| entry.load(Ordering::SeqCst))
    }

    fn advance(&self, entries: u32) {
        let pointers = self.pointers.load(Ordering::SeqCst);
        self.set_pointers(
            (pointers as u32).wrapping_add(entries),
            (pointers >> 32) as u32,
        );
    }
}
