//! How one device interrupts the guest.
//!
//! A line follows InterruptStatus; every other path fires once for each time that the device asks to interrupt, so
//! that a driver need not acknowledge anything. What fires before the guest's driver has said where to is kept: it is
//! made up for once that is known.

use vd_config::{Interrupt, SlotIndex, slot::INTX};
use vd_kernel_core::bus::Target;
use vd_virtio::counters::Counters;
use xen_hypercall::batch::{self, Call};
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

    /// Tells Xen what there is to tell; `then`, if there is one, is sent behind it, in the same hypercall where that can be.
    ///
    /// # Errors
    /// What Xen says, and what was to be done; it is tried again with the next call.
    #[inline]
    pub fn update(
        &mut self,
        guest: DomId,
        slot: SlotIndex,
        wanted: Wanted,
        then: Option<EvtchnPort>,
    ) -> Result<(), (&'static str, Errno)> {
        let line = |level| Call::PciIntxLevel {
            guest,
            device: slot.pci_device(),
            intx: INTX,
            level,
        };
        if let Path::Line(up) = self.path
            && up != wanted.line
        {
            return self.set_line(slot, wanted.line, line(wanted.line), then);
        }
        let silent = matches!(self.path, Path::Line(_) | Path::Unconnected);
        if silent || self.fired == wanted.asked {
            wake(then);
            return Ok(());
        }
        let fired = match self.path {
            // The I/O APIC remembers the edge.
            Path::Pulse => {
                counters::add(&counters::LINES_RAISED, 1);
                counters::add(&counters::LINES_LOWERED, 1);
                let [raised, lowered, ..] = make(&[line(true), line(false)], then);
                raised.and(lowered)
            }
            Path::Event(port) => {
                counters::add(&counters::EVENTS_SENT, 1);
                make(&[Call::Send(port)], then)[0]
            }
            Path::Message(address, data) => {
                counters::add(&counters::MESSAGES_SENT, 1);
                let sent = dm::inject_msi(&XEN, guest, address, data);
                wake(then);
                sent
            }
            Path::Line(_) | Path::Unconnected => Ok(()),
        };
        match fired {
            // A guest that is gone is noticed elsewhere.
            Ok(()) | Err(Errno::ESRCH) => self.fired = wanted.asked,
            Err(error) => return Err(("interrupting", error)),
        }
        Ok(())
    }

    /// Lowers the line, if it is up: another driver domain is to take over.
    ///
    /// # Errors
    /// As for [`Signal::update`].
    pub fn withdraw(&mut self, guest: DomId, slot: SlotIndex) -> Result<(), (&'static str, Errno)> {
        if !matches!(self.path, Path::Line(true)) {
            return Ok(());
        }
        let call = Call::PciIntxLevel {
            guest,
            device: slot.pci_device(),
            intx: INTX,
            level: false,
        };
        self.set_line(slot, false, call, None)
    }

    fn set_line(
        &mut self,
        slot: SlotIndex,
        up: bool,
        call: Call,
        then: Option<EvtchnPort>,
    ) -> Result<(), (&'static str, Errno)> {
        // Somebody who has to let go of the guest meanwhile lowers it once too often rather than not at all.
        if up {
            release::remember_line(slot, true);
        }
        let [set, ..] = make(&[call], then);
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
                release::remember_line(slot, up);
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

/// Sends the event that a vCPU waits for.
pub fn wake(waiting: Option<EvtchnPort>) {
    if let Some(port) = waiting {
        // Fails only when the guest is gone, which the timer finds out.
        let _ = event_channel::send(&XEN, port);
    }
}

/// Makes the calls, and behind them sends `then`, whose result nobody needs: see [`wake`].
fn make(calls: &[Call], then: Option<EvtchnPort>) -> [Result<(), Errno>; batch::MOST] {
    let mut all = heapless::Vec::<Call, { batch::MOST }>::new();
    // Two of a pulse and this one are what there can be.
    let _ = all.extend_from_slice(calls);
    if let Some(port) = then {
        let _ = all.push(Call::Send(port));
    }
    batch::make(&XEN, &all)
}
