//! Disks that other domains serve: Xen's PV block protocol, of which this domain is the front end.
//!
//! Data and rings are run by the device, whenever the main loop has its turn ([`shared`]); this module has what goes
//! through xenstore: connections that are made, lost and made again. It waits for xenstored, never for a back end.
//!
mod shared;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use vd_blkif::handshake::Phase;
use vd_blkif::vbd::{self, Notice};
use vd_blkif::{Disk, Vbd};
use vd_config::{DeviceDescription, SlotIndex, VirtualDisk};
use vd_kernel_core::attention::{Attention, Standing};
use vd_kernel_core::description::Description;
use vd_xenbus::WatchEvent;

use crate::mem::frames;
use crate::pv::{Pages, Served};
use crate::xen::store::Store;
use crate::xen::time;
pub use shared::Shared;

/// One disk and its connection.
struct Entry {
    slot: SlotIndex,
    name: VirtualDisk,
    control: Vbd,
    disk: Shared,
    attention: Attention,
    /// Why there is no connection, as far as that is known.
    trouble: Option<&'static str>,
    /// It is closed, for good.
    retiring: Option<Retiring>,
}

/// A disk that is closed while others go on.
struct Retiring {
    /// When nobody waits for the back end any more.
    deadline: u64,
    /// Its device is gone, and does not take what ends.
    orphan: bool,
}

/// Nanoseconds that a back end has to let go of a disk.
const RETIRING: u64 = 3_000_000_000;

/// All disks of the guest that other domains serve.
#[derive(Default)]
pub struct Vbds(Vec<Entry>);

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
        let there = vbd::devices(store).map_err(|error| format!("looking for disks: {error}"))?;
        if !there.contains(&name.number()) {
            return Err(missing(slot, name, &there));
        }
        let config = shared::config(name.number(), queues, disks);
        let disk = Pages::new(Served::Disk(slot), config.pages())
            .ok()
            .and_then(|pages| Disk::new(pages, config))
            .ok_or_else(|| {
                format!(
                    "device {slot}: no memory for what disk {name} passes through: {} KiB are needed, {} are free; \
                     raise memory= of the driver domain",
                    config.pages() * 4,
                    frames::free_bytes() >> 10
                )
            })?;
        let mut control = Vbd::of::<Disk<Pages>>(name.number());
        control
            .watch(store)
            .map_err(|error| format!("device {slot}: watching disk {name}: {error}"))?;
        self.0.push(Entry {
            slot,
            name,
            control,
            disk: Shared::new(disk),
            attention: Attention::new(u64::from(wait) * 1_000_000_000),
            trouble: None,
            retiring: None,
        });
        Ok(())
    }

    /// How many disks there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the disk of the device in a slot can be used, if it has one.
    pub fn is_connected(&self, slot: SlotIndex) -> bool {
        let mut entries = self.0.iter().filter(|entry| entry.slot == slot);
        entries.all(|entry| entry.disk.get().is_open())
    }

    /// The disk of the device in a slot is not used any more: it is closed in good order, as far as its back end lets it be,
    /// and forgotten. `orphan` if its device is gone. What the device asks for meanwhile and afterwards fails.
    pub fn retire(&mut self, slot: SlotIndex, orphan: bool) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.slot == slot) {
            let deadline = time::now().saturating_add(RETIRING);
            let retiring = entry.retiring.get_or_insert(Retiring { deadline, orphan });
            retiring.orphan |= orphan;
            entry.attention.note();
        }
    }

    /// The disk of the device in a slot.
    pub fn disk(&self, slot: SlotIndex) -> Option<Shared> {
        let entry = self.0.iter().find(|entry| entry.slot == slot)?;
        Some(entry.disk.clone())
    }

    /// Whether all can be used.
    pub fn are_connected(&self) -> bool {
        self.0.iter().all(|entry| entry.disk.get().is_open())
    }

    /// Which disk cannot be used, for the operator.
    pub fn complaint(&self) -> String {
        let away = self.0.iter().find(|entry| !entry.disk.get().is_open());
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

    /// Takes note of a watch event.
    pub fn note(&mut self, event: &WatchEvent) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.control.is_mine(event)) {
            entry.attention.note();
        }
    }

    /// Everything may have changed.
    pub fn note_all(&mut self) {
        self.0.iter_mut().for_each(|entry| entry.attention.note());
    }

    /// The connection to xenstore is a new one, without watches.
    ///
    /// # Errors
    /// xenstore's.
    pub fn watch_again(&mut self, store: &mut Store) -> Result<(), vd_xenbus::Error> {
        for entry in &mut self.0 {
            entry.control.watch(store)?;
            entry.attention.note();
        }
        Ok(())
    }

    /// Some time has passed. Returns whether there is something to look after.
    pub fn tick(&mut self) -> bool {
        let now = time::now();
        for entry in &mut self.0 {
            if entry.retiring.is_some() {
                entry.attention.note();
                continue;
            }
            let standing = entry.standing();
            if entry.attention.tick(now, standing) {
                log::warn!(
                    "device {}: disk {} has had no back end for too long: requests fail until it has one again",
                    entry.slot,
                    entry.name
                );
                entry.disk.get_mut().give_up();
            }
        }
        self.is_due()
    }

    /// Whether there is something to look after.
    pub fn is_due(&mut self) -> bool {
        self.0.iter_mut().any(|entry| {
            if entry.has_news() {
                entry.attention.note();
            }
            entry.attention.is_due()
        })
    }

    /// Looks after one disk that is due. Returns whether it has waited for xenstored.
    pub fn service(&mut self, store: &mut Store) -> bool {
        let now = time::now();
        let mut entries = self.0.iter_mut();
        let Some(at) = entries.position(|entry| entry.attention.begin(now)) else {
            return false;
        };
        if let Some(entry) = self.0.get_mut(at) {
            match &entry.retiring {
                None => entry.look(store),
                Some(retiring) => {
                    let late = now >= retiring.deadline;
                    if entry.retire(store) || late {
                        // Whoever still waits for it waits in vain.
                        entry.disk.get_mut().give_up();
                        entry.control.unwatch(store);
                        self.0.swap_remove(at);
                    }
                }
            }
        }
        true
    }

    /// Goes on with closing all connections. Returns whether all back ends have let go.
    pub fn shut_down(&mut self, store: &mut Store) -> bool {
        let mut done = true;
        for entry in &mut self.0 {
            entry.disk.forget_ended();
            done &= entry.shut_down(store);
        }
        done
    }
}

fn missing(slot: SlotIndex, name: VirtualDisk, there: &[u32]) -> String {
    let mut text = format!("device {slot}: this domain has no disk {name}, ");
    if there.is_empty() {
        text.push_str("and no other either");
    } else {
        text.push_str("only");
    }
    for &number in there {
        match VirtualDisk::from_number(number) {
            Some(disk) => drop(write!(text, " {disk}")),
            None => drop(write!(text, " {number}")),
        }
    }
    text.push_str(
        "; add it to vdom_disk= in the guest's configuration, or to disk= in the driver domain's",
    );
    text
}

impl Entry {
    /// Goes on with closing the connection. Returns whether the back end has let go.
    fn shut_down(&mut self, store: &mut Store) -> bool {
        let (slot, name) = (self.slot, self.name);
        let mut notice = |notice| {
            tell(slot, name, &notice);
        };
        let disk = &mut *self.disk.get_mut();
        match self.control.shut_down(store, disk, &mut notice) {
            Ok(closed) => closed,
            Err(error) => {
                log::debug!("device {slot}: closing disk {name}: {error}");
                false
            }
        }
    }

    /// The same for a disk that is not used any more.
    fn retire(&mut self, store: &mut Store) -> bool {
        if self.retiring.as_ref().is_some_and(|it| it.orphan) {
            self.disk.forget_ended();
        }
        self.shut_down(store)
    }

    fn standing(&self) -> Standing {
        match self.control.phase() {
            _ if self.disk.get().is_open() => Standing::Up,
            Phase::Closing => Standing::LettingGo,
            Phase::Down | Phase::Offered | Phase::Up | Phase::Draining => Standing::Away,
        }
    }

    /// Whether the ring has something to say that has to be said in xenstore.
    fn has_news(&self) -> bool {
        match self.control.phase() {
            Phase::Up => self.disk.get().is_broken(),
            Phase::Draining => self.disk.get().is_broken() || self.disk.get().is_idle(),
            Phase::Down | Phase::Offered | Phase::Closing => false,
        }
    }

    fn look(&mut self, store: &mut Store) {
        let Self {
            slot,
            name,
            control,
            disk,
            attention,
            trouble,
            retiring: _,
        } = self;
        let result = control.run(store, &mut *disk.get_mut(), &mut |notice| {
            *trouble = tell(*slot, *name, &notice).or(*trouble);
        });
        if let Err(error) = result {
            log::error!("device {slot}: disk {name}: xenstore: {error}");
            attention.note();
        }
    }
}

/// Logs what has happened; says what is wrong, if something is.
fn tell(slot: SlotIndex, name: VirtualDisk, notice: &Notice) -> Option<&'static str> {
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
            return Some(": a node that says what it is makes no sense");
        }
        Notice::NoRoom => {
            log::error!(
                "device {slot}: disk {name}: no room for its grants or event channels; raise max_grant_frames= or \
                 max_event_channels="
            );
            return Some(": this domain has no room for its grants or event channels");
        }
    }
    None
}
