//! The xenbus devices of a PVH guest: its drivers' answers are bound to the devices.
//!
//! Control plane: it waits for xenstored, never for the guest. What it binds belongs to the devices, which give it up
//! when the guest is released.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Display;

use vd_config::{SlotIndex, TargetType};
use vd_kernel_core::bus::{Link, Offer, Step, Trouble};
use vd_kernel_core::description::Description;
use vd_xenbus::XsError;
use xen_hypercall::DomId;

use super::devices::DeviceTable;
use super::slots::SERVER;
use crate::counters;
use crate::xen::store::Store;

/// Token of the watches; the slot's number follows.
const TOKEN: &str = "front-end-";

/// All devices' connections to their drivers. A HVM guest has none: its drivers find the devices by ACPI.
pub struct Bus {
    guest: DomId,
    links: Vec<Link>,
    /// A bit for each slot whose front end may have changed.
    changed: u32,
    /// The same for those that xenstore did not answer about: they are looked at again with the next tick.
    unanswered: u32,
}

impl Bus {
    /// The connections of a description, with nothing offered yet.
    pub fn new(description: &Description) -> Self {
        let offered = description.target_type == TargetType::Pvh;
        let guest = description.target.get();
        let links = description.devices.iter().filter(|_| offered);
        Self {
            guest: DomId(guest),
            links: links
                .map(|(slot, device)| {
                    Link::new(Offer {
                        guest,
                        slot,
                        interrupt: device.interrupt(description.target_type),
                        doorbell: device.doorbell(),
                        queues: device.virtqueues(),
                        memory: device.memory(),
                    })
                })
                .collect(),
            changed: 0,
            unanswered: 0,
        }
    }

    /// Offers every device, and watches what the guest's drivers say.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub fn open(&mut self, store: &mut Store) -> Result<(), String> {
        for link in &mut self.links {
            let slot = link.offer().slot;
            link.open(store)
                .and_then(|()| watch(store, link))
                .map_err(|error| {
                    format!("device {slot}: offering it to the guest: {error}; vdom makes its directories")
                })?;
        }
        Ok(())
    }

    /// A device has come while the guest runs: offers it to the guest's drivers.
    ///
    /// # Errors
    /// xenstore's.
    pub fn add(&mut self, store: &mut Store, offer: Offer) -> Result<(), vd_xenbus::Error> {
        self.remove(offer.slot);
        let mut link = Link::new(offer);
        link.open(store)?;
        watch(store, &link)?;
        self.links.push(link);
        Ok(())
    }

    /// A device has gone, or is about to: nothing more is said to its driver.
    pub fn remove(&mut self, slot: SlotIndex) {
        self.links.retain(|link| link.offer().slot != slot);
    }

    /// Takes note of a watch event.
    pub fn note(&mut self, event: &str) {
        let slot = event
            .strip_prefix(TOKEN)
            .and_then(|slot| SlotIndex::parse(slot.as_bytes()).ok());
        if let Some(slot) = slot {
            self.changed |= 1 << slot.get();
        }
    }

    /// Some time has passed. Returns whether there is something to look at again.
    pub fn tick(&mut self) -> bool {
        let again = core::mem::take(&mut self.unanswered);
        self.changed |= again;
        again != 0
    }

    /// Everything may have changed.
    pub fn note_all(&mut self) {
        self.changed = u32::MAX;
    }

    /// The connection to xenstore is a new one, without watches.
    ///
    /// # Errors
    /// xenstore's.
    pub fn watch_again(&mut self, store: &mut Store) -> Result<(), vd_xenbus::Error> {
        for link in &self.links {
            watch(store, link)?;
        }
        Ok(())
    }

    /// Looks at one front end that may have changed. Returns whether it has waited for xenstored.
    pub fn service(&mut self, store: &mut Store, devices: &mut DeviceTable) -> bool {
        let Self {
            guest,
            links,
            changed,
            unanswered,
        } = self;
        let is_due = |link: &&mut Link| *changed >> link.offer().slot.get() & 1 != 0;
        let Some(link) = links.iter_mut().find(is_due) else {
            *changed = 0;
            return false;
        };
        let slot = link.offer().slot;
        *changed &= !(1 << slot.get());
        let mut warn = |what: &dyn Display| devices.warn(&format_args!("device {slot}: {what}"));
        match link.look(store) {
            Ok(Step::Nothing) => {}
            Ok(Step::Disconnect) => {
                devices.disconnect(slot);
                // It may have come again already.
                *changed |= 1 << slot.get();
                log::debug!("device {slot}: its driver has gone");
            }
            Ok(Step::Connect(answer)) => match SERVER.bind(*guest, slot, &answer) {
                Ok(bound) => {
                    devices.connect(slot, bound);
                    let connected = link.connected(store);
                    match connected {
                        Ok(()) => log::debug!("device {slot}: connected to its driver"),
                        Err(error) => {
                            log::error!("device {slot}: xenstore: {error}");
                            devices.disconnect(slot);
                            *unanswered |= 1 << slot.get();
                        }
                    }
                }
                Err(error) => {
                    warn(&format_args!("binding its driver's event channel: {error}"));
                    if let Err(error) = link.refuse(store) {
                        log::error!("device {slot}: xenstore: {error}");
                    }
                }
            },
            Err(trouble) => {
                warn(&trouble);
                match trouble {
                    Trouble::Store(_) => *unanswered |= 1 << slot.get(),
                    Trouble::Guest(_) => counters::add(&counters::BAD_FRONT_ENDS, 1),
                }
            }
        }
        true
    }
}

fn watch(store: &mut Store, link: &Link) -> Result<(), vd_xenbus::Error> {
    let token = format!("{TOKEN}{}", link.offer().slot);
    match store.watch(&link.watched(), &token) {
        // A former attempt to attach has left it.
        Err(error) if error.refusal() == Some(XsError::EEXIST) => Ok(()),
        result => result,
    }
}
