//! What a driver domain gets from the one whose place it takes: what its disks in memory have stored, and where the devices
//! stand. dom0 copies both; this is the memory that they are copied to.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::ops::Range;

use vd_config::succession::{Piece, Use};
use vd_config::{Backend, DeviceType, SlotIndex};
use vd_kernel_core::bequest;
use vd_kernel_core::description::Description;

use super::disk::Storage;
use crate::mem::frames;

/// The memory for it.
pub struct Inheritance {
    state: Storage,
    disks: Vec<(SlotIndex, Storage)>,
    /// What the toolstack has loaded, if it is a disk.
    module: Option<(SlotIndex, Range<u64>)>,
}

/// Memory for where so many devices stand, so many of which are consoles.
///
/// # Errors
/// There is too little, for the operator.
pub fn room(devices: usize, consoles: usize) -> Result<Storage, String> {
    let bytes = bytes(devices, consoles);
    Storage::allocate(bytes).map_err(|_| too_little(bytes))
}

/// How much that is.
pub fn bytes(devices: usize, consoles: usize) -> u64 {
    bequest::room(devices, consoles) as u64
}

fn too_little(bytes: u64) -> String {
    format!(
        "no memory for what one driver domain leaves to the next: {} KiB are needed, {} are free; raise memory= of the \
         driver domain",
        bytes >> 10,
        frames::free_bytes() >> 10
    )
}

impl Inheritance {
    /// Takes memory for all that there will be.
    ///
    /// # Errors
    /// There is too little, for the operator.
    pub fn prepare(description: &Description, module: Option<&Range<u64>>) -> Result<Self, String> {
        let devices = || description.devices.iter();
        let consoles = devices().filter(|(_, device)| device.kind() == DeviceType::Console);
        let mut inheritance = Self {
            state: room(devices().count(), consoles.count())?,
            disks: Vec::new(),
            module: None,
        };
        for (slot, device) in description.devices.iter() {
            match (device.backend(), module) {
                (Backend::Ram(size), _) => {
                    let disk = Storage::allocate(size.bytes());
                    let disk = disk.map_err(|_| too_little(size.bytes()))?;
                    inheritance.disks.push((slot, disk));
                }
                (Backend::Module, Some(range)) => inheritance.module = Some((slot, range.clone())),
                _ => {}
            }
        }
        Ok(inheritance)
    }

    /// Where all of it is, as in xenstore.
    pub fn memory(&self) -> String {
        let module = self.module.iter().map(|(slot, at)| (*slot, at.clone()));
        let disks = self.disks.iter().map(|(slot, disk)| (*slot, disk.range()));
        list(self.state.range(), disks.chain(module))
    }

    /// The memory of a disk, which is the device's from now on.
    pub fn take_disk(&mut self, slot: SlotIndex) -> Option<Storage> {
        let at = self.disks.iter().position(|(of, _)| *of == slot)?;
        Some(self.disks.swap_remove(at).1)
    }

    /// Where the devices stand.
    pub fn state(&self) -> &[u8] {
        self.state.as_ref()
    }
}

/// Names pieces of memory as in xenstore.
pub fn list(state: Range<u64>, disks: impl Iterator<Item = (SlotIndex, Range<u64>)>) -> String {
    let mut text = String::new();
    let pieces = disks.map(|(slot, range)| (Use::Disk(slot), range));
    for (of, range) in core::iter::once((Use::State, state)).chain(pieces) {
        let piece = Piece {
            of,
            start: range.start,
            len: range.end - range.start,
        };
        let blank = if text.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{blank}{piece}");
    }
    text
}
