//! Leaving the devices to another driver domain, and going on with those of another.

use alloc::format;
use alloc::string::String;
use core::ops::Range;

use vd_config::SlotIndex;
use vd_kernel_core::bequest::{self, Bequest, Cause};
use vd_virtio::state::Writer;

use super::{Device, DeviceTable, slots};
use crate::dm::model::Model;
use crate::dm::slots::SERVER;
use crate::mem::guest::Memory;
use crate::pv::signals;

/// Passes in which devices give back what they have, which none of them waits for.
const DRAINS: usize = 8;

/// What a device is left as that nothing was left of.
const NOTHING: &[u8] = &[];

impl DeviceTable {
    /// From now on no request to a disk of another domain is taken; or again, and every queue is looked at. Such disks
    /// change hands, which takes time; the other devices go on for that long.
    pub fn quiesce(&mut self, quiet: bool) {
        self.quiet = quiet.then_some(u32::MAX);
        self.look_at_all();
        if !quiet {
            for device in self.slots.iter_mut().flatten() {
                for queue in 0..device.transport.queues() {
                    device.transport.wake(queue as u16);
                }
            }
        }
    }

    /// Whether no request to a disk of another domain is under way, and none is taken.
    pub fn is_quiet(&self) -> bool {
        self.quiet == Some(0)
    }

    /// Whether this device's requests are for another domain.
    pub(super) fn is_elsewhere(&self, index: usize) -> bool {
        let device = self.slots.get(index).and_then(Option::as_deref);
        let model = device.map(|device| device.transport.device());
        matches!(model, Some(Model::Disk(disk)) if disk.lasting().is_none())
    }

    /// Goes on with what a device has under way, and takes nothing. Returns how much is left.
    pub(super) fn drain(&mut self, index: usize, memory: &Memory, masked: u64) -> u32 {
        let Self { slots, scratch, .. } = self;
        let Some(Some(device)) = slots.get_mut(index) else {
            return 0;
        };
        slots::take_kicks(index, |queue, _| {
            device.transport.kick(queue as u32, None);
        });
        device.listen_again();
        if masked >> index & 1 != 0 {
            device.transport.device().listen_again();
        }
        device.poll_back_end();
        let memory = memory.of(device.rings.as_ref());
        let left = device.transport.drain(&memory, scratch);
        self.settle(index);
        left
    }

    /// Lets all devices give back what cannot be left to another domain. Returns whether that is done.
    pub fn silence(&mut self, memory: &Memory) -> bool {
        // Should it go on after all: what is taken here is for uplinks too.
        self.look_at_all();
        (0..DRAINS).any(|_| {
            let masked = signals::new_pass().masked;
            let devices = 0..self.slots.len();
            let left: u32 = devices.map(|index| self.drain(index, memory, masked)).sum();
            left == 0
        })
    }

    /// Lowers every interrupt line that is up, and takes registers out of memory: whoever comes next raises its own, and has
    /// its own there. The next settling raises them again.
    pub fn withdraw(&mut self) -> Result<(), String> {
        for device in self.slots.iter_mut().flatten() {
            let slot = device.slot;
            let lowered = device.signal.withdraw(self.guest, slot);
            let hidden = device
                .face
                .as_mut()
                .map_or(Ok(()), |face| face.hide(&SERVER, slot));
            lowered
                .and(hidden)
                .map_err(|(what, error)| format!("device {slot}: {what}: {error}"))?;
        }
        Ok(())
    }

    /// The devices that can be left to another driver domain: what has departed is not there any more.
    pub fn lasting(&self) -> impl Iterator<Item = &Device> {
        self.iter().filter(|device| !device.has_departed())
    }

    /// How many of them are consoles.
    pub fn consoles(&self) -> usize {
        let consoles = self.lasting().map(|device| device.transport.device());
        consoles
            .filter(|model| matches!(model, Model::Console(_)))
            .count()
    }

    /// Where the disks that are in memory have it.
    pub fn in_memory(&self) -> impl Iterator<Item = (SlotIndex, Range<u64>)> {
        self.lasting().filter_map(|device| {
            let Model::Disk(disk) = device.transport.device() else {
                return None;
            };
            Some((device.slot, disk.lasting()?))
        })
    }

    /// Writes down where the devices stand. Returns whether there was room.
    pub fn export(&self, into: &mut [u8], cause: Cause) -> bool {
        let mut devices = heapless::Vec::<&Device, { vd_config::SLOTS }>::new();
        // There are no more than slots.
        devices.extend(self.lasting().take(vd_config::SLOTS));
        let devices = devices.iter().map(|device| {
            (device.slot, |to: &mut Writer<'_>| {
                device.transport.export(to)
            })
        });
        bequest::write(into, cause, devices)
    }

    /// Goes on where the devices of another driver domain have stopped. A device of which nothing of use was left is
    /// broken, which its driver is told.
    ///
    /// # Errors
    /// A device was left that is not there.
    pub fn import(&mut self, memory: &Memory, from: &Bequest<'_>) -> Result<(), String> {
        let mut left = from.devices().flatten();
        if let Some((slot, _)) = left.find(|(slot, _)| self.get(*slot).is_none()) {
            return Err(format!(
                "device {slot}: the other driver domain had it, but it is not described"
            ));
        }
        let unsure = from.cause == Cause::Crash;
        for device in self.slots.iter_mut().flatten() {
            let slot = device.slot;
            let left = from.devices().flatten().find(|(of, _)| *of == slot);
            let state = left.map_or(NOTHING, |(_, state)| state);
            let memory = memory.of(device.rings.as_ref());
            match device.transport.import(&memory, state, unsure) {
                Ok(()) => log::info!(
                    "slot {slot}: taken over, {:?}, {} bytes of state",
                    device.transport.status(),
                    state.len()
                ),
                Err(why) => log::error!(
                    "slot {slot}: what the other driver domain has left cannot be used: {why}: broken until its driver \
                     resets it"
                ),
            }
        }
        Ok(())
    }
}
