//! Following the toolstack from one driver domain to another, on both sides.
//!
//! The old one serves the guest until it has written down where the devices stand; from then on it does nothing for the
//! guest unless it is told to go on. The new one does nothing for the guest before it has read that. The toolstack sees to
//! it that the guest is paused in between: no moment exists in which both serve it, or in which what it asks for is lost.

use alloc::string::String;

use vd_config::keys;
use vd_config::succession::{Order, Stage};
use vd_kernel_core::bequest::Bequest;
use vd_kernel_core::description::Description;

use super::{Service, Stop, TICK, wait_until};
use crate::dm::disk::Storage;
use crate::dm::inheritance::{self, Inheritance};
use crate::dm::{Guest, attach, will};
use crate::xen::time;

/// Nanoseconds that requests under way may take to end.
const ENDING: u64 = 10_000_000_000;
/// Nanoseconds that the toolstack may take for what it does while no requests are taken: disks change hands.
const PATIENCE: u64 = 120_000_000_000;
/// Nanoseconds that vCPUs may take to notice that they were answered.
const NOTICING: u64 = 2_000_000_000;
/// Nanoseconds between two looks at whether they have.
const LOOK: u64 = 1_000_000;

/// How far this domain is with leaving its guest to another.
#[derive(Default)]
pub(super) struct Leaving {
    /// Where it writes down how the devices stand.
    room: Option<Storage>,
    stage: Option<Stage>,
    /// When it goes on by itself: since then no requests are taken.
    until: Option<u64>,
    /// Devices have come or gone since memory was prepared for them: other ones may be in the same slots.
    pub(super) changed: bool,
}

impl Service {
    /// Does what is ordered. Returns why to end, if this is the end.
    pub(super) fn follow(&mut self, guest: &mut Guest) -> Option<Stop> {
        match self.order() {
            Order::Prepare => {
                let prepared = self.check_settled(guest);
                let prepared = prepared.and_then(|()| self.prepare(guest));
                self.leaving.changed = false;
                self.renew_will(guest);
                self.answer(prepared.map(|()| Stage::Prepared));
            }
            Order::Quiesce if self.leaving.stage == Some(Stage::Prepared) => {
                if let Err(why) = self
                    .check_settled(guest)
                    .and_then(|()| self.check_unchanged())
                {
                    self.answer(Err(why));
                    return None;
                }
                self.hotplug.hold(true);
                guest.devices_mut().quiesce(true);
                self.leaving.until = Some(time::now() + ENDING);
                log::info!(
                    "taking no more requests to disks of other domains: another driver domain is to take over"
                );
            }
            Order::Export if self.leaving.stage == Some(Stage::Quiesced) => {
                return self.hand_over(guest);
            }
            Order::Quiesce | Order::Export => {
                self.answer(Err("that is not what comes next".into()));
            }
            Order::Resume => self.resume(guest),
            Order::None | Order::Connect | Order::TakeOver | Order::Release => {}
        }
        None
    }

    /// Looks whether requests that were under way have ended, or have taken too long, or nobody has come for them.
    pub(super) fn look_after_leaving(&mut self, guest: &mut Guest) {
        let Some(until) = self.leaving.until else {
            return;
        };
        let quiet = guest.devices().is_quiet();
        if quiet && self.leaving.stage == Some(Stage::Prepared) {
            self.leaving.until = Some(time::now() + PATIENCE);
            self.answer(Ok(Stage::Quiesced));
            // Waiting for the reply has set the timer to its own deadline.
            self.wake_for_tick();
        } else if time::now() >= until {
            let why = if quiet {
                "nobody has taken over"
            } else {
                "requests under way do not end: is there a disk without a back end?"
            };
            self.resume(guest);
            self.answer(Err(why.into()));
            self.wake_for_tick();
        }
    }

    /// Whether nothing is under way that another driver domain could not go on with.
    fn check_settled(&self, guest: &Guest) -> Result<(), String> {
        let unsettled = self.hotplug.unsettled(guest);
        unsettled.map_or(Ok(()), Err)
    }

    fn check_unchanged(&self) -> Result<(), String> {
        if !self.leaving.changed {
            return Ok(());
        }
        Err("a device has come or gone meanwhile: try again".into())
    }

    fn prepare(&mut self, guest: &Guest) -> Result<(), String> {
        let devices = guest.devices();
        let (count, consoles) = (devices.lasting().count(), devices.consoles());
        let room = match self.leaving.room.take() {
            // The other one has just as much.
            Some(room) if room.len() == inheritance::bytes(count, consoles) => room,
            former => {
                // Nothing is left into what is given back.
                will::forget();
                drop(former);
                inheritance::room(count, consoles)?
            }
        };
        let memory = inheritance::list(room.range(), guest.devices().in_memory());
        self.leaving.room = Some(room);
        self.say(keys::STATUS_MEMORY, &memory);
        Ok(())
    }

    /// Sees to it that another driver domain can go on if this one crashes.
    pub(super) fn make_will(&mut self, guest: &mut Guest) {
        will::forget();
        if let Err(why) = self.prepare(guest) {
            log::warn!("another driver domain could not go on after a crash: {why}");
        }
        self.renew_will(guest);
    }

    fn renew_will(&mut self, guest: &mut Guest) {
        if let Some(room) = &mut self.leaving.room {
            // SAFETY: the guest stays where it is while it is served, and the room with this service; what is served is
            // forgotten when that ends.
            unsafe { will::remember(guest.devices_mut(), room) };
        }
    }

    /// Goes on as if nothing had been ordered.
    fn resume(&mut self, guest: &mut Guest) {
        if self.leaving.until.take().is_some() {
            log::info!("taking requests again");
            guest.devices_mut().quiesce(false);
            self.hotplug.hold(false);
        }
        self.answer(Ok(Stage::None));
    }

    /// Writes down where the devices stand, and waits for what becomes of that.
    fn hand_over(&mut self, guest: &mut Guest) -> Option<Stop> {
        let exported = match &mut self.leaving.room {
            Some(room) => guest.export(room.as_mut()),
            None => Err("no room for it".into()),
        };
        if let Err(why) = exported {
            self.answer(Err(why));
            return None;
        }
        self.operator.guest_gone();
        let asked = guest.asked();
        self.answer(Ok(Stage::Exported));
        loop {
            self.held = self.news(None);
            if core::mem::take(&mut self.held.order) {
                match self.order() {
                    Order::Release => {
                        self.wait_for_vcpus();
                        let lost = guest.asked() - asked;
                        if lost != 0 {
                            log::warn!(
                                "{lost} accesses came here after another driver domain had taken over: nobody has heard them"
                            );
                        }
                        return Some(Stop::Succeeded);
                    }
                    Order::Resume => match guest.come_back() {
                        Ok(()) => {
                            self.resume(guest);
                            return None;
                        }
                        Err(why) => {
                            self.answer(Err(why));
                            // Again with the next tick: nobody else serves the guest.
                            self.held.order = true;
                        }
                    },
                    _ => continue,
                }
            }
            if self.held.shutdown
                && let Some(stop) = self.shutdown_request()
            {
                return Some(stop);
            }
            if !guest.is_alive() {
                return Some(Stop::GuestGone);
            }
            wait_until(time::now() + TICK);
        }
    }

    /// An access that was answered just before the guest was paused needs this domain's page until its vCPU has run.
    fn wait_for_vcpus(&self) {
        let deadline = time::now() + NOTICING;
        while !attach::is_taken() && time::now() < deadline {
            wait_until(time::now() + LOOK);
        }
    }

    /// If this domain is to take the place of another one: what that one has left, when it has.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator.
    pub(super) fn inherit(
        &mut self,
        description: &Description,
    ) -> Result<Option<Inheritance>, String> {
        let version = self.store.read_string(keys::VERSION, 32);
        if version.ok().as_deref() != Some(keys::VERSION_SUCCESSOR) {
            return Ok(None);
        }
        let inheritance = Inheritance::prepare(description, self.module.as_ref())?;
        self.say(keys::STATUS_MEMORY, &inheritance.memory());
        self.answer(Ok(Stage::Prepared));
        self.wait_for_order(Order::Connect)?;
        self.connect_disks(description)?;
        self.vifs.open(&mut self.store, description)?;
        self.answer(Ok(Stage::Connected));
        self.wait_for_order(Order::TakeOver)?;
        let what = "what the other driver domain has left cannot be used";
        Bequest::read(inheritance.state()).map_err(|why| alloc::format!("{what}: {why}"))?;
        Ok(Some(inheritance))
    }

    fn wait_for_order(&mut self, wanted: Order) -> Result<(), String> {
        loop {
            self.held = self.news(None);
            while self.vbds.service(&mut self.store) || self.vifs.service(&mut self.store) {}
            if core::mem::take(&mut self.held.order) && self.order() == wanted {
                return Ok(());
            }
            if self.held.shutdown && self.is_asked_to_stop() {
                return Err("the toolstack asks this domain to stop".into());
            }
            if self.held.order {
                continue;
            }
            wait_until(time::now() + TICK);
            self.vbds.tick();
            self.vifs.tick();
        }
    }

    fn order(&mut self) -> Order {
        let order = self.store.read_string(keys::ORDER, 32);
        let order = order.ok().and_then(|text| Order::parse(text.as_bytes()));
        order.unwrap_or(Order::None)
    }

    /// Says how far this domain is, or why it gets no further.
    fn answer(&mut self, stage: Result<Stage, String>) {
        let stage = stage.unwrap_or_else(|why| {
            log::error!("leaving the guest to another driver domain: {why}");
            self.say(keys::STATUS_ERROR, &why);
            Stage::Refused
        });
        self.leaving.stage = Some(stage);
        self.say(keys::STATUS_STAGE, stage.as_str());
    }

    fn say(&mut self, key: &str, value: &str) {
        if let Err(error) = self.store.write(key, value.as_bytes()) {
            log::error!("{key}: {error}");
        }
    }
}
