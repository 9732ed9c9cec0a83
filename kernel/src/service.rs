//! The main loop: wait for a guest, serve it, end.
//!
//! Invariants: while a guest is served nothing here waits for another domain, except for xenstored when the toolstack
//! asks the domain to stop or the connection broke; the domain sleeps only when there is
//! nothing to do, and whatever comes before it sleeps wakes it.

mod published;
mod succession;

use alloc::string::String;
use core::fmt::Display;
use core::ops::Range;

use vd_boot::start_info::Module;
use vd_config::{State, keys};
use vd_kernel_core::cmdline::Options;
use vd_kernel_core::description::{self, Description};
use vd_kernel_core::plug;
use vd_kernel_core::ticks::{self, TICK};
use xen_hypercall::sched::ShutdownReason;

use crate::arch;
use crate::control::{Operator, Request};
use crate::counters;
use crate::dm::bus::Bus;
use crate::dm::hotplug::{Hotplug, World};
use crate::dm::{Guest, slots, will};
use crate::vbd::Vbds;
use crate::vif::Vifs;
use crate::xen::events::{self, Happened, sleep_unless};
use crate::xen::store::Store;
use crate::xen::{self, time};
use published::Published;
use succession::Leaving;

/// Nanoseconds that the back ends of disks may take to connect, and to let go.
const CONNECTING: u64 = 15_000_000_000;
const CLOSING: u64 = 3_000_000_000;
/// Nanoseconds between two looks at a back end that has to let go, which no event tells of.
const LETTING_GO: u64 = 50_000_000;
/// Ticks after which counters are published even if the guest is busy.
const BUSY_TICKS: u32 = 10;

const WATCH_COMMIT: &str = "commit";
const WATCH_SHUTDOWN: &str = "shutdown";
const WATCH_ORDER: &str = "order";
const SHUTDOWN: &str = "control/shutdown";
/// What is watched, and by what name, besides what other domains have.
const WATCHES: [(&str, &str); 4] = [
    (keys::COMMIT, WATCH_COMMIT),
    (SHUTDOWN, WATCH_SHUTDOWN),
    (keys::ORDER, WATCH_ORDER),
    (plug::WATCHED, plug::TOKEN),
];

/// Why the domain ends.
enum Stop {
    /// The toolstack asked for it, in this word.
    Toolstack(String),
    /// The operator asked for it at the console.
    Console,
    /// The guest is gone.
    GuestGone,
    /// Another driver domain serves it.
    Succeeded,
}

impl Display for Stop {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Toolstack(word) => write!(f, "the toolstack asks for {word}"),
            Self::Console => f.write_str("asked for at the console"),
            Self::GuestGone => f.write_str("the guest is gone"),
            Self::Succeeded => f.write_str("another driver domain serves the guest"),
        }
    }
}

/// Runs the domain until its end.
pub fn run(store: Store, modules: &[Module], options: &Options) -> ! {
    let module = modules.first().map(|module| module.range.clone());
    let mut service = Service {
        store,
        hotplug: Hotplug::new(module.clone(), options.disk_wait),
        module,
        disk_wait: options.disk_wait,
        vbds: Vbds::default(),
        vifs: Vifs::default(),
        held: News::default(),
        published: Published::default(),
        operator: Operator::default(),
        leaving: Leaving::default(),
        ticks: ticks::NextTick::default(),
    };
    for (path, token) in WATCHES {
        if let Err(error) = service.store.watch(path, token) {
            log::error!("watching {path}: {error}");
        }
    }
    let cycles = arch::tsc().wrapping_sub(counters::get(&counters::ENTRY_CYCLES));
    counters::add(&counters::BOOT_CYCLES, cycles);
    service.tell(State::Waiting);
    let stop = match service.wait_for_guest() {
        Ok((guest, bus)) => service.serve(guest, bus),
        Err(stop) => stop,
    };
    log::info!("stopping: {stop}");
    service.tell(State::Stopped);
    log::info!("powering off");
    xen::shutdown(ShutdownReason::POWEROFF)
}

struct Service {
    store: Store,
    module: Option<Range<u64>>,
    /// Seconds that requests wait for another domain to serve a disk again.
    disk_wait: u32,
    /// The guest's disks that other domains serve.
    vbds: Vbds,
    /// The network interfaces that other domains serve.
    vifs: Vifs,
    /// Devices that come and go.
    hotplug: Hotplug,
    /// What xenstore has said while something else was waited for.
    held: News,
    /// Counters as last published.
    published: Published,
    /// Who is at the console.
    operator: Operator,
    /// How far it is with leaving the guest to another driver domain.
    leaving: Leaving,
    /// When the next tick comes, while a guest is served.
    ticks: ticks::NextTick,
}

/// What xenstore had to say.
#[derive(Default)]
struct News {
    commit: bool,
    shutdown: bool,
    order: bool,
}

impl Service {
    /// Publishes the state, waiting for xenstored.
    fn tell(&mut self, state: State) {
        log::info!("state: {state}");
        if let Err(error) = self
            .store
            .write(keys::STATUS_STATE, state.as_str().as_bytes())
        {
            // Before vdom has made the directory there is nothing to write to.
            log::debug!("publishing the state: {error}");
        }
    }

    /// Takes what xenstore has sent; never waits.
    fn news(&mut self, mut bus: Option<&mut Bus>) -> News {
        let mut news = core::mem::take(&mut self.held);
        if let Err(error) = self.store.service() {
            log::error!("xenstore: {error}");
            self.reconnect(bus.as_deref_mut());
        }
        while let Ok(Some(event)) = self.store.next_watch() {
            news.commit |= event.token == WATCH_COMMIT;
            news.shutdown |= event.token == WATCH_SHUTDOWN;
            news.order |= event.token == WATCH_ORDER;
            self.vbds.note(&event);
            self.vifs.note(&event);
            if event.token == plug::TOKEN {
                self.hotplug.note(&event.path);
            }
            if let Some(bus) = &mut bus {
                bus.note(&event.token);
            }
        }
        if self.store.take_overflow() {
            self.vbds.note_all();
            self.vifs.note_all();
            self.hotplug.note_all();
            if let Some(bus) = bus {
                bus.note_all();
            }
            news = News {
                commit: true,
                shutdown: true,
                order: true,
            };
        }
        news
    }

    fn reconnect(&mut self, bus: Option<&mut Bus>) {
        let renewed = self.store.reconnect().and_then(|()| {
            for (path, token) in WATCHES {
                self.store.watch(path, token)?;
            }
            self.hotplug.note_all();
            self.vbds.watch_again(&mut self.store)?;
            self.vifs.watch_again(&mut self.store)?;
            bus.map_or(Ok(()), |bus| bus.watch_again(&mut self.store))
        });
        match renewed {
            Ok(()) => log::info!("xenstore: connected again"),
            Err(error) => log::error!("xenstore: {error}; devices go on, status does not"),
        }
        // Waiting for the replies has set the timer to its own deadline.
        time::wake_at(time::now() + TICK);
    }

    /// What the toolstack asks for, if it does. The answer is an empty value.
    fn shutdown_request(&mut self) -> Option<Stop> {
        let word = self.store.read_string(SHUTDOWN, 32).ok()?;
        if word.is_empty() {
            return None;
        }
        if !matches!(word.as_str(), "poweroff" | "halt" | "reboot") {
            log::warn!(
                "control/shutdown: \"{}\" is not supported",
                word.escape_default()
            );
            return None;
        }
        if let Err(error) = self.store.write(SHUTDOWN, b"") {
            log::debug!("acknowledging the shutdown: {error}");
        }
        Some(Stop::Toolstack(word))
    }

    /// Waits until there is a guest that can be served.
    fn wait_for_guest(&mut self) -> Result<(Guest, Bus), Stop> {
        loop {
            let news = self.news(None);
            if news.shutdown
                && let Some(stop) = self.shutdown_request()
            {
                return Err(stop);
            }
            if news.commit
                && let Some(found) = self.try_attach()
            {
                return Ok(found);
            }
            if self.operator.poll(None) == Some(Request::Shutdown) {
                return Err(Stop::Console);
            }
            self.hotplug.tick();
            let told = self.hotplug.service_alone(&mut self.store);
            if news.shutdown || news.commit || told {
                // Waiting for replies may have taken in more events: nobody will wake us for those.
                continue;
            }
            if let Some(deadline) = self.hotplug.deadline() {
                time::wake_at(deadline);
            }
            sleep_unless(events::any);
            events::take();
        }
    }

    fn try_attach(&mut self) -> Option<(Guest, Bus)> {
        match description::is_committed(&mut self.store) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                log::error!("xenstore: {error}");
                return None;
            }
        }
        // What a former attempt has said is not true any more.
        let _ = self.store.write(keys::STATUS_ERROR, b"");
        self.tell(State::Attaching);
        let began = arch::tsc();
        let description = description::read(&mut self.store);
        let attached = description.and_then(|it| {
            let inheritance = self.inherit(&it)?;
            if inheritance.is_none() {
                self.connect_disks(&it)?;
                self.vifs.open(&mut self.store, &it)?;
            }
            let others = (&self.vbds, &self.vifs);
            let guest = Guest::attach(&it, self.module.as_ref(), inheritance, others)?;
            let mut bus = Bus::new(&it);
            bus.open(&mut self.store)?;
            self.hotplug.adopt(&mut self.store, &guest, &it);
            Ok((guest, bus))
        });
        match attached {
            Ok((guest, bus)) => {
                if !matches!(description::is_committed(&mut self.store), Ok(true)) {
                    // vdom has lost patience and taken the description back.
                    log::warn!("the description was taken back: releasing the guest");
                    drop(guest);
                    self.hotplug.close_all(&mut self.store);
                    self.close_connections();
                    return None;
                }
                for device in guest.devices().iter() {
                    log::info!(
                        "slot {}: {} at {:#x}, {}, memory {}",
                        device.slot(),
                        device.transport().device().describe(),
                        device.window(),
                        device.notifications(),
                        device.sharing().as_str()
                    );
                }
                log::info!("guest {} attached, {} vCPUs", guest.id(), guest.vcpus());
                counters::add(&counters::ATTACH_CYCLES, arch::tsc().wrapping_sub(began));
                self.tell(State::Ready);
                Some((guest, bus))
            }
            Err(why) => {
                log::error!("cannot attach: {why}");
                if let Err(error) = self.store.write(keys::STATUS_ERROR, why.as_bytes()) {
                    log::debug!("publishing the error: {error}");
                }
                self.close_connections();
                self.tell(State::Failed);
                None
            }
        }
    }

    /// Connects the disks that other domains serve. Nobody is served meanwhile.
    fn connect_disks(&mut self, description: &Description) -> Result<(), String> {
        self.vbds
            .open(&mut self.store, description, self.disk_wait)?;
        let deadline = time::now() + CONNECTING;
        loop {
            self.held = self.news(None);
            while self.vbds.service(&mut self.store) {}
            while self.hotplug.service_alone(&mut self.store) {}
            if self.vbds.are_connected() {
                return Ok(());
            }
            if self.held.shutdown && self.is_asked_to_stop() {
                return Err("the toolstack asks this domain to stop".into());
            }
            if time::now() >= deadline {
                return Err(self.vbds.complaint(None));
            }
            wait_until(deadline.min(time::now() + TICK));
            self.vbds.tick();
        }
    }

    /// Closes the connections to disks and network interfaces, and forgets them.
    fn close_connections(&mut self) {
        let deadline = time::now() + CLOSING;
        loop {
            self.held = self.news(None);
            // Both, whatever the one says.
            if self.vbds.shut_down(&mut self.store) & self.vifs.shut_down(&mut self.store) {
                break;
            }
            if time::now() >= deadline {
                log::warn!("a back end does not let go: ending without it");
                break;
            }
            wait_until(deadline.min(time::now() + LETTING_GO));
        }
        self.vbds = Vbds::default();
        self.vifs = Vifs::default();
    }

    /// Whether the toolstack asks for something, without an answer.
    fn is_asked_to_stop(&mut self) -> bool {
        let word = self.store.read_string(SHUTDOWN, 32);
        word.is_ok_and(|word| !word.is_empty())
    }

    /// Serves the guest until one of the two ends.
    fn serve(&mut self, mut guest: Guest, mut bus: Bus) -> Stop {
        let mut ticks = Ticks::default();
        self.make_will(&mut guest);
        self.ticks.done(time::now());
        self.wake_for_tick();
        // What came in while the attaching waited for replies.
        events::mark(Happened::XENSTORE);
        let stop = loop {
            let happened = events::take();
            let allocations = counters::get(&counters::ALLOCATIONS);
            let mut more = guest.pass();
            let allocated = counters::get(&counters::ALLOCATIONS).wrapping_sub(allocations);
            counters::add(&counters::PASS_ALLOCATIONS, allocated);
            let due = self.vbds.is_due() || self.vifs.is_due() || self.hotplug.is_due();
            if happened.contains(Happened::XENSTORE) || due {
                let mut waited = false;
                let news = self.news(Some(&mut bus));
                if news.order {
                    if let Some(stop) = self.follow(&mut guest) {
                        break stop;
                    }
                    waited = true;
                    events::mark(Happened::XENSTORE);
                }
                if news.shutdown {
                    if let Some(stop) = self.shutdown_request() {
                        break stop;
                    }
                    waited = true;
                    events::mark(Happened::XENSTORE);
                }
                // One front end a pass: the guest's disks come first, whatever it does to xenstore.
                if bus.service(&mut self.store, guest.devices_mut()) {
                    waited = true;
                    events::mark(Happened::XENSTORE);
                }
                if self.vbds.service(&mut self.store) || self.vifs.service(&mut self.store) {
                    waited = true;
                    events::mark(Happened::XENSTORE);
                }
                if self.plug(&mut guest, &mut bus, Hotplug::service) {
                    waited = true;
                    events::mark(Happened::XENSTORE);
                }
                if waited {
                    // Waiting for the reply has set the timer to its own deadline.
                    self.wake_for_tick();
                }
                self.published.post(&mut self.store, &guest);
                // Back ends have come or gone, or requests to them have failed.
                guest.devices_mut().look_at_all();
            }
            self.look_after_leaving(&mut guest);
            if happened.contains(Happened::CONSOLE) && self.console(&mut guest) {
                break Stop::Console;
            }
            if happened.contains(Happened::TIMER) {
                self.operator.tick();
            }
            self.operator.pump(&mut guest);
            if happened.contains(Happened::TIMER) {
                // An event could have been lost; nothing else may be.
                more |= guest.tick(ticks.elapsed());
                let plugged = self.plug(&mut guest, &mut bus, Hotplug::tick_guest);
                if bus.tick() | self.vbds.tick() | self.vifs.tick() | plugged {
                    events::mark(Happened::XENSTORE);
                }
                if !guest.is_alive() {
                    break Stop::GuestGone;
                }
                if !self.published.has_begun() && ticks.is_publishing_due() {
                    self.published.begin();
                }
                self.published.post(&mut self.store, &guest);
                self.ticks.done(time::now());
                self.wake_for_tick();
            }
            if !more && !self.hotplug.is_due() {
                sleep_unless(events::any);
            }
        };
        will::forget();
        // The guest first: what follows waits for xenstored.
        guest.release();
        self.operator.guest_gone();
        self.hotplug.close_all(&mut self.store);
        self.close_connections();
        self.summary(&guest);
        self.published.write_all(&mut self.store, &guest);
        stop
    }

    /// Lets devices come and go.
    fn plug(
        &mut self,
        guest: &mut Guest,
        bus: &mut Bus,
        what: fn(&mut Hotplug, &mut Store, &mut World<'_>) -> bool,
    ) -> bool {
        let mut world = World {
            guest: &mut *guest,
            bus,
            vbds: &mut self.vbds,
            vifs: &mut self.vifs,
        };
        let done = what(&mut self.hotplug, &mut self.store, &mut world);
        let gone = self.hotplug.take_gone();
        if gone != 0 {
            self.published.forget(gone);
        }
        if self.hotplug.take_changed() {
            // Another driver domain would have to know of it.
            self.leaving.changed = true;
            self.make_will(guest);
        }
        done
    }

    /// The timer goes off for the next tick, or earlier if something has to be done earlier.
    fn wake_for_tick(&self) {
        time::wake_at(self.ticks.deadline(self.hotplug.deadline()));
    }

    /// Carries out what the operator has typed. Returns whether to stop.
    fn console(&mut self, guest: &mut Guest) -> bool {
        while let Some(request) = self.operator.poll(Some(guest)) {
            match request {
                Request::Shutdown => return true,
                Request::Publish => {
                    self.published.begin();
                    self.published.post(&mut self.store, guest);
                }
            }
        }
        false
    }

    fn summary(&self, guest: &Guest) {
        let ioreq = slots::counters();
        log::info!(
            "served: {} doorbells in the interrupt handler, {} of them posted, {} register reads, {} writes; {} answered",
            ioreq.doorbells + ioreq.posted_doorbells,
            ioreq.posted_doorbells,
            ioreq.register_reads,
            ioreq.register_writes,
            ioreq.answered
        );
        for device in guest.devices().iter() {
            let queue = device.transport().counters();
            log::info!(
                "slot {}: {} requests, {} interrupts, {} suppressed, {}",
                device.slot(),
                queue.requests,
                queue.interrupts,
                queue.suppressed,
                device.transport().device().summary()
            );
        }
        for uplink in guest.devices().uplinks() {
            log::info!("network interface {}: {}", uplink.vif(), uplink.summary());
        }
        if let Some(grants) = guest.memory().grant_counters() {
            log::info!(
                "grants: {} pages mapped, {} unmapped, {} pieces copied, {} refused",
                grants.maps,
                grants.unmaps,
                grants.copies,
                grants.refused
            );
        }
    }
}

/// Sleeps until xenstore or a back end has something to say, or until that time.
fn wait_until(deadline: u64) {
    let wanted = Happened::XENSTORE | Happened::WORK | Happened::TIMER;
    time::wake_at(deadline);
    // What the operator types is not taken away.
    sleep_unless(|| events::is_marked(wanted));
    events::take_if(wanted);
}

/// When to publish counters: soon when the guest is idle, seldom while it is busy.
#[derive(Default)]
struct Ticks {
    /// When the last one was, of Xen's clock.
    last: u64,
    doorbells: u64,
    since: u32,
}

impl Ticks {
    /// Nanoseconds since the last tick.
    fn elapsed(&mut self) -> u64 {
        let now = time::now();
        now.saturating_sub(core::mem::replace(&mut self.last, now))
    }

    fn is_publishing_due(&mut self) -> bool {
        let ioreq = slots::counters();
        let doorbells =
            ioreq.doorbells + ioreq.posted_doorbells + counters::get(&counters::EVENT_DOORBELLS);
        let idle = doorbells == self.doorbells;
        self.doorbells = doorbells;
        self.since += 1;
        let due = idle || self.since >= BUSY_TICKS;
        if due {
            self.since = 0;
        }
        due
    }
}
