//! Which event channel belongs to which slot, and when that has changed.
//!
//! Xen gives each vCPU of the guest a port for the server and writes it into the slot. vCPUs can come later, and a
//! server that is disabled and enabled again has new ports; then the local port is stale and has to be closed.
//!
//! Invariant: a local port belongs to at most one slot.

use crate::page::SlotPage;
use crate::types::{EvtchnPort, SlotIndex};

/// A slot's channel, bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The port in the guest, from the slot.
    pub remote: EvtchnPort,
    /// The port here, from binding to it.
    pub local: EvtchnPort,
}

/// What is to be done about a slot's channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortCheck {
    /// Nothing.
    Unchanged,
    /// The slot has a port that is not bound yet: bind to it.
    Bind {
        /// The port in the guest.
        remote: EvtchnPort,
    },
    /// The slot has another port than the bound one: close the local port, then bind.
    Rebind {
        /// The local port to close.
        stale: EvtchnPort,
        /// The port in the guest.
        remote: EvtchnPort,
    },
    /// The slot has no port any more: close the local port.
    Unbind {
        /// The local port to close.
        stale: EvtchnPort,
    },
}

/// The bindings of `SLOTS` slots.
#[derive(Clone, Debug)]
pub struct PortTable<const SLOTS: usize> {
    bindings: [Option<Binding>; SLOTS],
}

impl<const SLOTS: usize> PortTable<SLOTS> {
    /// Nothing bound.
    pub const fn new() -> Self {
        PortTable {
            bindings: [None; SLOTS],
        }
    }

    /// Compares the page with what is bound. Port 0 means none: Xen never gives it out.
    pub fn check<P: SlotPage + ?Sized>(&self, page: &P, slot: SlotIndex) -> PortCheck {
        if slot.index() >= SLOTS.min(page.slots()) {
            return PortCheck::Unchanged;
        }
        let remote = page.vp_eport(slot);
        match self.get(slot) {
            None if remote.0 == 0 => PortCheck::Unchanged,
            None => PortCheck::Bind { remote },
            Some(bound) if bound.remote == remote => PortCheck::Unchanged,
            Some(bound) if remote.0 == 0 => PortCheck::Unbind { stale: bound.local },
            Some(bound) => PortCheck::Rebind {
                stale: bound.local,
                remote,
            },
        }
    }

    /// The binding of a slot.
    pub fn get(&self, slot: SlotIndex) -> Option<Binding> {
        self.bindings.get(slot.index()).copied().flatten()
    }

    /// The local port of a slot: where its events are sent.
    pub fn local(&self, slot: SlotIndex) -> Option<EvtchnPort> {
        self.get(slot).map(|binding| binding.local)
    }

    /// The slot of a local port. Looks at all of them: for the interrupt handler keep the slot in the port's own entry.
    pub fn slot_of(&self, local: EvtchnPort) -> Option<SlotIndex> {
        let at = self
            .bindings
            .iter()
            .position(|b| b.is_some_and(|b| b.local == local))?;
        u16::try_from(at).ok().map(SlotIndex)
    }

    /// Records that a slot is bound. `false`, and no change, when there is no such slot or the port is another slot's.
    #[must_use]
    pub fn bind(&mut self, slot: SlotIndex, binding: Binding) -> bool {
        if self
            .slot_of(binding.local)
            .is_some_and(|owner| owner != slot)
        {
            return false;
        }
        let Some(entry) = self.bindings.get_mut(slot.index()) else {
            return false;
        };
        *entry = Some(binding);
        true
    }

    /// Forgets a slot's binding and returns it.
    pub fn unbind(&mut self, slot: SlotIndex) -> Option<Binding> {
        self.bindings.get_mut(slot.index()).and_then(Option::take)
    }
}

impl<const SLOTS: usize> Default for PortTable<SLOTS> {
    fn default() -> Self {
        Self::new()
    }
}
