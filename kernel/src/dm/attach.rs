//! Taking a guest over.
//!
//! Invariant: [`Guest::attach`] either succeeds, or leaves nothing behind: each step is recorded in the
//! [`Guest`] before the next is tried, and dropping it undoes what was done.

use alloc::format;
use alloc::string::String;
use core::ops::Range;

use vd_config::Doorbell as Kind;
use vd_config::slot::{
    DOORBELL_PORT_BASE, DOORBELL_PORT_LAST, POSTED_BASE, POSTED_LAST, RANGE_BASE, RANGE_LAST,
};
use vd_ioreq::doorbell::{Doorbell, DoorbellError, DoorbellWidth, Match, Recipient};
use vd_ioreq::page::SlotPage;
use vd_ioreq::{SlotIndex, Space, Width};
use vd_kernel_core::description::Description;
use vd_virtio::mmio::QUEUE_NOTIFY;
use xen_hypercall::dm::{self, BufferedRing, IoRange, ServerId};
use xen_hypercall::event_channel::{self, Status};
use xen_hypercall::memory::{self, Resource};
use xen_hypercall::{DomId, Errno, EvtchnPort, Gfn};

use super::devices::{self, Device, DeviceTable};
use super::posted;
use super::release;
use super::slots::{self, IoreqPage, SlotEngine, VCPUS};
use crate::mem::foreign::Refusal;
use crate::mem::frames::FRAME;
use crate::mem::guest::{Memory, Unavailable};
use crate::mem::space;
use crate::vbd::Vbds;
use crate::vif::Vifs;
use crate::xen::{XEN, events};

/// Number of the page with the slots, among an ioreq server's pages.
const IOREQ_PAGE: u64 = 1;
/// Number of the page with the ring of posted writes.
const RING_PAGE: u64 = 0;

/// Accesses served in one pass before the queues get their turn.
const ACCESSES: usize = 2 * VCPUS;

/// I/O ports of doorbells.
const PORTS: u64 = (DOORBELL_PORT_LAST - DOORBELL_PORT_BASE) as u64 + 1;

/// A guest that is being served.
pub struct Guest {
    id: DomId,
    vcpus: u32,
    memory: Memory,
    devices: DeviceTable,
    /// Frame number of the ioreq page, once it is mapped.
    page: Option<u64>,
    /// The same of the ring of posted writes, if there is one.
    ring: Option<u64>,
    /// Local port of its event channel.
    ring_port: Option<EvtchnPort>,
}

impl Guest {
    /// Takes over the guest of a description.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator.
    pub fn attach(
        description: &Description,
        module: Option<&Range<u64>>,
        vbds: &Vbds,
        vifs: &Vifs,
    ) -> Result<Self, String> {
        let id = DomId(description.target.get());
        let vcpus = vcpus(id)?;
        let devices = devices::build(id, description, module, (vbds, vifs))?;
        let memory =
            Memory::new(id, devices.needs()).map_err(|error| format!("guest memory: {error}"))?;
        let mut guest = Self {
            id,
            vcpus,
            memory,
            devices,
            page: None,
            ring: None,
            ring_port: None,
        };
        let server = guest.create_server()?;
        guest.bind_ports()?;
        guest.add_doorbells()?;
        let range = IoRange::Memory(RANGE_BASE, RANGE_LAST);
        dm::map_io_range_to_ioreq_server(&XEN, id, server, range)
            .map_err(|error| step(id, "taking over the register windows", error))?;
        if guest.posts() {
            let range = IoRange::Memory(POSTED_BASE, POSTED_LAST);
            dm::map_io_range_to_ioreq_server(&XEN, id, server, range)
                .map_err(|error| step(id, "taking over the windows of posted writes", error))?;
        }
        if guest.has_port_doorbells() {
            let range = IoRange::Port(DOORBELL_PORT_BASE.into(), DOORBELL_PORT_LAST.into());
            dm::map_io_range_to_ioreq_server(&XEN, id, server, range)
                .map_err(|error| step(id, "taking over the doorbells' ports", error))?;
        }
        Ok(guest)
    }

    fn create_server(&mut self) -> Result<ServerId, String> {
        let id = self.id;
        let fail = |what| move |error| step(id, what, error);
        let ring = if self.posts() {
            BufferedRing::Atomic
        } else {
            BufferedRing::Off
        };
        let server =
            dm::create_ioreq_server(&XEN, id, ring).map_err(fail("creating an ioreq server"))?;
        release::remember(id, server);
        let gfn = self.map_page(server, IOREQ_PAGE)?;
        self.page = Some(gfn);
        // SAFETY: Xen has just mapped the page there; it stays until `drop`, which takes it from the handler first.
        slots::set_page(
            address(gfn).map(|page| unsafe { IoreqPage::new(page, self.vcpus as usize) }),
        );
        if self.posts() {
            let gfn = self.map_page(server, RING_PAGE)?;
            self.ring = Some(gfn);
            // SAFETY: as above.
            unsafe { posted::set_ring(address(gfn)) };
        }
        dm::set_ioreq_server_state(&XEN, id, server, true)
            .map_err(fail("enabling the ioreq server"))?;
        if self.posts() {
            let info = dm::get_ioreq_server_info(&XEN, id, server, false)
                .map_err(fail("asking for the posted writes' event channel"))?;
            let port = event_channel::bind_interdomain(&XEN, id, info.bufioreq_port)
                .map_err(fail("binding the posted writes' event channel"))?;
            self.ring_port = Some(port);
            events::listen(port, slots::posted_source())
                .map_err(fail("listening to the posted writes' event channel"))?;
        }
        Ok(server)
    }

    /// Maps one of the server's pages.
    fn map_page(&self, server: ServerId, page: u64) -> Result<u64, String> {
        let gfn = space::special_frames(1)
            .map_err(|_| String::from("no guest frame number is free for the ioreq pages"))?;
        let resource = Resource::IoreqServer(server);
        // SAFETY: nothing is mapped at this frame number, by the allocator.
        let mapped = unsafe { memory::acquire_resource(&XEN, self.id, resource, page, &mut [gfn]) };
        mapped.map(|()| gfn).map_err(|error| {
            space::release_special(gfn, 1);
            step(self.id, "mapping an ioreq page", error)
        })
    }

    /// Whether register writes of a device are posted.
    fn posts(&self) -> bool {
        let mut devices = self.devices.iter();
        devices.any(|device| device.doorbell() == Kind::Posted)
    }

    /// One event channel for each of the guest's vCPUs.
    fn bind_ports(&self) -> Result<(), String> {
        let page = slots::page().ok_or_else(|| String::from("the ioreq page went away"))?;
        let mut first = Ok(());
        // After a failure too: what can be bound can be woken when the guest is released.
        for vcpu in 0..self.vcpus as u16 {
            let remote = EvtchnPort(page.vp_eport(SlotIndex(vcpu)).0);
            let bound = event_channel::bind_interdomain(&XEN, self.id, remote).and_then(|local| {
                slots::set_port(vcpu, Some(local));
                events::listen(local, events::Source::Image(vcpu))
            });
            if let Err(error) = bound {
                let what = format!("event channel of vCPU {vcpu}");
                first = first.and(Err(step(self.id, &what, error)));
            }
        }
        first
    }

    fn add_doorbells(&self) -> Result<(), String> {
        slots::configure(|engine| {
            engine
                .registers
                .add(Space::Memory, RANGE_BASE, RANGE_LAST - RANGE_BASE + 1)
                .map_err(|error| format!("register windows: {error:?}"))?;
            if self.posts() {
                engine
                    .registers
                    .add(Space::Memory, POSTED_BASE, POSTED_LAST - POSTED_BASE + 1)
                    .map_err(|error| format!("windows of posted writes: {error:?}"))?;
            }
            if self.has_port_doorbells() {
                engine
                    .registers
                    .add(Space::Port, DOORBELL_PORT_BASE.into(), PORTS)
                    .map_err(|error| format!("doorbells' ports: {error:?}"))?;
            }
            self.devices
                .iter()
                .try_for_each(|device| self.add_doorbells_of(engine, device))
        })
    }

    fn add_doorbells_of(&self, engine: &mut SlotEngine, device: &Device) -> Result<(), String> {
        let slot = device.slot();
        for doorbell in self.doorbells_of(device) {
            let assigned = engine.doorbells.assign(&doorbell);
            assigned.map_err(|error| match error {
                DoorbellError::Full => format!(
                    "device {slot}: all devices together have more than {} queues: give it fewer",
                    engine.doorbells.capacity()
                ),
                error => format!("doorbell of device {slot}: {error:?}"),
            })?;
        }
        Ok(())
    }

    fn remove_doorbells_of(&self, engine: &mut SlotEngine, device: &Device) {
        for doorbell in self.doorbells_of(device) {
            // Of a device that could not be added some may be missing.
            let _ = engine.doorbells.deassign(&doorbell);
        }
    }

    /// Lets a device's doorbells ring that has come late.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator; then none of them rings.
    pub(super) fn ring_in(&self, device: &Device) -> Result<(), String> {
        slots::configure(|engine| {
            let added = self.add_doorbells_of(engine, device);
            added.inspect_err(|_| self.remove_doorbells_of(engine, device))
        })
    }

    /// The doorbells of a device do not ring any more.
    pub(super) fn ring_out(&self, device: &Device) {
        slots::configure(|engine| self.remove_doorbells_of(engine, device));
    }

    /// A doorbell for each queue, and one for the device's port if it has one.
    fn doorbells_of(&self, device: &Device) -> impl Iterator<Item = Doorbell> {
        let slot = device.slot();
        let registers = device.window() + QUEUE_NOTIFY;
        let (id, vcpus) = (self.id.0, self.vcpus);
        let registers = (0..device.transport().queues() as u16).map(move |queue| Doorbell {
            domain: vd_ioreq::DomId(id),
            vcpus,
            space: Space::Memory,
            addr: registers,
            width: DoorbellWidth::Exactly(Width::Dword),
            matching: Match::Queue(queue),
            recipient: Recipient {
                device: slot.get().into(),
                queue,
            },
        });
        let port = (device.doorbell() == Kind::Port).then(|| self.port_doorbell(slot));
        registers.chain(port)
    }

    fn has_port_doorbells(&self) -> bool {
        let mut devices = self.devices.iter();
        devices.any(|device| device.doorbell() == Kind::Port)
    }

    /// A doorbell for all queues of a device, written with any width; the whole value is kept.
    fn port_doorbell(&self, slot: vd_config::SlotIndex) -> Doorbell {
        Doorbell {
            domain: vd_ioreq::DomId(self.id.0),
            vcpus: self.vcpus,
            space: Space::Port,
            addr: slot.doorbell_port().into(),
            width: DoorbellWidth::Any,
            matching: Match::Any,
            recipient: Recipient {
                device: slot.get().into(),
                queue: slots::ANY_QUEUE,
            },
        }
    }

    /// The guest's domain id.
    pub fn id(&self) -> DomId {
        self.id
    }

    /// How many vCPUs it has.
    pub fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// Its devices.
    pub fn devices(&self) -> &DeviceTable {
        &self.devices
    }

    /// Its devices, to change them.
    pub fn devices_mut(&mut self) -> &mut DeviceTable {
        &mut self.devices
    }

    /// Its memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Does what there is to do, within bounds; returns whether there is more.
    pub fn pass(&mut self) -> bool {
        slots::new_pass();
        slots::take_posted();
        for _ in 0..ACCESSES {
            // A vCPU's access waits for what it has posted before.
            if let Some(write) = posted::next() {
                self.devices.posted(&self.memory, &write);
                continue;
            }
            let Some((ticket, access)) = slots::next() else {
                break;
            };
            let done = self.devices.access(&self.memory, access);
            let waiting = slots::complete(ticket, done.data);
            self.devices.settle_after(done, waiting);
        }
        let more = self.devices.run(&self.memory) || !posted::is_empty();
        if let Some(why) = self.memory.take_unavailable() {
            let hint = match why {
                Unavailable::Foreign(Refusal::Xen(error)) => hint(error),
                Unavailable::Foreign(Refusal::TooLarge) | Unavailable::Granted(_) => "",
            };
            let text = format_args!("memory of the guest: {why}{hint}");
            self.devices.warn(&text);
        }
        more
    }

    /// What no event tells of: slots whose event was lost, lines that Xen refused to change.
    ///
    /// So many nanoseconds have passed. Returns whether there is something to do.
    pub fn tick(&mut self, nanoseconds: u64) -> bool {
        slots::scan();
        self.devices.tick(nanoseconds)
    }

    /// Whether Xen still connects the guest's first vCPU: a guest that dies loses its event channels.
    pub fn is_alive(&self) -> bool {
        let port = slots::ports().next().map(|(_, port)| port);
        port.is_some_and(|port| {
            matches!(
                event_channel::status(&XEN, DomId::SELF, port),
                Ok((Status::Interdomain(..), _))
            )
        })
    }
}

impl Guest {
    /// Lets the guest go; its devices' counters stay. Safe to call again.
    ///
    /// The requests are answered first, as vCPUs wait for them; then the memory is unmapped, as a dead guest stays a
    /// zombie that long.
    pub fn release(&mut self) {
        release::orderly();
        self.memory.unmap_all(self.devices.rings());
        for (vcpu, port) in slots::ports() {
            slots::set_port(vcpu, None);
            events::close(port);
        }
        self.ring_port.take().into_iter().for_each(events::close);
        self.devices.disconnect_all();
        slots::configure(|engine| {
            engine.forget();
            engine.doorbells.clear();
            let _ = engine
                .registers
                .remove(Space::Memory, RANGE_BASE, RANGE_LAST - RANGE_BASE + 1);
            let _ =
                engine
                    .registers
                    .remove(Space::Memory, POSTED_BASE, POSTED_LAST - POSTED_BASE + 1);
            let _ = engine
                .registers
                .remove(Space::Port, DOORBELL_PORT_BASE.into(), PORTS);
        });
        slots::set_page(None);
        // SAFETY: the ring is taken from the handler before it is unmapped.
        unsafe { posted::set_ring(None) };
        for gfn in self.page.take().into_iter().chain(self.ring.take()) {
            // SAFETY: nobody knows of the page any more.
            match unsafe { memory::remove_from_physmap(&XEN, DomId::SELF, Gfn(gfn)) } {
                Ok(()) => space::release_special(gfn, 1),
                Err(error) => log::debug!("unmapping an ioreq page: {error}"),
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.release();
    }
}

/// Asks for the guest's vCPUs, which also tells whether this domain may do anything to it.
fn vcpus(id: DomId) -> Result<u32, String> {
    let vcpus = dm::nr_vcpus(&XEN, id)
        .map_err(|error| format!("domain {id}: asking for its vCPUs: {error}{}", hint(error)))?;
    if vcpus == 0 || vcpus as usize > VCPUS {
        return Err(format!(
            "domain {id}: {vcpus} vCPUs; 1 to {VCPUS} can be served"
        ));
    }
    Ok(vcpus)
}

fn step(id: DomId, what: &str, error: Errno) -> String {
    format!("domain {id}: {what}: {error}{}", hint(error))
}

/// What to do about an error.
fn hint(error: Errno) -> &'static str {
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

/// Where a frame is mapped.
fn address(gfn: u64) -> Option<core::ptr::NonNull<u8>> {
    core::ptr::NonNull::new((gfn * FRAME) as *mut u8)
}
