//! A guest that is served: its ioreq server, its devices, its memory.
//!
//! Invariant: [`Guest::attach`] either succeeds, or leaves nothing behind: the server sees to its own part, and dropping
//! the [`Guest`] undoes the rest.

mod succession;

use alloc::format;
use alloc::string::{String, ToString};
use core::ops::Range;

use vd_kernel_core::bequest::Bequest;
use vd_kernel_core::description::Description;
use vd_kernel_core::server::VCPUS;
use vd_kernel_core::server::attach::{Connection, Plan, Registers, hint};
use xen_hypercall::{DomId, Errno};

use super::devices::{self, Device, DeviceTable};
use super::inheritance::Inheritance;
use super::slots::SERVER;
use crate::mem::foreign::Refusal;
use crate::mem::guest::{Memory, Unavailable};
use crate::vbd::Vbds;
use crate::vif::Vifs;

/// Accesses served in one pass before the queues get their turn.
const ACCESSES: usize = 2 * VCPUS;

pub use succession::is_taken;

/// A guest that is being served.
pub struct Guest {
    id: DomId,
    vcpus: u32,
    memory: Memory,
    devices: DeviceTable,
}

impl Guest {
    /// Takes over the guest of a description; with an inheritance, from another driver domain.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator.
    pub fn attach(
        description: &Description,
        module: Option<&Range<u64>>,
        mut inheritance: Option<Inheritance>,
        (vbds, vifs): (&Vbds, &Vifs),
    ) -> Result<Self, String> {
        let id = DomId(description.target.get());
        let vcpus = SERVER.vcpus(id)?;
        let inherited = inheritance.as_mut();
        let devices = devices::build(id, description, module, inherited, (vbds, vifs))?;
        let memory =
            Memory::new(id, devices.needs()).map_err(|error| format!("guest memory: {error}"))?;
        let mut guest = Self {
            id,
            vcpus,
            memory,
            devices,
        };
        if let Some(inheritance) = &inheritance {
            let left = Bequest::read(inheritance.state()).map_err(|why| why.to_string())?;
            guest.devices.import(&guest.memory, &left)?;
        }
        SERVER.attach(&Plan {
            posted: description.table.posts(),
            ..guest.plan()
        })?;
        Ok(guest)
    }

    /// What the ioreq server has to serve.
    fn plan(&self) -> Plan {
        self.plan_of(self.devices.iter())
    }

    fn plan_of<'a>(&self, devices: impl Iterator<Item = &'a Device>) -> Plan {
        let devices = devices.map(|device| Registers {
            slot: device.slot(),
            window: device.window(),
            queues: device.transport().queues() as u16,
            doorbell: device.doorbell(),
        });
        Plan {
            guest: self.id,
            vcpus: self.vcpus,
            devices: devices.collect(),
            posted: false,
        }
    }

    /// Lets the doorbells ring of a device that has come late.
    ///
    /// # Errors
    /// What is wrong and what to do, for the operator; then none of them rings.
    pub(super) fn ring_in(&self, device: &Device) -> Result<(), String> {
        SERVER.ring_in(&self.plan_of(core::iter::once(device)))
    }

    /// The doorbells of a device do not ring any more.
    pub(super) fn ring_out(&self, device: &Device) {
        SERVER.ring_out(&self.plan_of(core::iter::once(device)));
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
        SERVER.new_pass();
        SERVER.take_posted();
        for _ in 0..ACCESSES {
            // A vCPU's access waits for what it has posted before.
            if let Some(write) = SERVER.next_posted() {
                self.devices.posted(&self.memory, &write);
                continue;
            }
            let Some((ticket, access)) = SERVER.next() else {
                break;
            };
            let done = self.devices.access(&self.memory, access);
            let waiting = SERVER.complete(ticket, done.data);
            if waiting.is_none() {
                log::debug!(
                    "vCPU {}: request went away while it was served",
                    ticket.slot().0
                );
            }
            self.devices.settle_after(done, waiting);
        }
        let more = self.devices.run(&self.memory) || !SERVER.is_drained();
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

    /// What no event tells of: slots whose event was lost, events and lines that Xen refused.
    ///
    /// So many nanoseconds have passed. Returns whether there is something to do.
    pub fn tick(&mut self, nanoseconds: u64) -> bool {
        SERVER.tick();
        self.devices.tick(nanoseconds)
    }

    /// Whether Xen still connects the guest's first vCPU. If Xen does not say, it is asked again with the next tick.
    pub fn is_alive(&mut self) -> bool {
        match SERVER.connection() {
            Connection::Alive => true,
            Connection::Gone => false,
            Connection::Unknown(error) => {
                let text = format_args!("asking whether the guest is there: {error}");
                self.devices.warn(&text);
                true
            }
        }
    }
}

impl Guest {
    /// Lets the guest go; its devices' counters stay. Safe to call again.
    pub fn release(&mut self) {
        let Self {
            memory, devices, ..
        } = self;
        let released = SERVER.release(|| {
            memory.unmap_all(devices.rings());
            devices.disconnect_all();
        });
        match released.destroyed {
            Ok(()) => {
                log::debug!("{} requests answered, server destroyed", released.answered);
                if let Err(error) = released.lowered {
                    log::warn!("lowering interrupt lines: {error}");
                }
            }
            Err(Errno::ESRCH | Errno::ENOENT) => {
                log::debug!("the guest is gone, and its ioreq server with it");
            }
            Err(error) => log::warn!("destroying the ioreq server: {error}"),
        }
        if let Err(error) = released.freed {
            log::warn!("giving up event channels and pages: {error}");
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.release();
    }
}
