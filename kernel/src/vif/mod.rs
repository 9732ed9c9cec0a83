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
use core::fmt::Write;

use vd_config::{SlotIndex, VirtualInterface};
use vd_kernel_core::attention::{Attention, Standing};
use vd_kernel_core::description::Description;
use vd_net::{Mac, Switch};
use vd_netif::{PAGES, Uplink, Vif};
use vd_pv::handshake::Phase;
use vd_pv::{Control, Notice, control};
use vd_virtio::GuestMemory;
use vd_xenbus::WatchEvent;
use vd_xenbus::rate::{Admission, RateLimiter};

use crate::mem::frames;
use crate::pv::{Pages, Served, signals};
use crate::xen::store::Store;
use crate::xen::time;

/// Nanoseconds without a back end after which that is worth a line.
const PATIENCE: u64 = 15_000_000_000;

/// Lines that a back end may make this domain log at once.
const LINES: u32 = 20;

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
    pub fn listen_again(&self, masked: u32) {
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
        counters.extend(uplink.port().counters().named());
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
struct Entry {
    shared: Shared,
    control: Control,
    attention: Attention,
    /// Limits what a back end can make this domain log.
    limiter: RateLimiter,
}

/// All interfaces of the guest's network devices.
#[derive(Default)]
pub struct Vifs(Vec<Entry>);

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
        let index = self.0.len();
        if !there.contains(&vif.number().into()) {
            return Err(missing(slot, vif, &there));
        }
        let interface = Pages::new(Served::Vif(vif, index), PAGES)
            .ok()
            .and_then(Vif::new)
            .ok_or_else(|| no_memory(slot, vif))?;
        let switch = Rc::default();
        let uplink = Uplink::new(vif.number().into(), interface, &switch)
            .map_err(|error| format!("device {slot}: network interface {vif}: {error}"))?;
        let mut control = Control::of::<Uplink<Pages>>(vif.number().into());
        control
            .watch(store)
            .map_err(|error| format!("device {slot}: watching network interface {vif}: {error}"))?;
        self.0.push(Entry {
            shared: Shared {
                vif,
                index,
                switch,
                uplink: Rc::new(RefCell::new(uplink)),
            },
            control,
            attention: Attention::new(PATIENCE),
            limiter: RateLimiter::new(LINES, 1),
        });
        Ok(self.iter().last())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Shared> {
        self.0.iter().map(|entry| &entry.shared)
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
            let standing = entry.standing();
            if entry.attention.tick(now, standing) {
                let vif = entry.shared.vif;
                log::warn!(
                    "network interface {vif} has had no back end for a while: its link is down"
                );
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

    /// Looks after one interface that is due. Returns whether it has waited for xenstored.
    pub fn service(&mut self, store: &mut Store) -> bool {
        let now = time::now();
        let mut entries = self.0.iter_mut();
        let due = entries.find_map(|entry| entry.attention.begin(now).then_some(entry));
        due.map(|entry| entry.look(store)).is_some()
    }

    /// Goes on with closing all connections. Returns whether all back ends have let go.
    pub fn shut_down(&mut self, store: &mut Store) -> bool {
        let mut done = true;
        for entry in &mut self.0 {
            let vif = entry.shared.vif;
            let uplink = &mut *entry.shared.uplink.borrow_mut();
            let limiter = &mut entry.limiter;
            let mut notice = |notice| tell(limiter, vif, None, &notice);
            match entry.control.shut_down(store, uplink, &mut notice) {
                Ok(closed) => done &= closed,
                Err(error) => {
                    log::debug!("network interface {vif}: closing it: {error}");
                    done = false;
                }
            }
        }
        done
    }
}

impl Entry {
    fn standing(&self) -> Standing {
        match self.control.phase() {
            _ if self.shared.uplink.borrow().is_up() => Standing::Up,
            Phase::Closing => Standing::LettingGo,
            Phase::Down | Phase::Offered | Phase::Up | Phase::Draining => Standing::Away,
        }
    }

    /// Whether the ring has something to say that has to be said in xenstore.
    fn has_news(&self) -> bool {
        use vd_pv::Front;
        self.control.phase() == Phase::Up && self.shared.uplink.borrow().is_broken()
    }

    fn look(&mut self, store: &mut Store) {
        let Self {
            shared,
            control,
            attention,
            limiter,
        } = self;
        let vif = shared.vif;
        let uplink = &mut *shared.uplink.borrow_mut();
        if let Some(what) = uplink.take_nonsense()
            && may_log(limiter, vif)
        {
            log::warn!("network interface {vif}: its back end has broken the protocol: {what}");
        }
        let address = uplink.address(&mut store.view()).ok().flatten();
        let mut tell = |notice| tell(limiter, vif, address, &notice);
        let result = control.run(store, uplink, &mut tell);
        if let Err(error) = result {
            log::error!("network interface {vif}: xenstore: {error}");
            attention.note();
        }
    }
}

fn no_memory(slot: SlotIndex, vif: VirtualInterface) -> String {
    format!(
        "device {slot}: no memory for what network interface {vif} passes through: {} KiB are needed, {} are free; \
         raise memory= of the driver domain",
        PAGES * 4,
        frames::free_bytes() >> 10
    )
}

fn missing(slot: SlotIndex, vif: VirtualInterface, there: &[u32]) -> String {
    let mut text = format!("device {slot}: this domain has no network interface {vif}, ");
    if there.is_empty() {
        text.push_str("and no other either");
    } else {
        text.push_str("only");
    }
    for number in there {
        let _ = write!(text, " {number}");
    }
    text.push_str(
        "; add it to vdom_network= in the guest's configuration, or to vif= in the driver domain's",
    );
    text
}

/// Whether another line may be logged of what a back end does, which may do it again and again.
fn may_log(limiter: &mut RateLimiter, vif: VirtualInterface) -> bool {
    let Admission::Admitted { suppressed } = limiter.admit(time::now()) else {
        return false;
    };
    if suppressed != 0 {
        log::warn!("network interface {vif}: {suppressed} lines on its back end were not logged");
    }
    true
}

/// Logs what has happened.
fn tell(
    limiter: &mut RateLimiter,
    vif: VirtualInterface,
    address: Option<[u8; 6]>,
    notice: &Notice,
) {
    if !may_log(limiter, vif) {
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
