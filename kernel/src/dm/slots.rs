//! The ioreq page, and what the interrupt handler does with it.
//!
//! The engine (crate `vd-ioreq`) decides; this module gives it the page, sends the
//! events, and hands kicks to the main loop as bits. Doorbells are answered here,
//! before anything else happens; everything that touches a device waits for the
//! main loop.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use vd_config::{MAX_VIRTQUEUES, SLOTS as DEVICES, SlotIndex as DeviceSlot};
use vd_ioreq::engine::{CompleteError, Engine, Outcome, Ticket};
use vd_ioreq::page::SlotPage;
use vd_ioreq::slot::{CONTROL_OFFSET, Control, DATA_OFFSET, SLOT_SIZE, SLOTS_PER_PAGE, State};
use vd_ioreq::{Access, Counters, EvtchnPort, Kick, SlotIndex};
use vd_kernel_core::handover::Kicks;
use volatile::VolatilePtr;
use xen_hypercall::event_channel;

use super::posted;
use crate::arch::IrqLock;
use crate::counters;
use crate::xen::XEN;
use crate::xen::events::{self, Happened};

/// vCPUs that can be served: slots in one page.
pub const VCPUS: usize = SLOTS_PER_PAGE;
/// Cells of the doorbell registry; half can be used.
const CELLS: usize = 256;

/// Most queues of a device.
const QUEUES: usize = MAX_VIRTQUEUES as usize;

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
static KICKS: Kicks<AtomicU64, DEVICES, QUEUES> = Kicks::new(
    [const { AtomicU64::new(0) }; DEVICES],
    [const { [const { AtomicU64::new(0) }; QUEUES] }; DEVICES],
);

/// Recipient's queue of a doorbell for all queues of its device: the value says which.
pub const ANY_QUEUE: u16 = u16::MAX;
/// The value written last to the port doorbell of each device.
static PAYLOADS: [AtomicU64; DEVICES] = [const { AtomicU64::new(0) }; DEVICES];
/// Event doorbells that were rung too often since the last pass, a bit a queue, by device: masked until the next one.
static MASKED: [AtomicU64; DEVICES] = [const { AtomicU64::new(0) }; DEVICES];

/// Numbers of event sources: below it the slots, above it doorbells, device and queue in six bits each.
const DOORBELL: u16 = 0x4000;
/// The source that says that writes were posted.
const POSTED: u16 = 0x2000;
/// That source's port, while it is masked: more came than the main loop has had its turn for.
static POSTED_PORT: AtomicU32 = AtomicU32::new(0);
const QUEUE_BITS: u32 = 6;

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
    if let Some(port) = port_of(slot) {
        // Fails only when the guest is gone, which the timer finds out.
        let _ = event_channel::send(&XEN, port);
    }
}

/// The local port of a slot, if it is bound.
fn port_of(slot: SlotIndex) -> Option<xen_hypercall::EvtchnPort> {
    let port = PORTS.get(slot.index())?.load(Ordering::Acquire);
    (port != 0).then_some(xen_hypercall::EvtchnPort(port))
}

/// Serves the event of one slot. For the interrupt handler.
pub fn on_event(slot: u16) {
    let Some(page) = page() else { return };
    let slot = SlotIndex(slot);
    let outcome = ENGINE.with(|engine| {
        engine.count_upcall();
        engine.set_answering(DOORBELLS.load(Ordering::Relaxed) < DOORBELLS_PER_PASS);
        if posted::is_used() {
            look_after_posted(engine, &page, slot)
        } else {
            engine.on_event(&page, slot)
        }
    });
    act(slot, outcome);
}

/// Looks at a slot whose vCPU may have posted writes before: they come first.
fn look_after_posted(engine: &mut SlotEngine, page: &IoreqPage, slot: SlotIndex) -> Outcome {
    if page.control(slot).state() != Some(State::Ready) {
        // Looked at now it could become READY meanwhile, with writes that have not been taken.
        return Outcome::Nothing;
    }
    if posted::drain(engine, ring) {
        engine.on_event(page, slot)
    } else {
        posted::postpone();
        Outcome::Nothing
    }
}

/// Serves the event that says that writes were posted.
fn on_posted() {
    ENGINE.with(|engine| posted::drain(engine, ring));
}

/// Takes what posted writes are left, and looks at the slots that had to wait for them.
pub fn take_posted() {
    if posted::is_used() {
        on_posted();
        if posted::take_postponed() {
            scan();
        }
    }
}

/// What says that writes were posted.
pub fn posted_source() -> events::Source {
    events::Source::Image(POSTED)
}

/// What rings as an event for a queue of a device.
pub fn doorbell_source(device: DeviceSlot, queue: u16) -> events::Source {
    let queue = queue & ((1 << QUEUE_BITS) - 1);
    events::Source::Image(DOORBELL | u16::from(device.get()) << QUEUE_BITS | queue)
}

/// Serves the event of a source: of a slot, or a doorbell. For the interrupt handler.
pub fn on_source(port: xen_hypercall::EvtchnPort, source: u16) {
    if source == POSTED {
        if DOORBELLS.fetch_add(1, Ordering::Relaxed) >= DOORBELLS_PER_PASS {
            events::mask(port);
            POSTED_PORT.store(port.0, Ordering::Release);
        }
        return on_posted();
    }
    if source & DOORBELL == 0 {
        return on_event(source);
    }
    let device = usize::from((source & !DOORBELL) >> QUEUE_BITS);
    let queue = usize::from(source & ((1 << QUEUE_BITS) - 1));
    counters::add(&counters::EVENT_DOORBELLS, 1);
    if DOORBELLS.fetch_add(1, Ordering::Relaxed) >= DOORBELLS_PER_PASS
        && let Some(masked) = MASKED.get(device)
    {
        // Whoever sends without end is not heard again before the main loop has had its turn.
        events::mask(port);
        masked.fetch_or(1 << queue.min(63), Ordering::Release);
    }
    kick_queue(device, queue, None);
}

/// Takes the queues of a device whose event doorbells have to be let through again.
pub fn take_masked(device: usize) -> u64 {
    MASKED.get(device).map_or(0, |masked| {
        if masked.load(Ordering::Relaxed) == 0 {
            0
        } else {
            masked.swap(0, Ordering::Acquire)
        }
    })
}

/// The value written last to a device's port doorbell.
pub fn payload(device: usize) -> u64 {
    PAYLOADS
        .get(device)
        .map_or(0, |value| value.load(Ordering::Relaxed))
}

/// A pass of the main loop begins: the handler may answer doorbells again.
pub fn new_pass() {
    if DOORBELLS.load(Ordering::Relaxed) != 0 {
        DOORBELLS.store(0, Ordering::Relaxed);
        let masked = POSTED_PORT.swap(0, Ordering::AcqRel);
        if masked != 0
            && let Err(error) = events::unmask(xen_hypercall::EvtchnPort(masked))
        {
            log::debug!("posted writes: {error}");
        }
    }
}

/// Looks at every slot, whether or not an event came: an event could have been lost.
pub fn scan() {
    let Some(page) = page() else { return };
    if !posted::is_used() {
        return ENGINE.with(|engine| engine.scan(&page, act));
    }
    for slot in (0..page.vcpus as u16).map(SlotIndex) {
        let outcome = ENGINE.with(|engine| look_after_posted(engine, &page, slot));
        act(slot, outcome);
    }
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
        Outcome::Deferred => events::mark(Happened::WORK),
    }
}

fn ring(kick: &Kick) {
    let Kick { recipient, value } = *kick;
    let device = usize::from(recipient.device);
    if recipient.queue == ANY_QUEUE {
        counters::add(&counters::PORT_DOORBELLS, 1);
        if let Some(payload) = PAYLOADS.get(device) {
            payload.store(value, Ordering::Relaxed);
        }
        // The value says which queue, as in the register; what the rest of it means is the driver's business.
        kick_queue(device, (value & 0xffff) as usize, None);
    } else {
        // Doorbells of one queue are registers of 32 bits.
        kick_queue(device, recipient.queue.into(), Some(value as u32));
    }
}

/// Marks a queue of a device for the main loop, with what the guest wrote if it wrote something.
fn kick_queue(device: usize, queue: usize, value: Option<u32>) {
    KICKS.ring(device, queue, value, || events::mark(Happened::WORK));
}

/// Calls `kicked` for each queue of a device that was kicked, with what the guest wrote if that is certain.
pub fn take_kicks(device: usize, kicked: impl FnMut(usize, Option<u32>)) {
    KICKS.take(device, kicked);
}

/// The next request for the main loop; none while there are posted writes, which may be of the same vCPU and come first.
/// Both are looked at under one lock: in between the handler could take a write and the access behind it.
pub fn next() -> Option<(Ticket, Access)> {
    ENGINE.with(|engine| {
        if posted::is_empty() {
            engine.next_pending()
        } else {
            None
        }
    })
}

/// Whether a vCPU waits for an answer, or has posted what was not carried out.
pub fn is_asked() -> bool {
    let Some(page) = page() else { return false };
    let asked = |slot| {
        let state = page.control(SlotIndex(slot)).state();
        matches!(state, Some(State::Ready | State::InProcess))
    };
    !posted::is_empty() || (0..page.vcpus as u16).any(asked)
}

/// Answers a request. The vCPU waits until an event is sent on the port that this returns.
pub fn complete(ticket: Ticket, data: u64) -> Option<xen_hypercall::EvtchnPort> {
    let page = page()?;
    match ENGINE.with(|engine| engine.complete(&page, ticket, data)) {
        Ok(()) => port_of(ticket.slot()),
        Err(CompleteError::Stale | CompleteError::NotInProcess) => {
            log::debug!(
                "vCPU {}: request went away while it was served",
                ticket.slot().0
            );
            None
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
