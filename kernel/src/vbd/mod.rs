//! Disks that other domains serve: Xen's PV block protocol, of which this domain is the front end.
//!
//! Data and rings are run by the device, whenever the main loop has its turn ([`shared`]); this module has what goes
//! through xenstore: connections that are made, lost and made again. It waits for xenstored, never for a back end.
//!
mod shared;

use alloc::format;
use alloc::string::{String, ToString};

use vd_blkif::handshake::Phase;
use vd_blkif::vbd::{self, Notice};
use vd_blkif::{Disk, Vbd};
use vd_config::{DeviceDescription, SlotIndex, VirtualDisk};
use vd_kernel_core::description::Description;

use crate::pv::connections::{Connection, Connections, Duty, Log, missing, no_memory};
use crate::pv::{Pages, Served};
use crate::xen::store::Store;
pub use shared::Shared;

/// One disk and its connection.
pub struct Entry {
    slot: SlotIndex,
    name: VirtualDisk,
    disk: Shared,
    duty: Duty,
    /// Why there is no connection, as far as that is known.
    trouble: Option<&'static str>,
}

/// All disks of the guest that other domains serve.
pub type Vbds = Connections<Entry>;

impl Vbds {
    /// Begins to connect the disks of a description. `wait` is how many seconds requests wait for a back end.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator.
    pub fn open(
        &mut self,
        store: &mut Store,
        description: &Description,
        wait: u32,
    ) -> Result<(), String> {
        let wanted = description.devices.vbds().count();
        if wanted == 0 {
            return Ok(());
        }
        for (slot, name) in description.devices.vbds() {
            // A ring serves one or more of the device's queues.
            let queues = description
                .devices
                .get(slot)
                .map_or(1, DeviceDescription::queues);
            self.open_one(store, (slot, name), (queues, wanted), wait)?;
        }
        Ok(())
    }

    /// Begins to connect one disk, for so many queues, where there are `disks` disks.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator.
    pub fn open_one(
        &mut self,
        store: &mut Store,
        (slot, name): (SlotIndex, VirtualDisk),
        (queues, disks): (u16, usize),
        wait: u32,
    ) -> Result<(), String> {
        let what = format_args!("disk {name}");
        // Two connections would write the same nodes, and the end of one would take the other's watches along.
        if self.entries().any(|entry| entry.name == name) {
            return Err(format!(
                "device {slot}: {what} is still being closed: try again"
            ));
        }
        let there = vbd::devices(store).map_err(|error| format!("looking for disks: {error}"))?;
        if !there.contains(&name.number()) {
            let there = there.iter().map(|&number| in_words(number));
            return Err(missing(slot, what, there, ("vdom_disk", "disk")));
        }
        let config = shared::config(name.number(), queues, disks);
        let disk = Pages::new(Served::Disk(slot), config.pages())
            .ok()
            .and_then(|pages| Disk::new(pages, config))
            .ok_or_else(|| no_memory(slot, what, config.pages()))?;
        let control = Vbd::of::<Disk<Pages>>(name.number());
        let duty = Duty::begin(control, store, u64::from(wait) * 1_000_000_000)
            .map_err(|error| format!("device {slot}: watching {what}: {error}"))?;
        self.push(Entry {
            slot,
            name,
            disk: Shared::new(disk),
            duty,
            trouble: None,
        });
        Ok(())
    }

    /// Whether the disk of the device in a slot can be used, if it has one.
    pub fn is_connected(&self, slot: SlotIndex) -> bool {
        let mut entries = self.entries().filter(|entry| entry.slot == slot);
        entries.all(|entry| entry.disk.get().is_open())
    }

    /// The disk of the device in a slot is not used any more: see [`Connections::retire`].
    pub fn retire_disk(&mut self, slot: SlotIndex, orphan: bool) {
        self.retire(|entry| entry.slot == slot, orphan);
    }

    /// The disk of the device in a slot.
    pub fn disk(&self, slot: SlotIndex) -> Option<Shared> {
        let entry = self.entries().find(|entry| entry.slot == slot)?;
        Some(entry.disk.clone())
    }

    /// Whether all can be used.
    pub fn are_connected(&self) -> bool {
        self.entries().all(|entry| entry.disk.get().is_open())
    }

    /// Which disk cannot be used, for the operator: the one of this slot, or any.
    pub fn complaint(&self, of: Option<SlotIndex>) -> String {
        let mut entries = self.entries();
        let away = entries
            .find(|entry| of.is_none_or(|slot| entry.slot == slot) && !entry.disk.get().is_open());
        away.map_or_else(String::new, |entry| {
            format!(
                "device {}: the back end of disk {} has not connected{}; look at the log of the domain that serves it, and \
                 at its hotplug scripts' in /var/log/xen",
                entry.slot,
                entry.name,
                entry.trouble.unwrap_or("")
            )
        })
    }
}

impl Connection for Entry {
    fn duty(&mut self) -> &mut Duty {
        &mut self.duty
    }

    fn is_usable(&self) -> bool {
        self.disk.get().is_open()
    }

    fn has_news(&self) -> bool {
        match self.duty.control.phase() {
            Phase::Up => self.disk.get().is_broken(),
            Phase::Draining => self.disk.get().is_broken() || self.disk.get().is_idle(),
            Phase::Down | Phase::Offered | Phase::Closing => false,
        }
    }

    fn give_up(&mut self) {
        log::warn!(
            "device {}: disk {} has had no back end for too long: requests fail until it has one again",
            self.slot,
            self.name
        );
        self.abandon();
    }

    fn forget_ended(&mut self) {
        self.disk.forget_ended();
    }

    fn abandon(&mut self) {
        self.disk.get_mut().give_up();
    }

    fn look(&mut self, store: &mut Store) {
        let Self {
            slot,
            name,
            disk,
            duty,
            trouble,
        } = self;
        let result = duty
            .control
            .run(store, &mut *disk.get_mut(), &mut |notice| {
                tell(&mut duty.log, *slot, *name, &notice);
                *trouble = trouble_of(&notice).or(*trouble);
            });
        if let Err(error) = result {
            log::error!("device {slot}: disk {name}: xenstore: {error}");
            duty.attention.note();
        }
    }

    fn shut_down(&mut self, store: &mut Store) -> bool {
        let (slot, name) = (self.slot, self.name);
        let log = &mut self.duty.log;
        let mut notice = |notice| tell(log, slot, name, &notice);
        let disk = &mut *self.disk.get_mut();
        let closed = self.duty.control.shut_down(store, disk, &mut notice);
        closed.unwrap_or_else(|error| {
            log::debug!("device {slot}: closing disk {name}: {error}");
            false
        })
    }
}

/// A disk by the name that it has in configurations, or else its number.
fn in_words(number: u32) -> String {
    VirtualDisk::from_number(number).map_or_else(|| number.to_string(), |disk| disk.to_string())
}

/// What is wrong, if something is.
const fn trouble_of(notice: &Notice) -> Option<&'static str> {
    match notice {
        Notice::Unusable(_) => Some(": a node that says what it is makes no sense"),
        Notice::NoRoom => Some(": this domain has no room for its grants or event channels"),
        Notice::Connected { .. }
        | Notice::Resized(_)
        | Notice::Closing
        | Notice::Disconnected { .. } => None,
    }
}

/// Logs what has happened.
fn tell(log: &mut Log, slot: SlotIndex, name: VirtualDisk, notice: &Notice) {
    if !log.admits(format_args!("device {slot}: disk {name}")) {
        return;
    }
    match notice {
        Notice::Connected { domain, queues } => {
            log::info!("device {slot}: disk {name} is served by domain {domain}, {queues} ring(s)");
        }
        Notice::Resized(sectors) => {
            log::info!("device {slot}: disk {name} has {sectors} sectors now");
        }
        Notice::Closing => log::info!("device {slot}: disk {name} is being closed"),
        Notice::Disconnected { in_order: true } => {
            log::info!("device {slot}: disk {name} was closed");
        }
        Notice::Disconnected { in_order: false } => {
            log::warn!("device {slot}: disk {name}: the connection was lost");
        }
        Notice::Unusable(node) => {
            log::error!("device {slot}: disk {name}: its back end's node {node} makes no sense");
        }
        Notice::NoRoom => {
            log::error!(
                "device {slot}: disk {name}: no room for its grants or event channels; raise max_grant_frames= or \
                 max_event_channels="
            );
        }
    }
}
