//! How one device interrupts the guest.
//!
//! A line follows InterruptStatus; every other path fires once for each time that the device asks to interrupt, so
//! that a driver need not acknowledge anything. What fires before the guest's driver has said where to is kept: it is
//! made up for once that is known.

use vd_config::{Interrupt, SlotIndex, slot::INTX};
use vd_kernel_core::bus::Target;
use vd_virtio::counters::Counters;
use xen_hypercall::{DomId, Errno, EvtchnPort, dm, event_channel};

use super::release;
use crate::counters;
use crate::xen::XEN;

/// The path, and what Xen was told last.
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    kind: Interrupt,
    path: Path,
    /// Interrupts that the device had asked for when it fired last.
    fired: u64,
}

#[derive(Clone, Copy, Debug)]
enum Path {
    /// A level-triggered line, and whether it is up.
    Line(bool),
    /// The same as a pulse.
    Pulse,
    /// The guest's driver has not said where to.
    Unconnected,
    /// A message to the guest's local APIC.
    Message(u64, u32),
    /// An event on this local port.
    Event(EvtchnPort),
}

/// What there is to tell.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// InterruptStatus is not 0.
    line: bool,
    /// How often the device has asked to interrupt.
    asked: u64,
}

impl Wanted {
    /// Of a device with these counters.
    pub fn new(line: bool, counters: &Counters) -> Self {
        Self {
            line,
            asked: counters.interrupts + counters.config_interrupts,
        }
    }
}

impl Signal {
    /// A path of that kind, without a guest's driver at its end yet.
    pub fn new(kind: Interrupt) -> Self {
        Self {
            kind,
            path: match kind {
                Interrupt::Intx => Path::Line(false),
                Interrupt::Edge => Path::Pulse,
                Interrupt::Msi | Interrupt::EventChannel => Path::Unconnected,
            },
            fired: 0,
        }
    }

    /// What kind of path it is.
    pub fn kind(&self) -> Interrupt {
        self.kind
    }

    /// The guest's driver has said where to. A port is one of this domain, bound to the guest's.
    pub fn connect(&mut self, target: Target) {
        self.path = match target {
            Target::Port(port) => Path::Event(EvtchnPort(port)),
            Target::Message { address, data } => Path::Message(address, data),
        };
    }

    /// The guest's driver has gone. Gives the port back that has to be closed.
    pub fn disconnect(&mut self) -> Option<EvtchnPort> {
        let port = match self.path {
            Path::Event(port) => Some(port),
            Path::Message(..) => None,
            Path::Line(_) | Path::Pulse | Path::Unconnected => return None,
        };
        self.path = Path::Unconnected;
        port
    }

    /// Tells Xen what there is to tell.
    ///
    /// # Errors
    /// What Xen says, and what was to be done; it is tried again with the next call.
    #[inline]
    pub fn update(
        &mut self,
        guest: DomId,
        slot: SlotIndex,
        wanted: Wanted,
    ) -> Result<(), (&'static str, Errno)> {
        if let Path::Line(up) = self.path {
            if up == wanted.line {
                return Ok(());
            }
            return self.set_line(guest, slot, wanted.line);
        }
        if self.fired == wanted.asked {
            return Ok(());
        }
        let sent = match self.path {
            Path::Line(_) | Path::Unconnected => return Ok(()),
            Path::Pulse => pulse(guest, slot),
            Path::Message(address, data) => {
                counters::add(&counters::MESSAGES_SENT, 1);
                dm::inject_msi(&XEN, guest, address, data)
            }
            Path::Event(port) => {
                counters::add(&counters::EVENTS_SENT, 1);
                event_channel::send(&XEN, port)
            }
        };
        match sent {
            // A guest that is gone is noticed elsewhere.
            Ok(()) | Err(Errno::ESRCH) => self.fired = wanted.asked,
            Err(error) => return Err(("interrupting", error)),
        }
        Ok(())
    }

    fn set_line(
        &mut self,
        guest: DomId,
        slot: SlotIndex,
        up: bool,
    ) -> Result<(), (&'static str, Errno)> {
        release::remember_line(slot, up);
        let set = dm::set_pci_intx_level(&XEN, guest, slot.pci_device(), INTX, up);
        counters::add(
            if up {
                &counters::LINES_RAISED
            } else {
                &counters::LINES_LOWERED
            },
            1,
        );
        match set {
            // A guest that is gone is noticed elsewhere.
            Ok(()) | Err(Errno::ESRCH) => {
                self.path = Path::Line(up);
                Ok(())
            }
            Err(error) => {
                release::remember_line(slot, !up);
                Err((
                    if up {
                        "raising its interrupt line"
                    } else {
                        "lowering its interrupt line"
                    },
                    error,
                ))
            }
        }
    }
}

/// Raises the line and lowers it: the I/O APIC remembers the edge.
fn pulse(guest: DomId, slot: SlotIndex) -> Result<(), Errno> {
    let set = |up| dm::set_pci_intx_level(&XEN, guest, slot.pci_device(), INTX, up);
    counters::add(&counters::LINES_RAISED, 1);
    let raised = set(true);
    counters::add(&counters::LINES_LOWERED, 1);
    raised.and(set(false))
}
