//! Making room for another domain's server of the same guest, and coming back.
//!
//! Xen gives a vCPU's access to the enabled server that has the highest number of those which have the address, and a new
//! server the lowest number that is free. So a domain that takes over does not win by being the newest: behind one with
//! number 2 it may be number 1. The one that leaves therefore disables its own first. A server that is disabled gets
//! nothing, and keeps its page and its event channels: vCPUs find there what they were answered.
//!
//! Invariant: the guest is paused from before [`Server::step_aside`] until another server is enabled, or this one again;
//! what it asked for in between would be nobody's.

use xen_hypercall::{Errno, dm};

use super::{Platform, Server, insist};

impl<P: Platform> Server<P> {
    /// From now on the guest's accesses are for others.
    ///
    /// # Errors
    /// What Xen says, when it was asked often enough; the server gets them as before. `EBUSY` while registers are in
    /// memory: whoever comes next could not have them there, and would not be asked.
    pub fn step_aside(&self) -> Result<(), Errno> {
        if self.is_showing() {
            return Err(Errno::EBUSY);
        }
        self.enable(false)
    }

    /// The guest's accesses are for this server again. What the other domain has left in windows is taken away first.
    ///
    /// # Errors
    /// What Xen says, when it was asked often enough; it gets none.
    pub fn come_back(&self) -> Result<(), Errno> {
        let (guest, _) = self.held().ok_or(Errno::ENOENT)?;
        if self.has_ring() {
            insist(|| self.clear_windows(guest))?;
        }
        self.enable(true)
    }

    fn enable(&self, enabled: bool) -> Result<(), Errno> {
        let (guest, server) = self.held().ok_or(Errno::ENOENT)?;
        insist(|| dm::set_ioreq_server_state(self.platform.xen(), guest, server, enabled))
    }
}
