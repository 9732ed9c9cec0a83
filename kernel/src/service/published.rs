//! Counters in xenstore: those that have changed are written.
//!
//! Invariant: while a guest is served nothing here waits for xenstored.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use vd_config::counters::Counters;
use vd_config::{SlotIndex, keys};

use crate::control;
use crate::dm::Guest;
use crate::xen::store::Store;

/// What was published last.
#[derive(Default)]
pub(super) struct Published {
    /// By name.
    common: Vec<(String, u64)>,
    /// Those of each device, in their order.
    devices: Vec<(SlotIndex, Vec<u64>)>,
    /// The one to go on with, while some are being published: a device's are one.
    next: Option<usize>,
}

impl Published {
    /// Begins with the first one.
    pub fn begin(&mut self) {
        self.next = Some(0);
    }

    /// Whether it has begun, and is not at the end.
    pub fn has_begun(&self) -> bool {
        self.next.is_some()
    }

    /// The devices in these slots, which are bits, have gone.
    pub fn forget(&mut self, gone: u32) {
        self.devices.retain(|(slot, _)| gone >> slot.get() & 1 == 0);
    }

    /// If it has begun, sends the counters that have changed, without waiting. What does not fit follows when xenstored has
    /// answered.
    pub fn post(&mut self, store: &mut Store, guest: &Guest) {
        let Some(first) = self.next.take() else {
            return;
        };
        self.make_room(guest);
        let Self {
            common,
            devices,
            next,
        } = self;
        let mut index = 0;
        let mut is_next = |next: &Option<usize>| {
            index += 1;
            (index > first && next.is_none()).then_some(index - 1)
        };
        control::for_each_common_counter(Some(guest), &mut |name, value| {
            let Some(this) = is_next(next) else { return };
            let known = common.iter().position(|(known, _)| known == name);
            let entry = known.and_then(|at| common.get_mut(at));
            if entry.as_ref().is_some_and(|(_, old)| *old == value) {
                return;
            }
            match store.post(&path(name), value.to_string().as_bytes()) {
                Ok(true) => match entry {
                    Some(entry) => entry.1 = value,
                    None => common.push((name.into(), value)),
                },
                Ok(false) | Err(_) => *next = Some(this),
            }
        });
        for device in guest.devices().iter() {
            let Some(this) = is_next(next) else { continue };
            let counters = device.counters();
            let known = devices.iter_mut().find(|(slot, _)| *slot == device.slot());
            let Some((_, known)) = known else { continue };
            let values = || counters.iter().map(|(_, value)| *value);
            if values().eq(known.iter().copied()) {
                continue;
            }
            let text = Counters(&counters).to_string();
            match store.post(&path_of(device.slot()), text.as_bytes()) {
                Ok(true) => {
                    known.clear();
                    known.extend(values());
                }
                Ok(false) | Err(_) => *next = Some(this),
            }
        }
    }

    /// Makes room for what is published of each device: all at once, so that from then on the heap says what others take.
    fn make_room(&mut self, guest: &Guest) {
        for device in guest.devices().iter() {
            if !self.devices.iter().any(|(slot, _)| *slot == device.slot()) {
                let room = Vec::with_capacity(device.counters().len());
                self.devices.push((device.slot(), room));
            }
        }
    }

    /// Writes all counters that have changed, waiting for xenstored: the guest is not served any more.
    pub fn write_all(&self, store: &mut Store, guest: &Guest) {
        let mut failed = None;
        let mut write = |path: &str, text: &str| {
            if failed.is_none() {
                failed = store.write(path, text.as_bytes()).err();
            }
        };
        control::for_each_common_counter(Some(guest), &mut |name, value| {
            let is_this = |(known, old): &(String, u64)| *old == value && known == name;
            if !self.common.iter().any(is_this) {
                write(&path(name), &value.to_string());
            }
        });
        for device in guest.devices().iter() {
            write(
                &path_of(device.slot()),
                &Counters(&device.counters()).to_string(),
            );
        }
        if let Some(error) = failed {
            log::debug!("publishing counters: {error}");
        }
    }
}

fn path(name: &str) -> String {
    keys::CounterPath::Common(name).to_string()
}

fn path_of(slot: SlotIndex) -> String {
    keys::CounterPath::Device(slot).to_string()
}
