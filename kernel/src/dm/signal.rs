//! How one device interrupts the guest: what `vd_kernel_core::server::signal` decides, done to this image's server.

use vd_config::{Interrupt, SlotIndex};
use vd_kernel_core::bus::Target;
use vd_kernel_core::server::signal;
use xen_hypercall::{DomId, Errno, EvtchnPort};

use super::slots::SERVER;

pub use signal::Wanted;

/// The path, and what Xen was told last.
#[derive(Clone, Copy, Debug)]
pub struct Signal(signal::Signal);

impl Signal {
    /// A path of that kind, without a guest's driver at its end yet.
    pub fn new(kind: Interrupt) -> Self {
        Self(signal::Signal::new(kind))
    }

    /// What kind of path it is.
    pub fn kind(&self) -> Interrupt {
        self.0.kind()
    }

    /// The guest's driver has said where to. A port is one of this domain, bound to the guest's.
    pub fn connect(&mut self, target: Target) {
        self.0.connect(target);
    }

    /// The guest's driver has gone. Gives the port back that has to be closed.
    pub fn disconnect(&mut self) -> Option<EvtchnPort> {
        self.0.disconnect()
    }

    /// Tells Xen what there is to tell; `then`, if there is one, is sent behind it.
    ///
    /// # Errors
    /// What Xen says, and what was to be done; it is tried again with the next call. A guest that is gone is no error
    /// here: that is noticed elsewhere.
    #[inline]
    pub fn update(
        &mut self,
        guest: DomId,
        slot: SlotIndex,
        wanted: Wanted,
        then: Option<EvtchnPort>,
    ) -> Result<(), (&'static str, Errno)> {
        unless_gone(self.0.update(&SERVER, guest, slot, wanted, then))
    }

    /// Lowers the line, if it is up: the device goes.
    ///
    /// # Errors
    /// As for [`Signal::update`].
    pub fn end(&mut self, guest: DomId, slot: SlotIndex) -> Result<(), (&'static str, Errno)> {
        unless_gone(self.0.end(&SERVER, guest, slot))
    }

    /// Lowers the line, if it is up: another driver domain is to take over.
    ///
    /// # Errors
    /// As for [`Signal::update`].
    pub fn withdraw(&mut self, guest: DomId, slot: SlotIndex) -> Result<(), (&'static str, Errno)> {
        self.0.withdraw(&SERVER, guest, slot)
    }
}

/// What Xen says, but for a guest that is gone.
#[inline]
fn unless_gone(told: Result<(), (&'static str, Errno)>) -> Result<(), (&'static str, Errno)> {
    match told {
        Err((_, Errno::ESRCH)) => Ok(()),
        told => told,
    }
}

/// Sends the event that a vCPU waits for.
pub fn wake(waiting: Option<EvtchnPort>) {
    if let Some(port) = waiting {
        SERVER.wake_vcpu(port);
    }
}
