//! Letting the guest go: in order, or in an emergency.
//!
//! Everything an emergency needs is in atomics and in the page with the slots, so that it works from an exception
//! handler, whatever was interrupted.

use core::sync::atomic::Ordering;

use vd_config::{PciLine, SlotIndex};
use vd_ioreq::answer_all;
use xen_hypercall::dm::{self, ServerId};
use xen_hypercall::{DomId, Errno, event_channel};

use super::{Platform, Server, insist};

/// Bit 31 = there is a server; bits 16..31 the guest (domain ids are below 0x7ff0), bits 0..16 the server.
const PRESENT: u32 = 1 << 31;

/// What letting go came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// Requests that were answered.
    pub answered: usize,
    /// What Xen said to the destruction of the server; `Ok` when there was none.
    pub destroyed: Result<(), Errno>,
    /// The first refusal to lower an interrupt line.
    pub lowered: Result<(), Errno>,
    /// The first refusal to close an event channel or to unmap a page of the server's.
    pub freed: Result<(), Errno>,
}

impl<P: Platform> Server<P> {
    /// Remembers the server from its creation on.
    pub(super) fn remember(&self, guest: DomId, server: ServerId) {
        let value = PRESENT | u32::from(guest.0) << 16 | u32::from(server.0);
        self.held.store(value, Ordering::Release);
    }

    /// The server, if there is one.
    pub(super) fn held(&self) -> Option<(DomId, ServerId)> {
        let value = self.held.load(Ordering::Acquire);
        let [server_low, server_high, guest_low, guest_high] = value.to_le_bytes();
        let guest = DomId(u16::from_le_bytes([guest_low, guest_high & 0x7f]));
        let server = ServerId(u16::from_le_bytes([server_low, server_high]));
        (value & PRESENT != 0).then_some((guest, server))
    }

    /// Remembers whether the interrupt line of a device is up.
    #[inline]
    pub(super) fn remember_line(&self, slot: SlotIndex, up: bool) {
        let bit = 1 << slot.get();
        if up {
            self.lines.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.lines.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// Whether it is remembered as up.
    #[inline]
    pub(super) fn is_line_up(&self, slot: SlotIndex) -> bool {
        self.lines.load(Ordering::Relaxed) >> slot.get() & 1 != 0
    }

    /// Lowers every line: with nobody to acknowledge to, the guest would be interrupted for ever.
    fn lower_lines(&self, guest: DomId) -> Result<(), Errno> {
        let lines = self.lines.load(Ordering::Acquire);
        let mut result = Ok(());
        for slot in SlotIndex::all().filter(|slot| lines >> slot.get() & 1 != 0) {
            let lowered = insist(|| {
                let xen = self.platform.xen();
                let PciLine { device, intx } = slot.line();
                dm::set_pci_intx_level(xen, guest, device, intx, false)
            });
            // What Xen has not lowered stays recorded, unless there is nobody left to interrupt.
            if matches!(lowered, Ok(()) | Err(Errno::ESRCH)) {
                self.remember_line(slot, false);
            }
            result = result.and(lowered);
        }
        result
    }

    /// Answers every slot; returns how many were answered. Every vCPU gets an event: whoever was interrupted may have
    /// answered a slot, and not told Xen.
    fn answer(&self) -> usize {
        let Some(page) = self.page() else { return 0 };
        let answered = answer_all(&page).iter().count();
        for (_, port) in self.ports() {
            // A guest that is gone needs none.
            let _ = insist(|| event_channel::send(self.platform.xen(), port));
        }
        answered
    }

    /// Answers everything and lowers the lines, and leaves the server as it is: for a while in which the guest takes the
    /// interrupts that are on their way, and asks what they are for. Returns how many requests were answered.
    pub fn hush(&self) -> usize {
        if let Some((guest, _)) = self.held() {
            // Whoever lets go of the guest tries again.
            let _ = self.lower_lines(guest);
        }
        self.answer()
    }

    /// Answers everything and destroys the server. The panic path calls this as it is; otherwise the handler, which
    /// answers slots too, must not do so in between.
    ///
    /// Disabling comes between two rounds of answers: a request can come in until the server is disabled, and none can
    /// afterwards.
    pub fn emergency(&self) -> Released {
        let mut answered = self.answer();
        let Some((guest, server)) = self.held() else {
            return Released {
                answered,
                destroyed: Ok(()),
                lowered: Ok(()),
                freed: Ok(()),
            };
        };
        let xen = self.platform.xen();
        let lowered = self.lower_lines(guest);
        self.freeze_shown(guest);
        // A guest that is being destroyed refuses this, and needs no answer.
        let _ = insist(|| dm::set_ioreq_server_state(xen, guest, server, false));
        answered = answered.saturating_add(self.answer());
        let destroyed = insist(|| dm::destroy_ioreq_server(xen, guest, server));
        // Only now: whoever interrupts this and has to release the guest as well must still find the server. What Xen has
        // not destroyed stays recorded.
        if matches!(destroyed, Ok(()) | Err(Errno::ESRCH | Errno::ENOENT)) {
            self.claimed.store(false, Ordering::Release);
            self.held.store(0, Ordering::Release);
        }
        Released {
            answered,
            destroyed,
            lowered,
            freed: Ok(()),
        }
    }
}
