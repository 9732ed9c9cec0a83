//! Letting the guest go: in order, or in an emergency.
//!
//! Everything an emergency needs is in atomics and in the ioreq page itself, so
//! that it works from an exception handler, whatever was interrupted.

use core::sync::atomic::{AtomicU32, Ordering};

use vd_config::SlotIndex;
use vd_config::slot::INTX;
use vd_ioreq::answer_all;
use x86_64::instructions::interrupts;
use xen_hypercall::dm::{self, ServerId};
use xen_hypercall::{DomId, Errno, event_channel};

use super::slots;
use crate::xen::XEN;

/// Bit 31 = there is a server; bits 16..31 the guest (domain ids are below
/// 0x7ff0), bits 0..16 the server.
static SERVER: AtomicU32 = AtomicU32::new(0);
const PRESENT: u32 = 1 << 31;

/// Remembers the server from its creation on.
pub fn remember(guest: DomId, server: ServerId) {
    let value = PRESENT | u32::from(guest.0) << 16 | u32::from(server.0);
    SERVER.store(value, Ordering::Release);
}

/// The server, if there is one.
fn server() -> Option<(DomId, ServerId)> {
    let value = SERVER.load(Ordering::Acquire);
    let guest = DomId((value >> 16 & 0x7fff) as u16);
    (value & PRESENT != 0).then_some((guest, ServerId(value as u16)))
}

/// A bit for each slot whose interrupt line is up.
static LINES: AtomicU32 = AtomicU32::new(0);

/// Remembers whether the interrupt line of a slot is up.
pub fn remember_line(slot: SlotIndex, up: bool) {
    let bit = 1 << slot.get();
    if up {
        LINES.fetch_or(bit, Ordering::AcqRel);
    } else {
        LINES.fetch_and(!bit, Ordering::AcqRel);
    }
}

/// Lowers every line: with nobody to acknowledge to, the guest would be interrupted for ever.
fn lower_lines(guest: DomId) {
    let lines = LINES.swap(0, Ordering::AcqRel);
    for slot in SlotIndex::all().filter(|slot| lines >> slot.get() & 1 != 0) {
        // A guest that is gone needs no line.
        let _ = dm::set_pci_intx_level(&XEN, guest, slot.pci_device(), INTX, false);
    }
}

/// Answers every slot; returns how many were answered. Every vCPU gets an event: whoever was interrupted may have answered
/// a slot, and not told Xen.
fn answer() -> usize {
    let Some(page) = slots::page() else { return 0 };
    let answered = answer_all(&page).iter().count();
    for (_, port) in slots::ports() {
        // A guest that is gone needs none.
        let _ = event_channel::send(&XEN, port);
    }
    answered
}

/// Answers everything and destroys the server. Returns how many requests were answered,
/// and what Xen said to the destruction.
///
/// Disabling comes between two rounds of answers: a request can come in until
/// the server is disabled, and none can afterwards.
fn release() -> (usize, Result<(), Errno>) {
    let mut answered = answer();
    let Some((guest, server)) = server() else {
        return (answered, Ok(()));
    };
    lower_lines(guest);
    // A guest that is being destroyed refuses this, and needs no answer.
    let _ = dm::set_ioreq_server_state(&XEN, guest, server, false);
    answered += answer();
    let destroyed = dm::destroy_ioreq_server(&XEN, guest, server);
    // Only now: whoever interrupts this and has to release the guest as well must still find the server.
    SERVER.store(0, Ordering::Release);
    (answered, destroyed)
}

/// The panic path: returns how many requests were answered.
pub fn emergency() -> usize {
    release().0
}

/// The orderly way. The upcall handler answers slots too, and must not do so in between.
pub fn orderly() {
    match interrupts::without_interrupts(release) {
        (answered, Ok(())) => log::debug!("{answered} requests answered, server destroyed"),
        (_, Err(Errno::ESRCH | Errno::ENOENT)) => {
            log::debug!("the guest is gone, and its ioreq server with it")
        }
        (_, Err(error)) => log::warn!("destroying the ioreq server: {error}"),
    }
}
