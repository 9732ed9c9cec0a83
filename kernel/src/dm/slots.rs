//! The ioreq page, and what the interrupt handler does with it.
//!
//! The engine (crate `vd-ioreq`) decides; this module gives it the page, sends the
//! events, and hands kicks to the main loop as bits. Doorbells are answered here,
//! before anything else happens; everything that touches a device waits for the
//! main loop.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use vd_config::SLOTS as DEVICES;
use vd_ioreq::engine::{CompleteError, Engine, Outcome, Ticket};
use vd_ioreq::page::SlotPage;
use vd_ioreq::slot::{CONTROL_OFFSET, Control, DATA_OFFSET, SLOT_SIZE, SLOTS_PER_PAGE};
use vd_ioreq::{Access, Counters, EvtchnPort, Kick, SlotIndex};
use vd_kernel_core::handover::Kicks;
use volatile::VolatilePtr;
use xen_hypercall::event_channel;

use crate::arch::IrqLock;
use crate::xen::XEN;
use crate::xen::events::{self, Happened};

/// vCPUs that can be served: slots in one page.
pub const VCPUS: usize = SLOTS_PER_PAGE;
/// Cells of the doorbell registry; half can be used.
const CELLS: usize = 256;

/// The engine of the one ioreq server.
pub type SlotEngine = Engine<VCPUS, CELLS>;

static ENGINE: IrqLock<SlotEngine> = IrqLock::new(Engine::new(None));
/// Address of the mapped page; 0 = there is none. Words, as the ports below.
static PAGE: AtomicUsize = AtomicUsize::new(0);
static PAGE_VCPUS: AtomicUsize = AtomicUsize::new(0);

/// Doorbells that the handler answers between two passes of the main loop. Beyond that they wait for the main loop like
/// register writes: vCPUs that kick without end must not keep it from running.
const DOORBELLS_PER_PASS: u32 = 1024;
static DOORBELLS: AtomicU32 = AtomicU32::new(0);

/// Local port of each slot; 0 = not bound. Words, so that the panic path needs no lock.
static PORTS: [AtomicU32; VCPUS] = [const { AtomicU32::new(0) }; VCPUS];
/// Queues that were kicked, by device.
static KICKS: Kicks<AtomicU64, DEVICES> = Kicks::new([const { AtomicU64::new(0) }; DEVICES]);

/// The mapped ioreq page.
#[derive(Clone, Copy, Debug)]
pub struct IoreqPage {
    page: NonNull<u8>,
    vcpus: usize,
}

// SAFETY: every access is volatile or atomic.
unsafe impl Send for IoreqPage {}
// SAFETY: every access is volatile or atomic.
unsafe impl Sync for IoreqPage {}

impl IoreqPage {
    /// # Safety
    /// `page` must be the ioreq page, mapped writable until the domain ends.
    pub unsafe fn new(page: NonNull<u8>, vcpus: usize) -> Self {
        Self {
            page,
            vcpus: vcpus.min(VCPUS),
        }
    }

    fn at(&self, slot: SlotIndex, offset: usize) -> Option<NonNull<u8>> {
        let inside = slot.index() < self.vcpus;
        // SAFETY: slot and offset stay inside the page.
        inside.then(|| unsafe { self.page.add(slot.index() * SLOT_SIZE + offset) })
    }

    fn control_byte(&self, slot: SlotIndex) -> Option<&AtomicU8> {
        let byte = self.at(slot, CONTROL_OFFSET)?;
        // SAFETY: mapped until the domain ends; both sides treat the byte as an atomic.
        Some(unsafe { AtomicU8::from_ptr(byte.as_ptr()) })
    }
}

impl SlotPage for IoreqPage {
    fn slots(&self) -> usize {
        self.vcpus
    }

    fn control(&self, slot: SlotIndex) -> Control {
        Control(
            self.control_byte(slot)
                .map_or(0, |byte| byte.load(Ordering::Acquire)),
        )
    }

    fn load(&self, slot: SlotIndex) -> [u64; 4] {
        self.at(slot, 0).map_or([0; 4], |place| {
            // SAFETY: 32 aligned bytes of the page; Xen's writes are what volatile is for.
            unsafe { VolatilePtr::new(place.cast::<[u64; 4]>()) }.read()
        })
    }

    fn store_data(&self, slot: SlotIndex, data: u64) {
        if let Some(place) = self.at(slot, DATA_OFFSET) {
            // SAFETY: 8 aligned bytes of the page.
            unsafe { VolatilePtr::new(place.cast::<u64>()) }.write(data);
        }
    }

    fn store_control(&self, slot: SlotIndex, control: Control) {
        if let Some(byte) = self.control_byte(slot) {
            byte.store(control.0, Ordering::Release);
        }
    }

    fn vp_eport(&self, slot: SlotIndex) -> EvtchnPort {
        let place = self.at(slot, vd_ioreq::slot::VP_EPORT_OFFSET);
        EvtchnPort(place.map_or(0, |place| {
            // SAFETY: 4 aligned bytes of the page.
            unsafe { VolatilePtr::new(place.cast::<u32>()) }.read()
        }))
    }
}

/// Publishes the page to the handler; `None` when it is about to go.
pub fn set_page(page: Option<IoreqPage>) {
    PAGE_VCPUS.store(page.map_or(0, |page| page.vcpus), Ordering::Release);
    PAGE.store(
        page.map_or(0, |page| page.page.as_ptr() as usize),
        Ordering::Release,
    );
}

/// The page, while there is one.
pub fn page() -> Option<IoreqPage> {
    let page = NonNull::new(PAGE.load(Ordering::Acquire) as *mut u8)?;
    Some(IoreqPage {
        page,
        vcpus: PAGE_VCPUS.load(Ordering::Acquire),
    })
}

/// Says which local port belongs to a slot; `None` when it was closed.
pub fn set_port(slot: u16, port: Option<xen_hypercall::EvtchnPort>) {
    if let Some(entry) = PORTS.get(usize::from(slot)) {
        entry.store(port.map_or(0, |port| port.0), Ordering::Release);
    }
}

/// The local ports that are bound, by slot.
pub fn ports() -> impl Iterator<Item = (u16, xen_hypercall::EvtchnPort)> {
    (0u16..)
        .zip(&PORTS)
        .filter_map(|(slot, port)| match port.load(Ordering::Acquire) {
            0 => None,
            port => Some((slot, xen_hypercall::EvtchnPort(port))),
        })
}

/// Tells Xen that a slot is answered. Never logs: it runs in the interrupt handler.
pub fn notify(slot: SlotIndex) {
    let port = PORTS
        .get(slot.index())
        .map_or(0, |port| port.load(Ordering::Acquire));
    if port != 0 {
        // Fails only when the guest is gone, which the timer finds out.
        let _ = event_channel::send(&XEN, xen_hypercall::EvtchnPort(port));
    }
}

/// Serves the event of one slot. For the interrupt handler.
pub fn on_event(slot: u16) {
    let Some(page) = page() else { return };
    let slot = SlotIndex(slot);
    let outcome = ENGINE.with(|engine| {
        engine.count_upcall();
        engine.set_answering(DOORBELLS.load(Ordering::Relaxed) < DOORBELLS_PER_PASS);
        engine.on_event(&page, slot)
    });
    act(slot, outcome);
}

/// A pass of the main loop begins: the handler may answer doorbells again.
pub fn new_pass() {
    if DOORBELLS.load(Ordering::Relaxed) != 0 {
        DOORBELLS.store(0, Ordering::Relaxed);
    }
}

/// Looks at every slot, whether or not an event came: an event could have been lost.
pub fn scan() {
    let Some(page) = page() else { return };
    ENGINE.with(|engine| engine.scan(&page, act));
}

fn act(slot: SlotIndex, outcome: Outcome) {
    match outcome {
        Outcome::Nothing => {}
        Outcome::Answered { kick } => {
            notify(slot);
            if let Some(kick) = kick {
                DOORBELLS.fetch_add(1, Ordering::Relaxed);
                ring(&kick);
            }
        }
        Outcome::Deferred => events::mark(Happened::GUEST),
    }
}

fn ring(kick: &Kick) {
    // The value that the guest wrote says which queue (virtio 1.3, 4.2.2 QueueNotify).
    kick_queue(usize::from(kick.recipient.device), kick.value & 0xffff);
}

/// Marks a queue of a device for the main loop.
pub fn kick_queue(device: usize, queue: u64) {
    KICKS.ring(device, queue, || events::mark(Happened::GUEST));
}

/// Takes the queues of a device that were kicked.
pub fn take_kicks(device: usize) -> u64 {
    KICKS.take(device)
}

/// The next request for the main loop.
pub fn next() -> Option<(Ticket, Access)> {
    ENGINE.with(SlotEngine::next_pending)
}

/// Answers a request and wakes the vCPU.
pub fn complete(ticket: Ticket, data: u64) {
    let Some(page) = page() else { return };
    match ENGINE.with(|engine| engine.complete(&page, ticket, data)) {
        Ok(()) => notify(ticket.slot()),
        Err(CompleteError::Stale | CompleteError::NotInProcess) => {
            log::debug!(
                "vCPU {}: request went away while it was served",
                ticket.slot().0
            );
        }
    }
}

/// Changes doorbells and register ranges.
pub fn configure<R>(f: impl FnOnce(&mut SlotEngine) -> R) -> R {
    ENGINE.with(f)
}

/// What the engine counted.
pub fn counters() -> Counters {
    ENGINE.with(|engine| engine.counters())
}
