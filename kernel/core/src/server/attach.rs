//! Taking a guest over, and giving it back.
//!
//! Invariant: [`Server::attach`] either succeeds, or leaves nothing behind: each step is recorded in the [`Server`] before
//! the next is tried, and [`Server::release`] undoes what is recorded.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use vd_config::slot::{
    DOORBELL_PORT_BASE, DOORBELL_PORT_LAST, POSTED_BASE, POSTED_LAST, RANGE_BASE, RANGE_LAST,
};
use vd_config::{Doorbell as Kind, SlotIndex as DeviceSlot};
use vd_ioreq::doorbell::{Doorbell, DoorbellError, DoorbellWidth, Match, Recipient};
use vd_ioreq::page::SlotPage;
use vd_ioreq::{SlotIndex, Space, Width};
use vd_virtio::mmio::QUEUE_NOTIFY;
use xen_hypercall::dm::{self, BufferedRing, IoRange, ServerId};
use xen_hypercall::event_channel::{self, Status};
use xen_hypercall::{DomId, Errno, EvtchnPort};

use super::release::Released;
use super::slots::{ANY_QUEUE, POSTED_SOURCE};
use super::{Frame, Lock, MapError, Platform, Server, ServerPage, SlotEngine, VCPUS, insist};
use crate::bus::{Answer, Target};

/// What is to be served.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whose devices.
    pub guest: DomId,
    /// How many vCPUs it has: see [`Server::vcpus`].
    pub vcpus: u32,
    /// The devices.
    pub devices: Vec<Registers>,
    /// Some slot is declared for posted writes, whatever is in it now.
    pub posted: bool,
}

/// Where a device's registers are, and how it is kicked.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// Its slot.
    pub slot: DeviceSlot,
    /// Guest-physical address of its registers.
    pub window: u64,
    /// How many queues it has.
    pub queues: u16,
    /// How they are kicked.
    pub doorbell: Kind,
}

/// A range of addresses that the server takes over.
pub(super) struct Taken {
    pub(super) what: &'static str,
    pub(super) space: Space,
    pub(super) first: u64,
    pub(super) last: u64,
}

const WINDOWS: Taken = Taken {
    what: "register windows",
    space: Space::Memory,
    first: RANGE_BASE,
    last: RANGE_LAST,
};
const POSTED_WINDOWS: Taken = Taken {
    what: "windows of posted writes",
    space: Space::Memory,
    first: POSTED_BASE,
    last: POSTED_LAST,
};
const PORTS: Taken = Taken {
    what: "doorbells' ports",
    space: Space::Port,
    first: DOORBELL_PORT_BASE as u64,
    last: DOORBELL_PORT_LAST as u64,
};

impl Taken {
    const fn len(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    fn range(&self) -> IoRange {
        match self.space {
            Space::Port => IoRange::Port(self.first, self.last),
            Space::Memory => IoRange::Memory(self.first, self.last),
        }
    }
}

impl Plan {
    fn has(&self, kind: Kind) -> bool {
        self.devices.iter().any(|device| device.doorbell == kind)
    }

    /// Whether writes are posted, or may be later.
    fn posts(&self) -> bool {
        self.posted || self.has(Kind::Posted)
    }

    /// What is taken over.
    pub(super) fn taken(&self) -> impl Iterator<Item = &'static Taken> {
        let posted = self.posts().then_some(&POSTED_WINDOWS);
        let ports = self.has(Kind::Port).then_some(&PORTS);
        [Some(&WINDOWS), posted, ports].into_iter().flatten()
    }

    /// The doorbells of all devices: one for each queue, and one for the device's port if it has one.
    pub(super) fn doorbells(&self) -> impl Iterator<Item = (DeviceSlot, Doorbell)> {
        self.devices.iter().flat_map(|device| {
            let queues = (0..device.queues).map(|queue| self.queue_doorbell(device, queue));
            let port = (device.doorbell == Kind::Port).then(|| self.port_doorbell(device));
            let doorbells = queues.chain(port);
            doorbells.map(|doorbell| (device.slot, doorbell))
        })
    }

    fn queue_doorbell(&self, device: &Registers, queue: u16) -> Doorbell {
        Doorbell {
            domain: vd_ioreq::DomId(self.guest.0),
            vcpus: self.vcpus,
            space: Space::Memory,
            addr: device.window.saturating_add(QUEUE_NOTIFY),
            width: DoorbellWidth::Exactly(Width::Dword),
            matching: Match::Queue(queue),
            recipient: Recipient {
                device: device.slot.get().into(),
                queue,
            },
        }
    }

    /// For all queues of a device, written with any width; the whole value is kept.
    fn port_doorbell(&self, device: &Registers) -> Doorbell {
        Doorbell {
            domain: vd_ioreq::DomId(self.guest.0),
            vcpus: self.vcpus,
            space: Space::Port,
            addr: device.slot.doorbell_port().into(),
            width: DoorbellWidth::Any,
            matching: Match::Any,
            recipient: Recipient {
                device: device.slot.get().into(),
                queue: ANY_QUEUE,
            },
        }
    }

    /// Takes the ranges into the engine, and the doorbells.
    fn assign(&self, engine: &mut SlotEngine) -> Result<(), String> {
        for taken in self.taken() {
            let added = engine.registers.add(taken.space, taken.first, taken.len());
            added.map_err(|error| format!("{}: {error:?}", taken.what))?;
        }
        self.add_doorbells(engine)
    }

    /// Adds all doorbells, or none.
    pub(super) fn add_doorbells(&self, engine: &mut SlotEngine) -> Result<(), String> {
        for (number, (slot, doorbell)) in self.doorbells().enumerate() {
            let Err(error) = engine.doorbells.assign(&doorbell) else {
                continue;
            };
            for (_, earlier) in self.doorbells().take(number) {
                let _ = engine.doorbells.deassign(&earlier);
            }
            return Err(match error {
                DoorbellError::Full => format!(
                    "device {slot}: all devices together have more than {} queues: give it fewer",
                    engine.doorbells.capacity()
                ),
                error => format!("doorbell of device {slot}: {error:?}"),
            });
        }
        Ok(())
    }
}

/// What is bound for a device: ports are of this domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Where its interrupts go.
    pub interrupt: Target,
    /// Its queues' doorbells.
    pub doorbells: Vec<EvtchnPort>,
}

/// Whether there is still a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Xen connects its first vCPU.
    Alive,
    /// It does not any more: a guest that dies loses its event channels.
    Gone,
    /// Xen does not say.
    Unknown(Errno),
}

impl<P: Platform> Server<P> {
    /// Asks for the guest's vCPUs, which also tells whether this domain may do anything to it.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator.
    pub fn vcpus(&self, guest: DomId) -> Result<u32, String> {
        let asked = dm::nr_vcpus(self.platform.xen(), guest);
        let vcpus = asked.map_err(|error| step(guest, "asking for its vCPUs", error))?;
        if vcpus == 0 || vcpus as usize > VCPUS {
            return Err(format!(
                "domain {guest}: {vcpus} vCPUs; 1 to {VCPUS} can be served"
            ));
        }
        Ok(vcpus)
    }

    /// Takes the guest over.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator. Nothing is left then that Xen takes back.
    pub fn attach(&self, plan: &Plan) -> Result<(), String> {
        let left = [&self.page, &self.ring];
        let left = left.map(|frame| frame.load(Ordering::Acquire));
        if self.held().is_some() || left != [0, 0] {
            return Err(format!(
                "domain {}: Xen has not taken back the ioreq server of the guest before",
                plan.guest
            ));
        }
        let attached = self.try_attach(plan);
        if attached.is_err() {
            self.release(|| ());
        }
        attached
    }

    fn try_attach(&self, plan: &Plan) -> Result<(), String> {
        let guest = plan.guest;
        if plan.posts() {
            let cleared = self.clear_windows(guest);
            cleared.map_err(|error| step(guest, "clearing the registers' windows", error))?;
        }
        let server = self.create(plan)?;
        self.bind_vcpus(plan)?;
        self.platform.engine().with(|engine| plan.assign(engine))?;
        for taken in plan.taken() {
            let xen = self.platform.xen();
            let mapped = dm::map_io_range_to_ioreq_server(xen, guest, server, taken.range());
            mapped
                .map_err(|error| step(guest, &format!("taking over the {}", taken.what), error))?;
        }
        Ok(())
    }

    fn create(&self, plan: &Plan) -> Result<ServerId, String> {
        let (guest, xen) = (plan.guest, self.platform.xen());
        let fail = |what| move |error| step(guest, what, error);
        let posts = plan.posts();
        let ring = if posts {
            BufferedRing::Atomic
        } else {
            BufferedRing::Off
        };
        let created = dm::create_ioreq_server(xen, guest, ring);
        let server = created.map_err(fail("creating an ioreq server"))?;
        self.remember(guest, server);
        let frame = self.map_page(guest, server, ServerPage::Slots)?;
        self.vcpus.store(plan.vcpus as usize, Ordering::Release);
        self.page.store(frame.0, Ordering::Release);
        if posts {
            let frame = self.map_page(guest, server, ServerPage::Ring)?;
            self.ring.store(frame.0, Ordering::Release);
        }
        let enabled = dm::set_ioreq_server_state(xen, guest, server, true);
        enabled.map_err(fail("enabling the ioreq server"))?;
        if posts {
            let info = dm::get_ioreq_server_info(xen, guest, server, false);
            let info = info.map_err(fail("asking for the posted writes' event channel"))?;
            let port = event_channel::bind_interdomain(xen, guest, info.bufioreq_port);
            let port = port.map_err(fail("binding the posted writes' event channel"))?;
            self.ring_port.store(port.0, Ordering::Release);
            let listening = self.platform.listen(port, POSTED_SOURCE);
            listening.map_err(fail("listening to the posted writes' event channel"))?;
        }
        Ok(server)
    }

    /// Maps one of the server's pages.
    fn map_page(&self, guest: DomId, server: ServerId, page: ServerPage) -> Result<Frame, String> {
        let mapped = self.platform.map(guest, server, page);
        mapped.map_err(|error| match error {
            MapError::NoFrame => String::from("no guest frame number is free for the ioreq pages"),
            MapError::Xen(error) => step(guest, "mapping an ioreq page", error),
        })
    }

    /// One event channel for each of the guest's vCPUs.
    fn bind_vcpus(&self, plan: &Plan) -> Result<(), String> {
        let page = self.page();
        let page = page.ok_or_else(|| String::from("the ioreq page went away"))?;
        let mut first = Ok(());
        // After a failure too: what can be bound can be woken when the guest is released.
        for (vcpu, entry) in (0..).zip(&self.ports).take(plan.vcpus as usize) {
            let remote = EvtchnPort(page.vp_eport(SlotIndex(vcpu)).0);
            let bound = event_channel::bind_interdomain(self.platform.xen(), plan.guest, remote);
            let bound = bound.and_then(|local| {
                entry.store(local.0, Ordering::Release);
                self.platform.listen(local, vcpu)
            });
            if let Err(error) = bound {
                let what = format!("event channel of vCPU {vcpu}");
                first = first.and(Err(step(plan.guest, &what, error)));
            }
        }
        first
    }

    /// Binds what the driver of a PVH guest's device has made.
    ///
    /// # Errors
    /// What Xen says. Nothing is bound then.
    pub fn bind(&self, guest: DomId, slot: DeviceSlot, answer: &Answer) -> Result<Bound, Errno> {
        let mut ports = Vec::new();
        let bound = self.try_bind(guest, slot, answer, &mut ports);
        if bound.is_err() {
            for port in ports {
                let _ = insist(|| self.platform.close(port));
            }
        }
        bound
    }

    /// Ports that are bound go into `ports` as well, for the case that the next cannot be.
    fn try_bind(
        &self,
        guest: DomId,
        slot: DeviceSlot,
        answer: &Answer,
        ports: &mut Vec<EvtchnPort>,
    ) -> Result<Bound, Errno> {
        let mut port_of = |remote: u32| {
            let xen = self.platform.xen();
            let port = event_channel::bind_interdomain(xen, guest, EvtchnPort(remote))?;
            ports.push(port);
            Ok(port)
        };
        let interrupt = match answer.interrupt {
            Target::Port(remote) => {
                let port = port_of(remote)?;
                // A channel has two ends, and the guest has nothing to say on this one.
                self.platform.mask(port);
                Target::Port(port.0)
            }
            message @ Target::Message { .. } => message,
        };
        let mut doorbells = Vec::new();
        for (queue, &remote) in (0..).zip(&answer.doorbells) {
            let port = port_of(remote)?;
            let source = super::slots::doorbell_source(slot, queue);
            self.platform.listen(port, source)?;
            doorbells.push(port);
        }
        Ok(Bound {
            interrupt,
            doorbells,
        })
    }

    /// Closes a port of a device.
    ///
    /// # Errors
    /// What Xen says, when it was asked often enough.
    pub fn close(&self, port: EvtchnPort) -> Result<(), Errno> {
        insist(|| self.platform.close(port))
    }

    /// Whether Xen still connects the guest's first vCPU.
    pub fn connection(&self) -> Connection {
        let Some((_, port)) = self.ports().next() else {
            return Connection::Gone;
        };
        match event_channel::status(self.platform.xen(), DomId::SELF, port) {
            Ok((Status::Interdomain(..), _)) => Connection::Alive,
            Ok(_) => Connection::Gone,
            Err(error) => Connection::Unknown(error),
        }
    }

    /// Lets the guest go. Safe to call again: what Xen did not take back is offered once more.
    ///
    /// The requests are answered first, as vCPUs wait for them; `unmap` comes next, and has to unmap the guest's memory,
    /// as a dead guest stays a zombie that long.
    pub fn release(&self, unmap: impl FnOnce()) -> Released {
        // While there is a server: what is written there is for it.
        let hidden = self.hide_all();
        let mut released = self.platform.alone(|| self.emergency());
        unmap();
        let mut left = hidden.and(self.unmap_all_shown());
        for entry in self.ports.iter().chain([&self.ring_port]) {
            let port = entry.swap(0, Ordering::AcqRel);
            if port != 0 {
                let closed = self.close(EvtchnPort(port));
                // Where nothing is, nothing is left.
                if !matches!(closed, Ok(()) | Err(Errno::EINVAL)) {
                    entry.store(port, Ordering::Release);
                }
                left = left.and(closed);
            }
        }
        self.platform.engine().with(|engine| {
            engine.forget();
            engine.doorbells.clear();
            for taken in [&WINDOWS, &POSTED_WINDOWS, &PORTS] {
                // Not all of them were added.
                let _ = engine
                    .registers
                    .remove(taken.space, taken.first, taken.len());
            }
        });
        self.forget();
        // Taken from the handler before they are unmapped.
        for page in [&self.page, &self.ring] {
            let frame = page.swap(0, Ordering::AcqRel);
            if frame != 0 {
                let unmapped = insist(|| self.platform.unmap(Frame(frame)));
                if unmapped.is_err() {
                    page.store(frame, Ordering::Release);
                }
                left = left.and(unmapped);
            }
        }
        released.freed = left;
        released
    }

    /// Forgets what the handler has left for the main loop: it is of a guest that is gone.
    fn forget(&self) {
        self.platform.writes().with(heapless::Deque::clear);
        if self.held().is_none() {
            // What Xen has not taken back is read-only memory, until another domain serves the guest.
            self.spare.store(0, Ordering::Release);
            self.exposed.store(0, Ordering::Release);
        }
        self.ring_masked.store(0, Ordering::Release);
        self.postponed.store(false, Ordering::Release);
        self.answered.store(0, Ordering::Release);
        for word in self.owed.iter().chain(&self.payloads).chain(&self.masked) {
            word.store(0, Ordering::Release);
        }
        for device in 0..self.masked.len() {
            self.kicks.take(device, |_, _| ());
        }
    }
}

fn step(guest: DomId, what: &str, error: Errno) -> String {
    format!("domain {guest}: {what}: {error}{}", hint(error))
}

/// What to do about an error.
#[must_use]
pub fn hint(error: Errno) -> &'static str {
    match error {
        Errno::EPERM => "; this domain has no power over it: pair them with vdom attach",
        Errno::ESRCH => "; start again: this driver domain's guest is gone",
        Errno::ENOMEM => "; raise shadow_memory= of the driver domain",
        Errno::ENOSPC => {
            "; it has all the ioreq servers that Xen allows: destroy another driver domain of it"
        }
        Errno::EOPNOTSUPP => {
            "; the driver domain needs altp2m=\"disabled\" and nestedhvm=0, and Xen 4.19 or later"
        }
        _ => "",
    }
}
