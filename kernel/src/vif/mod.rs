//! Network interfaces that other domains serve: Xen's PV network protocol, of which this domain is the front end. Each is
//! the uplink of a switch.
//!
//! Frames are moved whenever the main loop has its turn ([`Shared::run`]); this module has what goes through xenstore. It
//! waits for xenstored, never for a back end: a guest is served without, with the link of its devices down.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use vd_config::{SlotIndex, VirtualInterface};
use vd_kernel_core::description::Description;
use vd_net::{Mac, Switch};
use vd_netif::{PAGES, Uplink, Vif};
use vd_pv::handshake::Phase;
use vd_pv::{Control, Front, Notice, control};
use vd_virtio::GuestMemory;

use crate::pv::connections::{Connection, Connections, Duty, Log, missing, no_memory};
use crate::pv::{Pages, Served, signals};
use crate::xen::store::Store;

/// Nanoseconds without a back end after which that is worth a line.
const PATIENCE: u64 = 15_000_000_000;

/// An interface, and the switch that it is the uplink of: the devices have it for frames, the main loop for its connection.
#[derive(Clone)]
pub struct Shared {
    vif: VirtualInterface,
    index: usize,
    switch: Rc<RefCell<Switch>>,
    uplink: Rc<RefCell<Uplink<Pages>>>,
}

impl Shared {
    /// Its number.
    pub fn vif(&self) -> VirtualInterface {
        self.vif
    }

    /// The switch.
    pub fn switch(&self) -> &Rc<RefCell<Switch>> {
        &self.switch
    }

    /// Moves frames both ways. Returns whether there are more.
    pub fn run<M: GuestMemory + ?Sized>(&self, guest: &M, budget: u32) -> bool {
        self.uplink.borrow_mut().run(guest, budget)
    }

    /// Whether it has something to do that no event says.
    pub fn is_due(&self) -> bool {
        self.uplink.borrow().is_due()
    }

    /// Whether the link is up.
    pub fn is_up(&self) -> bool {
        self.uplink.borrow().is_up()
    }

    /// Whether the link is up, if that has changed.
    pub fn take_change(&self) -> Option<bool> {
        self.uplink.borrow_mut().take_change()
    }

    /// Lets the events of its back end through that were held back, if its bit is set.
    pub fn listen_again(&self, masked: u64) {
        if masked >> self.served().index() & 1 != 0 {
            self.uplink.borrow().vif().platform().listen_again();
        }
    }

    /// What it has done, by name: the interface, and its port of the switch.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let uplink = self.uplink.borrow();
        let mut counters = uplink.vif().counters().named().to_vec();
        counters.push(("events", signals::count(self.served())));
        counters.push(("in-flight", uplink.vif().in_flight().into()));
        counters.extend_from_slice(&uplink.port().counters().named());
        counters
    }

    /// The same in words.
    pub fn summary(&self) -> String {
        let counters = self.uplink.borrow().vif().counters();
        format!(
            "{} frames sent, {} received",
            counters.frames_out, counters.frames_in
        )
    }

    fn served(&self) -> Served {
        Served::Vif(self.vif, self.index)
    }
}

/// One interface and its connection.
pub struct Entry {
    shared: Shared,
    duty: Duty,
}

/// All interfaces of the guest's network devices.
pub type Vifs = Connections<Entry>;

impl Vifs {
    /// Begins to connect the interfaces of a description.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator.
    pub fn open(&mut self, store: &mut Store, description: &Description) -> Result<(), String> {
        for (slot, vif) in description.devices.uplinks() {
            self.open_one(store, slot, vif)?;
        }
        Ok(())
    }

    /// Begins to connect one interface, unless it is there already. Gives it, if it is a new one.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator.
    pub fn open_one(
        &mut self,
        store: &mut Store,
        slot: SlotIndex,
        vif: VirtualInterface,
    ) -> Result<Option<&Shared>, String> {
        if self.iter().any(|shared| shared.vif() == vif) {
            return Ok(None);
        }
        let there = control::devices(store, "vif")
            .map_err(|error| format!("looking for network interfaces: {error}"))?;
        let index = self.len();
        let what = format_args!("network interface {vif}");
        if !there.contains(&vif.number().into()) {
            return Err(missing(slot, what, &there, ("vdom_network", "vif")));
        }
        let interface = Pages::new(Served::Vif(vif, index), PAGES)
            .ok()
            .and_then(Vif::new)
            .ok_or_else(|| no_memory(slot, what, PAGES))?;
        let switch = Rc::default();
        let uplink = Uplink::new(vif.number().into(), interface, &switch)
            .map_err(|error| format!("device {slot}: {what}: {error}"))?;
        let control = Control::of::<Uplink<Pages>>(vif.number().into());
        let duty = Duty::begin(control, store, PATIENCE)
            .map_err(|error| format!("device {slot}: watching {what}: {error}"))?;
        self.push(Entry {
            shared: Shared {
                vif,
                index,
                switch,
                uplink: Rc::new(RefCell::new(uplink)),
            },
            duty,
        });
        Ok(self.iter().last())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Shared> {
        self.entries().map(|entry| &entry.shared)
    }
}

impl Connection for Entry {
    fn duty(&mut self) -> &mut Duty {
        &mut self.duty
    }

    fn is_usable(&self) -> bool {
        self.shared.uplink.borrow().is_up()
    }

    fn has_news(&self) -> bool {
        self.duty.control.phase() == Phase::Up && self.shared.uplink.borrow().is_broken()
    }

    fn give_up(&mut self) {
        log::warn!(
            "network interface {} has had no back end for a while: its link is down",
            self.shared.vif
        );
    }

    fn look(&mut self, store: &mut Store) {
        let Self { shared, duty } = self;
        let vif = shared.vif;
        let uplink = &mut *shared.uplink.borrow_mut();
        if let Some(what) = uplink.take_nonsense()
            && duty.log.admits(format_args!("network interface {vif}"))
        {
            log::warn!("network interface {vif}: its back end has broken the protocol: {what}");
        }
        let address = uplink.address(&mut store.view()).ok().flatten();
        let mut tell = |notice| tell(&mut duty.log, vif, address, &notice);
        let result = duty.control.run(store, uplink, &mut tell);
        if let Err(error) = result {
            log::error!("network interface {vif}: xenstore: {error}");
            duty.attention.note();
        }
    }

    fn shut_down(&mut self, store: &mut Store) -> bool {
        let vif = self.shared.vif;
        let uplink = &mut *self.shared.uplink.borrow_mut();
        let mut notice = |notice| tell(&mut self.duty.log, vif, None, &notice);
        let closed = self.duty.control.shut_down(store, uplink, &mut notice);
        closed.unwrap_or_else(|error| {
            log::debug!("network interface {vif}: closing it: {error}");
            false
        })
    }
}

/// Logs what has happened.
fn tell(log: &mut Log, vif: VirtualInterface, address: Option<[u8; 6]>, notice: &Notice) {
    if !log.admits(format_args!("network interface {vif}")) {
        return;
    }
    match notice {
        Notice::Connected { domain, .. } => match address {
            Some(address) => log::info!(
                "network interface {vif} ({}) is served by domain {domain}",
                Mac(address)
            ),
            None => log::info!("network interface {vif} is served by domain {domain}"),
        },
        Notice::Resized(_) => {}
        Notice::Closing => log::info!("network interface {vif} is being closed"),
        Notice::Disconnected { in_order: true } => {
            log::info!("network interface {vif} was closed: its link is down");
        }
        Notice::Disconnected { in_order: false } => {
            log::warn!("network interface {vif}: the connection was lost: its link is down");
        }
        Notice::Unusable(node) => {
            log::error!(
                "network interface {vif}: its back end's node {node} does not say what it has to"
            );
        }
        Notice::NoRoom => {
            log::error!(
                "network interface {vif}: no room for its grants or event channels; raise max_grant_frames= or \
                 max_event_channels="
            );
        }
    }
}
