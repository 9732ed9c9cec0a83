//! Devices that the toolstack attaches and detaches while the guest runs, and what it is told of all of them.
//!
//! Invariants: nothing here waits for the guest or for another domain but xenstored; what a device needs is prepared piece
//! by piece, between the requests of the others; a slot is free only when its driver has let the device go.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::hint::black_box;
use core::ops::Range;

use vd_config::xenbus::{self, BusState};
use vd_config::{Backend, DeviceDescription, SlotIndex, TargetType, keys};
use vd_kernel_core::bus::Offer;
use vd_kernel_core::description::{self, Description};
use vd_kernel_core::late::Ground;
use vd_kernel_core::plug::{self, Ask, Place, Plug};

use super::Guest;
use super::bus::Bus;
use super::devices::{Device, late::Preparation};
use crate::counters;
use crate::vbd::Vbds;
use crate::vif::Vifs;
use crate::xen::store::Store;
use crate::xen::time;

/// Bytes of heap in one piece that have to be there before a device is made: more than twice what a network device with four
/// pairs of queues and an interface takes.
const ROOM: usize = 640 << 10;
/// Nanoseconds that a back end of a disk has to connect.
const CONNECTING: u64 = 15_000_000_000;

/// What the toolstack has in xenstore for each device, and the devices that come or go.
pub struct Hotplug {
    plug: Plug,
    /// What is asked for and was not looked at.
    asks: VecDeque<Ask>,
    coming: Vec<Coming>,
    /// There is a guest.
    ground: Option<Ground>,
    /// xenstore did not answer: nothing more before the next tick.
    resting: bool,
    /// Slots whose devices have gone, as bits: their counters are nobody's.
    gone: u32,
    /// There are other devices than when that was asked last.
    changed: bool,
    /// Nothing comes or goes: another driver domain takes over those that there are.
    held: bool,
    module: Option<Range<u64>>,
    /// Seconds that requests wait for another domain to serve a disk again.
    disk_wait: u32,
}

/// A device that is being prepared.
struct Coming {
    place: Place,
    slot: SlotIndex,
    device: DeviceDescription,
    preparation: Preparation,
    deadline: u64,
}

/// What is changed when a device comes or goes.
pub struct World<'a> {
    /// The guest.
    pub guest: &'a mut Guest,
    /// Its drivers' connections.
    pub bus: &'a mut Bus,
    /// Its disks that other domains serve.
    pub vbds: &'a mut Vbds,
    /// The network interfaces that other domains serve.
    pub vifs: &'a mut Vifs,
}

impl Hotplug {
    /// Nothing yet. `module` is what the toolstack loaded.
    pub fn new(module: Option<Range<u64>>, disk_wait: u32) -> Self {
        let mut plug = Plug::default();
        plug.note_all();
        Self {
            plug,
            asks: VecDeque::new(),
            coming: Vec::new(),
            ground: None,
            resting: false,
            gone: 0,
            changed: false,
            held: false,
            module,
            disk_wait,
        }
    }

    /// Takes note of a watch event with [`plug::TOKEN`].
    pub fn note(&mut self, path: &str) {
        self.plug.note(path);
    }

    /// Everything may have changed.
    pub fn note_all(&mut self) {
        self.plug.note_all();
    }

    /// Whether there is something to do.
    pub fn is_due(&self) -> bool {
        if self.held {
            return false;
        }
        let asked = self.plug.is_due() || !self.asks.is_empty();
        let mut coming = self.coming.iter();
        (asked && !self.resting) || coming.any(|it| !it.preparation.is_ready())
    }

    /// When there is something to do that no event tells of.
    pub fn deadline(&self) -> Option<u64> {
        // While xenstore does not answer, the next tick is early enough.
        let resting = self.resting || self.held;
        self.plug.deadline().filter(|_| !resting)
    }

    /// From now on nothing comes or goes, or again.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether there are other devices than when this was asked last.
    pub fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// What is under way that another driver domain could not go on with.
    pub fn unsettled(&self, guest: &Guest) -> Option<String> {
        if let Some(coming) = self.coming.first() {
            return Some(format!("device {} is being attached", coming.slot));
        }
        let mut devices = guest.devices().iter();
        if let Some(device) = devices.find(|device| device.has_departed()) {
            return Some(format!(
                "device {} was taken away, and the guest's driver has not let go of it: unbind it there",
                device.slot()
            ));
        }
        let leaving = self.plug.leaving().next();
        leaving.map(|place| {
            format!(
                "device {} is to go when the guest's driver lets it: unbind it there",
                place.number
            )
        })
    }

    /// The slots whose devices have gone since this was asked last, as bits.
    pub fn take_gone(&mut self) -> u32 {
        core::mem::take(&mut self.gone)
    }

    /// Some time has passed. Returns whether there is something to do.
    pub fn tick(&mut self) -> bool {
        self.resting = false;
        // One of these may have waited for too long.
        self.plug.tick(time::now()) || !self.coming.is_empty()
    }

    /// The same with a guest: what its drivers have done meanwhile.
    pub fn tick_guest(&mut self, store: &mut Store, world: &mut World<'_>) -> bool {
        if self.held {
            return false;
        }
        let id = world.guest.id().0;
        for device in world.guest.devices().iter() {
            let place = Place::of(id, device.slot());
            self.plug.driver_is(place, device.is_driven());
        }
        let let_go = |device: &&Device| device.has_departed() && !device.is_held();
        let free = world.guest.devices().iter().find(let_go);
        if let Some(slot) = free.map(Device::slot) {
            self.vacate(store, world, slot);
        }
        let leaving: Vec<Place> = self.plug.leaving().collect();
        for place in leaving {
            let forced = false;
            self.detach(store, world, place, forced);
        }
        self.tick()
    }

    /// There is a guest: the toolstack is told where its devices are.
    pub fn adopt(&mut self, store: &mut Store, guest: &Guest, description: &Description) {
        self.ground = Some(Ground::of(description));
        self.plug.note_all();
        while let Some(ask) = self.look(store) {
            self.asks.extend((ask != Ask::Nothing).then_some(ask));
        }
        for device in guest.devices().iter() {
            self.serve(store, guest.id().0, device);
        }
    }

    /// There is none any more: no device is there.
    pub fn close_all(&mut self, store: &mut Store) {
        self.ground = None;
        self.coming.clear();
        if let Err(error) = self.plug.close_all(store) {
            log::debug!("telling the toolstack that all devices are gone: {error}");
        }
    }

    fn look(&mut self, store: &mut Store) -> Option<Ask> {
        if self.resting {
            return None;
        }
        match self.plug.service(store, time::now()) {
            Ok(ask) => ask,
            Err(error) => {
                log::error!("xenstore: {}: {error}", plug::WATCHED);
                self.resting = true;
                None
            }
        }
    }

    /// Does one thing, without a guest. Returns whether it may have waited for xenstored.
    pub fn service_alone(&mut self, store: &mut Store) -> bool {
        let due = self.is_due();
        match self.asks.pop_front().or_else(|| self.look(store)) {
            Some(Ask::Detach { place, .. }) => {
                self.closed(store, place);
                true
            }
            // When there is a guest, this is asked for again.
            Some(Ask::Attach(_) | Ask::Nothing) => true,
            // It may have looked for directories, and found none that is new.
            None => due,
        }
    }

    /// Does one thing. Returns whether it may have waited for xenstored.
    pub fn service(&mut self, store: &mut Store, world: &mut World<'_>) -> bool {
        if self.held {
            return false;
        }
        let due = self.is_due();
        if self.go_on(store, world) {
            return true;
        }
        match self.asks.pop_front().or_else(|| self.look(store)) {
            Some(Ask::Attach(place)) => self.attach(store, world, place),
            Some(Ask::Detach { place, forced }) => self.detach(store, world, place, forced),
            Some(Ask::Nothing) => {}
            None => return due,
        }
        true
    }

    fn attach(&mut self, store: &mut Store, world: &mut World<'_>, place: Place) {
        if self.coming.iter().any(|coming| coming.place == place) {
            return;
        }
        let id = world.guest.id();
        let device = place
            .slot()
            .and_then(|slot| world.guest.devices().get(slot));
        if let Some(device) = device.filter(|device| place.guest == id.0 && !device.has_departed())
        {
            return self.serve(store, id.0, device);
        }
        match self.begin(store, world, place) {
            Ok(coming) => self.coming.push(coming),
            Err(why) => self.refuse(store, place, &why),
        }
    }

    /// Whether there is heap for a device: an allocation that fails is the end of this domain.
    fn check_room() -> Result<(), String> {
        let mut piece = Vec::<u8>::new();
        let reserved = piece.try_reserve_exact(ROOM);
        // What nobody looks at would not be asked for.
        black_box(piece);
        reserved.map_err(|_| {
            let kib = ROOM >> 10;
            format!(
                "no memory for another device: {kib} KiB of heap are needed; detach others, or raise memory= of the driver domain"
            )
        })
    }

    /// Begins to make a device.
    fn begin(
        &mut self,
        store: &mut Store,
        world: &mut World<'_>,
        place: Place,
    ) -> Result<Coming, String> {
        let id = world.guest.id();
        if place.guest != id.0 {
            return Err(format!(
                "this driver domain serves domain {id}, and no other one"
            ));
        }
        let slot = place
            .slot()
            .ok_or_else(|| format!("there is no slot {}: 0 to 15 can be had", place.number))?;
        if world.guest.devices().get(slot).is_some() {
            return Err(format!(
                "device {slot}: the guest's driver has not let go of the former one: unbind it there"
            ));
        }
        if world.vbds.disk(slot).is_some() {
            return Err(format!(
                "device {slot}: its former disk is still being closed: try again"
            ));
        }
        Self::check_room().map_err(|why| format!("device {slot}: {why}"))?;
        let device = description::read_slot(store, slot)?;
        let ground = self.ground.as_mut().ok_or("there is no guest")?;
        ground.insert(slot, device.clone())?;
        let prepared = Self::prepare(store, world, (slot, &device), self.disk_wait);
        let preparation = prepared.inspect_err(|_| drop(ground.remove(slot)))?;
        Ok(Coming {
            place,
            slot,
            device,
            preparation,
            deadline: time::now().saturating_add(CONNECTING),
        })
    }

    fn prepare(
        store: &mut Store,
        world: &mut World<'_>,
        (slot, device): (SlotIndex, &DeviceDescription),
        disk_wait: u32,
    ) -> Result<Preparation, String> {
        match device.backend() {
            Backend::Vbd(name) => {
                let (queues, disks) = (device.queues(), world.vbds.len() + 1);
                world
                    .vbds
                    .open_one(store, (slot, name), (queues, disks), disk_wait)?;
            }
            Backend::Vif(vif) => {
                if let Some(uplink) = world.vifs.open_one(store, slot, vif)? {
                    world.guest.devices_mut().add_network(uplink);
                }
            }
            _ => {}
        }
        Preparation::begin(device)
    }

    /// Goes on with a device that is coming. Returns whether it has waited for xenstored.
    fn go_on(&mut self, store: &mut Store, world: &mut World<'_>) -> bool {
        let now = time::now();
        let ready = self.coming.iter_mut().position(|coming| {
            let late = now >= coming.deadline;
            coming.preparation.go_on() && (late || world.vbds.is_connected(coming.slot))
        });
        let Some(coming) = ready.map(|at| self.coming.remove(at)) else {
            return false;
        };
        let Coming { place, slot, .. } = coming;
        match self.finish(world, coming) {
            Ok(device) => {
                let described = device.transport().device().describe();
                log::info!(
                    "slot {slot}: attached: {described} at {:#x}",
                    device.window()
                );
                counters::add(&counters::ATTACHED, 1);
                world.guest.devices_mut().insert(device);
                self.changed = true;
                if let Some(device) = world.guest.devices().get(slot) {
                    self.offer(store, world.bus, place.guest, device);
                    self.serve(store, place.guest, device);
                }
            }
            Err(why) => {
                self.forget(world.vbds, slot);
                self.refuse(store, place, &why);
            }
        }
        true
    }

    fn finish(&self, world: &mut World<'_>, coming: Coming) -> Result<Box<Device>, String> {
        let Coming {
            slot,
            device,
            preparation,
            ..
        } = coming;
        if !world.vbds.is_connected(slot) {
            return Err(world.vbds.complaint(Some(slot)));
        }
        // What has come since, or the disk itself, may have taken it.
        Self::check_room().map_err(|why| format!("device {slot}: {why}"))?;
        let guest = self.kind();
        let devices = world.guest.devices();
        let mut made = devices
            .make(
                guest,
                (slot, &device),
                self.module.as_ref(),
                world.vbds,
                preparation,
            )
            .map_err(|error| format!("device {slot}: {error}"))?;
        // Its port and its address on a network are free again if nobody hears it.
        let heard = world.guest.ring_in(&made);
        heard.inspect_err(|_| made.leave())?;
        Ok(made)
    }

    fn kind(&self) -> TargetType {
        let ground = self.ground.as_ref();
        ground.map_or(TargetType::Hvm, Ground::guest)
    }

    /// Lets a PVH guest's driver find a device.
    fn offer(&self, store: &mut Store, bus: &mut Bus, guest: u16, device: &Device) {
        let slot = device.slot();
        let ground = self.ground.as_ref();
        let Some(described) = ground.and_then(|it| it.devices().get(slot)) else {
            return;
        };
        let kind = self.kind();
        let offer = Offer {
            guest,
            slot,
            interrupt: described.interrupt(kind),
            doorbell: described.doorbell(),
            queues: described.virtqueues(),
            memory: described.memory(),
        };
        if kind == TargetType::Pvh
            && let Err(error) = bus.add(store, offer)
        {
            log::error!("device {slot}: offering it to the guest: {error}");
        }
    }

    /// Tells the toolstack that a device is there, and where.
    fn serve(&mut self, store: &mut Store, guest: u16, device: &Device) {
        let slot = device.slot();
        let (pairs, state) = match self.kind() {
            // The connection to the driver says what there is to say.
            TargetType::Pvh => (Vec::new(), None),
            TargetType::Hvm => (nodes(device).to_vec(), Some(BusState::InitWait)),
        };
        let told = self
            .plug
            .serve(store, Place::of(guest, slot), &pairs, state);
        if let Err(error) = told {
            log::error!("device {slot}: telling the toolstack: {error}");
            // What of it was written is an event, which would have it tried again at once.
            self.resting = true;
        }
    }

    fn refuse(&mut self, store: &mut Store, place: Place, why: &str) {
        log::error!("cannot attach: {why}");
        counters::add(&counters::ATTACH_REFUSED, 1);
        let told = self.plug.refuse(store, place, why, time::now());
        if let Err(error) = told {
            log::error!("telling the toolstack: {error}");
        }
    }

    fn detach(&mut self, store: &mut Store, world: &mut World<'_>, place: Place, forced: bool) {
        if let Some(at) = self.coming.iter().position(|coming| coming.place == place) {
            let coming = self.coming.remove(at);
            self.forget(world.vbds, coming.slot);
            return self.closed(store, place);
        }
        let slot = place.slot().filter(|_| place.guest == world.guest.id().0);
        let device = slot.and_then(|slot| world.guest.devices().get(slot));
        let Some(device) = device.filter(|device| !device.has_departed()) else {
            return self.closed(store, place);
        };
        let slot = device.slot();
        if device.is_held() && !forced {
            return log::debug!("device {slot}: is to go when its driver lets it");
        }
        counters::add(&counters::DETACHED, 1);
        if device.is_held() {
            // As whenever a guest is destroyed.
            log::info!("device {slot}: taken away from its driver: requests fail from now on");
            counters::add(&counters::DETACHED_IN_USE, 1);
            world.bus.remove(slot);
            world.guest.devices_mut().depart(slot);
            self.changed = true;
            world.vbds.retire_disk(slot, false);
        } else {
            self.vacate(store, world, slot);
        }
        self.closed(store, place);
    }

    /// Nothing is left of a device: its slot is free.
    fn vacate(&mut self, store: &mut Store, world: &mut World<'_>, slot: SlotIndex) {
        if let Some(device) = world.guest.devices().get(slot) {
            world.guest.ring_out(device);
        }
        world.bus.remove(slot);
        if let Some(device) = world.guest.devices_mut().remove(slot) {
            let transport = device.transport();
            let requests = transport.counters().requests;
            let summary = transport.device().summary();
            log::info!("slot {slot}: detached: {requests} requests, {summary}");
        }
        self.forget(world.vbds, slot);
        self.gone |= 1 << slot.get();
        self.changed = true;
        let path = keys::CounterPath::Device(slot).to_string();
        if let Err(error) = store.rm(&path) {
            log::debug!("{path}: {error}");
        }
    }

    /// There is no such device any more, or there will not be one.
    fn forget(&mut self, vbds: &mut Vbds, slot: SlotIndex) {
        vbds.retire_disk(slot, true);
        if let Some(ground) = &mut self.ground {
            ground.remove(slot);
        }
    }

    fn closed(&mut self, store: &mut Store, place: Place) {
        if let Err(error) = self.plug.closed(store, place, time::now()) {
            log::error!("telling the toolstack that a device is gone: {error}");
        }
    }
}

/// What the toolstack may want to know of a device.
fn nodes(device: &Device) -> [(&'static str, String); 5] {
    [
        (xenbus::BASE, format!("{:#x}", device.window())),
        (xenbus::SIZE, xenbus::SIZE_VALUE.to_string()),
        (xenbus::IRQ, device.slot().gsi().to_string()),
        (xenbus::INTERRUPT, device.interrupt().as_str().into()),
        (xenbus::DOORBELL, device.doorbell().as_str().into()),
    ]
}
