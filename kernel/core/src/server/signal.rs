//! How one device interrupts the guest.
//!
//! A line follows InterruptStatus; every other path fires once for each time that the device asks to interrupt, so
//! that a driver need not acknowledge anything. What fires before the guest's driver has said where to is kept: it is
//! made up for once that is known.

use vd_config::{Interrupt, PciLine, SlotIndex};
use vd_virtio::counters::Counters;
use xen_hypercall::batch::{self, Call};
use xen_hypercall::{DomId, Errno, EvtchnPort, dm};

use super::{Count, Platform, Server, insist};
use crate::bus::Target;

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
    #[must_use]
    #[inline]
    pub fn new(line: bool, counters: &Counters) -> Self {
        Self {
            line,
            asked: counters.interrupts.wrapping_add(counters.config_interrupts),
        }
    }
}

/// A change of a line, as a call.
fn level(guest: DomId, slot: SlotIndex, level: bool) -> Call {
    let PciLine { device, intx } = slot.line();
    Call::PciIntxLevel {
        guest,
        device,
        intx,
        level,
    }
}

impl Signal {
    /// A path of that kind, without a guest's driver at its end yet.
    #[must_use]
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
    #[must_use]
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

    /// Tells Xen what there is to tell; `then`, if there is one, is sent behind it, in the same hypercall where that can
    /// be.
    ///
    /// # Errors
    /// What Xen says, and what was to be done; it is tried again with the next call.
    #[inline]
    pub fn update<P: Platform>(
        &mut self,
        server: &Server<P>,
        guest: DomId,
        slot: SlotIndex,
        wanted: Wanted,
        then: Option<EvtchnPort>,
    ) -> Result<(), (&'static str, Errno)> {
        if let Path::Line(up) = self.path
            && up != wanted.line
        {
            return self.set_line(server, guest, slot, wanted.line, then);
        }
        let silent = matches!(self.path, Path::Line(_) | Path::Unconnected);
        if silent || self.fired == wanted.asked {
            then.into_iter().for_each(|port| server.wake_vcpu(port));
            return Ok(());
        }
        let fired = match self.path {
            // The I/O APIC remembers the edge.
            Path::Pulse => {
                server.platform.count(Count::LinesRaised, 1);
                server.platform.count(Count::LinesLowered, 1);
                let calls = [level(guest, slot, true), level(guest, slot, false)];
                let [raised, lowered, ..] = server.make(&calls, then);
                // A line that stays up is lowered with the next pulse, or by whoever lets go of the guest before.
                if lowered.is_err() || server.is_line_up(slot) {
                    server.remember_line(slot, lowered.is_err());
                }
                raised.and(lowered)
            }
            Path::Event(port) => {
                server.platform.count(Count::EventsSent, 1);
                let [sent, ..] = server.make(&[Call::Send(port)], then);
                sent
            }
            Path::Message(address, data) => {
                server.platform.count(Count::MessagesSent, 1);
                let sent = dm::inject_msi(server.platform.xen(), guest, address, data);
                then.into_iter().for_each(|port| server.wake_vcpu(port));
                sent
            }
            Path::Line(_) | Path::Unconnected => Ok(()),
        };
        fired.map_err(|error| ("interrupting", error))?;
        self.fired = wanted.asked;
        Ok(())
    }

    /// Lowers the line, if it is up: another driver domain is to take over.
    ///
    /// # Errors
    /// As for [`Signal::update`].
    pub fn withdraw<P: Platform>(
        &mut self,
        server: &Server<P>,
        guest: DomId,
        slot: SlotIndex,
    ) -> Result<(), (&'static str, Errno)> {
        match self.path {
            Path::Line(true) => self.set_line(server, guest, slot, false, None),
            _ => Ok(()),
        }
    }

    /// Its device goes, and nobody looks after its line any more: one that is up is lowered.
    ///
    /// # Errors
    /// What Xen says, when it was asked often enough: then whoever lets go of the guest tries again.
    pub fn end<P: Platform>(
        &mut self,
        server: &Server<P>,
        guest: DomId,
        slot: SlotIndex,
    ) -> Result<(), (&'static str, Errno)> {
        if !server.is_line_up(slot) {
            return Ok(());
        }
        let what = "lowering its interrupt line";
        let mut lower = || self.set_line(server, guest, slot, false, None);
        insist(|| lower().map_err(|(_, error)| error)).map_err(|error| (what, error))
    }

    fn set_line<P: Platform>(
        &mut self,
        server: &Server<P>,
        guest: DomId,
        slot: SlotIndex,
        up: bool,
        then: Option<EvtchnPort>,
    ) -> Result<(), (&'static str, Errno)> {
        // Somebody who has to let go of the guest meanwhile lowers it once too often rather than not at all.
        if up {
            server.remember_line(slot, true);
        }
        let [set, ..] = server.make(&[level(guest, slot, up)], then);
        let (count, what) = if up {
            (Count::LinesRaised, "raising its interrupt line")
        } else {
            (Count::LinesLowered, "lowering its interrupt line")
        };
        server.platform.count(count, 1);
        match set {
            Ok(()) => {
                self.path = Path::Line(up);
                server.remember_line(slot, up);
                Ok(())
            }
            Err(error) => {
                server.remember_line(slot, !up);
                Err((what, error))
            }
        }
    }
}

impl<P: Platform> Server<P> {
    /// Makes the calls, and behind them sends `then`, for which a vCPU waits.
    #[inline]
    fn make(&self, calls: &[Call], then: Option<EvtchnPort>) -> [Result<(), Errno>; batch::MOST] {
        let mut all = heapless::Vec::<Call, { batch::MOST }>::new();
        // Two of a pulse and this one are what there can be.
        let _ = all.extend_from_slice(calls);
        if let Some(port) = then {
            let _ = all.push(Call::Send(port));
        }
        let results = batch::make(self.platform.xen(), &all);
        if let Some(port) = then
            && let Some(Err(_)) = results.get(calls.len())
        {
            self.owe(port);
        }
        results
    }
}
